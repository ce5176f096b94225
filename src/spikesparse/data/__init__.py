"""Images: sources, splits, batches, augmentation."""

from spikesparse.data.module import Batch, CIFAR10DataModule

__all__ = ["Batch", "CIFAR10DataModule"]
