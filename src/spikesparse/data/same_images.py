"""Whether a checkpoint was trained on the images that a data module has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikesparse.errors import UserError

if TYPE_CHECKING:
    pass


#: Sources that are one set of images each; npz files and folders may hold any.
FIXED_SOURCES = ("cifar10", "cifar100", "digits")


def check_same_images(settings: dict[str, Any], data: Any, named: str) -> None:
    """Refuse a checkpoint of other images, as far as their source tells.

    Args:
        settings: the checkpoint's, of its data.
        data: module of what it is compared with; one of another kind, or None, tells nothing.
        named: what the user called it by.

    Raises:
        UserError: naming both sources.
    """
    theirs, ours = settings.get("source"), getattr(data, "source", None)
    if theirs != ours and theirs in FIXED_SOURCES and ours in FIXED_SOURCES:
        raise UserError(
            f"{named}: that network was trained on {theirs}; here it is `source={ours}`. Name a checkpoint of "
            "the same images."
        )
