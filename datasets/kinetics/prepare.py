#!/usr/bin/env python3
"""Write and check the lists of Kinetics-400, 600 and 700, or of your own videos in class folders.

    # the official CSV files, and the clips in any folders
    python datasets/kinetics/prepare.py --output lists --annotations train.csv val.csv test.csv --videos k400 --check

    # your own videos: FOLDER/class/video.mp4 (split at random), or FOLDER/train/class/video.mp4 and so on
    python datasets/kinetics/prepare.py --output lists --tree FOLDER --split 0.8,0.1,0.1

    # only check existing lists
    python datasets/kinetics/prepare.py --output lists --check

The output is train.csv, val.csv and test.csv (one "path label" per line), classes.json (class name -> number) and, with
--check, check.csv. Then train with DATA.PATH_TO_DATA_DIR lists and MODEL.NUM_CLASSES as printed; classes.json is found
automatically.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from videovit.data.files.annotation_files import Problem, content_of, refuse, suggestion
from videovit.data.files.folders import VIDEO_SUFFIXES, files_below, passed_over
from videovit.data.records import AnnotationError
from videovit.messages import plural, printable
from videovit.preparation import checks, command, lists
from videovit.preparation.checks import Finding, plain_name
from videovit.preparation.splits import SPLIT_NAMES, SPLITS, split_of
from videovit.preparation.trees import find_tree, is_divided

COLUMNS = ("youtube_id", "time_start", "time_end")
TIMED = re.compile(r"(?P<id>[\w-]{11})_(?P<start>\d{6})_(?P<end>\d{6})", re.ASCII)

OPTIONS = command.LIST_OPTIONS | {"DATA.CLASS_NAMES_FILE": "--classes"}
"""Config keys -> options, for messages."""


@dataclass(frozen=True)
class Clip:
    """A row of the official CSV: ten seconds of a video; `place` is the file and line of the row."""

    video: str
    start_s: int
    end_s: int
    label: str
    split: str
    place: str

    @property
    def name(self) -> str:
        """The usual file name, without suffix."""
        return f"{self.video}_{self.start_s:06d}_{self.end_s:06d}"


def read_release(file: Path) -> tuple[list[Clip], int]:
    """Read an official CSV.

    Args:
        file: CSV with the columns label, youtube_id, time_start, time_end and split; if there is no split, the file
            name must contain it.

    Returns:
        The clips, and the number of rows without label (some releases omit the labels of the test).

    Raises:
        AnnotationError: the file cannot be used; shows the bad rows.
    """
    clips: list[Clip] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    unlabeled = 0
    for line, row in lists.read_table(file, COLUMNS):
        clip = _clip_of_row(row, file, line)
        if isinstance(clip, Clip) and clip.name in seen:
            clip = f"{clip.name} is already listed in line {seen[clip.name]}"
        if isinstance(clip, str):
            problems.append((line, ",".join(row.values()), clip))
            continue
        # Clips of the same video at other times are different clips.
        seen[clip.name] = line
        unlabeled += not clip.label
        if clip.label:
            clips.append(clip)
    refuse(file, problems)
    if not clips and not unlabeled:
        raise AnnotationError("no clips listed below the header", where=file)
    return clips, unlabeled


def _clip_of_row(row: dict[str, str], file: Path, line: int) -> Clip | str:
    """The clip of a row, or why the row is invalid."""
    if not row["youtube_id"] or "/" in row["youtube_id"]:
        return f"youtube_id {row['youtube_id']!r} is not the name of a video"
    try:
        # Also accepts 12.0.
        start_s, end_s = (int(float(row[name])) for name in ("time_start", "time_end"))
    except (ValueError, OverflowError):
        return f"time_start {row['time_start']!r} and time_end {row['time_end']!r}: expected two numbers, in seconds"
    if not 0 <= start_s < end_s:
        return f"time_start {start_s} and time_end {end_s}: expected 0 <= time_start < time_end"
    split = row.get("split") or next((name for name in SPLIT_NAMES if name in file.stem.lower()), "")
    if split.lower() not in SPLIT_NAMES:
        return f"unknown split {split!r}, expected one of {', '.join(SPLIT_NAMES)}"
    label = row.get("label", "").strip('"')
    return Clip(row["youtube_id"], start_s, end_s, label, SPLIT_NAMES[split.lower()], f"{file.name}:{line}")


class VideoFiles:
    """The video files in some folders, indexed by their names.

    Args:
        folders: searched recursively. Class folders may be named with spaces or underscores.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self.num_files = 0
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for folder in folders:
            if not os.path.isdir(folder):
                raise AnnotationError("no such folder", where=f"--videos {folder!r}")
            for path in files_below(folder, VIDEO_SUFFIXES):
                self.num_files += 1
                self._by_stem[os.path.splitext(os.path.basename(path))[0]].append(path)

    def find(self, clip: Clip) -> str | None:
        """The file of a clip, named with id and times, or with the id alone.

        Of several, the one in a folder of its split is preferred, then one in a folder of its class.
        """
        # A file named by the id alone may be another part of the same video, so the times come first.
        found = self._by_stem.get(clip.name) or self._by_stem.get(clip.video) or []

        def fits(path: str) -> tuple[bool, bool]:
            # Class folders are named with spaces or underscores.
            parts = [plain_name(part) for part in Path(path).parts[:-1]]
            return any(SPLIT_NAMES.get(part) == clip.split for part in parts), plain_name(clip.label) in parts

        return max(found, key=fits, default=None)


