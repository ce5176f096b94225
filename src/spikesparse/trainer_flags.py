"""Trainer flags that are a number of batches or a share of them, read the same in every process."""

from __future__ import annotations

from pytorch_lightning import Trainer

COUNTS_OR_SHARES = (
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
    *("overfit_batches", "val_check_interval"),
)


def read_counts_as_counts() -> None:
    """Make the parser read 1 as one batch, not as 1.0, which is all of them.

    Lightning annotates these flags ``Optional[Union[int, float]]``. ``typing`` may answer that from its cache with an
    equal ``Optional[Union[float, int]]`` of another module, depending on what was imported before, and the parser
    tries the types in their order.
    """
    for name in COUNTS_OR_SHARES:
        Trainer.__init__.__annotations__[name] = int | float | None
