#!/usr/bin/env python3
"""Write the class names of Something-Something v2 and check it. The released files are read as they are.

    python datasets/ssv2/prepare.py --data ssv2 --check

ssv2/ contains the annotation files (something-something-v2-labels.json, ...-train.json, ...-validation.json, or
labels/labels.json and so on) and the videos (20bn-something-something-v2/*.webm, or any folder given by --videos), or
PySlowFast's frame lists train.csv and val.csv. The output is classes.json (the templates, class 0 first) and, with
--check, check.csv. Then train with DATA.PATH_TO_DATA_DIR ssv2, DATA.CLASS_NAMES_FILE classes.json and, if you used
--videos, DATA.PATH_PREFIX.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from videovit.data.files.annotation_files import find_file
from videovit.data.readers import ssv2
from videovit.data.records import AnnotationError, Sample
from videovit.preparation import command

MOST_CLASSES = 10_000

OPTIONS = command.FOLDER_OPTIONS
"""Config keys -> options, for messages."""


def read_names(folder: Path) -> list[str]:
    """The templates without brackets, class 0 first.

    Raises:
        AnnotationError: the file of labels cannot be used, or a number is missing.
    """
    classes = ssv2.read_classes(folder, MOST_CLASSES)
    # DATA.CLASS_NAMES_FILE needs a name for every number.
    by_number = {number: name for name, number in classes.items()}
    missing = [number for number in range(max(by_number, default=-1) + 1) if number not in by_number]
    if missing:
        raise AnnotationError(
            f"the labels in {str(folder)!r} have no class {missing[0]}; expected 0 to {max(by_number)}"
        )
    return [by_number[number] for number in sorted(by_number)]


def splits_of(folder: Path) -> list[Literal["train", "val", "test"]]:
    """Training, validation, and the test if its answers exist."""
    try:
        find_file(folder, [ssv2.PREFIX + ssv2.LISTS["test"], ssv2.LISTS["test"]])
    except AnnotationError:
        return ["train", "val"]
    return ["train", "val", "test"]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_folder_arguments(parser)
    command.add_check_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = parse(argv)
    names = read_names(args.data)
    samples: dict[str, Sequence[Sample]] = {}
    for split in splits_of(args.data):
        samples[split] = ssv2.read(args.data, split, num_classes=len(names), prefix=args.videos)
        command.print_missing(split, samples[split])
    return command.write_classes_and_check(args, samples, names)


if __name__ == "__main__":
    sys.exit(command.exit_code(main, OPTIONS))
