"""The scan on a CPU, in C++: builds cpu_kernels.cpp once per machine, and calls it."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from spikesparse.ops.problem import Gradients, Scan, SpikeGradients, Spikes, Wanted
from spikesparse.ops.surrogate import SURROGATES

SOURCE = Path(__file__).with_name("cpu_kernels.cpp")
# A product and a sum stay two roundings (-ffp-contract=off); the two -fno let loops become vector instructions.
FLAGS = "-O3 -march=native -ffp-contract=off -fno-math-errno -fno-trapping-math -std=c++17 -fopenmp -shared -fPIC"


class _Scan(ctypes.Structure):
    """The struct of the same name in cpu_kernels.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("timesteps", "steps", "batch", "height", "width", "channels")),
        *((name, ctypes.c_void_p) for name in ("y", "scale", "shift")),
        *((name, ctypes.c_float) for name in ("decay", "threshold", "initial", "slope")),
        *((name, ctypes.c_int32) for name in ("bfloat16", "pool", "soft_reset", "detach_reset", "strict")),
        *((name, ctypes.c_int32) for name in ("surrogate", "threads")),
    )


def prepare() -> None:
    """Compile and load.

    Raises:
        RuntimeError: if there is no C++ compiler, it fails, or no folder can keep what it makes.
    """
    _library()


def moments(y: Tensor) -> Tensor:
    """Mean and biased variance of each channel: float64 (2, C)."""
    rows, channels = y.numel() // y.shape[-1], y.shape[-1]
    sums = _sums(2, channels)
    _library().spikesparse_moments(_at(y), _is_bfloat16(y.dtype), _int(rows), _int(channels), _threads(), _at(sums))
    mean, square = sums.sum(0) / rows  # of the distance from the first row
    return torch.stack([mean + y.view(rows, channels)[0].double(), (square - mean.square()).clamp(min=0)])


