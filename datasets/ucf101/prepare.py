#!/usr/bin/env python3
"""Write and check the lists of the three official divisions of UCF101.

    python datasets/ucf101/prepare.py --output lists --annotations ucfTrainTestlist --videos UCF-101 --check

ucfTrainTestlist/ holds classInd.txt, trainlist01.txt to 03 and testlist01.txt to 03; UCF-101/ one folder of .avi files
per class. The output is split1/, split2/ and split3/ with train.csv, val.csv (the official test) and classes.json each
and, with --check, check.csv. Then train with DATA.PATH_TO_DATA_DIR lists/split1 TEST.SPLIT val.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from videovit.data.files.annotation_files import Problem, read_lines, refuse, suggestion
from videovit.data.records import AnnotationError
from videovit.preparation import command, three_splits
from videovit.preparation.three_splits import Row

SIZES = {"train": (9537, 9586, 9624), "val": (3783, 3734, 3696)}
GROUP = re.compile(r"_(g\d+)_c\d+\.avi$")

OPTIONS = three_splits.OPTIONS
"""Config keys -> options, for messages."""


def read_classes(folder: Path) -> list[str]:
    """Names of all classes, those of `1` in classInd.txt first.

    Raises:
        AnnotationError: the file cannot be used, or its numbers are not 1, 2, 3 ...
    """
    file = folder / "classInd.txt"
    names: list[str] = []
    problems: list[Problem] = []
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        index, _, name = line.strip().partition(" ")
        if index != str(len(names) + 1) or not name or name in names:
            problems.append((number, line, f"expected {len(names) + 1} and the name of another class"))
        else:
            names.append(name)
    refuse(file, problems)
    if not names:
        raise AnnotationError("lists no classes", where=file)
    return names


def read_list(file: Path, classes: Sequence[str]) -> list[Row]:
    """The videos of a list; the numbers behind those of trainlist must agree with their folders.

    Raises:
        AnnotationError: the file cannot be used; shows the bad rows.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, line in enumerate(read_lines(file), 1):
        video, _, label = line.strip().partition(" ")
        if not video:
            continue
        name, slash, rest = video.partition("/")
        if not slash or "/" in rest or rest in ("", "..") or name not in classes:
            near = suggestion(name, tuple(classes))
            problems.append((number, line, f"expected CLASS/video.avi, of a class of classInd.txt{near}"))
        elif label and label.strip() != str(classes.index(name) + 1):
            problems.append((number, line, f"the class {name} is number {classes.index(name) + 1} in classInd.txt"))
        else:
            rows.append(Row(video, name, f"{file.name}:{number}"))
    refuse(file, problems)
    return rows


def refuse_shared_groups(train: Sequence[Row], test: Sequence[Row]) -> None:
    """Raise if training and test share a group: clips of one group are cut from one video.

    Raises:
        AnnotationError: with both places.
    """
    groups = {(row.label, match[1]): row for row in train if (match := GROUP.search(row.video))}
    for row in test:
        match = GROUP.search(row.video)
        if match and (other := groups.get((row.label, match[1]))):
            raise AnnotationError(
                f"{row.place}: {row.video} is of the same group {match[1]} as {other.video} of the training "
                f"({other.place}), so these are not the official lists"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = three_splits.parse(argv, __doc__ or "")
    classes = read_classes(args.annotations)
    divisions = {}
    for number in three_splits.NUMBERS:
        train, test = (
            read_list(args.annotations / f"{name}list{number:02d}.txt", classes) for name in ("train", "test")
        )
        refuse_shared_groups(train, test)
        divisions[number] = {"train": train, "val": test}
    return three_splits.write(args, divisions, classes, SIZES)


if __name__ == "__main__":
    sys.exit(command.exit_code(main, OPTIONS))
