"""The parser of settings, as this project wants it: whole flags, checked YAML, nothing from the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import _loaders_dumpers as loading
from jsonargparse import _optionals, _paths, set_parsing_settings
from pytorch_lightning import Trainer

from spikesparse.files.safe_yaml import check_yaml, is_empty, read_text
from spikesparse.settings.moved import moved

COUNTS_OR_SHARES = (
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "val_check_interval",
)


def read_counts_as_counts() -> None:
    """Make the parser read 1 as one batch, not as 1.0, which is all of them.

    Lightning annotates these flags ``Optional[Union[int, float]]``. ``typing`` may answer that from its cache with an
    equal ``Optional[Union[float, int]]`` of another module, depending on what was imported before, and the parser
    tries the types in their order.
    """
    for name in COUNTS_OR_SHARES:
        Trainer.__init__.__annotations__[name] = int | float | None


@contextmanager
def checked_parser() -> Iterator[None]:
    """Within it, jsonargparse too reads no YAML that :func:`check_yaml` refuses, and none from the network.

    Lightning lets it read any value that looks like an address as a file of settings.
    """
    remote = "s" in _optionals._get_config_read_mode()
    plain: Any = loading.yaml_load
    paths: Any = _paths.Path
    read = paths.read_text

    def checked(text: Any) -> Any:
        try:
            if isinstance(text, str):
                check_yaml(text, "settings")
            return moved(plain(text))
        except (ValueError, TypeError, RecursionError, OverflowError) as error:  # 5,000 digits, say: no YAMLError
            raise yaml.YAMLError(str(error)) from error

    def read_checked(path: Any) -> Any:
        local = Path(str(path))
        if not local.exists():
            return read(path)
        text = read_text(local, str(path))
        check_yaml(text, str(path))
        return "{}" if is_empty(text) else text  # nothing is set: the parser takes no empty file

    loading.yaml_load = loading.loaders["yaml"] = checked
    paths.read_text = read_checked
    set_parsing_settings(config_read_mode_fsspec_enabled=False)
    try:
        yield
    finally:
        set_parsing_settings(config_read_mode_fsspec_enabled=remote)
        loading.yaml_load = loading.loaders["yaml"] = plain
        paths.read_text = read
