#!/usr/bin/env python3
"""Write and check the lists of ImageNet-1K, or of any images in class folders.

    # train/<synset>/*.JPEG and val/<synset>/*.JPEG are read as they are; this checks them
    python datasets/imagenet/prepare.py --images imagenet --check

    # val/ as released, 50,000 images in one folder, whose classes are in the development kit or in a file
    python datasets/imagenet/prepare.py --images imagenet --devkit ILSVRC2012_devkit_t12
    python datasets/imagenet/prepare.py --images imagenet --val-labels LOC_val_solution.csv \\
        --words LOC_synset_mapping.txt

The output is train.csv and val.csv (one "path label" per line), classes.json (the names, class 0 first) and, with
--check, check.csv. Then train with DATA.PATH_TO_DATA_DIR imagenet (or --output) and DATA.CLASS_NAMES_FILE classes.json.
Classes are numbered by the sorted folder names of train/.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videovit.data.decode.image_backend import SUFFIXES
from videovit.data.files.annotation_files import Problem, content_of, read_lines, refuse, suggestion
from videovit.data.files.folders import files_below, is_folder, passed_over
from videovit.data.readers.image_folder import class_folders, images_of
from videovit.data.records import AnnotationError
from videovit.messages import plural
from videovit.preparation import checks, command, lists
from videovit.preparation.checks import Finding
from videovit.preparation.splits import SPLITS

SYNSET = re.compile(r"n\d{8}", re.ASCII)
META, GROUND_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"

OPTIONS = {"DATA.PATH_TO_DATA_DIR": "--images", "DATA.PATH_PREFIX": "--images"}
"""Config keys -> options, for messages."""


def read_words(file: Path) -> dict[str, str]:
    """Read the names of synsets, one `n01440764 tench, Tinca tinca` per line.

    Raises:
        AnnotationError: the file is missing or malformed.
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
            problems.append((number, line, f"{synset} already has a name"))
        else:
            words[synset] = name.strip()
    refuse(file, problems)
    return words


