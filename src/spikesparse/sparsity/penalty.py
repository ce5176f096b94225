"""The sparsity penalty: the second term of the loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from spikesparse.errors import ArgumentError, UserError, choose, path_of
from spikesparse.nn.contract import Contract
from spikesparse.nn.tally import SpikeTally, checked_tally

PENALTIES = ("spikes", "synops")


class Penalty(Contract):
    """What a penalty must do: a differentiable scalar from a batch's tally. Any module that does so is one."""

    def forward(self, tally: SpikeTally) -> Tensor:
        """Penalty of a batch: a scalar, the smaller the better."""
        raise NotImplementedError


def penalty_of(penalty: Penalty, tally: SpikeTally) -> Tensor:
    """What a batch costs: a scalar.

    Raises:
        UserError: if ``penalty`` returns anything else.
    """
    cost: Tensor = penalty(tally)
    if not isinstance(cost, Tensor) or cost.dim():
        found = f"a tensor of shape {tuple(cost.shape)}" if isinstance(cost, Tensor) else repr(type(cost).__name__)
        raise UserError(f"`penalty={path_of(penalty)}`: its forward returned {found}; a scalar tensor is needed.")
    return cost


class SpikePenalty(Penalty):
    """Share of the possible spikes, or synaptic operations, that a batch spends: a fraction in [0, 1].

    With s the spikes of hidden layer l for one image, n its neurons and w its weight (1 unless given), the mean over
    the batch of ``sum(w * s) / sum(w * n * T)``, over layers: our reading of the spike count in the loss of Allred et
    al. 2020 (arXiv 2003.01250). By ``"synops"``, the synaptic operations of the weight layers behind the first over
    their dense synapses times T. Being a fraction, its weight lambda means the same for any width, depth, batch, T.

    Args:
        by: "spikes" or "synops".
        layer_weights: with "spikes", a weight >= 0 for each hidden layer, in the network's order.

    Raises:
        UserError: for an unknown ``by``, or weights that are negative, all zero, or fewer or more than the layers.
    """

    def __init__(self, by: str = "spikes", layer_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.by = choose("penalty", by, PENALTIES, "SpikePenalty.by")
        if layer_weights is not None:
            if by != "spikes":
                raise ArgumentError("layer_weights", list(layer_weights), "only `SpikePenalty.by=spikes` has them.")
            if min(layer_weights, default=0) < 0 or not sum(layer_weights) > 0:
                raise ArgumentError(
                    "layer_weights", list(layer_weights), "weights must be 0 or more, at least one of them above 0."
                )
        self.layer_weights = None if layer_weights is None else tuple(layer_weights)

    def forward(self, tally: SpikeTally) -> Tensor:
        """Penalty of a batch: a float64 scalar in [0, 1], differentiable."""
        tally = checked_tally(tally)
        if self.by == "synops":
            counts, sizes = tally.synops[1:], list(tally.layers.synapses.values())[1:]
        else:
            counts, sizes = tally.spikes, list(tally.layers.neurons.values())
        weights = (1.0,) * len(sizes) if self.layer_weights is None else self.layer_weights
        if len(weights) != len(sizes):
            raise UserError(
                f"`layer_weights={list(weights)}`: {len(weights)} weights for {len(sizes)} hidden layers "
                f"({', '.join(tally.layers.neurons)})."
            )
        # Weights as numbers: a tensor of them would be copied to the device in every step, which waits for it.
        nothing = counts.new_zeros(())
        spent = sum((weight * row.sum() for weight, row in zip(weights, counts, strict=True)), nothing)
        most = sum(weight * size for weight, size in zip(weights, sizes, strict=True)) * tally.timesteps
        return spent / (max(1, tally.batch_size) * most)  # an empty batch costs nothing

    def extra_repr(self) -> str:
        return f"by={self.by!r}, layer_weights={self.layer_weights}"
