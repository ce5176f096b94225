"""Where the package's own files are; apart, since what only reads them need not wait for torch."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
#: A checkout has the configurations beside src; an installed package carries them inside.
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parents[1] / "configs"
