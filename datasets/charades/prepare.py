#!/usr/bin/env python3
"""Write the class names of Charades and check it. The released files are read as they are.

    python datasets/charades/prepare.py --data charades --check

charades/ contains Charades_v1_train.csv, Charades_v1_test.csv, Charades_v1_classes.txt and the videos
(Charades_v1_480/*.mp4, or any folder given by --videos), or PySlowFast's frame lists train.csv and val.csv.
The output is classes.json (the names, class 0 first) and, with --check, check.csv. Then train with
DATA.PATH_TO_DATA_DIR charades, DATA.CLASS_NAMES_FILE classes.json and, if you used --videos, DATA.PATH_PREFIX.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Literal

from videovit.data.files.annotation_files import find_file
from videovit.data.files.class_names import read_class_names
from videovit.data.readers import charades
from videovit.data.records import Sample
from videovit.messages import plural
from videovit.preparation import command

CLASSES = "Charades_v1_classes.txt"

OPTIONS = command.FOLDER_OPTIONS | {"DATA.FRAMES_FPS": "--fps"}
"""Config keys -> options, for messages."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_folder_arguments(parser)
    parser.add_argument("--fps", type=float, default=24.0, metavar="F", help="frame rate of frame lists (default: 24)")
    command.add_check_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = parse(argv)
    names = read_class_names(str(find_file(args.data, [CLASSES])), num_classes=None)
    samples: dict[str, Sequence[Sample]] = {}
    splits: tuple[Literal["train", "val"], ...] = ("train", "val")
    for split in splits:
        found = charades.read(args.data, split, num_classes=len(names), prefix=args.videos, frames_fps=args.fps)
        samples[split] = found
        command.print_missing(split, found)
        # The release has such videos; they are all-negative examples.
        without = sum(not sample.actions for sample in found)
        if without:
            print(f"{split}: {plural(without, 'video')} without actions in the list")
    return command.write_classes_and_check(args, samples, names)


if __name__ == "__main__":
    sys.exit(command.exit_code(main, OPTIONS))
