#!/usr/bin/env python3
"""Lists for ImageNet-1K, or for any folder of images with a folder per class; and a check of them.

    # train/<synset>/*.JPEG and val/<synset>/*.JPEG: nothing has to be prepared, but can be checked
    python datasets/imagenet/prepare.py --images imagenet --check

    # val/ as it is released, 50,000 images in one folder: their classes come from the development kit, or from a file
    python datasets/imagenet/prepare.py --images imagenet --devkit ILSVRC2012_devkit_t12
    python datasets/imagenet/prepare.py --images imagenet --val-labels LOC_val_solution.csv \\
        --words LOC_synset_mapping.txt

Writes train.csv and val.csv ("path label" a line), classes.json (the names, class 0 first) and, with --check,
check.csv. Then: DATA.PATH_TO_DATA_DIR imagenet (or --output), DATA.CLASS_NAMES_FILE classes.json. Classes are numbered
by the names of the folders in train/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videovit.data.decode.image_backend import SUFFIXES
from videovit.data.files.annotation_files import Problem, content_of, read_lines, refuse, suggestion
from videovit.data.files.folders import files_below, is_folder
from videovit.data.readers.image_folder import class_folders
from videovit.data.records import AnnotationError
from videovit.preparation import release as prepare
from videovit.preparation.check import Finding

SYNSET = re.compile(r"n\d{8}", re.ASCII)
META, GROUND_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


def read_words(file: Path) -> dict[str, str]:
    """Names of synsets: `n01440764 tench, Tinca tinca` a line.

    Raises:
        AnnotationError: missing, or a line is of another form.
    """
    words: dict[str, str] = {}
    problems: list[Problem] = []
    for number, line in enumerate(read_lines(file), start=1):
        synset, _, name = line.strip().replace("\t", " ").partition(" ")
        if not synset:
            continue
        if not SYNSET.fullmatch(synset) or not name.strip():
            problems.append((number, line, "expected a synset and its name, such as 'n01440764 tench, Tinca tinca'"))
        elif synset in words:
            problems.append((number, line, f"{synset} is named already"))
        else:
            words[synset] = name.strip()
    refuse(file, problems)
    return words


def read_devkit(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Read the development kit of ILSVRC 2012.

    The numbers in its ground truth are ILSVRC2012_ID of meta.mat, which is another order than that of the synsets.

    Returns:
        The synset of every validation image, by its number, and the names of the synsets.

    Raises:
        AnnotationError: a file is missing or of another form, or SciPy, which reads meta.mat, is not installed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise AnnotationError(f"{folder / META}: {error}; it takes SciPy to read it: pip install scipy") from None
    try:
        with open(folder / META, "rb") as file:
            table: Any = loadmat(file, squeeze_me=True, struct_as_record=True)["synsets"]
    except FileNotFoundError:
        raise AnnotationError(f"{folder / META} does not exist; {content_of(folder)}") from None
    except (KeyError, ValueError, MatReadError) as error:
        raise AnnotationError(f"{folder / META}: not the table of ILSVRC 2012's development kit: {error}") from None
    by_id = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if int(row["num_children"]) == 0}
    words = {str(row["WNID"]): str(row["words"]) for row in table}
    synsets: list[str] = []
    problems: list[Problem] = []
    for number, line in enumerate(read_lines(folder / GROUND_TRUTH), start=1):
        if not line.strip():
            continue
        if not line.strip().isdecimal() or int(line) not in by_id:
            problems.append((number, line, f"expected a class number of {META}, {min(by_id)} to {max(by_id)}"))
        else:
            synsets.append(by_id[int(line)])
    refuse(folder / GROUND_TRUTH, problems)
    return synsets, words


def read_val_labels(file: Path) -> list[str] | dict[str, str]:
    """The synsets of the validation images from a file.

    Args:
        file: a synset a line, in the order of the images' numbers; or `ImageId,PredictionString` with a header, where
            the synset begins the second column.

    Returns:
        The synsets in order, or image name -> synset.

    Raises:
        AnnotationError: missing, or a line is of another form.
    """
    lines = [line for line in read_lines(file)]
    if lines[0].startswith("ImageId"):
        by_name = {}
        problems = []
        for number, row in prepare.read_table(file, ("ImageId", "PredictionString")):
            synset = row["PredictionString"].split(" ")[0]
            if not SYNSET.fullmatch(synset):
                problems.append((number, ",".join(row.values()), f"{synset!r} is not a synset such as n01440764"))
            by_name[row["ImageId"]] = synset
        refuse(file, problems)
        return by_name
    bad = [
        (number, line, f"{line.strip()!r} is not a synset such as n01440764; numbers are read with --devkit")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not SYNSET.fullmatch(line.strip())
    ]
    refuse(file, bad)
    return [line.strip() for line in lines if line.strip()]


def list_flat(
    folder: Path, labels: Sequence[str] | Mapping[str, str], classes: Mapping[str, int]
) -> tuple[list[tuple[str, int]], list[Finding]]:
    """The images of a folder without class folders, with their classes.

    Args:
        folder: of the images.
        labels: by number or by name.
        classes: synset -> number.

    Returns:
        (path, class number) of every image, and what is missing.

    Raises:
        AnnotationError: an image has no label, or a label is none of the classes.
    """
    if not isinstance(labels, Mapping):
        labels = {f"ILSVRC2012_val_{number:08d}": synset for number, synset in enumerate(labels, start=1)}
    strange = sorted(set(labels.values()) - set(classes))
    if strange:
        raise AnnotationError(
            f"the validation labels name {len(strange)} classes without a folder in train/, such as {strange[0]!r}"
            + suggestion(strange[0], tuple(classes))
        )
    rows: list[tuple[str, int]] = []
    found = set()
    for path in files_below(folder, SUFFIXES):
        name = Path(path).stem
        if name not in labels:
            raise AnnotationError(
                f"{path}: there is no label for {name!r}; labels go from {min(labels)} to {max(labels)}"
            )
        found.add(name)
        rows.append((path, classes[labels[name]]))
    lacking = [name for name in labels if name not in found]
    return rows, [Finding("missing", str(folder / name), "has a label, but no file", "val") for name in lacking]


def class_names(synsets: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """The names of classes; those that two synsets share (crane, maillot) keep their synset."""
    times = Counter(words.get(synset, synset) for synset in synsets)
    return [
        name if times[name] == 1 else f"{name} ({synset})" for synset in synsets for name in [words.get(synset, synset)]
    ]


def prepare_lists(
    images: Path, output: Path, labels: Sequence[str] | Mapping[str, str] | None, words: Mapping[str, str]
) -> tuple[dict[str, int], list[Finding]]:
    """Write the lists and class names.

    Args:
        images: with the folders train and val, one of them at least.
        output: folder of the lists.
        labels: of a flat val/, see `list_flat`; None: val/ has class folders.
        words: names of synsets.

    Returns:
        Folder name -> class number, and what is missing.

    Raises:
        AnnotationError: the folders are not as expected.
    """
    splits = [split for split in prepare.SPLITS if (images / split).is_dir()]
    if not splits:
        raise AnnotationError(f"--images {str(images)!r} has no folder train, val or test; {content_of(images)}")
    classes = {name: number for number, name in enumerate(class_folders(images / splits[0]))}
    missing: list[Finding] = []
    for split in splits:
        if split == "test" and not any(is_folder(entry) for entry in os.scandir(images / split)):
            print("test: its images are in no class folders, and are left out")
            continue
        if split == "val" and labels is not None:
            rows, missing = list_flat(images / split, labels, classes)
        else:
            names = class_folders(images / split)
            strange = [name for name in names if name not in classes]
            if strange:
                near = suggestion(strange[0], tuple(classes))
                raise AnnotationError(f"{str(images / split / strange[0])!r} is no class of {splits[0]}/{near}")
            rows = [(path, classes[name]) for name in names for path in files_below(images / split / name, SUFFIXES)]
        prepare.write_list(
            output / f"{split}.csv", [(prepare.listed_path(path, output), label) for path, label in rows]
        )
        absent = len(classes) - len({label for _, label in rows})
        print(f"{split}: {len(rows)} images of {len(classes) - absent} classes listed, {len(missing)} missing")
    (output / "classes.json").write_text(
        json.dumps(class_names(list(classes), words), indent=1) + "\n", encoding="utf-8"
    )
    return classes, missing


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder with train/ and val/")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the lists (default: --images)")
    parser.add_argument(
        "--devkit", type=Path, metavar="DIR", help="ILSVRC2012_devkit_t12: labels of a flat val/, and names"
    )
    parser.add_argument(
        "--val-labels",
        type=Path,
        metavar="FILE",
        help="labels of a flat val/: a synset a line, or LOC_val_solution.csv",
    )
    parser.add_argument("--words", type=Path, metavar="FILE", help="names: 'n01440764 tench, Tinca tinca' a line")
    prepare.add_check_arguments(parser, timeout=False)
    args = parser.parse_args(argv)
    if args.devkit and args.val_labels:
        parser.error("--devkit and --val-labels both give the labels of val/; choose one")
    args.output = args.output or args.images
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = parse(argv)
    labels: Sequence[str] | Mapping[str, str] | None = None
    words: dict[str, str] = {}
    if args.devkit:
        labels, words = read_devkit(args.devkit)
        val = args.images / "val"
        if val.is_dir() and any(is_folder(entry) for entry in os.scandir(val)):
            labels = None  # val/ has class folders already
    elif args.val_labels:
        labels = read_val_labels(args.val_labels)
    if args.words:
        words = read_words(args.words)
    os.makedirs(args.output, exist_ok=True)
    classes, missing = prepare_lists(args.images, args.output, labels, words)
    print(f"{len(classes)} classes (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    entries, bad = prepare.entries_of_lists(args.output, classes=classes)
    return prepare.run_check(
        args, entries, folder=args.output, classes=classes, backend="image", found_before=[*bad, *missing]
    )


if __name__ == "__main__":
    sys.exit(prepare.exit_code(main))
