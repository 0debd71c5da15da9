#!/usr/bin/env python3
"""Write and check the lists of the three official divisions of HMDB51.

    python datasets/hmdb51/prepare.py --output lists --annotations testTrainMulti_7030_splits --videos hmdb51 --check

testTrainMulti_7030_splits/ holds CLASS_test_split1.txt to 3 for every class; hmdb51/ one folder of .avi files per
class. The output is split1/, split2/ and split3/ with train.csv, val.csv (the official test) and classes.json each and,
with --check, check.csv. Then train with DATA.PATH_TO_DATA_DIR lists/split1 TEST.SPLIT val.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from videovit.data.files.annotation_files import Problem, content_of, read_lines, refuse
from videovit.data.records import AnnotationError
from videovit.preparation import command, three_splits
from videovit.preparation.three_splits import Row

SIZES = {"train": 3570, "val": 1530}
NAME = re.compile(r"(?P<label>.+)_test_split(?P<number>[123])\.txt")
SPLITS = {"1": "train", "2": "val", "0": ""}
"""What the number behind a video means; 0: in neither."""

OPTIONS = three_splits.OPTIONS
"""Config keys -> options, for messages."""


def read_division(file: Path, label: str) -> dict[str, list[Row]]:
    """The videos of a class in one division.

    Raises:
        AnnotationError: the file cannot be used; shows the bad rows.
    """
    rows: dict[str, list[Row]] = {"train": [], "val": []}
    problems: list[Problem] = []
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        video, _, kind = line.strip().rpartition(" ")
        video = video.strip()
        if not video or "/" in video or kind not in SPLITS:
            problems.append((number, line, "expected the name of a video and 1 (training), 2 (test) or 0 (neither)"))
        elif SPLITS[kind]:
            rows[SPLITS[kind]].append(Row(f"{label}/{video}", label, f"{file.name}:{number}"))
    refuse(file, problems)
    return rows


def read_divisions(folder: Path) -> tuple[dict[int, dict[str, list[Row]]], list[str]]:
    """All divisions, and the names of all classes, sorted.

    Raises:
        AnnotationError: there are no files, a class lacks one of its three, or one cannot be used.
    """
    names = sorted(path.name for path in folder.glob("*.txt")) if folder.is_dir() else []
    matches = [match for name in names if (match := NAME.fullmatch(name))]
    if not matches:
        raise AnnotationError(f"no CLASS_test_split1.txt in {str(folder)!r}; {content_of(folder)}")
    classes = sorted({match["label"] for match in matches})
    divisions: dict[int, dict[str, list[Row]]] = {number: {"train": [], "val": []} for number in three_splits.NUMBERS}
    for number, division in divisions.items():
        for label in classes:
            of_class = read_division(folder / f"{label}_test_split{number}.txt", label)
            for split, rows in of_class.items():
                division[split] += rows
    return divisions, classes


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = three_splits.parse(argv, __doc__ or "")
    divisions, classes = read_divisions(args.annotations)
    return three_splits.write(args, divisions, classes, SIZES)


if __name__ == "__main__":
    sys.exit(command.exit_code(main, OPTIONS))
