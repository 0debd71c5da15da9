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
from dataclasses import dataclass, field
from pathlib import Path

from videovit.data.records import AnnotationError, Sample

MOST_PROBLEMS_SHOWN = 20
LONGEST_LINE_SHOWN = 120
LARGEST_LIST = 1 << 30  # bytes
USUAL_SEPARATORS = frozenset(" ,\t")
LAST_FIELD = re.compile(r"(?P<path>.*)[,\t ](?P<label>[^,\t ]+)", re.DOTALL)
WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


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


def read_lines(list_file: Path) -> list[str]:
    """The lines of a list file, without line ends and byte order mark.

    Raises:
        AnnotationError: there is no such file, it is too large, or it is not text.
    """
    try:
        if list_file.stat().st_size > LARGEST_LIST:
            raise AnnotationError(f"{list_file}: larger than {LARGEST_LIST >> 20} MiB; this is no list of videos")
        text = list_file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise AnnotationError(f"list file {str(list_file)!r} does not exist; {content_of(list_file.parent)}") from None
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise AnnotationError(f"{list_file}:{number}: not UTF-8 text (byte {error.object[error.start]:#04x})") from None
    except OSError as error:
        raise AnnotationError(f"list file {str(list_file)!r} cannot be read: {error.strerror}") from None
    return [line.removesuffix("\r") for line in text.split("\n")]


def content_of(folder: Path) -> str:
    """What is in a folder, for an error message."""
    if not folder.is_dir():
        return f"nor does its folder {str(folder)!r} (DATA.PATH_TO_DATA_DIR)"
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"its folder {str(folder)!r} (DATA.PATH_TO_DATA_DIR) holds {shown or 'nothing'}"


def parse_rows(
    lines: Iterable[str], *, num_classes: int, separator: str, skip: int
) -> tuple[list[Row], list[tuple[int, str, str]]]:
    """Split every line into path and label; lines that cannot be used come back as (number, content, why)."""
    rows: list[Row] = []
    problems: list[tuple[int, str, str]] = []
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
    if separator not in USUAL_SEPARATORS and separator in text:
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


def refuse(list_file: Path, problems: list[tuple[int, str, str]]) -> None:
    """Raise one error that shows the first problems and says how many there are.

    Raises:
        AnnotationError: there is at least one.
    """
    if not problems:
        return
    shown = [
        f"  {list_file}:{number}: {text if len(text) <= LONGEST_LINE_SHOWN else text[:LONGEST_LINE_SHOWN] + '...'!s}"
        f"\n      {why}"
        for number, text, why in problems[:MOST_PROBLEMS_SHOWN]
    ]
    count = "1 line" if len(problems) == 1 else f"{len(problems)} lines"
    more = "" if len(problems) <= MOST_PROBLEMS_SHOWN else f"\n  ... and {len(problems) - MOST_PROBLEMS_SHOWN} more"
    raise AnnotationError(f"{list_file}: {count} cannot be used:\n" + "\n".join(shown) + more)


@dataclass(slots=True)
class Folders:
    """Remembers what is in each folder, so that a long list costs one look per folder and not one per video."""

    _entries: dict[str, dict[str, bool]] = field(default_factory=dict)
    _real: dict[str, str] = field(default_factory=dict)

    def has(self, path: str) -> bool:
        """Whether a file stands at `path`."""
        folder, name = os.path.split(path)
        return name in self._listing(folder)

    def real(self, path: str) -> str:
        """The path with its symbolic links followed."""
        folder, name = os.path.split(path)
        if self._listing(folder).get(name, False) or name in ("", ".", ".."):
            return os.path.realpath(path)
        return os.path.join(self.real_folder(folder), name)

    def real_folder(self, folder: str) -> str:
        """A folder with its symbolic links followed."""
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]

    def _listing(self, folder: str) -> dict[str, bool]:
        """Name -> whether it is a symbolic link; nothing for a folder that cannot be listed."""
        if folder not in self._entries:
            try:
                with os.scandir(folder or ".") as entries:
                    self._entries[folder] = {entry.name: entry.is_symlink() for entry in entries}
            except OSError:
                self._entries[folder] = {}
        return self._entries[folder]


def relative_to_either(path: str, root: str, folders: Folders) -> str:
    """`path` itself, or `root/path` when only that exists (or only its folder does)."""
    if os.path.isabs(path) or folders.has(path):
        return path
    under_root = os.path.join(root, path)
    if folders.has(under_root):
        return under_root
    only_there = os.path.isdir(os.path.dirname(under_root)) and not os.path.isdir(os.path.dirname(path) or ".")
    return under_root if only_there else path


def leads_out(path: str, prefix: str, folders: Folders) -> str | None:
    """Why a listed path must not be joined to the prefix, or None when it stays inside."""
    if os.path.isabs(path):
        return f"an absolute path, but paths count from DATA.PATH_PREFIX {prefix!r}"
    joined = os.path.join(prefix, path)
    if not is_inside(os.path.normpath(joined), os.path.normpath(prefix)):
        return f"leads out of DATA.PATH_PREFIX {prefix!r}"
    real = folders.real(joined)
    if not is_inside(real, folders.real_folder(prefix)):
        return f"leads out of DATA.PATH_PREFIX {prefix!r} by a symbolic link, to {real!r}"
    return None


def is_inside(path: str, folder: str) -> bool:
    """Whether a normalised path lies below a normalised folder."""
    if folder == ".":
        return not (path == ".." or path.startswith("../"))
    return path.startswith(folder.rstrip(os.sep) + os.sep)
