"""Messages of the libraries below that say nothing to our user, each with its reason."""

from __future__ import annotations

import logging
import warnings

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
    """Leave those messages out. Called by the command line only, never on import."""
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )
