"""Where images come from."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image
from torch.nn import functional as F

from spikesparse.data import cifar
from spikesparse.data.arrays import Dataset, Images, to_dataset, to_images
from spikesparse.data.limits import MOST_PIXELS, check_growth, size_of
from spikesparse.data.npz import Array, read_npz
from spikesparse.errors import UserError, choose
from spikesparse.files.safe_yaml import check_regular

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
OFFLINE_HINT = "EXPERIMENT=digits (`source=digits`) needs no download."


def _torchvision_source(name: str) -> Callable[[Path], Dataset]:
    cls = cifar.SOURCES[name]

    def load(data_dir: Path) -> Dataset:
        folder = data_dir / cls.base_folder
        try:
            cifar.fetch(cls, data_dir)
        except OSError as error:  # urllib's errors are OSErrors
            found = f"{folder} is there, but damaged or incomplete (wrong checksum)" if folder.exists() else "not there"
            raise UserError(
                f"`source={name}`: the data is not in `data_dir={data_dir}` ({found}) and could not be "
                f"downloaded ({error}). Fetch {cls.url} (MD5 {cls.tgz_md5}) by hand and unpack it there, so that "
                f"{folder} exists; or use `source=npz`. {OFFLINE_HINT}"
            ) from error
        except RuntimeError as error:  # torchvision's "dataset not found or corrupted"
            raise UserError(
                f"`source={name}`: what lies in {data_dir} has a wrong checksum ({error}). Delete {folder} and "
                f"its archive, and start again to download it anew. {OFFLINE_HINT}"
            ) from error
        try:
            files = [[file for file, _ in listed] for listed in (cls.train_list, cls.test_list)]
            arrays = [cifar.read(cls, data_dir, names) for names in files]
            classes = cifar.class_names(cls, data_dir)
        except ValueError as error:
            raise UserError(
                f"`source={name}`: {folder} holds what is not CIFAR's ({error}). Delete it, and start again to "
                f"download it anew. {OFFLINE_HINT}"
            ) from error
        parts = [to_images(images, labels, f"`source={name}`") for images, labels in arrays]
        return to_dataset(parts[0], parts[1], classes, f"`source={name}`")

    return load


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """An image file as uint8 (H, W, 3).

    Raises:
        UserError: if it cannot be read as an image.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):  # Pillow would clip them to white
            raise UserError(f"{path}: more than 8 bits per channel (mode {image.mode}); convert it to 8 bits.")
        image.load()  # all of it: what is cut off raises here, and only here
        turn = _UPRIGHT.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        return np.asarray(upright.convert("RGB"))


