"""Finding annotation files and videos of an official release, and JSON with line numbers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from videovit.data.readers.kinetics import content_of, read_lines
from videovit.data.records import AnnotationError
from videovit.data.video_files import VIDEO_SUFFIXES

PLAIN_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)


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
