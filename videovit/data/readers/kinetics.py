"""Kinetics list files as PySlowFast reads them: one video a line, `path label`.

    abseiling/0wR5jVB-WPk.mp4 0
    my videos/a, b.mp4,17
    "my videos/c.mp4"<tab>3

The last blank, comma or tab of a line separates the label from the path, so that paths may contain all three.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from videovit.data.files.annotation_files import WHOLE_NUMBER, Problem, read_lines, refuse
from videovit.data.files.listed_paths import Folders, leads_out, relative_to_either
from videovit.data.records import AnnotationError, Sample

USUAL_SEPARATORS = frozenset(" ,\t")
LAST_FIELD = re.compile(r"(?P<path>.*)[,\t ](?P<label>[^,\t ]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the list that could be read: its number (from 1), the path as written, and the label."""

    number: int
    path: str
    label: int


def read(
    list_file: str | Path, *, num_classes: int, separator: str = " ", prefix: str = "", skip_rows: int = 0
) -> list[Sample]:
    """Read a list of labelled videos.

    Files may begin with a byte order mark and end lines either way; empty lines are skipped. Whether the videos exist
    is not checked: a video that cannot be read is found when it is wanted.

    Args:
        list_file: the list.
        num_classes: labels must be in 0..num_classes-1.
        separator: what stands before the label (DATA.PATH_LABEL_SEPARATOR); blank, comma and tab are understood in
            any case, line by line.
        prefix: folder that every path is relative to (DATA.PATH_PREFIX); then no path may lead out of it. When empty,
            relative paths count from the current folder or, where it has no such file, from the folder of the list.
        skip_rows: lines to leave out at the top.

    Returns:
        The samples in the order of the list.

    Raises:
        AnnotationError: the list is missing, empty, or has lines that cannot be used; names all of them.

    Source: PySlowFast, Kinetics data set.
    """
    list_file = Path(list_file)
    rows, problems = parse_rows(read_lines(list_file), num_classes=num_classes, separator=separator, skip=skip_rows)
    refuse(list_file, problems)
    if not rows:
        raise AnnotationError(f"{list_file}: no videos listed; expected lines like 'path/to/video.mp4{separator}0'")
    folders = Folders()
    if not prefix:
        root = str(list_file.parent)
        return [Sample(relative_to_either(row.path, root, folders), row.label) for row in rows]
    outside = [(row.number, row.path, why) for row in rows if (why := leads_out(row.path, prefix, folders)) is not None]
    refuse(list_file, outside)
    return [Sample(os.path.join(prefix, row.path), row.label) for row in rows]


def parse_rows(lines: Iterable[str], *, num_classes: int, separator: str, skip: int) -> tuple[list[Row], list[Problem]]:
    """Split every line into path and label; lines that cannot be used come back as (number, content, why)."""
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if number <= skip or not text:
            continue
        fields = split_line(text, separator)
        if fields is None:
            problems.append((number, text, f"expected 'path{separator}label'"))
            continue
        path, label = fields
        if not WHOLE_NUMBER.fullmatch(label):
            header = "; is it a header? then set DATA.SKIP_ROWS" if number == skip + 1 else ""
            problems.append((number, text, f"label {label!r} is not a whole number{header}"))
        elif not 0 <= int(label) < num_classes:
            problems.append((number, text, f"label {label} is not in 0..{num_classes - 1} (MODEL.NUM_CLASSES)"))
        elif not path or "\0" in path:
            problems.append((number, text, "the path is empty" if not path else "the path holds a zero byte"))
        else:
            rows.append(Row(number, path, int(label)))
    return rows, problems


def split_line(text: str, separator: str) -> tuple[str, str] | None:
    """Path and label of a line, or None when it has only one field.

    The path loses the quotes that a CSV writer puts around it; the label too.
    """
    if separator and separator not in USUAL_SEPARATORS and separator in text:
        path, _, label = text.rpartition(separator)
    else:
        found = LAST_FIELD.fullmatch(text)
        if found is None:
            return None
        path, label = found["path"].rstrip(" \t").removesuffix(","), found["label"]
    return unquote(path.strip()), unquote(label.strip())


def unquote(text: str) -> str:
    """A CSV field without its quotes: `"a ""b"" c"` is `a "b" c`."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def quote(path: str) -> str:
    """A path as a list may hold it, in quotes where `split_line` would otherwise read another one."""
    needed = path != path.strip() or path.endswith(",") or path[:1] == '"'
    return '"{}"'.format(path.replace('"', '""')) if needed else path
