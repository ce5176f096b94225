"""What a run shows in TensorBoard: pages of charts, pictures of spikes, hyper-parameters beside results."""

from spikesparse.training.dashboard.callback import Dashboard
from spikesparse.training.dashboard.layout import custom_scalars

__all__ = ["Dashboard", "custom_scalars"]
