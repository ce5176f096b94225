"""What settings may import: a class path is code to run, and the settings may come from a stranger.

Two checks stand before an import: :func:`check_settings` looks at all settings before anything is parsed, and
jsonargparse looks at each path, and at the place where what it leads to is defined: ``torch.os.system`` is
``posix.system``. ``--allow-import PREFIX`` on the command line, never a config or a checkpoint, lets more in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from spikesparse.errors import UserError
from spikesparse.settings.plain import flat, is_file

FLAG = "--allow-import"
#: What settings may name without being asked. The rest of these packages can start processes and read pickles.
ALLOWED = (
    "spikesparse",
    "spikesparse.ops.surrogate",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
    "pl_bolts.callbacks",
    "pl_bolts.optimizers",
    *(f"pytorch_lightning.{name}" for name in ("accelerators", "callbacks", "loggers", "plugins", "profilers")),
    "pytorch_lightning.strategies",
    "lightning_fabric.plugins",
    "lightning_fabric.loggers",
)
#: What not, below that.
DENIED = (
    *(f"spikesparse.{wing}" for wing in ("__main__", "commands", "files", "ops", "settings", "training.teacher")),
    "spikesparse.runs.folder",
    "spikesparse.runs.load",
    "spikesparse.runs.peers",
    "torchmetrics.utilities",
)
# Keys that take a class path.
_TAKES_PATH = re.compile(
    r"(.*\.)?(class_path|help)|model\.(net|net\.neuron|penalty|optimizer|scheduler)|data\.encoder|sparsity\.schedule|"
    r"trainer\.(logger|callbacks|profiler)(\.\d+)?"
)
_allowed: list[str] = []  # by --allow-import


def split_allowed(args: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """A command line without ``--allow-import``, and the prefixes that it names there.

    Raises:
        UserError: for what is no import path.
    """
    rest: list[str] = []
    prefixes: list[str] = []
    waiting = list(args)
    while waiting:
        flag, equals, value = (arg := waiting.pop(0)).partition("=")
        if flag != FLAG:
            rest.append(arg)
            continue
        if not equals and waiting and not waiting[0].startswith("-"):
            value = waiting.pop(0)
        prefixes += value.split(",")
    for prefix in prefixes:
        if not _is_path(prefix):
            raise UserError(f"{FLAG}={prefix}: name a package or module, such as {FLAG} my_network.")
    return rest, tuple(prefixes)


def allow_flags(prefixes: Sequence[str]) -> list[str]:
    """``--allow-import`` with these prefixes, to hand on."""
    return [f"{FLAG}={','.join(prefixes)}"] if prefixes else []


@contextmanager
def limited_imports(prefixes: tuple[str, ...] = ()) -> Iterator[None]:
    """Within it, settings import nothing but :data:`ALLOWED`, ``prefixes``, and what an outer one allows.

    Raises:
        UserError: if the parser failed for what may not be imported.
    """
    from jsonargparse import _common, set_parsing_settings  # it can only add to its lists: they are put back by hand

    global _allowed
    before, outer = dict(_common.parsing_settings), _allowed
    _allowed = [*outer, *prefixes]
    try:
        deny = [name for name in ("*", *DENIED) if name not in _allowed]
        set_parsing_settings(import_path_denylist=deny, import_path_allowlist=[*ALLOWED, *_allowed])
        yield
    except Exception as error:
        denied = re.search(r"Importing '([\w.]+)' is not allowed", str(error))
        if denied is None or isinstance(error, UserError) or is_file(denied[1]):  # net.yaml is read as a file first
            raise
        raise _refusal(denied[1]) from error
    finally:
        _common.parsing_settings.update(before)
        _allowed = outer


def let_in(module: str) -> bool:
    """Whether a module is one that the user lets in: code of their own."""
    return _under(module, _allowed)


def check_path(path: str, where: str = "") -> None:
    """Refuse an import path before it is imported.

    Args:
        path: dotted.
        where: the flag or file that names it.

    Raises:
        UserError: naming both, and the flag that would allow it.
    """
    if not _under(path, (*ALLOWED, *_allowed)):
        raise _refusal(path, where)


def check_settings(sources: list[tuple[str, Any]]) -> None:
    """Refuse import paths in settings, before anything is parsed or imported.

    Args:
        sources: what each is called, such as "--config mine.yaml", and its settings, nested.

    Raises:
        UserError: for the first that may not be imported, naming its place.
    """
    for name, settings in sources:
        for key, value in flat(settings).items():
            if not _TAKES_PATH.fullmatch(key.rstrip("+").replace(".init_args", "")):
                continue
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, str) and "." in path and _is_path(path) and not is_file(path):
                    check_path(path, name if name.startswith(f"--{key}") else f"{name}: {key}")


def _refusal(path: str, where: str = "") -> UserError:
    named = where if where.endswith(f"={path}") else f"{where}: {path}" if where else path
    package, _, rest = path.partition(".")
    known = rest and any(allowed.startswith(package) for allowed in ALLOWED)  # then not the whole of it
    return UserError(
        f"{named}: not imported, since settings may be a stranger's and importing runs code. If you trust "
        f"it, add {FLAG} {path.rpartition('.')[0] if known else package}"
    )


def _is_path(text: str) -> bool:
    return bool(text) and all(part.isidentifier() for part in text.split("."))


def _under(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)
