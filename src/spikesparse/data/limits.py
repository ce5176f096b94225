"""How much memory a data file may ask for: compared before it is taken."""

from __future__ import annotations

from pathlib import Path

from spikesparse.errors import UserError

ALWAYS = 1 << 30  # bytes of pixels that any file may become; CIFAR-10 is 184 MB
RATIO = 64  # above that, as many times its own size: photographs shrink fourfold, zeros a thousandfold
MOST_PIXELS = 4096 * 4096  # of one image


def check_growth(where: str, becomes: int, on_disk: int) -> None:
    """Refuse files that become far larger in memory than they are: what images do not, and a zip bomb does.

    Raises:
        UserError: naming both sizes.
    """
    if becomes > max(ALWAYS, RATIO * on_disk):
        raise UserError(
            f"{where}: {on_disk:,} bytes would become {becomes:,} in memory, as a decompression bomb does; nothing was "
            "read."
        )


def size_of(paths: list[Path]) -> int:
    """Bytes of files on disk."""
    return sum(path.stat().st_size for path in paths)
