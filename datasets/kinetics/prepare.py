#!/usr/bin/env python3
"""Lists for Kinetics-400, 600 and 700, or for own videos in a folder per class; and a check of them.

    # the official CSV files and the clips, in any folders
    python datasets/kinetics/prepare.py --output lists --annotations train.csv val.csv test.csv --videos k400 --check

    # own videos: FOLDER/class/video.mp4 (divided at random), or FOLDER/train/class/video.mp4 and so on
    python datasets/kinetics/prepare.py --output lists --tree FOLDER --split 0.8,0.1,0.1

    # only check the lists that are in a folder
    python datasets/kinetics/prepare.py --output lists --check

Writes train.csv, val.csv and test.csv ("path label" a line), classes.json (class name -> number) and, with --check,
check.csv. Then: DATA.PATH_TO_DATA_DIR lists, MODEL.NUM_CLASSES as printed; classes.json is found there by itself.
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
from videovit.data.files.folders import VIDEO_SUFFIXES, files_below
from videovit.data.records import AnnotationError
from videovit.preparation import release as prepare
from videovit.preparation.check import Finding, plain_name

COLUMNS = ("youtube_id", "time_start", "time_end")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test"}
TIMED = re.compile(r"(?P<id>[\w-]{11})_(?P<start>\d{6})_(?P<end>\d{6})", re.ASCII)


@dataclass(frozen=True)
class Clip:
    """A row of the official CSV: ten seconds of a video, and where the row stands."""

    video: str
    start_s: int
    end_s: int
    label: str
    split: str
    place: str

    @property
    def name(self) -> str:
        """The usual name of its file, without suffix."""
        return f"{self.video}_{self.start_s:06d}_{self.end_s:06d}"


def read_release(file: Path) -> tuple[list[Clip], int]:
    """Read an official CSV.

    Args:
        file: with the columns label, youtube_id, time_start, time_end and split; without the last, the name of the
            file says the split.

    Returns:
        The clips, and how many rows have no label (some releases keep those of the test to themselves).

    Raises:
        AnnotationError: the file cannot be used; names every bad row.
    """
    clips: list[Clip] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    unlabelled = 0
    for line, row in prepare.read_table(file, COLUMNS):
        clip = _clip_of_row(row, file, line)
        if isinstance(clip, Clip) and clip.name in seen:
            clip = f"{clip.name} is listed already, in line {seen[clip.name]}"
        if isinstance(clip, str):
            problems.append((line, ",".join(row.values()), clip))
            continue
        seen[clip.name] = line
        unlabelled += not clip.label
        if clip.label:
            clips.append(clip)
    refuse(file, problems)
    if not clips and not unlabelled:
        raise AnnotationError(f"{file}: no clips listed below the header")
    return clips, unlabelled


def _clip_of_row(row: dict[str, str], file: Path, line: int) -> Clip | str:
    """The clip of a row, or why the row cannot be used."""
    if not row["youtube_id"] or "/" in row["youtube_id"]:
        return f"youtube_id {row['youtube_id']!r} is not the name of a video"
    try:
        start_s, end_s = (int(float(row[name])) for name in ("time_start", "time_end"))
    except (ValueError, OverflowError):
        return f"time_start {row['time_start']!r} and time_end {row['time_end']!r}: expected two numbers, in seconds"
    if not 0 <= start_s < end_s:
        return f"time_start {start_s} and time_end {end_s}: expected 0 <= time_start < time_end"
    said = row.get("split") or next((name for name in SPLIT_NAMES if name in file.stem.lower()), "")
    if said.lower() not in SPLIT_NAMES:
        return f"unknown split {said!r}, expected one of {', '.join(SPLIT_NAMES)}"
    label = row.get("label", "").strip('"')
    return Clip(row["youtube_id"], start_s, end_s, label, SPLIT_NAMES[said.lower()], f"{file.name}:{line}")


class VideoFiles:
    """The video files below some folders, by what their names say.

    Args:
        folders: searched through; class folders may be called with spaces or underscores.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self.num_files = 0
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for folder in folders:
            if not os.path.isdir(folder):
                raise AnnotationError(f"--videos {folder!r}: no such folder")
            for path in files_below(folder, VIDEO_SUFFIXES):
                self.num_files += 1
                self._by_stem[os.path.splitext(os.path.basename(path))[0]].append(path)

    def find(self, clip: Clip) -> str | None:
        """The file of a clip: named with its times, else with the id alone.

        Of several, the one in a folder of its split, then of its class.
        """
        found = self._by_stem.get(clip.name) or self._by_stem.get(clip.video) or []

        def fits(path: str) -> tuple[bool, bool]:
            parts = [plain_name(part) for part in Path(path).parts[:-1]]
            return any(SPLIT_NAMES.get(part) == clip.split for part in parts), plain_name(clip.label) in parts

        return max(found, key=fits, default=None)


