#!/usr/bin/env python3
"""Something-Something v2 as it is released needs no lists; this writes its class names and checks it.

    python datasets/ssv2/prepare.py --data ssv2 --check

ssv2/ holds the annotation files (something-something-v2-labels.json, ...-train.json, ...-validation.json, or
labels/labels.json and so on) and the videos (20bn-something-something-v2/*.webm, or any folder given by --videos), or
PySlowFast's frame lists train.csv and val.csv. Written: classes.json (the templates, class 0 first), and check.csv.
Then: DATA.PATH_TO_DATA_DIR ssv2, DATA.CLASS_NAMES_FILE classes.json, and DATA.PATH_PREFIX where --videos was given.
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
from videovit.preparation import release as prepare

MOST_CLASSES = 10_000


def read_names(folder: Path) -> list[str]:
    """The templates without brackets, class 0 first.

    Raises:
        AnnotationError: the file of labels cannot be used, or leaves a number out.
    """
    classes = ssv2.read_classes(folder, MOST_CLASSES)
    by_number = {number: name for name, number in classes.items()}
    lacking = [number for number in range(max(by_number, default=-1) + 1) if number not in by_number]
    if lacking:
        raise AnnotationError(
            f"the labels in {str(folder)!r} name no class {lacking[0]}; expected 0 to {max(by_number)}"
        )
    return [by_number[number] for number in sorted(by_number)]


def splits_of(folder: Path) -> list[Literal["train", "val", "test"]]:
    """Training and validation; the test too where its answers are there."""
    try:
        find_file(folder, [ssv2.PREFIX + ssv2.LISTS["test"], ssv2.LISTS["test"]])
    except AnnotationError:
        return ["train", "val"]
    return ["train", "val", "test"]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the annotation files")
    parser.add_argument("--videos", default="", metavar="DIR", help="folder of the videos (DATA.PATH_PREFIX)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where classes.json goes (default: --data)")
    prepare.add_check_arguments(parser)
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
        frames = frames or any(sample.num_frames for sample in samples)
        entries += prepare.entries_of_samples(samples, split, names)
        prepare.tell_missing(split, samples)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "classes.json").write_text(json.dumps(names, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(names)} classes (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    backend = "frames" if frames else "decord"
    return prepare.run_check(args, entries, folder=args.output, classes=names, backend=backend)


if __name__ == "__main__":
    sys.exit(prepare.exit_code(main))
