"""A trained run back in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spikesparse.settings.build import build_run

if TYPE_CHECKING:
    from spikesparse.data import CIFAR10DataModule
    from spikesparse.training.module import SpikingClassifier


def load_run(
    run_folder: str | Path, which: str = "best", allow_import: str | Sequence[str] = ()
) -> tuple[SpikingClassifier, CIFAR10DataModule]:
    """The trained module, in evaluation mode, and its data module.

    Args:
        run_folder: such as runs/digits/seed0.
        which: "best" or "last"; where there is no best checkpoint, the last is taken.
        allow_import: packages or modules of your own that the checkpoint's settings may name, as ``--allow-import``.

    Raises:
        UserError: if the folder holds no such run, or a class of its own may not or cannot be imported from here.
    """
    from spikesparse.files.checkpoint import check_state_dict, read_checkpoint, settings_of
    from spikesparse.files.run_folder import chosen_checkpoint
    from spikesparse.training.module import SpikingClassifier

    folder = Path(run_folder)
    path = chosen_checkpoint(folder) if which == "best" else folder / "checkpoints" / f"{which}.ckpt"
    checkpoint = read_checkpoint(path, flag=None)
    settings = settings_of(checkpoint, str(path))
    prefixes = (allow_import,) if isinstance(allow_import, str) else tuple(allow_import)
    ready = build_run(SpikingClassifier, settings, str(path), prefixes)
    module, data = ready.model, ready.data
    check_state_dict(checkpoint["state_dict"], module.state_dict(), str(path))
    module.load_state_dict(checkpoint["state_dict"])
    return module.eval(), data
