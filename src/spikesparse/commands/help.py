"""Flags that nothing reads in a training, because what would read them is not asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spikesparse.settings.command_line import CommandLine

#: Flags, and those of which one must have a value that turns their reader on.
_READ_WITH = {
    ("budget.by", "budget.initial", "budget.tolerance"): (
        "budget.target",
        "budget.reduction",
        "budget.max_accuracy_drop",
    ),
    ("model.distillation.weight", "model.distillation.temperature"): ("model.distillation.teacher",),
    ("model.early_exit.measure",): ("model.early_exit.confidence",),
}


def unread_flags(line: CommandLine, config: Any) -> list[str]:
    """One line for each flag on a command line that nothing reads.

    Where the command line itself turns the reader off, as that of a twin does with ``--budget.target=null``, no line is
    made: that is meant.

    Args:
        line: the command line.
        config: what came of it and of all files, with dotted names.
    """
    lines = []
    for flags, readers in _READ_WITH.items():
        if any(config.get(reader) is not None or line.value(f"--{reader}") for reader in readers):
            continue
        given = [f"--{flag}" for flag in flags if line.value(f"--{flag}") is not None]
        lines += [f"not read: {flag}, without --{' or --'.join(readers)}" for flag in given]
    return lines


TEXT = """
What most runs need; --print_config shows every setting and what it is.
  --config FILE                    an experiment by its name, such as digits, or a file; later ones count more
  --seed_everything N              of weights, order and augmentation
  --trainer.max_epochs N
  --data.source NAME               cifar10, cifar100, folder, npz or digits; --data.data_dir says where
  --data.timesteps T               steps per image
  --model.net.architecture NAME    vgg7, vgg9, vgg16, or channels and poolings: 16-16-P-32-P
  --sparsity.end_value LAMBDA      weight of the penalty at the end of its ramp; 0 is the accuracy-only twin
  --budget.target N                in place of a lambda: spikes per image, and the lambda is found
  --budget.reduction 0.7 --budget.baseline BEST.ckpt           the same: 70 % less than a twin spends
  --fresh                          begin anew where a run of the same command lies
  --seeds N                        of train and compare: under seeds 0 to N - 1 (or 3,4), with means and intervals;
                                   --workers M runs at once, --results DIR for their rows
  --allow-import PREFIX            class paths may name your own modules below it; see docs/safety.md
"""


@contextmanager
def most_used_at_the_end(args: list[str]) -> Iterator[None]:
    """Print them behind the parser's help, if that is asked for."""
    try:
        yield
    except SystemExit:
        if any(arg in ("-h", "--help") for arg in args):
            print(TEXT, flush=True)
        raise
