"""Trainer flags that are a number of batches or a share of them, read the same in every process."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Trainer

from spikesparse.errors import UserError
from spikesparse.files.safe_yaml import _is_empty, check_yaml, read_text
from spikesparse.settings.class_paths import _allowed, _is_file, _is_path, check_object, check_path

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


_IMPORT = ("import_object", "is_importable_module_path")  # of jsonargparse: a name's object; whether there is a module


_refused: list[UserError] = []  # in the innermost


@contextmanager
def limited_imports(prefixes: tuple[str, ...] = ()) -> Iterator[None]:
    """Within it, settings import nothing but :data:`PACKAGES`, ``prefixes``, and what an outer one allows.

    Raises:
        UserError: in place of the parser's own words, if that failed for what may not be imported.
    """
    from jsonargparse import _actions, _typehints

    global _refused
    outer, _refused = _refused, []
    modules: tuple[Any, ...] = (_actions, _typehints)  # the two that import what a value names
    before = [(module, name, getattr(module, name)) for module in modules for name in _IMPORT if hasattr(module, name)]
    _allowed.append(tuple(dict.fromkeys([*(_allowed[-1] if _allowed else ()), *prefixes])))
    try:
        for module, name, plain in before:
            setattr(module, name, _guarded(plain))
        yield
    except UserError:
        raise
    except Exception as error:
        named = [refusal for refusal in _refused if _named(refusal, error)]
        if named or (_refused and isinstance(error, argparse.ArgumentError)):
            raise (named or _refused)[0] from error
        raise
    finally:
        for module, name, plain in before:
            setattr(module, name, plain)
        _allowed.pop()
        _refused = outer


def _guarded(import_object: Any) -> Any:
    @functools.wraps(import_object)
    def guarded(name: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("check_path") is False or name == "jsonargparse.ArgumentParser" or not isinstance(name, str):
            return import_object(name, *args, **kwargs)  # named by code, not by a value
        try:
            if "." in name and _is_path(name):  # the parser has its own word for what is no path
                check_path(name)
            found = import_object(name, *args, **kwargs)
            if not isinstance(found, bool):
                check_object(name, found)
        except UserError as error:
            _refused.extend([error] if not _is_file(name) else [])
            raise
        return found

    return guarded


def _named(refusal: UserError, error: BaseException) -> bool:
    """Whether what failed was about the refused path, and not about something beside it."""
    return getattr(refusal, "path", "") in str(error)


@contextmanager
def checked_parser() -> Iterator[None]:
    """Within it, jsonargparse too reads no YAML that :func:`check_yaml` refuses, and none from the network.

    Lightning lets it read any value that looks like an address as a file of settings.
    """
    from jsonargparse import _loaders_dumpers as loading
    from jsonargparse import _optionals, _util, set_parsing_settings

    remote = "s" in _optionals._get_config_read_mode()
    paths: Any = _util
    plain: Any = loading.yaml_load
    reader = "read_text" if hasattr(paths.Path, "read_text") else "get_content"
    read = getattr(paths.Path, reader)

    def checked(text: Any) -> Any:
        try:
            if isinstance(text, str):
                check_yaml(text, "settings")
            return plain(text)
        except (ValueError, TypeError, RecursionError, OverflowError) as error:  # 5,000 digits, say: no YAMLError
            raise yaml.YAMLError(str(error)) from error

    def read_checked(path: Any, *args: Any, **kwargs: Any) -> Any:
        local = Path(str(path))
        if not local.exists():
            return read(path, *args, **kwargs)
        text = read_text(local, str(path))
        check_yaml(text, str(path))
        return "{}" if _is_empty(text) else text  # nothing is set: the parser takes no empty file

    loading.yaml_load, loading.loaders["yaml"] = checked, checked
    setattr(paths.Path, reader, read_checked)
    set_parsing_settings(config_read_mode_fsspec_enabled=False)
    try:
        yield
    finally:
        set_parsing_settings(config_read_mode_fsspec_enabled=remote)
        loading.yaml_load, loading.loaders["yaml"] = plain, plain
        setattr(paths.Path, reader, read)
