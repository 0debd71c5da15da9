"""Lines and JSON of annotation files, one error for all their bad lines, and the files of a release."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from videovit.data.files.folders import VIDEO_SUFFIXES, is_text
from videovit.data.records import AnnotationError
from videovit.messages import did_you_mean, did_you_mean_file, plural, printable

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

PLAIN_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)
WHOLE_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)  # Python refuses to read numbers of thousands of digits
MOST_PROBLEMS_SHOWN = 20
LONGEST_LINE_SHOWN = 120
LARGEST_LIST = 1 << 30  # bytes
# JSON writes characters beyond 16 bits as two halves; one half alone is no text.
HALF_CHARACTER = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)

Problem = tuple[int, str, str]
"""A line that cannot be used: its number (from 1), its content, and the reason."""


def open_list(list_file: Path) -> BinaryIO:
    """Open a file that comes with a data set; only a regular file, because a pipe or a device may never end.

    Raises:
        AnnotationError: the file does not exist, is no regular file, or cannot be read.
    """
    try:
        # Without waiting: a pipe would block until somebody writes to it.
        file = os.fdopen(os.open(list_file, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except FileNotFoundError:
        raise AnnotationError(f"list file {str(list_file)!r} does not exist; {content_of(list_file.parent)}") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise AnnotationError(f"list file {str(list_file)!r} cannot be read: {why}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise AnnotationError(f"list file {str(list_file)!r} cannot be read: it is not a regular file")
    return file


def read_content(list_file: Path) -> bytes:
    """The content of a text file, valid UTF-8 without byte order mark.

    Raises:
        AnnotationError: the file does not exist, is no regular file, is too large, or is not UTF-8.
    """
    try:
        with open_list(list_file) as file:
            content = file.read(LARGEST_LIST + 1)
    except OSError as error:
        raise AnnotationError(f"list file {str(list_file)!r} cannot be read: {error.strerror}") from None
    # A video given as a list by mistake would fill the memory.
    if len(content) > LARGEST_LIST:
        raise AnnotationError(f"larger than {LARGEST_LIST >> 20} MiB, so not a list of videos", where=list_file)
    # Editors on Windows add a byte order mark.
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise AnnotationError(
            f"not UTF-8 text (byte {error.object[error.start]:#04x})", where=f"{list_file}:{number}"
        ) from None
    return content


def read_lines(list_file: Path) -> list[str]:
    """The lines of a text file, without line ends and byte order mark.

    Raises:
        AnnotationError: the file does not exist, is no regular file, is too large, or is not UTF-8.
    """
    return lines_of(read_content(list_file))


def lines_of(content: bytes) -> list[str]:
    """The lines of what `read_content` returns, without line ends."""
    # Not splitlines(), which also splits at characters that are valid in file names, such as U+2028.
    return [line.removesuffix("\r") for line in content.decode().split("\n")]


def csv_rows(reader: CsvReader, file: Path) -> Iterator[list[str]]:
    """The rows of a `csv.reader`.

    Raises:
        AnnotationError: the file is no CSV file, for example because a quoted field never ends.
    """
    try:
        yield from reader
    except csv.Error as error:
        raise AnnotationError(f"not a CSV file: {error}", where=f"{file}:{reader.line_num}") from None


def content_of(folder: Path, key: str = "DATA.PATH_TO_DATA_DIR") -> str:
    """The content of a folder, for an error message.

    Args:
        folder: which may be missing.
        key: the key or option that names it.
    """
    if not folder.is_dir():
        return f"the folder {str(folder)!r} ({key}) does not exist"
    names = sorted(printable(entry.name) for entry in folder.iterdir())
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"its folder {str(folder)!r} ({key}) holds {shown or 'nothing'}"


def refuse(list_file: Path, problems: Sequence[Problem], *, hint: str = "") -> None:
    """Raise one error that shows the first problems and the number of all.

    Args:
        list_file: the file.
        problems: its problems.
        hint: what to do about them, as a sentence without its full stop.

    Raises:
        AnnotationError: there is at least one problem.
    """
    if not problems:
        return
    shown = [
        f"  {list_file}:{number}: {text if len(text) <= LONGEST_LINE_SHOWN else text[:LONGEST_LINE_SHOWN] + '...'}"
        f"\n      {why}"
        for number, text, why in problems[:MOST_PROBLEMS_SHOWN]
    ]
    more = "" if len(problems) <= MOST_PROBLEMS_SHOWN else f"\n  ... and {len(problems) - MOST_PROBLEMS_SHOWN} more"
    text = f"{list_file}: {plural(len(problems), 'line')} cannot be used:\n" + "\n".join(shown) + more
    raise AnnotationError(f"{text}\n{hint}" if hint else text)


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of several files that exists in `folder` or in `folder/labels`.

    Raises:
        AnnotationError: none of them exists.
    """
    places = [folder / below / name for name in names for below in ("", "labels")]
    for place in places:
        if place.is_file():
            return place
    present = [path.name for path in folder.glob("*")] if folder.is_dir() else []
    near = next((hit for name in names if (hit := did_you_mean_file(name, present))), "")
    raise AnnotationError(f"found no {' or '.join(names)} in {str(folder)!r}; {content_of(folder)}", near=near)


