"""The flags behind arguments: classes name what they are given by its argument, the command line by its flag."""

from __future__ import annotations

import inspect
import re
from functools import cache

from spikesparse.errors import ArgumentError

_IN_BACKTICKS = re.compile(r"`((?:[A-Z]\w*\.)?[a-z_]\w*(?:\.[<\w][\w>]*)?)(=[^`]*)?`")


def with_flags(said: BaseException | str) -> str:
    """What an error or a warning says, with flags in the place of arguments.

    >>> with_flags(ArgumentError("decay", 2, "it must lie in (0, 1]; 1 never leaks."))
    '--model.net.decay=2: it must lie in (0, 1]; 1 never leaks.'
    >>> with_flags("lower `end_epoch`, or see `spikesparse exits`")
    'lower --sparsity.end_epoch, or see `spikesparse exits`'
    """
    text = str(said)
    if isinstance(said, ArgumentError):
        text = f"{_flag(said.argument) or said.argument}={said.value}: {said.reason}"

    def flag(match: re.Match[str]) -> str:
        found = _flag(match[1])
        return f"{found}{match[2] or ''}" if found else match[0]

    return _IN_BACKTICKS.sub(flag, text)


def _flag(argument: str) -> str | None:
    """The flag of ``argument``, ``Class.argument`` or ``argument.argument``; None if it has no flag."""
    first, _, rest = argument.partition(".")
    for owner, section, arguments in _owners():
        if first == owner and rest in arguments:
            return f"--{section}.{rest}"
        if first in arguments:
            return f"--{section}.{argument}"
    return None


@cache
def _owners() -> list[tuple[str, str, frozenset[str]]]:
    """Classes that settings build: name, section of the command line, arguments; of one name, the first wins."""
    from pytorch_lightning import Trainer

    from spikesparse.data import CIFAR10DataModule
    from spikesparse.data.encoding import PoissonEncoder
    from spikesparse.metrics import EnergyConstants
    from spikesparse.nn import SpikingVGG
    from spikesparse.nn.early_exit import EarlyExit
    from spikesparse.sparsity import SparsityAnnealing, SpikeBudget, SpikePenalty
    from spikesparse.training.module import SpikingClassifier

    sections: tuple[tuple[type, str], ...] = (
        (CIFAR10DataModule, "data"),  # before the network, which takes its timesteps from there
        (SpikingVGG, "model.net"),
        (SparsityAnnealing, "sparsity"),  # before the budget, which has the same ramp
        (SpikeBudget, "budget"),
        (SpikingClassifier, "model"),
        (SpikePenalty, "model.penalty"),
        (EarlyExit, "model.early_exit"),
        (EnergyConstants, "model.energy"),
        (PoissonEncoder, "data.encoder"),
        (Trainer, "trainer"),
    )
    return [(cls.__name__, section, frozenset(inspect.signature(cls).parameters)) for cls, section in sections]
