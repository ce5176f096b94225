"""Spiking neuron layers. Stateless between calls: a forward pass starts anew and leaves nothing behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikesparse.errors import ArgumentError, choose
from spikesparse.nn.contract import Contract
from spikesparse.ops import NeuronSpec, neuron_scan
from spikesparse.ops.surrogate import Surrogate, surrogate

RESETS = ("hard", "soft")


class SpikingNeuron(Contract):
    """What a layer of neurons must do: currents in, spikes out. Any module that does so is one.

    Attributes:
        unit: the only value besides zero that its spikes take; None promises nothing, and spikes may have either sign.
    """

    unit: float | None = None

    def forward(self, current: Tensor, timesteps: int | None = None) -> Tensor:
        """Spikes (T, B, ...) from a current (T, B, ...), or from a constant one (B, ...) over ``timesteps``."""
        raise NotImplementedError


class LIF(SpikingNeuron):
    """Leaky integrate-and-fire neurons: h = decay * v + x; a spike where h >= threshold; then the reset.

    Args:
        decay: what is left of the membrane potential after one step, in (0, 1].
        threshold: firing threshold, > 0.
        reset: "hard" (to zero) or "soft" (subtract the threshold).
        detach_reset: let no gradient flow through the spike in the reset.
        surrogate: name of the surrogate gradient, or a :class:`Surrogate`.
        surrogate_slope: its slope; None takes its own default.
        learn_decay: train the decay, as sigmoid(raw) (so it starts below 1). Fang et al. 2021, arXiv 2007.05785.
        learn_threshold: train the threshold, as exp(raw).
        strict: fire only strictly above the threshold.
        initial_potential: v before the first step. Above 0 the first spikes come sooner (Bu et al. 2022, arXiv
            2202.01440, who choose it for converted networks).
        learn_initial_potential: train it, one for the layer.

    Raises:
        UserError: for a decay outside (0, 1], a threshold <= 0, an infinite initial potential, an unknown reset or
            surrogate.

    Example:
        >>> import torch
        >>> LIF(decay=0.5, threshold=1.0)(torch.full((3, 1, 1), 0.8)).flatten()  # (T, B, neurons)
        tensor([0., 1., 0.])
    """

    unit = 1.0  # the value of a spike

    def __init__(
        self,
        decay: float = 0.5,
        threshold: float = 1.0,
        reset: str = "hard",
        detach_reset: bool = True,
        surrogate: str | Surrogate = "atan",
        surrogate_slope: float | None = None,
        learn_decay: bool = False,
        learn_threshold: bool = False,
        strict: bool = False,
        initial_potential: float = 0.0,
        learn_initial_potential: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 < decay <= 1.0:
            raise ArgumentError("decay", decay, "it must lie in (0, 1]; 1 never leaks, 0.5 forgets half a step.")
        if not (threshold > 0.0 and math.isfinite(threshold)):
            raise ArgumentError("threshold", threshold, "it must be above 0; 1.0 is usual.")
        if learn_decay and decay == 1.0:
            raise ArgumentError("learn_decay", "true", "a learned decay must start below 1; set `decay=0.9`.")
        if not math.isfinite(initial_potential):
            raise ArgumentError("initial_potential", initial_potential, "it must be a number; 0 is at rest.")
        choose("reset", reset, RESETS, "reset")
        self.spec = NeuronSpec(_surrogate(surrogate, surrogate_slope), reset == "soft", detach_reset, strict)
        # Fixed values stay Python numbers: a buffer would be rounded by .to(bfloat16), 0.99 to 0.988.
        self._fixed_decay, self._fixed_threshold, self._fixed_initial = decay, threshold, initial_potential
        self.raw_decay = _scalar(math.log(decay / (1.0 - decay))) if learn_decay else None
        self.log_threshold = _scalar(math.log(threshold)) if learn_threshold else None
        self.learned_initial = _scalar(initial_potential) if learn_initial_potential else None

    @property
    def decay(self) -> float | Tensor:
        """The decay in force: a number, or a differentiable scalar if it is learned."""
        return self._fixed_decay if self.raw_decay is None else torch.sigmoid(self.raw_decay)

    @property
    def threshold(self) -> float | Tensor:
        """The threshold in force: a number, or a differentiable scalar if it is learned."""
        return self._fixed_threshold if self.log_threshold is None else torch.exp(self.log_threshold)

    @property
    def initial_potential(self) -> float | Tensor:
        """The potential before the first step: a number, or a differentiable scalar if it is learned."""
        return self._fixed_initial if self.learned_initial is None else self.learned_initial

    def forward(self, current: Tensor, timesteps: int | None = None) -> Tensor:
        """Spikes (T, B, ...) from a current (T, B, ...), or from a constant one (B, ...) over ``timesteps``."""
        if timesteps is None and current.dim() < 3:  # (B, features) would be taken for B steps
            raise ArgumentError(
                "current",
                tuple(current.shape),
                "it must have the shape (T, B, ...) with an axis of neurons behind the batch; a current that is the "
                "same in every step goes in as (B, ...), with `timesteps`.",
            )
        return neuron_scan(current, self.decay, self.threshold, self.spec, timesteps, self.initial_potential)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LIF:
        """Move with the network, but never be rounded to its half-precision dtype."""
        exact = {name: p.detach().clone() for name, p in self._parameters.items() if p is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in exact.items():
            parameter = self._parameters[name]
            assert parameter is not None
            if parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = value.to(parameter.device)
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.to(value.dtype)
        return self

    def extra_repr(self) -> str:
        reset = "soft" if self.spec.soft_reset else "hard"
        numbers = (self.decay, self.threshold, self.initial_potential)
        decay, threshold, initial = (float(torch.as_tensor(value).detach()) for value in numbers)
        start = f"starts at {initial:.4g}, " if self.learned_initial is not None or initial else ""
        return f"decay={decay:.4g}, threshold={threshold:.4g}, {start}{reset} reset, {self.spec.surrogate}"


class IF(LIF):
    """Integrate-and-fire neurons: :class:`LIF` without leak (decay 1). Same arguments but ``decay``.

    Example:
        >>> import torch
        >>> IF(threshold=1.0)(torch.full((4, 1, 1), 0.5)).flatten()
        tensor([0., 1., 0., 1.])
    """

    def __init__(
        self,
        threshold: float = 1.0,
        reset: str = "hard",
        detach_reset: bool = True,
        surrogate: str | Surrogate = "atan",
        surrogate_slope: float | None = None,
        learn_threshold: bool = False,
        strict: bool = False,
        initial_potential: float = 0.0,
        learn_initial_potential: bool = False,
    ) -> None:
        super().__init__(
            1.0,
            threshold,
            reset,
            detach_reset,
            surrogate,
            surrogate_slope,
            False,
            learn_threshold,
            strict,
            initial_potential,
            learn_initial_potential,
        )


_surrogate = surrogate  # the argument of the same name hides it inside the classes


def _scalar(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float32))  # float32 even under a bfloat16 default dtype
