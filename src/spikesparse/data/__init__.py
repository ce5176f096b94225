"""Images: sources, splits, batches, augmentation."""

from spikesparse.data.loading import Batch
from spikesparse.data.module import CIFAR10DataModule

__all__ = ["Batch", "CIFAR10DataModule"]