#: EXIF's orientation -> what brings the image upright; 1 is.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> Any:
    """As the camera noted it; what is no EXIF, though it should be, notes nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if isinstance(orientation, int) else None
    except Exception:  # a stranger's bytes, read by many parsers; the pixels have errors of their own
        return None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file, of which only the header is read yet.

    Raises:
        UserError: if it is none, or of a size that no network reads.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            image = Image.open(path, formats=("PNG", "JPEG"))  # other formats start programs, whatever the name says
        with image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(f"{path}: {image.width}x{image.height} pixels, more than any network here reads.")
            yield image
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({error}); replace or remove it.") from error


def stack_images(paths: list[Path], what: str) -> npt.NDArray[np.uint8]:
    """Image files of one size as uint8 (N, H, W, 3).

    Raises:
        UserError: naming the file of another size.
    """
    with _opened(paths[0]) as header:
        check_growth(what, len(paths) * header.width * header.height * 3, size_of(paths))
    first = read_image(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)
    for row, path in zip(images, paths, strict=True):
        image = read_image(path)
        if image.shape != first.shape:
            raise UserError(
                f"{what}: {path} is {image.shape[1]}x{image.shape[0]} pixels, {paths[0]} is "
                f"{first.shape[1]}x{first.shape[0]}; resize them to one size."
            )
        row[...] = image
    return images


#: What systems keep beside images: copies, previews and attributes.
_NOT_OURS = ("__MACOSX", "@eaDir")


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether a name below a folder is hidden, or a system's own: ``.ipynb_checkpoints``, macOS's ``._0.png``."""
    return any(part.startswith(".") or part in _NOT_OURS for part in path.relative_to(folder).parts)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder and those below it, in name order; hidden ones are left out."""
    images = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted(p for p in images if not _is_hidden(p, folder))


def _class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in order; hidden ones are left out."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not _is_hidden(p, folder))


def load_folder(data_dir: Path) -> Dataset:
    """``{train,test}/<class>/*.png|jpg``, any number of classes, labels in the classes' name order.

    Hidden folders and files, whose names begin with a dot, are left out, as is what systems keep beside images.
    """
    where = f"`data_dir={data_dir}`"
    for split in ("train", "test"):
        if not (data_dir / split).is_dir():
            raise UserError(f"{where}: there is no folder {data_dir / split}; images go into {{train,test}}/<class>/.")
    classes = _class_folders(data_dir / "train")
    if not classes:
        raise UserError(f"{where}: {data_dir / 'train'} holds no class folder; images go into train/<class>/.")
    unknown = sorted(set(_class_folders(data_dir / "test")) - set(classes))
    if unknown:
        raise UserError(f"{where}: test class {', '.join(unknown)} has no folder in {data_dir / 'train'}.")
    parts = []
    for split in ("train", "test"):
        files = {c: image_files(data_dir / split / c) if (data_dir / split / c).is_dir() else [] for c in classes}
        empty = [c for c in classes if not files[c]] if split == "train" else []
        if empty:
            raise UserError(f"{where}: no image in {data_dir / split / empty[0]}; add PNG or JPEG files, or remove it.")
        paths = [path for c in classes for path in files[c]]
        if not paths:
            raise UserError(f"{where}: no image in {data_dir / split}.")
        labels = np.repeat(np.arange(len(classes)), [len(files[c]) for c in classes])
        parts.append(to_images(stack_images(paths, where), labels, where))
    return to_dataset(parts[0], parts[1], classes, where)


def load_npz(path: Path) -> Dataset:
    """An npz of ``x_train, y_train, x_test, y_test`` (and ``classes``, optional names)."""
    where = f"`data_dir={path}`"
    if not path.exists():
        raise UserError(
            f"{where}: there is no such file; `source=npz` reads one .npz file. `spikesparse convert FOLDER "
            f"{path}` makes one of a folder of images."
        )
    check_regular(path, where)
    arrays, names = read_npz(path, where, NPZ_KEYS, "classes")
    classes = None if names is None else _texts(names, where)
    parts = [to_images(arrays[f"x_{s}"], arrays[f"y_{s}"], f"{where}: {s} set") for s in ("train", "test")]
    return to_dataset(parts[0], parts[1], classes, where)


def _texts(names: Array, where: str) -> list[str]:
    """Class names of an npz: of text, or of bytes, which are read as UTF-8."""
    if names.ndim > 1:
        raise UserError(f"{where}: classes have shape {names.shape}; one name for each class is needed.")
    names = np.atleast_1d(names)
    if names.dtype.kind == "U" and names.nbytes:
        codes = np.frombuffer(names.tobytes(), np.dtype("u4").newbyteorder(names.dtype.byteorder))
        if codes.max() > sys.maxunicode:
            raise UserError(f"{where}: classes are no text (a character {codes.max():#x}); name them anew.")
    listed = names.tolist()
    return [name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name for name in listed]


def load_digits(data_dir: Path | None = None) -> Dataset:
    """The 1,797 handwritten digits of the UCI repository, shipped with the package, as 32x32 images.

    8x8 pixels of 17 grey levels, enlarged four times by bilinear interpolation; the test split is part of the file.
    """
    with resources.files("spikesparse.data").joinpath("digits.npz").open("rb") as file, np.load(file) as npz:
        arrays = {key: npz[key] for key in NPZ_KEYS}
    parts = []
    for split in ("train", "test"):
        grey = torch.from_numpy(arrays[f"x_{split}"])[:, None].to(torch.float64) * (255 / 16)
        large = F.interpolate(grey, scale_factor=4, mode="bilinear", align_corners=False).round().to(torch.uint8)
        parts.append(Images(large.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(arrays[f"y_{split}"]).long()))
    return to_dataset(parts[0], parts[1], None, "`source=digits`")


SOURCES: dict[str, Callable[[Path], Dataset]] = {
    "cifar10": _torchvision_source("cifar10"),
    "cifar100": _torchvision_source("cifar100"),
    "folder": load_folder,
    "npz": load_npz,
    "digits": load_digits,
}


def load_source(source: str, data_dir: str | Path) -> Dataset:
    """Load a data source.

    Raises:
        UserError: for an unknown source, or data that is missing, damaged or not what it should be.
    """
    return SOURCES[choose("data source", source, SOURCES, "source")](Path(data_dir))
