"""Kinetics list files in PySlowFast's format: one video per line, `path label`.

    abseiling/0wR5jVB-WPk.mp4 0
    my videos/a, b.mp4,17
    "my videos/c.mp4"<tab>3

The last blank, comma or tab of a line separates the label from the path, so that paths may contain all three. In lists
of several classes per video (the data set `multilabel`), semicolons separate the classes, and - stands for none:

    kitchen/one.mp4 3;7;12
    kitchen/two.mp4 -

Masked pre-training reads no labels: a line may be a path alone.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from videovit.data.files.annotation_files import WHOLE_NUMBER, Problem, read_lines, refuse
from videovit.data.files.folders import VIDEO_SUFFIXES, suffix_of
from videovit.data.files.listed_paths import Folders, leads_out, relative_to_either, split_line, unquote
from videovit.data.records import Action, AnnotationError, Sample

NO_NUMBER = "is not a whole number"
SEVERAL = "has several classes"
NO_CLASS = "-"
LABELS = re.compile(r"-|-?\d+(;\s*\d+)*")
NUMBER_AFTER_PATH = re.compile(r"(?P<path>.*\S)[,\t ]\s*(?P<number>\d+);?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """A valid line of the list: its number (from 1), the path as written, and its labels: one, if no more may be."""

    number: int
    path: str
    labels: tuple[int, ...]


def read(
    list_file: str | Path,
    *,
    num_classes: int,
    separator: str = " ",
    prefix: str = "",
    skip_rows: int = 0,
    several: bool = False,
    labeled: bool = True,
) -> list[Sample]:
    """Read a list of labeled videos.

    Files may begin with a byte order mark and have line ends of either kind; empty lines are skipped. Whether the
    videos exist is not checked here, because that would take minutes on network storage: it shows when they are opened.

    Args:
        list_file: the list.
        num_classes: labels must be in 0..num_classes-1.
        separator: what precedes the label (DATA.PATH_LABEL_SEPARATOR); blanks, commas and tabs are understood in any
            case, line by line.
        prefix: folder that all paths are relative to and must stay in (DATA.PATH_PREFIX). If empty, relative paths are
            looked for in the current folder, then in the folder of the list.
        skip_rows: number of lines to skip at the top.
        several: a video has any number of labels, each of which holds from its beginning to its end.
        labeled: False: labels may be left out, and are not read.

    Returns:
        The samples in the order of the list.

    Raises:
        AnnotationError: the list is missing, empty, or has invalid lines; shows them all.

    Source: PySlowFast, Kinetics data set.
    """
    list_file = Path(list_file)
    lines = read_lines(list_file)
    if labeled:
        rows, problems = parse_rows(lines, num_classes=num_classes, separator=separator, skip=skip_rows, several=several)
    else:
        rows, problems = parse_paths(lines, separator=separator, skip=skip_rows), []
    refuse(list_file, problems, hint=advice(rows, problems, num_classes))
    if not rows:
        example = f"path/to/video.mp4{separator}{'0;3' if several else '0'}"
        raise AnnotationError("no videos listed", where=list_file, expected=f"lines like {example!r}")
    # Shared by all rows, so each folder is listed once.
    folders = Folders()
    root = str(list_file.parent)
    # A separate pass, because it reads folders: only for lists without other errors.
    if prefix:
        checked = [(row.number, row.path, leads_out(row.path, prefix, folders)) for row in rows]
        refuse(list_file, [(number, path, why) for number, path, why in checked if why is not None])

    def place(path: str) -> str:
        return os.path.join(prefix, path) if prefix else relative_to_either(path, root, folders)

    misread = [(row.number, row.path, why) for row in rows if (why := misreading(row.path, place, folders))]
    refuse(list_file, misread)
    if several and labeled:
        return [Sample(place(row.path), actions=tuple(map(_always, row.labels))) for row in rows]
    return [Sample(place(row.path), row.labels[0] if row.labels else -1) for row in rows]


def _always(label: int) -> Action:
    return Action(label, -math.inf, math.inf)


def misreading(path: str, place: Callable[[str], str], folders: Folders) -> str:
    """Why a line probably means another path than the one that was read; empty if it does not.

    Args:
        path: as read from the line.
        place: path as listed -> path to open.
        folders: what exists.
    """
    number = NUMBER_AFTER_PATH.fullmatch(path)
    # Only suspicious paths are looked up, and only those that do not exist are refused.
    if (not number and "\\" not in path) or folders.has(place(path)):
        return ""
    count = 2
    while number:
        if suffix_of(number["path"]) in VIDEO_SUFFIXES or folders.has(place(number["path"])):
            return (
                f"{'two' if count == 2 else count} numbers follow the path, the first is {number['number']}; expected "
                "'path label': lists with the number of frames are not read, and several classes of a video (data set "
                "multilabel) are written 3;7"
            )
        number, count = NUMBER_AFTER_PATH.fullmatch(number["path"]), count + 1
    if "\\" in path and folders.has(place(path.replace("\\", "/"))):
        return "the path has backslashes; the file exists if they are written as /"
    return ""


def advice(rows: Sequence[Row], problems: Sequence[Problem], num_classes: int) -> str:
    """What is probably meant by a list whose lines cannot be used; empty if unknown."""
    reasons = [why for _, _, why in problems]
    if reasons and all(SEVERAL in why for why in reasons):
        return "Several classes per video, such as 3;7, need TRAIN.DATASET multilabel and TEST.DATASET multilabel"
    if sum(NO_NUMBER in why for why in reasons) > 1:
        return (
            "Labels are class numbers, from 0. For names of classes, write the list with "
            "datasets/kinetics/prepare.py, or replace them by their numbers in classes.json"
        )
    if len(reasons) == 1 and NO_NUMBER in reasons[0] and rows and problems[0][0] < rows[0].number:
        return f"If line {problems[0][0]} is a header, set DATA.SKIP_ROWS {problems[0][0]}"
    beyond = f"label {num_classes} is not in"
    if (
        reasons
        and all(why.startswith(beyond) for why in reasons)
        and all(min(row.labels, default=1) > 0 for row in rows)
    ):
        return "No label is 0: labels count from 0 to MODEL.NUM_CLASSES - 1, and these seem to count from 1"
    return ""


def parse_rows(
    lines: Iterable[str], *, num_classes: int, separator: str, skip: int, several: bool = False
) -> tuple[list[Row], list[Problem]]:
    """Split every line into path and label, or labels; invalid lines are returned as (number, content, reason)."""
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        # Blanks at the ends of lines are invisible in editors.
        text = line.strip()
        if number <= skip or not text:
            continue
        fields = split_line(text, separator)
        if fields is None:
            problems.append((number, text, f"expected 'path{separator}label'"))
            continue
        path, written = fields
        labels = _parse_labels(written, num_classes, several=several)
        if isinstance(labels, str):
            problems.append((number, text, labels))
        elif not path or "\0" in path:
            problems.append((number, text, "the path is empty" if not path else "the path contains a null character"))
        else:
            rows.append(Row(number, path, labels))
    return rows, problems


def parse_paths(lines: Iterable[str], *, separator: str, skip: int) -> list[Row]:
    """The paths of a list whose labels are not needed: each line is one, without its labels if it has any."""
    rows = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if number <= skip or not text:
            continue
        path, written = split_line(text, separator) or (text, "")
        rows.append(Row(number, path if LABELS.fullmatch(written) else unquote(text), ()))
    return rows


def _parse_labels(text: str, num_classes: int, *, several: bool) -> tuple[int, ...] | str:
    """The labels of a line, or why they are invalid."""
    if several and text == NO_CLASS:
        return ()
    words = [word.strip() for word in text.split(";")]
    if not several and len(words) > 1 and all(map(WHOLE_NUMBER.fullmatch, words)):
        return f"label {text!r} {SEVERAL}"
    for word in words:
        if not WHOLE_NUMBER.fullmatch(word):
            return f"label {word!r} {NO_NUMBER}"
        if not 0 <= int(word) < num_classes:
            return f"label {word} is not in 0..{num_classes - 1} (MODEL.NUM_CLASSES)"
    labels = tuple(map(int, words))
    twice = next((label for label in labels if labels.count(label) > 1), None)
    return labels if twice is None else f"class {twice} is listed twice"