@lru_cache(maxsize=1000)
def suggestion(name: str, known: tuple[str, ...]) -> str:
    """`; did you mean X?`, or nothing if no known name is close."""
    # Cached, because a list may repeat an unknown name thousands of times.
    near = did_you_mean(name, known)
    return f"; did you mean {near}?" if near else ""


class VideoFolder:
    """The videos of a release, found by their names without suffix.

    Args:
        prefix: the folder (DATA.PATH_PREFIX); if empty, the first of `released` that exists in `root`, else `root`.
        root: folder of the annotation files.
        released: names that the folder has in the release.
        suffix: suffix of the released videos. Files may have been re-encoded into other containers.
    """

    def __init__(self, prefix: str, root: Path, *, released: Sequence[str], suffix: str) -> None:
        places = [root / name for name in released if (root / name).is_dir()]
        self.folder = prefix or str(places[0] if places else root)
        self._suffix = suffix
        # One listing for all videos; testing each for existence would be slow on network storage.
        self._by_name: dict[str, str] = {}
        if os.path.isdir(self.folder):
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    name, end = os.path.splitext(entry.name)
                    if end.lower() in VIDEO_SUFFIXES:
                        self._by_name.setdefault(name, entry.name)

    def path_of(self, name: str) -> str:
        """The path of a video; its file need not exist.

        Raises:
            AnnotationError: the name contains a path, which could lead out of the folder.
        """
        if os.path.basename(name) != name or name in ("", ".."):
            raise AnnotationError(f"{name!r} is not the name of a video: it leads out of the folder {self.folder!r}")
        return os.path.join(self.folder, self._by_name.get(name, name + self._suffix))


def read_json(file: Path) -> tuple[str, object]:
    """The text of a JSON file and its content.

    Raises:
        AnnotationError: the file is missing, not UTF-8, not JSON, or holds a string that is not text.
    """
    text = "\n".join(read_lines(file))
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"not JSON: {error.msg}", where=f"{file}:{error.lineno}") from None
    # Lists inside lists, thousands deep; numbers of thousands of digits.
    except (RecursionError, ValueError) as error:
        raise AnnotationError(f"JSON that cannot be read: {error}", where=file) from None
    half = HALF_CHARACTER.search(text)
    if half and not is_text(json.dumps(content, ensure_ascii=False)):
        line = text.count("\n", 0, half.start()) + 1
        raise AnnotationError(f"{half[0]} is half a character, which cannot be written", where=f"{file}:{line}")
    return text, content


def read_json_entries(file: Path) -> Iterator[tuple[int, object]]:
    """(line, entry) of a JSON file that holds a list.

    Raises:
        AnnotationError: the file is missing, not UTF-8, not JSON, or not a list.
    """
    text, content = read_json(file)
    if not isinstance(content, list):
        raise AnnotationError(where=f"{file}:1", found=text.strip()[:60], expected="a list [...]")
    # Decode the entries once more one by one: only that gives their places in the text, and so their lines.
    decoder = json.JSONDecoder()
    blank = re.compile(r"[\s,\[]*")
    place, line, counted = text.index("[") + 1, 1, 0
    for _ in content:
        found = blank.match(text, place)
        start = found.end() if found else place
        line += text.count("\n", counted, start)
        counted = start
        entry, place = decoder.raw_decode(text, start)
        yield line, entry