def read_devkit(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Read the development kit of ILSVRC 2012.

    The numbers in its ground truth are ILSVRC2012_ID of meta.mat, which are not in the order of the synsets.

    Returns:
        The synset of every validation image, ordered by its number, and the names of the synsets.

    Raises:
        AnnotationError: a file is missing or malformed, or SciPy, which reads meta.mat, is not installed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise AnnotationError(
            f"reading it needs SciPy ({error})", where=folder / META, hint="Install it with pip install scipy"
        ) from None
    try:
        with open(folder / META, "rb") as file:
            table: Any = loadmat(file, squeeze_me=True, struct_as_record=True)["synsets"]
    except FileNotFoundError:
        raise AnnotationError(f"{folder / META} does not exist; {content_of(folder)}") from None
    except (KeyError, ValueError, MatReadError) as error:
        raise AnnotationError(
            f"not the table of the ILSVRC 2012 development kit: {error}", where=folder / META
        ) from None
    # Inner nodes of the hierarchy are not classes.
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
    """Read the synsets of the validation images.

    Args:
        file: one synset per line, in the order of the image numbers; or CSV with the header
            `ImageId,PredictionString`, where the second column starts with the synset.

    Returns:
        The synsets in order, or image name -> synset.

    Raises:
        AnnotationError: the file is missing or malformed.
    """
    lines = read_lines(file)
    # The format of Kaggle's release.
    if lines[0].startswith("ImageId"):
        by_name = {}
        problems = []
        for number, row in lists.read_table(file, ("ImageId", "PredictionString")):
            # The boxes of the localization task follow the synset.
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
    """The images of a folder without class folders, and their classes.

    Args:
        folder: folder of the images.
        labels: synsets by image number or by image name.
        classes: synset -> number.

    Returns:
        (path, class number) of every image, and findings about missing images.

    Raises:
        AnnotationError: an image has no label, or a label is not one of the classes.
    """
    if not isinstance(labels, Mapping):
        # The released images are numbered.
        labels = {f"ILSVRC2012_val_{number:08d}": synset for number, synset in enumerate(labels, start=1)}
    unknown = sorted(set(labels.values()) - set(classes))
    if unknown:
        raise AnnotationError(
            f"{plural(len(unknown), 'validation label')} without a folder in train/, such as {unknown[0]!r}"
            + suggestion(unknown[0], tuple(classes))
        )
    rows: list[tuple[str, int]] = []
    found = set()
    for path in files_below(folder, SUFFIXES):
        name = Path(path).stem
        if name not in labels:
            raise AnnotationError(f"no label for {name!r}; the labels are {min(labels)} to {max(labels)}", where=path)
        found.add(name)
        rows.append((path, classes[labels[name]]))
    missing = [name for name in labels if name not in found]
    return rows, [Finding("missing", str(folder / name), "has a label, but no file", "val") for name in missing]


def class_names(synsets: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """The names of classes; synsets with the same name (crane, maillot) get their ids appended."""
    # Two synsets are called crane: a bird and a machine.
    times = Counter(words.get(synset, synset) for synset in synsets)
    return [
        name if times[name] == 1 else f"{name} ({synset})" for synset in synsets for name in [words.get(synset, synset)]
    ]


def prepare_lists(
    images: Path, output: Path, labels: Sequence[str] | Mapping[str, str] | None, words: Mapping[str, str]
) -> tuple[dict[str, int], list[Finding]]:
    """Write the lists and class names.

    Args:
        images: folder with train/ or val/ or both.
        output: folder of the lists.
        labels: labels of a flat val/, see `list_flat`; None if val/ has class folders.
        words: names of synsets.

    Returns:
        Folder name -> class number, and findings about missing images.

    Raises:
        AnnotationError: the folders are not in the expected layout.
    """
    splits = [split for split in SPLITS if (images / split).is_dir()]
    if not splits:
        raise AnnotationError(
            f"--images {str(images)!r} has no folder train, val or test; {content_of(images, '--images')}"
        )
    # Numbered by train/, so all splits agree.
    classes = {name: number for number, name in enumerate(class_folders(images / splits[0]))}
    missing: list[Finding] = []
    by_split: dict[str, list[tuple[str, int]]] = {}
    for split in splits:
        if split == "test" and not any(is_folder(entry) for entry in os.scandir(images / split)):
            print("test: skipped, because its images are not in class folders")
            continue
        if split == "val" and labels is not None:
            rows, missing = list_flat(images / split, labels, classes)
        else:
            names = class_folders(images / split)
            unknown = [name for name in names if name not in classes]
            if unknown:
                near = suggestion(unknown[0], tuple(classes))
                raise AnnotationError(f"{str(images / split / unknown[0])!r} is not a class of {splits[0]}/{near}")
            found, others = images_of(images / split, names)
            if others:
                print(passed_over(images / split, others))
            rows = [(path, classes[name]) for name, path in found]
        by_split[split] = [(lists.listed_path(path, output), label) for path, label in rows]
        absent = len(classes) - len({label for _, label in rows})
        count = plural(len(classes) - absent, "class", "classes")
        print(f"{split}: {plural(len(rows), 'image')} of {count} listed, {len(missing)} missing")
    lists.write_lists(output, by_split, class_names(list(classes), words))
    return classes, missing


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder with train/ and val/")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the lists (default: --images)")
    parser.add_argument(
        "--devkit",
        type=Path,
        metavar="DIR",
        help="ILSVRC2012_devkit_t12, with the labels of a flat val/ and class names",
    )
    parser.add_argument(
        "--val-labels",
        type=Path,
        metavar="FILE",
        help="labels of a flat val/: one synset per line, or LOC_val_solution.csv",
    )
    parser.add_argument(
        "--words", type=Path, metavar="FILE", help="class names: one 'n01440764 tench, Tinca tinca' per line"
    )
    command.add_check_arguments(parser)
    args = parser.parse_args(argv)
    if args.devkit and args.val_labels:
        parser.error("--devkit and --val-labels cannot be combined: both give the labels of val/")
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
            labels = None  # val/ already has class folders
    elif args.val_labels:
        labels = read_val_labels(args.val_labels)
    if args.words:
        words = read_words(args.words)
    classes, missing = prepare_lists(args.images, args.output, labels, words)
    print(f"{plural(len(classes), 'class', 'classes')} (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    entries, bad = checks.entries_of_lists(args.output, classes=classes)
    return command.run_check(
        args, entries, folder=args.output, classes=classes, backend="image", found_before=[*bad, *missing]
    )


if __name__ == "__main__":
    sys.exit(command.exit_code(main, OPTIONS))
