"""Data sets that are published with three divisions into training and test: UCF101, HMDB51."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videovit.data.records import AnnotationError
from videovit.messages import plural
from videovit.preparation import command, lists
from videovit.preparation.checks import Entry, Finding

NUMBERS = (1, 2, 3)
Division = Mapping[str, Sequence["Row"]]
"""train and val -> the videos of one division."""

OPTIONS = {"DATA.PATH_TO_DATA_DIR": "--annotations", "DATA.PATH_PREFIX": "--videos"}
"""Config keys -> options, for messages."""


@dataclass(frozen=True)
class Row:
    """A video of a division.

    Attributes:
        video: its path in the folder of the videos, `class/file.avi`.
        label: name of its class.
        place: file and line of the row.
    """

    video: str
    label: str
    place: str


def parse(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Parse the command line of a script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of split1, split2, split3")
    parser.add_argument("--annotations", type=Path, required=True, metavar="DIR", help="the official split files")
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="class folders of the videos")
    command.add_check_arguments(parser)
    return parser.parse_args(argv)


def refuse_overlap(divisions: Mapping[int, Division]) -> None:
    """Raise if a video is listed twice in a division: its test would not be one.

    Raises:
        AnnotationError: with both places.
    """
    for number, division in divisions.items():
        seen: dict[str, Row] = {}
        for row in (row for rows in division.values() for row in rows):
            if earlier := seen.get(row.video):
                raise AnnotationError(
                    f"{row.place}: {row.video} is already listed in {earlier.place}, in the same division {number}"
                )
            seen[row.video] = row


def write(
    args: argparse.Namespace, divisions: Mapping[int, Division], classes: Sequence[str], sizes: Mapping[str, object]
) -> int:
    """Write the lists of all divisions, with the videos that exist, and check the videos if that is asked for.

    Args:
        args: see `parse`.
        divisions: number -> its videos.
        classes: names, class 0 first.
        sizes: split -> videos of each division in the official release, for a warning about other numbers.

    Returns:
        The exit code: 1 if there are findings.

    Raises:
        AnnotationError: a folder or a list cannot be used.
    """
    if not args.videos.is_dir():
        raise AnnotationError("no such folder", where=f"--videos {str(args.videos)!r}")
    refuse_overlap(divisions)
    numbers = {name: number for number, name in enumerate(classes)}
    entries: dict[str, Entry] = {}
    missing: dict[str, Finding] = {}
    for number, division in divisions.items():
        folder = args.output / f"split{number}"
        by_split: dict[str, list[tuple[str, int | str]]] = {}
        for split, rows in division.items():
            present = [row for row in rows if os.path.isfile(args.videos / row.video)]
            for row in rows:
                path = str(args.videos / row.video)
                entries.setdefault(path, Entry(path, split, row.label, row.place, clip=Path(path).stem))
                if row not in present and path not in missing:
                    missing[path] = Finding("missing", path, "no such file", split, row.place)
            found = [(lists.listed_path(str(args.videos / row.video), folder), numbers[row.label]) for row in present]
            by_split[split] = [*found]
            expected = sizes[split]
            official = expected[number - 1] if isinstance(expected, tuple) else expected
            note = "" if len(rows) == official else f"; the official division lists {official}"
            print(f"split{number} {split}: {plural(len(found), 'video')}, {len(rows) - len(found)} missing{note}")
        lists.write_lists(folder, by_split, numbers)
    print(f"{plural(len(classes), 'class', 'classes')} (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    return command.run_check(
        args,
        [entry for path, entry in entries.items() if path not in missing],
        folder=args.output,
        classes=classes,
        found_before=[*missing.values()],
    )
