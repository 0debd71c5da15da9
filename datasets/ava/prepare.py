#!/usr/bin/env python3
"""Check AVA, or data in its format: annotation files, and with --check every video. Nothing has to be converted.

    python datasets/ava/prepare.py --annotations ava/annotations --movies ava/movies --check
    python datasets/ava/prepare.py --annotations ava/annotations --frames ava/frames --frame-lists ava/frame_lists
    python datasets/ava/prepare.py --annotations mine --movies mine/movies --train boxes.csv --val val.csv \\
        --train-proposals --val-proposals found.csv --label-map classes.pbtxt --excluded --classes 6 --window 0 20

Checked are columns, corners (fractions of the frame, x1 < x2, y1 < y2), actions, time stamps in the window, duplicate
lines, and whether every video exists; with --check also whether it opens and contains its last key frame. Findings are
written to check.csv. File names are relative to --annotations; an option without names stands for no file.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from videovit.data.detection import IMAGES_START_S
from videovit.data.readers.ava import BoxRow, BoxRules, check_boxes, read_excluded
from videovit.data.readers.ava_videos import find_frame_folders, find_movies, read_frame_lists
from videovit.data.readers.label_map import read_label_map
from videovit.data.records import Sample
from videovit.messages import plural
from videovit.preparation import command
from videovit.preparation.checks import Entry, Finding, summary, write_report

OPTIONS = {
    "AVA.ANNOTATION_DIR": "--annotations",
    "AVA.FRAME_LIST_DIR": "--frame-lists",
    "AVA.MOVIE_DIR": "--movies",
    "AVA.FRAME_DIR": "--frames",
    "AVA.KEY_FRAMES_S": "--window",
    "AVA.START_S": "--start",
    "DATA.CLASS_NAMES_FILE": "--label-map",
    "MODEL.NUM_CLASSES": "--classes",
}
"""Config keys -> options, for messages."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the annotation files (AVA.ANNOTATION_DIR)",
    )
    videos = parser.add_mutually_exclusive_group(required=True)
    videos.add_argument("--movies", metavar="DIR", help="folder of the movies, <video_id>.<suffix> (AVA.MOVIE_DIR)")
    videos.add_argument("--frames", metavar="DIR", help="folder with a folder of images per video (AVA.FRAME_DIR)")
    parser.add_argument(
        "--frame-lists", type=Path, metavar="DIR", help="folder of train.csv and val.csv (AVA.FRAME_LIST_DIR)"
    )
    files = parser.add_argument_group("files in --annotations (by default those of AVA v2.2)")
    for option, names, text in (
        ("--train", ["ava_train_v2.2.csv"], "annotated boxes for training"),
        ("--val", ["ava_val_v2.2.csv"], "annotated boxes for validation"),
        ("--train-proposals", [], "detected boxes for training"),
        ("--val-proposals", ["ava_val_predicted_boxes.csv"], "detected boxes for validation"),
        ("--excluded", ["ava_val_excluded_timestamps_v2.2.csv"], "key frames that are not evaluated"),
    ):
        files.add_argument(option, nargs="*", default=names, metavar="FILE", help=text)
    files.add_argument(
        "--label-map",
        default="ava_action_list_v2.2_for_activitynet_2019.pbtxt",
        metavar="FILE",
        help="names of the evaluated classes",
    )
    parser.add_argument(
        "--classes", type=int, default=80, metavar="K", help="number of classes (MODEL.NUM_CLASSES, default: 80)"
    )
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        default=[902, 1798],
        metavar="S",
        help="first and last time stamp in seconds (AVA.KEY_FRAMES_S, default: 902 1798)",
    )
    parser.add_argument(
        "--start",
        type=float,
        metavar="S",
        help="time stamp of the first frame (AVA.START_S, default: 0 for movies, 900 for images)",
    )
    parser.add_argument("--fps", type=float, default=30.0, metavar="F", help="frame rate of images (default: 30)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of check.csv (default: --annotations)")
    command.add_check_arguments(parser)
    args = parser.parse_args(argv)
    if args.start is None:
        # The same default as AVA.START_S None.
        args.start = 0.0 if args.movies else IMAGES_START_S
    args.output = args.output or args.annotations
    return args


def find_videos(args: argparse.Namespace) -> dict[str, dict[str, Sample]]:
    """Split -> name -> sample with the path to open."""
    if args.movies:
        movies = find_movies(args.movies)
        return {"train": movies, "val": movies}
    if args.frame_lists:
        lists = {split: args.frame_lists / f"{split}.csv" for split in ("train", "val")}
        return {s: read_frame_lists([path], fps=args.fps, frame_dir=args.frames) for s, path in lists.items()}
    folders = find_frame_folders(args.frames)
    return {"train": folders, "val": folders}


def check_files(args: argparse.Namespace, split: str) -> tuple[list[BoxRow], list[Finding]]:
    """The rows of all box files of a split, and findings about their invalid lines."""
    rules = BoxRules(num_classes=args.classes, window_s=tuple(args.window))
    rows: list[BoxRow] = []
    findings: list[Finding] = []
    truth, proposals = (args.train, args.train_proposals) if split == "train" else (args.val, args.val_proposals)
    for name, scored in [*((name, False) for name in truth), *((name, True) for name in proposals)]:
        found, problems = check_boxes(args.annotations / name, rules, scored=scored)
        rows += found
        findings += [Finding("bad row", text, why, split, f"{name}:{line}") for line, text, why in problems]
        print(f"{name}: {plural(len(found), 'box', 'boxes')}, {plural(len(problems), 'bad line')}")
    return rows, findings


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = parse(argv)
    names = read_label_map(args.annotations / args.label_map, args.classes)
    num_excluded = sum(len(read_excluded(args.annotations / name)) for name in args.excluded)
    print(f"evaluated: {plural(len(names), 'class', 'classes')}; excluded: {plural(num_excluded, 'key frame')}")
    entries: list[Entry] = []
    findings: list[Finding] = []
    for split, videos in find_videos(args).items():
        rows, bad = check_files(args, split)
        findings += bad
        last_s: dict[str, float] = defaultdict(float)
        for row in rows:
            # A movie that was cut too short cannot show its last key frame.
            last_s[row.key[0]] = max(last_s[row.key[0]], row.key[1])
        # A key frame has several rows.
        key_frames = len({row.key for row in rows})
        missing = sorted(last_s.keys() - videos.keys())
        findings += [Finding("missing", name, "has boxes, but there is no such video", split) for name in missing]
        print(f"{split}: {plural(key_frames, 'key frame')} of {plural(len(last_s), 'video')}, {len(missing)} missing")
        for name in sorted(last_s.keys() & videos.keys()):
            # Relative to the first frame of the file.
            sample, latest_s = videos[name], max(0.0, last_s[name] - args.start)
            num_frames = sample.num_frames
            entries.append(Entry(sample.path, split, clip=name, latest_s=latest_s, num_frames=num_frames))
    if args.check:
        # decord would read each movie to its end.
        backend = "pyav" if args.movies else "frames"
        return command.run_check(args, entries, folder=args.output, classes=(), backend=backend, found_before=findings)
    report = args.report or args.output / "check.csv"
    write_report(report, findings)
    print(summary(findings, len(entries)))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(command.exit_code(main, OPTIONS))
