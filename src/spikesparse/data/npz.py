"""An npz read without trust: no pickles, and no header's word for how much memory to take."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from spikesparse.data.limits import check_growth
from spikesparse.errors import UserError
from spikesparse.files.archives import check_entries

_MOST_HEADER = 10_000  # bytes; numpy's own limit
_MOST_NAMES = 16 << 20  # bytes of class names
_CHUNK = 1 << 22
#: What zipfile, zlib and numpy raise for a file that is no npz, or has lost or changed some of its bytes.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    NotImplementedError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
    RecursionError,
    OverflowError,
)

Array = npt.NDArray[np.generic]


def read_npz(path: Path, where: str, needed: tuple[str, ...], names: str) -> tuple[dict[str, Array], Array | None]:
    """Arrays of an npz.

    Args:
        path: the file.
        where: what to call it in an error.
        needed: integer arrays that it must have.
        names: an array of strings that it may have.

    Returns:
        The needed ones by name, and the strings.

    Raises:
        UserError: for a file that is damaged, lacks one, holds anything else under these names, or is a bomb.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            missing = [key for key in needed if key not in entries]
            if missing:
                raise UserError(f"{where}: it has no array {', '.join(missing)}; {', '.join(needed)} are needed.")
            wanted = [entries[key] for key in (*needed, names) if key in entries]
            check_growth(where, sum(entry.file_size for entry in wanted), size)
            check_entries(archive.infolist(), size, most=1 << 62)
            if names in entries and entries[names].file_size > _MOST_NAMES:
                raise ValueError(f"{names} take {entries[names].file_size:,} bytes")
            arrays = {
                entry.filename: _read(archive, entry, "US" if entry is entries.get(names) else "iub")
                for entry in wanted
            }
    except UserError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{where}: not a whole .npz file ({reason}); copy or convert it again.") from error
    named = {name.removesuffix(".npy"): array for name, array in arrays.items()}
    strings = named.pop(names, None)
    return named, strings


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, kinds: str) -> Array:
    """One array, if it is of one of the kinds and its header agrees with the size of its entry."""
    with archive.open(entry) as file:
        shape, fortran, dtype = _header(file)
        if dtype.hasobject:
            raise ValueError(f"{entry.filename} is an object array, a pickle, which could run code")
        held = entry.file_size - file.tell()
        asked = math.prod(shape) * dtype.itemsize
        if asked != held or any(n < 0 for n in shape):
            raise ValueError(f"{entry.filename} declares {asked:,} bytes, and holds {held:,}")
        raw = np.empty(held, np.uint8)  # writable, as a tensor over it must be
        view, done = raw.data, 0
        while done < held:
            read = file.readinto(view[done : done + _CHUNK])  # type: ignore[attr-defined]
            if not read:
                raise ValueError(f"{entry.filename} is cut off")
            done += read
        if file.read(1):  # nothing; at the end the checksum is compared
            raise ValueError(f"{entry.filename} is longer than declared")
    return raw.view(dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file, max_header_size=_MOST_HEADER)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file, max_header_size=_MOST_HEADER)
    raise ValueError(f"its arrays have the format version {version}")
