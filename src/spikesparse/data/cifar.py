"""CIFAR's own files: fetched and verified as torchvision does, read without running what a pickle may hold.

The files are pickles of Python 2: a dict of an array, lists and strings. Here nothing but these comes out of one.
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity, download_url

SOURCES = {"cifar10": CIFAR10, "cifar100": CIFAR100}
_MOST_BYTES = 1 << 30  # of a file; the largest, CIFAR-100's training set, has 155 MB
_DTYPES = {"u1": np.uint8, "uint8": np.uint8}


def fetch(cls: type[CIFAR10], data_dir: Path) -> None:
    """Have all files of a CIFAR in its folder, with the right checksums; download and unpack them if need be.

    Raises:
        OSError: if they cannot be downloaded.
        RuntimeError: if what was downloaded, or lies there, has a wrong checksum.
    """
    if _is_whole(cls, data_dir):
        return
    download_url(cls.url, str(data_dir), cls.filename, cls.tgz_md5)
    unpack(data_dir / cls.filename, data_dir)
    if not _is_whole(cls, data_dir):
        raise RuntimeError("Dataset not found or corrupted.")


def _is_whole(cls: type[CIFAR10], data_dir: Path) -> bool:
    listed = [*cls.train_list, *cls.test_list]
    return all(check_integrity(str(data_dir / cls.base_folder / name), md5) for name, md5 in listed)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive; a member that would land outside the folder is refused, as are links and devices.

    Raises:
        RuntimeError: naming it.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                target = os.path.realpath(folder / member.name)
                inside = os.path.commonpath([target, os.path.realpath(folder)]) == os.path.realpath(folder)
                if not inside or not (member.isfile() or member.isdir()):
                    raise RuntimeError(f"{archive}: its member {member.name[:80]!r} leads out of the folder")
                member.mode, member.uid, member.gid = (0o755 if member.isdir() else 0o644), os.getuid(), os.getgid()
                tar.extract(member, folder, set_attrs=False, **_FILTER)
    except (tarfile.TarError, EOFError) as error:
        raise RuntimeError(f"{archive}: not a whole archive ({error})") from error


#: Python 3.11.4 and later refuse such members themselves; 3.14 does without being asked.
_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def read(cls: type[CIFAR10], data_dir: Path, names: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images uint8 (N, 32, 32, 3) and labels (N,) of some of a CIFAR's files.

    Raises:
        ValueError: for a file that holds something else.
    """
    images, labels = [], []
    for name in names:
        entry = load_pickle(data_dir / cls.base_folder / name)
        found = entry.get("labels", entry.get("fine_labels"))
        if not isinstance(found, list) or not all(type(label) is int and 0 <= label < 1000 for label in found):
            raise ValueError(f"{name}: it has no list of labels")
        if not isinstance(entry.get("data"), np.ndarray) or entry["data"].shape != (len(found), 3 * 32 * 32):
            raise ValueError(f"{name}: its data are not one row of 3,072 bytes for each label")
        images.append(entry["data"])
        labels += found
    stacked = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return stacked, np.array(labels, np.int64)


def class_names(cls: type[CIFAR10], data_dir: Path) -> list[str]:
    """The names of a CIFAR's classes, in label order.

    Raises:
        ValueError: for a file that holds something else, or has a wrong checksum.
    """
    path = data_dir / cls.base_folder / cls.meta["filename"]
    if not check_integrity(str(path), cls.meta["md5"]):
        raise ValueError(f"{path.name}: a wrong checksum")
    names = load_pickle(path).get(cls.meta["key"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path.name}: it has no list of names")
    return names


def load_pickle(path: Path) -> dict[str, Any]:
    """The dict of a CIFAR file, its arrays uint8.

    Raises:
        ValueError: if it is no such pickle, or names anything but numpy's arrays.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path.name}: over {_MOST_BYTES:,} bytes")
    try:
        whole = _Plain(path.read_bytes()).load()
        if not isinstance(whole, dict):
            raise ValueError("it is no dict")
        return {_text(key): value.array() if isinstance(value, _Array) else value for key, value in whole.items()}
    except _DAMAGED as error:
        raise ValueError(f"{path.name}: {' '.join(str(error).split())[:200]}") from error


_DAMAGED = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    OverflowError,
    AssertionError,
    RuntimeError,
    MemoryError,
)


class _Array:
    """What is known of an array before it is made: its bytes must be there."""

    def __init__(self, *args: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> npt.NDArray[np.uint8]:
        """The array, of bytes that the file holds."""
        _, shape, dtype, fortran, raw = self.state
        raw = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        if not isinstance(dtype, _DType) or dtype.name not in _DTYPES:
            raise ValueError("an array that is not of bytes")
        flat = np.frombuffer(raw, _DTYPES[dtype.name])
        return flat.reshape(tuple(int(n) for n in shape), order="F" if fortran else "C")


class _DType:
    def __init__(self, name: Any, *args: Any) -> None:
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        pass


class _NDArray:
    """Named as an argument only."""


def _encode(text: str, encoding: str) -> bytes:
    """Python 3's way of pickling bytes under the old protocols."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("an encoding other than latin1")
    return text.encode("latin1")


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


_KNOWN = {
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    "numpy.ndarray": _NDArray,
    "numpy.dtype": _DType,
    "_codecs.encode": _encode,
}


# In Python, not in C: pickle's C code takes memory for as many memo slots as a file asks for.
class _Plain(pickle._Unpickler):
    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Our own stand-ins for numpy's; nothing is imported."""
        if f"{module}.{name}" not in _KNOWN:
            raise ValueError(f"it names {module[:60]}.{name[:60]}, which could run code")
        return _KNOWN[f"{module}.{name}"]
