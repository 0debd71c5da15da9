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
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from videovit.data.files.annotation_files import find_file
from videovit.data.readers import ssv2
from videovit.data.records import AnnotationError
from videovit.messages import plural
from videovit.preparation import checks, command

MOST_CLASSES = 10_000


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
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the annotation files")
    parser.add_argument("--videos", default="", metavar="DIR", help="folder of the videos (DATA.PATH_PREFIX)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of classes.json and check.csv (default: --data)"
    )
    command.add_check_arguments(parser)
    args = parser.parse_args(argv)
    args.output = args.output or args.data
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = parse(argv)
    names = read_names(args.data)
    entries = []
    frames = False
    for split in splits_of(args.data):
        samples = ssv2.read(args.data, split, num_classes=len(names), prefix=args.videos)
        # Only samples from frame lists state a number of images.
        frames = frames or any(sample.num_frames for sample in samples)
        entries += checks.entries_of_samples(samples, split, names)
        command.print_missing(split, samples)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "classes.json").write_text(json.dumps(names, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{plural(len(names), 'class', 'classes')} (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    backend = "frames" if frames else "decord"
    return command.run_check(args, entries, folder=args.output, classes=names, backend=backend)


if __name__ == "__main__":
    sys.exit(command.exit_code(main))