def prepare_release(
    output: Path, annotations: Sequence[Path], folders: Sequence[str], classes_file: str = ""
) -> tuple[dict[str, int], list[Finding]]:
    """Write the lists of a release, with the clips that exist.

    Returns:
        Class name -> number, and findings about missing clips.

    Raises:
        AnnotationError: an annotation file cannot be used, or has a class that is not in `classes_file`.
    """
    clips: list[Clip] = []
    for file in annotations:
        of_file, unlabeled = read_release(file)
        clips += of_file
        if unlabeled:
            print(f"{file}: skipped {plural(unlabeled, 'row')} without label")
    classes = lists.number_classes((clip.label for clip in clips), classes_file)
    # Releases differ in case and in underscores.
    numbers = {plain_name(name): number for name, number in classes.items()}
    unknown = [(0, clip.label, clip.place) for clip in clips if plain_name(clip.label) not in numbers]
    if unknown:
        _, label, place = unknown[0]
        raise AnnotationError(
            f"{place}: unknown class {label!r} ({len(unknown)} rows have unknown classes); expected one of the "
            f"{len(classes)} of {classes_file}{suggestion(label, tuple(classes))}"
        )
    files = VideoFiles(folders)
    by_split: dict[str, list[tuple[str, int]]] = {clip.split: [] for clip in clips}
    # Clips disappear from the web, so missing ones are normal and only reported.
    missing = []
    for clip in clips:
        path = files.find(clip)
        if path is None:
            why = f"no file {clip.name}.* or {clip.video}.* in {', '.join(folders)}"
            missing.append(Finding("missing", f"{clip.label}/{clip.name}", why, clip.split, clip.place))
        else:
            by_split[clip.split].append((lists.listed_path(path, output), numbers[plain_name(clip.label)]))
    lists.write_lists(output, by_split, classes)
    for split, rows in by_split.items():
        num_missing = sum(finding.split == split for finding in missing)
        print(f"{split}: {plural(len(rows), 'clip')} listed, {num_missing} missing")
    print(f"found {plural(files.num_files, 'video file')}")
    return classes, missing


