"""The videos that a command-line tool is given: files, folders, and lists with a label behind each path."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videovit.data.records import AnnotationError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ogv"}
)
LIST_SUFFIXES = frozenset({".csv", ".txt", ".lst", ".tsv"})
# A path, then an optional separator and label; paths may hold spaces.
ROW = re.compile(r"(?P<path>.+?)(?:[ ,\t]+(?P<label>-?\d+))?\s*")


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A video; `written` is how the list or folder names it, `label` what stood behind it ("" for none)."""

    path: str
    written: str
    label: str = ""


def find_videos(names: Sequence[str], *, prefix: str = "") -> list[ListedVideo]:
    """The videos that files, folders (searched through) and lists stand for, each once.

    Args:
        names: what the user typed.
        prefix: folder of the paths in lists; by default the current one, then the folder of the list.

    Raises:
        AnnotationError: a name does not exist, or nothing is there.
    """
    found: dict[str, ListedVideo] = {}
    for name in names:
        place = Path(name)
        if place.is_dir():
            files = sorted(file for file in place.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
            videos = [ListedVideo(str(file), str(file.relative_to(place))) for file in files]
        elif place.suffix.lower() in LIST_SUFFIXES:
            videos = _videos_of_list(place, prefix)
        else:
            videos = [ListedVideo(name, place.name)]
        for video in videos:
            found.setdefault(video.path, video)
    if not found:
        raise AnnotationError(f"no videos in {', '.join(names)}")
    return list(found.values())


def _videos_of_list(place: Path, prefix: str) -> list[ListedVideo]:
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{place}: {error}") from None
    videos = []
    for line in lines:
        row = ROW.fullmatch(line.strip())
        if row is not None:
            written = row["path"]
            path = os.path.join(prefix, written) if prefix else written
            if not prefix and not os.path.exists(path):
                path = os.path.join(place.parent, written)
            videos.append(ListedVideo(path, written, row["label"] or ""))
    return videos
