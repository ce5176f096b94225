"""What settings may import: a class path is code to run, and settings may be a stranger's.

A config file, a flag or a checkpoint names classes by import path, and importing runs code. So a path is looked at
before anything of it is imported, and what it leads to before it is called: only the packages that a run is made of,
and of these only the kinds of things that settings are for. ``--allow-import PREFIX`` on the command line, never a
config or a checkpoint, lets more in.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spikesparse.errors import UserError

FLAG = "--allow-import"
#: The packages that settings may name without being asked.
PACKAGES = ("spikesparse", "torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "pl_bolts")
#: Where, in those, classes may come from: the rest of torch can start processes and read pickles by a constructor.
_CLASSES = (
    *("spikesparse", "torch.nn", "torch.optim", "pytorch_lightning", "lightning_fabric", "torchmetrics"),
    *("pl_bolts.callbacks", "pl_bolts.optimizers"),
)
#: Where functions may come from: pure ones, of tensors.
_FUNCTIONS = ("torch.nn.functional", "torch.nn.init", "torchmetrics.functional")


_allowed: list[tuple[str, ...]] = []  # by limited_imports, the innermost last


def split_allowed(args: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """A command line without ``--allow-import``, and the prefixes that it names there.

    Raises:
        UserError: for what is no import path.
    """
    rest: list[str] = []
    prefixes: list[str] = []
    waiting = list(args)
    while waiting:
        arg = waiting.pop(0)
        if arg == FLAG:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("-") else ""
        elif arg.startswith(f"{FLAG}="):
            value = arg.removeprefix(f"{FLAG}=")
        else:
            rest.append(arg)
            continue
        prefixes += value.split(",")
    for prefix in prefixes:
        if not _is_path(prefix):
            raise UserError(f"{FLAG}={prefix}: name a package or module, such as {FLAG} my_network.")
    return rest, tuple(prefixes)


def as_flags(args: list[str]) -> list[str]:
    """The ``--allow-import`` flags of a command line, to hand on."""
    prefixes = split_allowed(args)[1]
    return [f"{FLAG}={','.join(prefixes)}"] if prefixes else []


def let_in(module: str) -> bool:
    """Whether a module is one that the user lets in: code of their own."""
    return _under(module, _allowed[-1] if _allowed else ())


def check_path(path: str, where: str = "") -> None:
    """Refuse an import path before it is imported.

    Args:
        path: dotted.
        where: the flag or file that names it.

    Raises:
        UserError: naming both, and the flag that would allow it.
    """
    if not _under(path, (*PACKAGES, *(_allowed[-1] if _allowed else ()))):
        raise _refusal(path, where)


def check_object(path: str, found: Any) -> None:
    """Refuse what an import path leads to, unless it is of a kind that settings are for.

    Where it is defined counts, not the name that it was reached by: ``torch.os.system`` is ``posix.system``.

    Raises:
        UserError: naming the path, where it leads to, and the flag that would allow it.
    """
    for home, thing in _homes(path, found):
        if _under(home, _allowed[-1] if _allowed else ()):
            continue
        leads = "" if home == path else f", which is {home}"
        if not _under(home, PACKAGES):
            raise _refusal(path, "", f"{path}{leads}", home)
        if inspect.isclass(thing):
            if not (_under(home, _CLASSES) and issubclass(thing, _kinds())):
                kinds = "a module, optimizer, scheduler, metric, encoder, or part of the Trainer"
                raise _refusal(path, "", f"{path}{leads}: it is not {kinds}", home, module=True)
        elif not _under(home, _FUNCTIONS):
            raise _refusal(path, "", f"{path}{leads}: settings cannot call it", home, module=True)


def _refusal(path: str, where: str, what: str = "", home: str = "", module: bool = False) -> UserError:
    home = home or path
    prefix = (home.rpartition(".")[0] or home) if module else home.partition(".")[0]
    named = where if where.endswith(f"={path}") else f"{where}: {path}" if where else what or path
    error = UserError(
        f"{named}: not imported, since settings may be a stranger's and importing runs code. If you trust "
        f"it, add {FLAG} {prefix}"
    )
    error.path = path  # type: ignore[attr-defined]
    return error


def _is_file(path: str) -> bool:
    """Whether it is a file's name: the parser reads net.yaml as settings before it takes it for a path."""
    return Path(path).is_file()


def _is_path(text: str) -> bool:
    return bool(text) and all(part.isidentifier() for part in text.split("."))


def _under(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def _homes(path: str, found: Any) -> Iterator[tuple[str, Any]]:
    """Where what was found is defined; of a partial also its function, of an object its class."""
    while isinstance(found, functools.partial):
        found = found.func
    if inspect.ismodule(found):
        yield found.__name__, found
    elif inspect.isclass(found) or inspect.isroutine(found):
        module = getattr(found, "__module__", None)
        yield f"{module}.{found.__qualname__}" if isinstance(module, str) else path, found
    else:
        yield f"{type(found).__module__}.{type(found).__qualname__}", type(found)


@functools.cache
def _kinds() -> tuple[type, ...]:
    import pytorch_lightning as pl
    import torch
    from lightning_fabric.loggers.logger import Logger as FabricLogger
    from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment
    from pytorch_lightning.accelerators import Accelerator
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.plugins import LayerSync, Precision
    from pytorch_lightning.profilers import Profiler
    from pytorch_lightning.strategies import Strategy

    from spikesparse.data import CIFAR10DataModule
    from spikesparse.training.module import SpikingClassifier

    return (
        *(torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler),
        *(pl.Callback, Logger, FabricLogger, Strategy, Accelerator, Profiler, Precision, LayerSync),
        *(CheckpointIO, ClusterEnvironment, *_taken_by(SpikingClassifier, CIFAR10DataModule)),
    )


def _taken_by(*classes: type) -> list[type]:
    """Classes of this package that the types of settings name: of these classes, and of whatever they take in turn."""
    found: list[type] = []
    waiting = list(classes)
    while waiting:
        hints = typing.get_type_hints(vars(waiting.pop()).get("__init__", object.__init__))
        for named in _classes_in([*hints.values()]):
            for each in (named, *_subclasses(named)):
                if _under(each.__module__, ("spikesparse",)) and each not in found:
                    found.append(each)
                    waiting.append(each)
    return found


def _classes_in(hints: list[Any]) -> Iterator[type]:
    """The classes that type hints are made of."""
    for hint in hints:
        if isinstance(hint, type) and typing.get_origin(hint) is None:
            yield hint
        else:
            yield from _classes_in(
                hint if isinstance(hint, list) else [*typing.get_args(hint)]
            )  # of a Callable: a list


def _subclasses(of: type) -> Iterator[type]:
    found: list[type] = type.__subclasses__(of)
    for each in found:
        yield each
        yield from _subclasses(each)
