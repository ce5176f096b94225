"""lightning-bolts beside Lightning 2.

lightning-bolts 0.7.0, its last release, declares pytorch-lightning < 2 and imports a module that Lightning 2 no
longer has; with that one name in place it works (https://github.com/Lightning-Universe/lightning-bolts/issues/1067).
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings

from lightning_utilities.core.apply_func import apply_to_collection

_MOVED = "pytorch_lightning.utilities.apply_func"


def load_bolts(name: str = "pl_bolts") -> types.ModuleType | None:
    """Import a module of lightning-bolts, such as "pl_bolts.optimizers.lr_scheduler"; None if that cannot be done."""
    if _MOVED not in sys.modules:
        alias = types.ModuleType(_MOVED)
        alias.apply_to_collection = apply_to_collection  # type: ignore[attr-defined]
        sys.modules[_MOVED] = alias
    try:
        # It warns on import ("under review", deprecations) and installs filters that let those warnings through:
        # only recording them keeps them quiet, and even where warnings are errors.
        with warnings.catch_warnings(record=True, action="ignore"):
            return importlib.import_module(name)
    except Exception:  # any version other than 0.7.0 may fail in its own way
        return None
