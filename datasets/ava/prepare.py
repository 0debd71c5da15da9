#!/usr/bin/env python3
"""AVA and data in its form need no lists; this checks the files, and opens every video.

    python datasets/ava/prepare.py --annotations ava/annotations --movies ava/movies --check
    python datasets/ava/prepare.py --annotations ava/annotations --frames ava/frames --frame-lists ava/frame_lists
    python datasets/ava/prepare.py --annotations mine --movies mine/movies --train boxes.csv --val val.csv \\
        --train-proposals --val-proposals found.csv --label-map classes.pbtxt --excluded --classes 6 --window 0 20

Checked: columns, corners (fractions of the frame, x1 < x2, y1 < y2), actions, time stamps in the window, duplicate
lines; that every video is there; with --check that it opens and reaches to its last key frame. What is found goes to
check.csv. Names of files count from --annotations; an option given without names means: no such file.
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
from videovit.preparation import release as prepare
from videovit.preparation.check import Entry, Finding, summary, write_report


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, metavar="DIR", help="AVA.ANNOTATION_DIR")
    videos = parser.add_mutually_exclusive_group(required=True)
    videos.add_argument("--movies", metavar="DIR", help="AVA.MOVIE_DIR: <video_id>.<suffix>")
    videos.add_argument("--frames", metavar="DIR", help="AVA.FRAME_DIR: a folder of images for each video")
    parser.add_argument("--frame-lists", type=Path, metavar="DIR", help="AVA.FRAME_LIST_DIR: train.csv and val.csv")
    files = parser.add_argument_group("files in --annotations (defaults: those of AVA v2.2)")
    files.add_argument("--train", nargs="*", default=["ava_train_v2.2.csv"], metavar="FILE")
    files.add_argument("--val", nargs="*", default=["ava_val_v2.2.csv"], metavar="FILE")
    files.add_argument("--train-proposals", nargs="*", default=[], metavar="FILE")
    files.add_argument("--val-proposals", nargs="*", default=["ava_val_predicted_boxes.csv"], metavar="FILE")
    files.add_argument("--excluded", nargs="*", default=["ava_val_excluded_timestamps_v2.2.csv"], metavar="FILE")
    files.add_argument("--label-map", default="ava_action_list_v2.2_for_activitynet_2019.pbtxt", metavar="FILE")
    parser.add_argument("--classes", type=int, default=80, metavar="K", help="MODEL.NUM_CLASSES (80)")
    parser.add_argument("--window", type=float, nargs=2, default=[902, 1798], metavar="S", help="AVA.KEY_FRAMES_S")
    parser.add_argument("--start", type=float, metavar="S", help="AVA.START_S (0 for movies, 900 for images)")
    parser.add_argument("--fps", type=float, default=30.0, metavar="F", help="frame rate of images (30)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where check.csv goes (default: --annotations)")
    prepare.add_check_arguments(parser)
    args = parser.parse_args(argv)
    if args.start is None:
        args.start = 0.0 if args.movies else IMAGES_START_S
    args.output = args.output or args.annotations
    return args


def find_videos(args: argparse.Namespace) -> dict[str, dict[str, Sample]]:
    """Split -> name -> what to open."""
    if args.movies:
        movies = find_movies(args.movies)
        return {"train": movies, "val": movies}
    if args.frame_lists:
        lists = {split: args.frame_lists / f"{split}.csv" for split in ("train", "val")}
        return {s: read_frame_lists([path], fps=args.fps, frame_dir=args.frames) for s, path in lists.items()}
    folders = find_frame_folders(args.frames)
    return {"train": folders, "val": folders}


def check_files(args: argparse.Namespace, split: str) -> tuple[list[BoxRow], list[Finding]]:
    """The rows of all box files of a split, and the lines that cannot be used."""
    rules = BoxRules(num_classes=args.classes, window_s=tuple(args.window))
    rows: list[BoxRow] = []
    findings: list[Finding] = []
    truth, proposals = (args.train, args.train_proposals) if split == "train" else (args.val, args.val_proposals)
    for name, scored in [*((name, False) for name in truth), *((name, True) for name in proposals)]:
        found, problems = check_boxes(args.annotations / name, rules, scored=scored)
        rows += found
        findings += [Finding("bad row", text, why, split, f"{name}:{line}") for line, text, why in problems]
        print(f"{name}: {len(found)} boxes, {len(problems)} bad lines")
    return rows, findings


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = parse(argv)
    names = read_label_map(args.annotations / args.label_map, args.classes)
    num_excluded = sum(len(read_excluded(args.annotations / name)) for name in args.excluded)
    print(f"{len(names)} classes are judged, {num_excluded} key frames are not")
    entries: list[Entry] = []
    findings: list[Finding] = []
    for split, videos in find_videos(args).items():
        rows, bad = check_files(args, split)
        findings += bad
        last_s: dict[str, float] = defaultdict(float)
        for row in rows:
            last_s[row.key[0]] = max(last_s[row.key[0]], row.key[1])
        key_frames = len({row.key for row in rows})
        missing = sorted(last_s.keys() - videos.keys())
        findings += [
            Finding("missing", name, "boxes are listed, and there is no such video", split) for name in missing
        ]
        print(f"{split}: {key_frames} key frames of {len(last_s)} videos, {len(missing)} missing")
        for name in sorted(last_s.keys() & videos.keys()):
            sample, latest_s = videos[name], max(0.0, last_s[name] - args.start)
            num_frames = sample.num_frames
            entries.append(Entry(sample.path, split, clip=name, latest_s=latest_s, num_frames=num_frames))
    if args.check:
        backend = "pyav" if args.movies else "frames"
        return prepare.run_check(args, entries, folder=args.output, classes=(), backend=backend, found_before=findings)
    report = args.report or args.output / "check.csv"
    write_report(report, findings)
    print(summary(findings, len(entries)))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(prepare.exit_code(main))
