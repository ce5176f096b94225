"""A checkpoint's file looked at before it is loaded: nothing in it may take more memory than it has bytes.

``torch.load(weights_only=True)`` runs no code, but it takes sizes at their word: those that the zip declares, and those
that the pickle inside declares for tensors.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import torch

#: What zipfile, pickle and torch raise for a file that is no checkpoint, or has lost or changed some of its bytes.
DAMAGED = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    OverflowError,
    MemoryError,
    ImportError,
)
_MOST_ENTRIES = 100_000
_MOST_PICKLE = 256 << 20  # bytes; a network of 10,000 tensors has about two million
_MOST_VIEWED = 1 << 26  # elements that a tensor may show beyond those that it holds


def check_archive(path: Path) -> None:
    """Refuse a checkpoint that is not what ``torch.save`` writes.

    That is a zip of stored, uncompressed entries in one folder, whose pickle declares no tensor larger than its entry.
    All bytes are compared with their check sums: torch.load takes a flipped bit for another number.

    Args:
        path: of a regular file.

    Raises:
        ValueError: for anything that is wrong, or another of :data:`DAMAGED`.
    """
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip archive, which torch.save writes since version 1.6")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        check_entries(entries, size)
        sizes = {PurePosixPath(entry.filename).parts[1:]: entry.file_size for entry in entries}
        roots = {PurePosixPath(entry.filename).parts[0] for entry in entries}
        if len(roots) != 1 or len(sizes) != len(entries):
            raise ValueError("its entries do not lie in one folder, or two have one name")
        compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if compressed:
            raise ValueError(f"its entry {compressed[0][:80]!r} is compressed, which torch.save never does")
        if sizes.get(("data.pkl",), _MOST_PICKLE) >= _MOST_PICKLE:
            raise ValueError("it has no data.pkl of a sane size")
        if (changed := archive.testzip()) is not None:
            raise ValueError(f"its entry {changed[:80]!r} is damaged")
        declared = _Declared(archive.read(f"{roots.pop()}/data.pkl"), sizes)
    declared.load()


def check_entries(entries: list[zipfile.ZipInfo], size: int, most: int | None = None) -> None:
    """Refuse a zip whose directory declares more than it may hold, or names that lead out of a folder.

    Args:
        entries: of its directory.
        size: of the file, in bytes.
        most: bytes that the entries may have together; None is the file's own size.

    Raises:
        ValueError: naming the entry.
    """
    if not 0 < len(entries) <= _MOST_ENTRIES:
        raise ValueError(f"it has {len(entries):,} entries")
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in entry.filename or not name.parts:
            raise ValueError(f"its entry {entry.filename[:80]!r} leads out of the archive")
        if entry.flag_bits & 1:
            raise ValueError(f"its entry {entry.filename[:80]!r} is encrypted")
    if sum(entry.compress_size for entry in entries) > size:
        raise ValueError("its entries overlap, or lie beyond its end")
    total = sum(entry.file_size for entry in entries)
    if total > (size if most is None else most):
        raise ValueError(f"its {size:,} bytes would become {total:,}")


class _Inert:
    """Stands in for the classes that a pickle names: nothing is imported and nothing is called."""

    named = ""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """As a list's."""

    def extend(self, values: Any) -> None:
        """As a list's."""

    def add(self, value: Any) -> None:
        """As a set's."""


class _Storage:
    def __init__(self, elements: int) -> None:
        self.elements = elements


# In Python, not in C: pickle's C code takes memory for as many memo slots as a file asks for.
class _Declared(pickle._Unpickler):
    """Walks through a checkpoint's pickle, and compares what it declares with the sizes of the zip's entries."""

    def __init__(self, raw: bytes, sizes: dict[tuple[str, ...], int]) -> None:
        super().__init__(io.BytesIO(raw), encoding="utf-8")
        self.sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        """An inert stand-in that knows its name."""
        full = f"{module}.{name}"
        if full in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return _check_tensor
        return type("_Named", (_Unsized if full in _TAKE_SIZES else _Inert,), {"named": full})

    def persistent_load(self, saved: Any) -> _Storage:
        """Compare a tensor's memory with its entry."""
        kind, storage, key, _, elements = saved
        itemsize = _itemsize(getattr(storage, "named", ""))
        held = self.sizes.get(("data", str(key)))
        if kind != "storage" or type(elements) is not int or elements < 0 or held is None:
            raise ValueError("it names a tensor that it does not hold")
        if elements * itemsize > held:
            raise ValueError(f"it declares a tensor of {elements * itemsize:,} bytes, and holds {held:,}")
        return _Storage(elements)


def _itemsize(named: str) -> int:
    """Bytes of an element of a storage class."""
    module, _, name = named.rpartition(".")
    if name == "UntypedStorage":
        return 1
    kind = getattr(torch, name, None) if module in ("torch", "torch.storage", "torch.cuda") else None
    if not (isinstance(kind, type) and name.endswith("Storage")):
        raise ValueError(f"it names a tensor of the unknown type {named[:80]!r}")
    with warnings.catch_warnings():  # torch's own, of the classes that its own files still name
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        if not hasattr(kind, "dtype"):
            raise ValueError(f"it names a tensor of the unknown type {named[:80]!r}")
        return int(kind.dtype.itemsize)


def _check_tensor(storage: Any, offset: Any, size: Any, *rest: Any) -> _Inert:
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in (offset, *size)):
        raise ValueError("it has a tensor that is none")
    if math.prod(size) > storage.elements + _MOST_VIEWED:
        raise ValueError(f"it declares a tensor of shape {tuple(size)} upon {storage.elements:,} elements")
    return _Inert()


#: torch's loader calls these with what the pickle says, and a number asks for memory.
_TAKE_SIZES = ("builtins.bytearray", "__builtin__.bytearray", "torch.Tensor", "torch._tensor.Tensor")


class _Unsized(_Inert):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if any(isinstance(arg, int) for arg in args):
            raise ValueError(f"it asks {self.named} for memory")
