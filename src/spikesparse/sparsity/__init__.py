"""What a spike costs, and how that cost grows over training."""

from spikesparse.sparsity.annealing import SparsityAnnealing
from spikesparse.sparsity.budget import SpikeBudget
from spikesparse.sparsity.penalty import Penalty, SpikePenalty

__all__ = ["Penalty", "SparsityAnnealing", "SpikeBudget", "SpikePenalty"]
