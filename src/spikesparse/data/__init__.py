"""Images: sources, splits, batches, augmentation."""

from spikesparse.data.loading import Batch
from spikesparse.data.module import CIFAR10DataModule
from spikesparse.data.philox import POISSON, uniform

__all__ = ["POISSON", "Batch", "CIFAR10DataModule", "uniform"]
