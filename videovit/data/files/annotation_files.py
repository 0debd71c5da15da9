"""What readers share: lines of a file, one error for all bad lines, files and videos of a release, JSON with lines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from videovit.data.files.folders import VIDEO_SUFFIXES
from videovit.data.records import AnnotationError

PLAIN_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)
WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)
MOST_PROBLEMS_SHOWN = 20
LONGEST_LINE_SHOWN = 120
LARGEST_LIST = 1 << 30  # bytes

Problem = tuple[int, str, str]
"""A line that cannot be used: its number (from 1), what it says, and why."""


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


def refuse(list_file: Path, problems: Sequence[Problem]) -> None:
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


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of several files that exists in `folder`, or in its folder `labels`.

    Raises:
        AnnotationError: none of them is there; names the nearest.
    """
    places = [folder / below / name for name in names for below in ("", "labels")]
    for place in places:
        if place.is_file():
            return place
    there = [path.name for path in folder.glob("*")] if folder.is_dir() else []
    near = [hit for name in names for hit in get_close_matches(name, there, n=1)]
    hint = f"; nearest: {near[0]!r}" if near else ""
    raise AnnotationError(f"found no {' or '.join(names)} in {str(folder)!r}; {content_of(folder)}{hint}")


@lru_cache(maxsize=1000)
def nearest(name: str, known: tuple[str, ...]) -> str:
    """The end of a message about an unknown name: the nearest one, if there is one."""
    near = get_close_matches(name, known, n=1)
    return f"; nearest: {near[0]!r}" if near else ""


class VideoFolder:
    """The videos of a release by their names without suffix.

    Args:
        prefix: the folder (DATA.PATH_PREFIX); when empty, the first of `usual` that exists in `root`, else `root`.
        root: folder of the annotation files.
        usual: names that the folder has in the release.
        suffix: what videos end in there; they may have been re-encoded into other containers.
    """

    def __init__(self, prefix: str, root: Path, *, usual: Sequence[str], suffix: str) -> None:
        places = [root / name for name in usual if (root / name).is_dir()]
        self.folder = prefix or str(places[0] if places else root)
        self._suffix = suffix
        self._by_name: dict[str, str] = {}
        if os.path.isdir(self.folder):
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    name, end = os.path.splitext(entry.name)
                    if end.lower() in VIDEO_SUFFIXES:
                        self._by_name.setdefault(name, entry.name)

    def path_of(self, name: str) -> str:
        """Where the video is, or would be.

        Raises:
            AnnotationError: the name is a path, which may lead anywhere.
        """
        if os.path.basename(name) != name or name in ("", ".."):
            raise AnnotationError(f"{name!r} is no name of a video in {self.folder!r}: it leads out of the folder")
        return os.path.join(self.folder, self._by_name.get(name, name + self._suffix))


def read_json(file: Path) -> tuple[str, Any]:
    """The text of a JSON file and its content.

    Raises:
        AnnotationError: missing, not UTF-8, or not JSON.
    """
    text = "\n".join(read_lines(file))
    try:
        return text, json.loads(text)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{file}:{error.lineno}: not JSON: {error.msg}") from None


def read_json_entries(file: Path) -> Iterator[tuple[int, Any]]:
    """(line, entry) of a JSON file that holds a list.

    Raises:
        AnnotationError: missing, not UTF-8, not JSON, or not a list.
    """
    text, _ = content = read_json(file)
    if not isinstance(content[1], list):
        raise AnnotationError(f"{file}:1: expected a list [...], found {text.strip()[:60]!r}")
    decoder = json.JSONDecoder()
    blank = re.compile(r"[\s,\[]*")
    place, line, counted = text.index("[") + 1, 1, 0
    for _ in content[1]:
        found = blank.match(text, place)
        start = found.end() if found else place
        line += text.count("\n", counted, start)
        counted = start
        entry, place = decoder.raw_decode(text, start)
        yield line, entry