def forward(scan: Scan, pack: bool, count: bool) -> Spikes:
    """Spikes, through the pool if there is one, with their bits and counts."""
    y, shape = scan.y, scan.out_shape
    dense = y.new_empty(shape)
    bits = y.new_empty((*shape[:-1], -(-shape[-1] // 8)) if pack else 0, dtype=torch.uint8)
    fired = y.new_zeros((shape[1], *scan.windows) if count else 0, dtype=torch.int32)
    events = y.new_zeros(shape[1:4] if count and scan.pool else 0, dtype=torch.int32)
    _library().spikesparse_forward(_struct(scan), *(_at(out) for out in (dense, bits, fired, events)))
    return Spikes(dense, bits, fired, events)


def backward(
    scan: Scan, gradients: SpikeGradients, wanted: Wanted, center: Tensor | None, coefficients: Tensor | None
) -> Gradients:
    """Gradients of y, of channels' sums, and of decay, threshold and initial membrane."""
    y = torch.empty_like(scan.y) if wanted.y else None
    channels = _sums(2, scan.y.shape[-1]) if wanted.channels else None
    learned = _sums(3) if wanted.learned else None
    arguments = (*gradients, center, coefficients, channels, learned, y)
    _library().spikesparse_backward(_struct(scan), *(_at(argument) for argument in arguments))
    return Gradients(y, *(None if sums is None else sums.sum(0) for sums in (channels, learned)))


def pack_bits(x: Tensor) -> Tensor:
    """(N, C) -> uint8 (N, ceil(C / 8))."""
    bits = x.new_empty(len(x), -(-x.shape[1] // 8), dtype=torch.uint8)
    sizes = (_is_bfloat16(x.dtype), _int(len(x)), _int(x.shape[1]), _threads())
    _library().spikesparse_pack(_at(x), *sizes, _at(bits))
    return bits


def unpack_bits(bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Uint8 (N, ceil(C / 8)) -> (N, C)."""
    x = bits.new_empty(len(bits), channels, dtype=dtype)
    sizes = (_is_bfloat16(dtype), _int(len(bits)), _int(channels), _threads())
    _library().spikesparse_unpack(_at(bits), *sizes, _at(x))
    return x


def _struct(scan: Scan) -> ctypes._CArgObject:
    spec = scan.spec
    return ctypes.byref(
        _Scan(
            scan.timesteps,
            *scan.y.shape,
            *(None if each is None else each.data_ptr() for each in (scan.y, scan.scale, scan.shift)),
            *(scan.decay.item(), scan.threshold.item(), 0.0 if scan.initial is None else scan.initial.item()),
            spec.surrogate.slope,
            *(scan.y.dtype == torch.bfloat16, scan.pool, spec.soft_reset, spec.detach_reset, spec.strict),
            *(list(SURROGATES).index(spec.surrogate.name), torch.get_num_threads()),
        )
    )


def _sums(*shape: int) -> Tensor:
    return torch.zeros(_library().spikesparse_chunks(), *shape, dtype=torch.float64)


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    if tensor is None or tensor.numel() == 0:
        return ctypes.c_void_p(None)
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def _int(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


def _is_bfloat16(dtype: torch.dtype) -> ctypes.c_int:
    return ctypes.c_int(dtype == torch.bfloat16)


def _threads() -> ctypes.c_int:
    return ctypes.c_int(torch.get_num_threads())


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@cache
def _library() -> ctypes.CDLL:
    """The compiled kernels, from the first of the folders that can keep them."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if not compiler:
        raise RuntimeError("there is no C++ compiler; install g++, or name one as CXX")
    key = hashlib.sha256(SOURCE.read_bytes())
    for part in (FLAGS, compiler, platform.platform(), _processor()):
        key.update(part.encode())
    name, reasons = f"cpu_kernels-{key.hexdigest()[:16]}", []
    for folder in _folders():
        try:
            path = _kept(folder, name) or _built(folder, name, compiler)
            library = ctypes.CDLL(str(path))  # its OpenMP is torch's, loaded before: one pool of threads
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
            continue
        library.spikesparse_chunks.restype = ctypes.c_int64
        return library
    found = f" ({'; '.join(reasons)})" if reasons else ""
    raise RuntimeError(f"no folder to keep the compiled kernels in{found}; name one as XDG_CACHE_HOME")


def _kept(folder: Path, name: str) -> Path | None:
    """What was compiled there before, if it is whole and only this user can have written it. Makes the folder.

    A library is code that this process will run. Its name holds the SHA-256 of its bytes, so that what a full disk or
    a crash left of it is not taken for it.

    Raises:
        OSError: if the folder is not, and cannot be made, one that only this user writes to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "not a folder of this user's own")
    if found.st_mode & _OTHERS_WRITE:  # close it, and trust nothing that lies there
        folder.chmod(0o700)
        if folder.lstat().st_mode & _OTHERS_WRITE:
            raise PermissionError(errno.EPERM, "others may write to it")
        for path in folder.glob(f"{name}-*.so"):
            path.unlink(missing_ok=True)
    for path in sorted(folder.glob(f"{name}-*.so")):
        found = path.lstat()
        private = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE
        if private and path.name == _file_name(name, path.read_bytes()):
            return path
    return None


def _built(folder: Path, name: str, compiler: str) -> Path:
    """Compile. Several processes may be at it: each writes a file of its own, and renames it when all is on the disk.

    Raises:
        OSError: if the folder cannot keep it.
        RuntimeError: if the compiler fails.
    """
    handle, made = tempfile.mkstemp(".so", dir=folder)
    os.close(handle)
    command = [*compiler.split(), *FLAGS.split(), str(SOURCE), "-o", made]
    try:
        _compile(command, compiler)
        with open(made, "r+b") as file:
            path = folder / _file_name(name, file.read())
            os.fchmod(file.fileno(), 0o700)  # whatever the umask: what others may write to is not loaded
            os.fsync(file.fileno())
        return Path(made).replace(path)
    finally:
        Path(made).unlink(missing_ok=True)


def _compile(command: list[str], compiler: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise RuntimeError(f"{compiler} failed: {said[0] if said else error!r}") from error


def _file_name(name: str, content: bytes) -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _folders() -> Iterator[Path]:
    """Where compiled kernels may be kept: the user's cache, then the folder for temporary files."""
    named = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # no HOME, and a user whom the system does not know
        yield (Path(named) if named else Path.home() / ".cache") / "spikesparse"
    with suppress(FileNotFoundError):  # no such folder
        yield Path(tempfile.gettempdir()) / f"spikesparse-{os.geteuid()}"


def _processor() -> str:
    """What -march=native looks at: a home may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