def prepare_release(
    output: Path, annotations: Sequence[Path], folders: Sequence[str], classes_file: str = ""
) -> tuple[dict[str, int], list[Finding]]:
    """Write the lists of a release, of those clips that are there.

    Returns:
        Class name -> number, and the clips that are missing.

    Raises:
        AnnotationError: an annotation file cannot be used, or names a class that `classes_file` lacks.
    """
    clips: list[Clip] = []
    for file in annotations:
        of_file, unlabelled = read_release(file)
        clips += of_file
        if unlabelled:
            print(f"{file}: {unlabelled} rows without a label are left out")
    classes = prepare.number_classes((clip.label for clip in clips), classes_file)
    numbers = {plain_name(name): number for name, number in classes.items()}
    unknown = [(0, clip.label, clip.place) for clip in clips if plain_name(clip.label) not in numbers]
    if unknown:
        _, label, place = unknown[0]
        raise AnnotationError(
            f"{place}: unknown class {label!r} ({len(unknown)} rows have unknown classes); expected one of the "
            f"{len(classes)} of {classes_file}{suggestion(label, tuple(classes))}"
        )
    files = VideoFiles(folders)
    lists: dict[str, list[tuple[str, int]]] = {clip.split: [] for clip in clips}
    missing = []
    for clip in clips:
        path = files.find(clip)
        if path is None:
            why = f"no file {clip.name}.* or {clip.video}.* below {', '.join(folders)}"
            missing.append(Finding("missing", f"{clip.label}/{clip.name}", why, clip.split, clip.place))
        else:
            lists[clip.split].append((prepare.listed_path(path, output), numbers[plain_name(clip.label)]))
    prepare.write_class_names(output / "classes.json", classes)
    for split, rows in lists.items():
        prepare.write_list(output / f"{split}.csv", rows)
        lacking = sum(finding.split == split for finding in missing)
        print(f"{split}: {len(rows)} clips listed, {lacking} missing")
    print(f"{files.num_files} video files were found")
    return classes, missing


def prepare_tree(
    output: Path, folder: Path, fractions: dict[str, float], *, seed: int = 0, classes_file: str = ""
) -> dict[str, int]:
    """Write the lists of a folder with a folder per class, perhaps below folders train, val and test.

    Args:
        output: folder of the lists.
        folder: class/video.mp4, or train/class/video.mp4.
        fractions: split -> share of the videos; not looked at when the folder is divided already.
        seed: of the division.
        classes_file: the numbers of the classes, else they are numbered by name.

    Returns:
        Class name -> number.

    Raises:
        AnnotationError: no videos, loose videos, a folder that `classes_file` does not name, or classes beside splits.
    """
    if not folder.is_dir():
        raise AnnotationError(f"--tree {str(folder)!r}: no such folder; {content_of(folder.parent)}")
    videos = [Path(path).relative_to(folder) for path in files_below(folder, VIDEO_SUFFIXES)]
    if not videos:
        raise AnnotationError(f"no videos below {str(folder)!r}; known suffixes: {', '.join(sorted(VIDEO_SUFFIXES))}")
    divided = is_divided(folder, videos)
    depth = 2 if divided else 1
    loose = [video for video in videos if len(video.parts) <= depth]
    if loose:
        raise AnnotationError(f"{folder / loose[0]} is in no class folder ({len(loose)} such videos)")
    classes = prepare.number_classes((video.parts[depth - 1] for video in videos), classes_file)
    lists: dict[str, list[tuple[str, int]]] = {}
    for video in videos:
        name = video.parts[depth - 1]
        if name not in classes:
            raise AnnotationError(
                f"{str(folder / name)!r} is no class of {classes_file}{suggestion(name, tuple(classes))}"
            )
        split = SPLIT_NAMES[video.parts[0].lower()] if divided else prepare.split_of(video.as_posix(), fractions, seed)
        lists.setdefault(split, []).append((prepare.listed_path(str(folder / video), output), classes[name]))
    prepare.write_class_names(output / "classes.json", classes)
    for split in prepare.SPLITS:
        old = output / f"{split}.csv"
        if split not in lists and old.is_file():  # its videos may be in another split now
            old.replace(old.with_suffix(".csv.old"))
            print(f"{split}: no videos; the list that was there is now {split}.csv.old")
    for split in sorted(lists, key=prepare.SPLITS.index):
        prepare.write_list(output / f"{split}.csv", lists[split])
        absent = sorted(set(classes.values()) - {label for _, label in lists[split]})
        names = [name for name, number in classes.items() if number in absent]
        print(f"{split}: {len(lists[split])} videos listed" + (f", none of {', '.join(names[:5])}" if names else ""))
    return classes


