"""Messages of the libraries below that say nothing to our user, each with its reason."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from spikesparse.commands.flags import with_flags
from spikesparse.files.paths import PACKAGE

#: (start of the message, as a regular expression; why it is of no use here)
IGNORED = (
    # We parse arguments ourselves before LightningCLI does: pytorch_lightning/cli.py, parse_arguments.
    r"LightningCLI's args parameter is intended to run from within Python",
    # Lightning 2.6 with a newer torch: pytorch_lightning/utilities/_pytree.py.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # A batch is one indexing of a tensor: worker processes would only add copies.
    r"The '\w+' does not have many workers",
    # The digits have fewer batches than the default logging rhythm; epoch values are logged all the same.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # Under DDP: what we log is summed over the processes already (SpikingClassifier._log).
    r"It is recommended to use `self\.log\(.*sync_dist=True\)`",
    # A run folder of its own is settled before: runs.place_run.
    r"Checkpoint directory .* exists and is not empty",
    # A checkpoint's averaged weights are what is to be tested: spikesparse/weight_averaging.py.
    r"You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit' stage",
)


def quiet() -> None:
    """Leave those messages out, and name flags in our own. Called by the command line only, never on import."""
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = _formatted
    ours = logging.getLogger("spikesparse")
    ours.handlers, ours.propagate = [_Printed()], False
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )


class _Printed(logging.Handler):
    """Prints what our modules say, among the other lines of a command."""

    def emit(self, record: logging.LogRecord) -> None:
        print(with_flags(record.getMessage()), flush=True)


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """As Python does, with flags in our own warnings."""
    text = with_flags(str(message)) if Path(filename).is_relative_to(PACKAGE) else str(message)
    return f"{filename}:{lineno}: {category.__name__}: {text}\n"
