"""Folders of images, one folder per class: ImageNet, and any data set with this layout.

    DATA.PATH_TO_DATA_DIR/
        train/n01440764/n01440764_10026.JPEG     the class is the folder directly below the split;
        train/n01443537/...                      images may be deeper
        val/n01440764/ILSVRC2012_val_00000293.JPEG
        test/...                                 without class folders here, the test reads val

Classes are numbered by the sorted folder names of train/, so a class missing from val/ shifts no number. A list
`train.csv`, `val.csv` or `test.csv` beside the folders (one `path label` per line, see `readers.kinetics`) takes
precedence.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from videovit.data.decode.image_backend import SUFFIXES
from videovit.data.files.annotation_files import content_of
from videovit.data.files.folders import is_folder, passed_over, split_files
from videovit.data.readers import kinetics
from videovit.data.records import AnnotationError, Sample
from videovit.messages import did_you_mean, plural


def read(
    split_folder: str | Path,
    *,
    num_classes: int,
    separator: str = " ",
    prefix: str = "",
    skip_rows: int = 0,
    labeled: bool = True,
) -> Sequence[Sample]:
    """Read the images of a split.

    Args:
        split_folder: DATA.PATH_TO_DATA_DIR/train, /val or /test.
        num_classes: number of class folders (MODEL.NUM_CLASSES).
        separator, prefix, skip_rows: for lists, see `readers.kinetics.read`.
        labeled: False: images lie anywhere in the folder, and have no class.

    Returns:
        The samples, class by class, sorted by name.

    Raises:
        AnnotationError: there is neither a folder nor a list, the number of classes differs, a class of this split is
            not in train/, or the folders are empty.

    Source: the layout of PySlowFast's ImageNet data set (sorted folders; its test reads val).
    """
    split_folder = find_split(Path(split_folder))
    list_file = _list_of(split_folder)
    # A list exists only if somebody wrote one, so it takes precedence.
    if list_file.is_file():
        return kinetics.read(
            list_file,
            num_classes=num_classes,
            separator=separator,
            prefix=prefix,
            skip_rows=skip_rows,
            labeled=labeled,
        )
    if not labeled:
        return _without_classes(split_folder)
    names = class_folders(split_folder)
    of_train = split_folder.parent / "train"
    # The split may lack classes, so the numbers are those of train/.
    classes = class_folders(of_train) if of_train.is_dir() else names
    # A missing folder would shift the numbers of all classes after it.
    if len(classes) != num_classes:
        where = of_train if of_train.is_dir() else split_folder
        raise AnnotationError(
            f"{plural(len(classes), 'class folder')} ({shown(classes)}), but MODEL.NUM_CLASSES is {num_classes}",
            where=str(where),
        )
    # The published numbering: sorted synsets.
    numbers = {name: number for number, name in enumerate(classes)}
    for name in names:
        if name not in numbers:
            raise AnnotationError(
                f"{str(split_folder / name)!r} is not a class of {str(of_train)!r}", near=did_you_mean(name, classes)
            )
    images, others = images_of(split_folder, names)
    if others:
        warnings.warn(passed_over(split_folder, others), stacklevel=2)
    samples = [Sample(path, numbers[name]) for name, path in images]
    if not samples:
        raise AnnotationError(
            f"no images in the class folders {shown(names)}",
            where=str(split_folder),
            expected=f"files with the suffixes {', '.join(sorted(SUFFIXES))}",
        )
    return samples


def _without_classes(split_folder: Path) -> list[Sample]:
    images, others = split_files(split_folder, SUFFIXES)
    if others:
        warnings.warn(passed_over(split_folder, others), stacklevel=3)
    if not images:
        raise AnnotationError(
            "no images", where=str(split_folder), expected=f"files with the suffixes {', '.join(sorted(SUFFIXES))}"
        )
    return [Sample(path) for path in images]


def images_of(split_folder: Path, names: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """(class, path) of every image, class by class, and the paths of the other files, also of images in no class."""
    images: list[tuple[str, str]] = []
    with os.scandir(split_folder) as entries:
        others = [entry.path for entry in entries if not is_folder(entry) and not entry.name.startswith(".")]
    for name in names:
        found, left = split_files(split_folder / name, SUFFIXES)
        images += [(name, path) for path in found]
        others += left
    return images, others


def find_split(split_folder: Path) -> Path:
    """The folder of a split; val for a test without classes (no folder and no list, or only loose images).

    Raises:
        AnnotationError: neither the folder nor a list of this name exists.
    """
    val = split_folder.with_name("val")
    # The test images of ImageNet are released without labels.
    if split_folder.name == "test" and not _has_classes(split_folder) and _has_classes(val):
        if split_folder.is_dir():
            text = f"{str(split_folder)!r} has no class folders, so its images have no labels; the test reads val"
            warnings.warn(text, stacklevel=2)
        return val
    if split_folder.is_dir() or _list_of(split_folder).is_file():
        return split_folder
    raise AnnotationError(
        f"folder {str(split_folder)!r} does not exist, nor does a list {_list_of(split_folder).name!r} beside it; "
        + content_of(split_folder.parent)
    )


def _list_of(split_folder: Path) -> Path:
    return split_folder.with_name(split_folder.name + ".csv")


def _has_classes(split_folder: Path) -> bool:
    return _list_of(split_folder).is_file() or (split_folder.is_dir() and bool(_class_folders(split_folder)))


def class_folders(split_folder: Path) -> list[str]:
    """The names of the folders directly below, sorted: class 0 first.

    Raises:
        AnnotationError: there are none.
    """
    names = _class_folders(split_folder)
    if not names:
        raise AnnotationError(
            f"{str(split_folder)!r} has no class folders; expected {split_folder.name}/<class>/<image>, or a list "
            f"{_list_of(split_folder).name} beside it (one 'path label' per line)"
        )
    return names


def _class_folders(split_folder: Path) -> list[str]:
    with os.scandir(split_folder) as entries:
        return sorted(entry.name for entry in entries if is_folder(entry) and not entry.name.startswith("."))


def shown(names: list[str]) -> str:
    """The first of many names, for an error message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
