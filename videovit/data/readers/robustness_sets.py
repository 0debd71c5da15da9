"""Image sets that are made to mislead models of ImageNet: ImageNet-A, ImageNet-R, the Backgrounds Challenge.

imagenet-a/n01498041/0.000116_digital clock _ digital clock_0.865662.jpg       200 of the classes, by WordNet id
imagenet-r/n01443537/art_0.jpg

bg_challenge/original/val/00_dog/n02085620_10131.JPEG                          nine classes, sorted by name
bg_challenge/only_bg_t/val/00_dog/...                                          and mixed_same, mixed_rand, ...
bg_challenge/fg_mask/val/00_dog/n02085620_10131.npy                            where the object is, (H, W)
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.data.files.annotation_files import read_lines
from videovit.data.files.folders import passed_over
from videovit.data.readers.image_folder import class_folders, images_of, shown
from videovit.data.records import AnnotationError, Sample
from videovit.messages import did_you_mean, plural

IN9 = ("dog", "bird", "vehicle", "reptile", "carnivore", "insect", "instrument", "primate", "fish")
"""The classes of ImageNet-9, in the order of their folders."""

VARIATIONS = (
    "original",
    "mixed_same",
    "mixed_rand",
    "mixed_next",
    "only_bg_b",
    "only_bg_t",
    "no_fg",
    "only_fg",
)
MASKS, BACKGROUNDS = "fg_mask", "only_bg_t"

_RANGES: dict[str, str] = {
    "dog": "151-170 173-268",
    "bird": "7-24 87-100 127-146",
    "vehicle": "407 408 428 436 444 468 511 547 555 561 565 569 573 586 603 609 612 627 656 661 665 670 671 675 690 "
    "705 717 734 751 757 791 802 803 817 820 829 847 864 866 867 870 880",
    "reptile": "33-68",
    "carnivore": "269-280 286-299 356-362 387-388",
    "insect": "300-326",
    "instrument": "401 402 420 432 486 494 513 541 546 558 566 577 579 593 594 641 642 683 684 687 699 776 822 875 881 "
    "889",
    "primate": "365-384",
    "fish": "0-6 389-397",
}
"""Classes of ImageNet in each class of ImageNet-9. Source: in_to_in9.json of the Backgrounds Challenge."""


def in9_of_imagenet() -> Tensor:
    """The class of ImageNet-9 of each of the 1,000 of ImageNet: int64 (1000,); `len(IN9)` for 630 that are in none."""
    table = torch.full((1000,), len(IN9), dtype=torch.int64)
    for number, name in enumerate(IN9):
        for part in _RANGES[name].split():
            first, _, last = part.partition("-")
            table[int(first) : int(last or first) + 1] = number
    return table


def read_class_ids(ids_file: str, data_dir: str, num_classes: int) -> list[str]:
    """The WordNet id of every class: class 0 first.

    Args:
        ids_file: an id at the beginning of every line; empty for the class folders of `data_dir`.
        data_dir: holds train or val of ImageNet.
        num_classes: K.

    Raises:
        AnnotationError: there is no such file or folder, or it has another number of classes.
    """
    if ids_file:
        if not Path(ids_file).is_file():
            raise AnnotationError("no such file", where=f"{ids_file} (ROBUSTNESS.CLASS_IDS_FILE)")
        where, ids = ids_file, [line.split()[0] for line in read_lines(Path(ids_file)) if line.strip()]
    else:
        folders = [folder for split in ("train", "val") if (folder := Path(data_dir) / split).is_dir()]
        if not folders:
            raise AnnotationError(
                f"{data_dir!r} has no folder train or val whose class folders would name the model's classes",
                hint="Set ROBUSTNESS.CLASS_IDS_FILE to a file with the WordNet id of every class, one per line",
            )
        where, ids = str(folders[0]), class_folders(folders[0])
    if len(ids) != num_classes or len(set(ids)) < len(ids):
        raise AnnotationError(
            f"{plural(len(ids), 'class', 'classes')} ({shown(ids)})", where=where, expected=f"{num_classes} different"
        )
    return ids


def read_subset(folder: str, ids: Sequence[str]) -> tuple[list[Sample], list[int]]:
    """Read a set of images of some of the model's classes, which its folders name.

    Args:
        folder: holds a folder of images per class.
        ids: of all classes of the model.

    Returns:
        The samples, whose labels count the folders in sorted order, and the model's class of each folder.

    Raises:
        AnnotationError: there is no such folder, it has no images, or a class that the model does not have.
    """
    root = _existing(folder)
    names = class_folders(root)
    number = {name: place for place, name in enumerate(ids)}
    for name in names:
        if name not in number:
            raise AnnotationError(f"folder {name!r} is no class of the model", where=root, near=did_you_mean(name, ids))
    return _samples(root, names), [number[name] for name in names]


def variations_in(folder: str) -> list[str]:
    """The variations of ImageNet-9 that are in a folder.

    Raises:
        AnnotationError: there are none.
    """
    root = _existing(folder)
    found = [name for name in VARIATIONS if (root / name / "val").is_dir()]
    if not found:
        raise AnnotationError(
            "none of the variations of the Backgrounds Challenge",
            where=root,
            expected=f"<variation>/val/<class>/<image>, with {', '.join(VARIATIONS)}",
        )
    return found


def read_variation(folder: str, variation: str) -> list[Sample]:
    """Read a variation of ImageNet-9; labels are numbers of `IN9`.

    Raises:
        AnnotationError: it does not have nine class folders, or no images.
    """
    root = Path(folder) / variation / "val"
    names = class_folders(root)
    if len(names) != len(IN9):
        raise AnnotationError(
            plural(len(names), "class folder"), where=root, expected=f"{len(IN9)}, sorted as {', '.join(IN9)}"
        )
    return _samples(root, names)


@dataclass(frozen=True)
class Foreground:
    """An object that is put in front of backgrounds.

    Attributes:
        image: path of the original image.
        mask: path of the mask.
        label: number in `IN9`.
    """

    image: str
    mask: str
    label: int


def read_foregrounds(folder: str) -> list[Foreground]:
    """List the objects of the Backgrounds Challenge, class by class.

    Raises:
        AnnotationError: there are not nine classes, there are no masks, or a mask has no image.
    """
    root, originals = Path(folder) / MASKS / "val", Path(folder) / "original" / "val"
    names = class_folders(root)
    if len(names) != len(IN9):
        raise AnnotationError(
            plural(len(names), "class folder"), where=root, expected=f"{len(IN9)}, sorted as {', '.join(IN9)}"
        )
    found = []
    for label, name in enumerate(names):
        for mask in sorted((root / name).glob("*.npy")):
            image = originals / name / f"{mask.stem}.JPEG"
            if not image.is_file():
                raise AnnotationError("the mask has no image", where=mask, expected=str(image))
            found.append(Foreground(str(image), str(mask), label))
    if not found:
        raise AnnotationError("no masks (.npy) in the class folders", where=root)
    return found


def has_masks(folder: str) -> bool:
    """Whether a folder holds the masks of the challenge, beside variations of ImageNet-9."""
    return (Path(folder) / MASKS / "val").is_dir()


def read_mask(path: str, side: int) -> Tensor:
    """Read a mask, and scale it as its image.

    Args:
        path: of a .npy file.
        side: of the square image that the model gets, in pixels.

    Returns:
        bool (side, side), True on the object.

    Raises:
        AnnotationError: it is no square array.
    """
    try:
        # A file of strangers: objects in it could run code.
        mask_HW = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AnnotationError(f"not an array: {error}", where=path) from error
    shape: tuple[int, ...] = mask_HW.shape if isinstance(mask_HW, np.ndarray) else ()
    if len(shape) != 2 or len(set(shape)) > 1 or 0 in shape:
        raise AnnotationError("mask", where=path, found=shape, expected="a square, as its image")
    mask_11HW = torch.from_numpy(mask_HW.astype(np.float32))[None, None]
    return F.interpolate(mask_11HW, (side, side), mode="nearest")[0, 0] > 0


def _existing(folder: str) -> Path:
    if not Path(folder).is_dir():
        raise AnnotationError("no such folder", where=folder)
    return Path(folder)


def _samples(root: Path, names: Sequence[str]) -> list[Sample]:
    images, others = images_of(root, names)
    if others:
        warnings.warn(passed_over(root, others), stacklevel=3)
    if not images:
        raise AnnotationError(f"no images in the class folders {shown(list(names))}", where=root)
    number = {name: place for place, name in enumerate(names)}
    return [Sample(path, number[name]) for name, path in images]
