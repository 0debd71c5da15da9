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
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from videovit.data.files.annotation_files import find_file
from videovit.data.files.class_names import read_class_names
from videovit.data.readers import charades
from videovit.messages import plural
from videovit.preparation import checks, command

CLASSES = "Charades_v1_classes.txt"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the annotation files")
    parser.add_argument("--videos", default="", metavar="DIR", help="folder of the videos (DATA.PATH_PREFIX)")
    parser.add_argument("--fps", type=float, default=24.0, metavar="F", help="frame rate of frame lists (default: 24)")
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
    names = read_class_names(str(find_file(args.data, [CLASSES])), num_classes=None)
    entries = []
    frames = False
    splits: tuple[Literal["train", "val"], ...] = ("train", "val")
    for split in splits:
        samples = charades.read(
            args.data,
            split,
            num_classes=len(names),
            prefix=args.videos,
            frames_fps=args.fps,
        )
        # Only samples from frame lists state a number of images.
        frames = frames or any(sample.num_frames for sample in samples)
        entries += checks.entries_of_samples(samples, split, names)
        command.print_missing(split, samples)
        # The release has such videos; they are all-negative examples.
        without = sum(not sample.actions for sample in samples)
        if without:
            print(f"{split}: {plural(without, 'video')} without actions in the list")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "classes.json").write_text(json.dumps(names, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{plural(len(names), 'class', 'classes')} (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    backend = "frames" if frames else "decord"
    return command.run_check(args, entries, folder=args.output, classes=names, backend=backend)


if __name__ == "__main__":
    sys.exit(command.exit_code(main))