def is_divided(folder: Path, videos: Sequence[Path]) -> bool:
    """Whether videos stand in folders train, val and test (in any case) with class folders, and not in class folders.

    Raises:
        AnnotationError: some do and others do not.
    """
    classes = {video.parts[0] for video in videos if video.parts[0].lower() not in SPLIT_NAMES}
    splits = {video.parts[0] for video in videos if len(video.parts) > 2} - classes
    if splits and classes:
        raise AnnotationError(
            f"{str(folder)!r} holds {min(splits)!r} with folders, as of a split, and {min(classes)!r}; expected splits "
            f"({', '.join(SPLIT_NAMES)}) with a folder per class each, or a folder per class"
        )
    return not classes


def clip_of(path: str) -> str:
    """Id and times in the name of a file, "" where it has none."""
    stem = Path(path).stem
    return stem if TIMED.fullmatch(stem) else ""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the lists")
    parser.add_argument("--annotations", type=Path, nargs="+", default=[], metavar="CSV", help="official CSV files")
    parser.add_argument("--videos", nargs="+", default=[], metavar="DIR", help="folders of the clips, searched through")
    parser.add_argument("--tree", type=Path, metavar="DIR", help="own videos, a folder per class")
    parser.add_argument(
        "--split", default="0.8,0.1,0.1", metavar="A,B,C", help="shares of train, val and test for --tree"
    )
    parser.add_argument("--seed", type=int, default=0, help="of that division (default 0)")
    parser.add_argument(
        "--classes", default="", metavar="FILE", help="class numbers, .json or a name a line (default: by name)"
    )
    prepare.add_check_arguments(parser)
    args = parser.parse_args(argv)
    if bool(args.annotations) != bool(args.videos):
        parser.error("--annotations and --videos belong together")
    if args.annotations and args.tree:
        parser.error("--tree takes neither --annotations nor --videos")
    if not (args.annotations or args.tree or args.check):
        parser.error("nothing to do: give --annotations and --videos, or --tree, or --check")
    try:
        shares = [float(share) for share in args.split.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        parser.error(f"--split {args.split}: expected three shares that sum to 1, such as 0.8,0.1,0.1")
    args.fractions = dict(zip(prepare.SPLITS, shares, strict=True))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = parse(argv)
    missing: list[Finding] = []
    if args.annotations:
        classes, missing = prepare_release(args.output, args.annotations, args.videos, args.classes)
    elif args.tree:
        classes = prepare_tree(args.output, args.tree, args.fractions, seed=args.seed, classes_file=args.classes)
    elif args.classes or (args.output / "classes.json").is_file():
        classes = prepare.number_classes([], args.classes or str(args.output / "classes.json"))
    else:
        print(f"no classes.json in {args.output}, nor --classes: classes are counted by the labels")
        classes = {f"class {number}": number for number in range(prepare.count_classes(args.output))}
    print(f"{len(classes)} classes (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    entries, bad = prepare.entries_of_lists(args.output, classes=classes, clip_of=clip_of)
    return prepare.run_check(args, entries, folder=args.output, classes=classes, found_before=[*bad, *missing])


if __name__ == "__main__":
    sys.exit(prepare.exit_code(main))
