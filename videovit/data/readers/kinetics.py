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
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videovit.data.columns import Array, Columns, columns_in_memory
from videovit.data.files.annotation_files import WHOLE_NUMBER, Problem, lines_of, read_content, refuse
from videovit.data.files.folders import VIDEO_SUFFIXES, suffix_of
from videovit.data.files.listed_paths import (
    USUAL_SEPARATORS,
    Folders,
    leads_out,
    relative_to_either,
    split_line,
    unquote,
    written_outside,
)
from videovit.data.list_cache import cached_columns
from videovit.data.readers.plain_rows import PlainRows, parse_plain
from videovit.data.records import Action, AnnotationError, Sample
from videovit.data.sample_list import SampleList, sample_columns

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
) -> SampleList:
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
    reader = ListReader(Path(list_file), num_classes, separator, prefix, skip_rows, several, labeled)
    return reader.read()


@dataclass(frozen=True)
class ListReader:
    """Reads one list; see `read` for the arguments."""

    list_file: Path
    num_classes: int
    separator: str
    prefix: str
    skip_rows: int
    several: bool
    labeled: bool

    def read(self) -> SampleList:
        """The samples, from the cache of a long list that was read before."""
        content = read_content(self.list_file)
        recipe = f"{self.separator!r} {self.skip_rows} {self.several} {self.labeled}"
        columns = cached_columns(self.list_file, content, recipe, partial(self._parse, content), self._accept)
        if self.prefix:
            return SampleList(columns, (self.prefix,))
        root = str(self.list_file.parent)
        return SampleList(columns, ("", root), roots_of(SampleList(columns), root))

    def _parse(self, content: bytes) -> tuple[dict[str, Array], bool]:
        """The columns, and whether they hold wherever the videos are.

        Raises:
            AnnotationError: lines cannot be used.
        """
        usual = not self.separator or self.separator in USUAL_SEPARATORS
        plain = parse_plain(content, self.skip_rows) if usual and self.labeled and not self.several else None
        if plain is not None and self._is_sound(plain):
            return plain.columns, not plain.doubtful
        samples = self._parse_lines(content)
        return sample_columns(samples), not any(is_doubtful(sample.path) for sample in samples)

    def _is_sound(self, plain: PlainRows) -> bool:
        """Whether nothing is wrong with any row; what is wrong is then found line by line."""
        samples = SampleList(columns_in_memory(plain.columns))
        folders = Folders()
        if samples.label_N.max() >= self.num_classes:
            return False
        if any(misreading(samples[row].path, self._placed(folders), folders) for row in plain.doubtful):
            return False
        return not self.prefix or stays_inside(samples, self.prefix, folders)

    def _placed(self, folders: Folders) -> Callable[[str], str]:
        root = str(self.list_file.parent)
        if self.prefix:
            return partial(os.path.join, self.prefix)
        return lambda path: relative_to_either(path, root, folders)

    def _accept(self, columns: Columns) -> bool:
        samples = SampleList(columns)
        if not self.labeled:
            classes = np.empty(0, dtype=np.int64)
        elif self.several:
            classes = columns["action_classes"]
        else:
            classes = samples.label_N
            if not samples.has_one_label:
                return False
        if len(classes) and not 0 <= classes.min() <= classes.max() < self.num_classes:
            return False
        return not (self.prefix and any(map(written_outside, samples.folders))) and not _has_odd_names(samples)

    def _parse_lines(self, content: bytes) -> list[Sample]:
        """The samples, with paths as listed."""
        lines, problems = lines_of(content), list[Problem]()
        if self.labeled:
            rows, problems = parse_rows(
                lines,
                num_classes=self.num_classes,
                separator=self.separator,
                skip=self.skip_rows,
                several=self.several,
            )
        else:
            rows = parse_paths(lines, separator=self.separator, skip=self.skip_rows)
        refuse(self.list_file, problems, hint=advice(rows, problems, self.num_classes))
        if not rows:
            example = f"path/to/video.mp4{self.separator}{'0;3' if self.several else '0'}"
            raise AnnotationError("no videos listed", where=self.list_file, expected=f"lines like {example!r}")
        # Shared by all rows, so each folder is listed once.
        folders = Folders()
        # A separate pass, because it reads folders: only for lists without other errors.
        if self.prefix:
            checked = [(row.number, row.path, leads_out(row.path, self.prefix, folders)) for row in rows]
            refuse(self.list_file, [(number, path, why) for number, path, why in checked if why is not None])
        place = self._placed(folders)
        misread = [(row.number, row.path, why) for row in rows if (why := misreading(row.path, place, folders))]
        refuse(self.list_file, misread)
        if self.several and self.labeled:
            return [Sample(row.path, actions=tuple(map(_always, row.labels))) for row in rows]
        return [Sample(row.path, row.labels[0] if row.labels else -1) for row in rows]


def stays_inside(samples: SampleList, prefix: str, folders: Folders) -> bool:
    """Whether no listed path leads out of the prefix; looks at single files only in folders with links."""
    linked: set[int] = set()
    for number, folder in enumerate(samples.folders):
        # A name that no file has, for the folder alone.
        if written_outside(folder) or leads_out(f"{folder}\0", prefix, folders) is not None:
            return False
        if folders.has_links(os.path.join(prefix, folder).rstrip("/")):
            linked.add(number)
    if _has_odd_names(samples):
        return False
    rows = np.flatnonzero(np.isin(samples.folder_N, list(linked))).tolist() if linked else []
    return all(leads_out(samples[row].path, prefix, folders) is None for row in rows)


def _has_odd_names(samples: SampleList) -> bool:
    """Whether a path ends with a folder (`..`, `.`, a slash)."""
    lengths_N = np.diff(samples.names.ends_N, prepend=0)
    return any(samples.names[row] in ("", ".", "..") for row in np.flatnonzero(lengths_N <= 2).tolist())


def roots_of(samples: SampleList, root: str) -> NDArray[np.int8] | None:
    """Which paths are relative to the folder of the list (1) and not to the current one (0); see `relative_to_either`.

    Args:
        samples: with paths as listed.
        root: folder of the list.

    Returns:
        int8 (N,); None: all 0.
    """
    folders = Folders()
    chosen_F = np.zeros(len(samples.folders), dtype=np.int8)
    mixed: list[int] = []
    for number, folder in enumerate(samples.folders):
        if folder.startswith("/"):
            continue
        here, there = os.path.isdir(folder or "."), os.path.isdir(os.path.join(root, folder))
        if here and there:
            if not os.path.samefile(folder or ".", os.path.join(root, folder)):
                mixed.append(number)
        else:
            chosen_F[number] = there
    roots_N: NDArray[np.int8] = chosen_F[samples.folder_N]
    for row in np.flatnonzero(np.isin(samples.folder_N, mixed)).tolist():
        path = samples[row].path
        roots_N[row] = relative_to_either(path, root, folders) != path
    return roots_N if roots_N.any() else None


def _always(label: int) -> Action:
    return Action(label, -math.inf, math.inf)


def is_doubtful(path: str) -> bool:
    """Whether a listed path may have been meant otherwise; see `misreading`."""
    return "\\" in path or NUMBER_AFTER_PATH.fullmatch(path) is not None


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