def prepare_tree(
    output: Path, folder: Path, fractions: dict[str, float], *, seed: int = 0, classes_file: str = ""
) -> dict[str, int]:
    """Write the lists of class folders, optionally inside folders train, val and test.

    Args:
        output: folder of the lists.
        folder: contains class/video.mp4, or train/class/video.mp4. A folder of images in place of a video is a video.
        fractions: split -> fraction of the videos; not used if the folder is already split.
        seed: seed of the division.
        classes_file: class numbers; by default classes are numbered by name.

    Returns:
        Class name -> number.

    Raises:
        AnnotationError: no videos, videos outside class folders, a class folder that is not in `classes_file`, or class
            folders beside folders of splits.
    """
    if not folder.is_dir():
        raise AnnotationError(f"no such folder; {content_of(folder.parent, '--tree')}", where=f"--tree {str(folder)!r}")
    videos, others = find_tree(folder)
    if not videos:
        found = f"; {passed_over(folder, others)}" if others else ""
        raise AnnotationError(
            f"no videos in {str(folder)!r}; known suffixes: {', '.join(sorted(VIDEO_SUFFIXES))}{found}",
            hint="Images in class folders are a data set for datasets/imagenet/prepare.py" if others else "",
        )
    divided = is_divided(folder, videos)
    # Parts of the path above the class folder, including it.
    depth = 2 if divided else 1
    loose = [video for video in videos if len(video.parts) <= depth]
    if loose:
        raise AnnotationError(f"{folder / loose[0]} is not in a class folder ({plural(len(loose), 'such video')})")
    classes = lists.number_classes((video.parts[depth - 1] for video in videos), classes_file)
    by_split: dict[str, list[tuple[str, int]]] = {}
    for video in videos:
        name = video.parts[depth - 1]
        if name not in classes:
            raise AnnotationError(
                f"{str(folder / name)!r} is not a class of {classes_file}{suggestion(name, tuple(classes))}"
            )
        split = SPLIT_NAMES[video.parts[0].lower()] if divided else split_of(video.as_posix(), fractions, seed)
        by_split.setdefault(split, []).append((lists.listed_path(str(folder / video), output), classes[name]))
    lists.write_lists(output, by_split, classes)
    if others:
        print(passed_over(folder, others) + "; `videovit probe` shows which of them can be read")
    for split in SPLITS:
        old = output / f"{split}.csv"
        if split not in by_split and old.is_file():  # its videos may now be in another split
            old.replace(old.with_suffix(".csv.old"))
            print(f"{split}: no videos; renamed the existing list to {split}.csv.old")
    for split in sorted(by_split, key=SPLITS.index):
        absent = sorted(set(classes.values()) - {label for _, label in by_split[split]})
        names = [name for name, number in classes.items() if number in absent]
        without = f", none of {', '.join(map(printable, names[:5]))}" if names else ""
        print(f"{split}: {plural(len(by_split[split]), 'video')} listed{without}")
    return classes


def clip_of(path: str) -> str:
    """Id and times in a file name; empty if it has none."""
    stem = Path(path).stem
    return stem if TIMED.fullmatch(stem) else ""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the lists")
    parser.add_argument("--annotations", type=Path, nargs="+", default=[], metavar="CSV", help="official CSV files")
    parser.add_argument(
        "--videos", nargs="+", default=[], metavar="DIR", help="folders of the clips, searched recursively"
    )
    parser.add_argument("--tree", type=Path, metavar="DIR", help="your own videos, one folder per class")
    parser.add_argument(
        "--split",
        default="0.8,0.1,0.1",
        metavar="A,B,C",
        help="fractions of train, val and test for --tree (default: 0.8,0.1,0.1)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of --split (default: 0)")
    parser.add_argument(
        "--classes",
        default="",
        metavar="FILE",
        help="class numbers, .json or one name per line (default: sorted by name)",
    )
    command.add_check_arguments(parser)
    command.add_list_arguments(parser)
    args = parser.parse_args(argv)
    if bool(args.annotations) != bool(args.videos):
        parser.error("--annotations and --videos must be used together")
    if args.annotations and args.tree:
        parser.error("--tree cannot be combined with --annotations and --videos")
    if (args.annotations or args.tree) and (args.prefix or args.separator != " " or args.skip_rows or args.multi_label):
        parser.error("--prefix, --separator, --skip-rows and --multi-label are for --check of existing lists")
    if not (args.annotations or args.tree or args.check):
        parser.error("nothing to do: use --annotations and --videos, --tree, or --check")
    try:
        shares = [float(share) for share in args.split.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        parser.error(f"--split {args.split}: expected three fractions that sum to 1, such as 0.8,0.1,0.1")
    args.fractions = dict(zip(SPLITS, shares, strict=True))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = parse(argv)
    missing: list[Finding] = []
    # How the lists are read; those that are written here have the default form.
    how = (
        {}
        if args.annotations or args.tree
        else {"separator": args.separator, "skip_rows": args.skip_rows, "several": args.multi_label}
    )
    if args.annotations:
        classes, missing = prepare_release(args.output, args.annotations, args.videos, args.classes)
    elif args.tree:
        classes = prepare_tree(args.output, args.tree, args.fractions, seed=args.seed, classes_file=args.classes)
    elif args.classes or (args.output / "classes.json").is_file():
        classes = lists.number_classes([], args.classes or str(args.output / "classes.json"))
    else:
        print(f"no classes.json in {args.output} and no --classes: counting classes by their labels")
        classes = {f"class {number}": number for number in range(lists.count_classes(args.output, **how))}
    print(f"{plural(len(classes), 'class', 'classes')} (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    entries, bad = checks.entries_of_lists(args.output, classes=classes, prefix=args.prefix, clip_of=clip_of, **how)
    before = [*bad, *missing]
    return command.run_check(args, entries, folder=args.output, classes=classes, found_before=before, options=OPTIONS)


if __name__ == "__main__":
    sys.exit(command.exit_code(main, OPTIONS))
