"""Kinetics list files in PySlowFast's format: one video per line, `path label`.

    abseiling/0wR5jVB-WPk.mp4 0
    my videos/a, b.mp4,17
    "my videos/c.mp4"<tab>3

The last blank, comma or tab of a line separates the label from the path, so that paths may contain all three.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from videovit.data.files.annotation_files import WHOLE_NUMBER, Problem, read_lines, refuse
from videovit.data.files.listed_paths import Folders, leads_out, relative_to_either, split_line
from videovit.data.records import AnnotationError, Sample


@dataclass(frozen=True, slots=True)
class Row:
    """A valid line of the list: its number (from 1), the path as written, and the label."""

    number: int
    path: str
    label: int


def read(
    list_file: str | Path, *, num_classes: int, separator: str = " ", prefix: str = "", skip_rows: int = 0
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

    Returns:
        The samples in the order of the list.

    Raises:
        AnnotationError: the list is missing, empty, or has invalid lines; shows them all.

    Source: PySlowFast, Kinetics data set.
    """
    list_file = Path(list_file)
    rows, problems = parse_rows(read_lines(list_file), num_classes=num_classes, separator=separator, skip=skip_rows)
    refuse(list_file, problems)
    if not rows:
        raise AnnotationError(
            "no videos listed", where=list_file, expected=f"lines like 'path/to/video.mp4{separator}0'"
        )
    # Shared by all rows, so each folder is listed once.
    folders = Folders()
    if not prefix:
        root = str(list_file.parent)
        return [Sample(relative_to_either(row.path, root, folders), row.label) for row in rows]
    # A separate pass, because it reads folders: only for lists without other errors.
    outside = [(row.number, row.path, why) for row in rows if (why := leads_out(row.path, prefix, folders)) is not None]
    refuse(list_file, outside)
    return [Sample(os.path.join(prefix, row.path), row.label) for row in rows]


def parse_rows(lines: Iterable[str], *, num_classes: int, separator: str, skip: int) -> tuple[list[Row], list[Problem]]:
    """Split every line into path and label; invalid lines are returned as (number, content, reason)."""
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
        path, label = fields
        if not WHOLE_NUMBER.fullmatch(label):
            # Only the first line can be a header.
            header = "; for a header set DATA.SKIP_ROWS" if number == skip + 1 else ""
            problems.append((number, text, f"label {label!r} is not a whole number{header}"))
        elif not 0 <= int(label) < num_classes:
            problems.append((number, text, f"label {label} is not in 0..{num_classes - 1} (MODEL.NUM_CLASSES)"))
        elif not path or "\0" in path:
            problems.append((number, text, "the path is empty" if not path else "the path contains a null character"))
        else:
            rows.append(Row(number, path, int(label)))
    return rows, problems
