"""The videos given to a command-line tool: files, folders, and lists with optional labels after the paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videovit.data.files.annotation_files import WHOLE_NUMBER, read_lines
from videovit.data.files.folders import VIDEO_SUFFIXES, files_below
from videovit.data.files.listed_paths import split_line, unquote
from videovit.data.records import AnnotationError

LIST_SUFFIXES = frozenset({".csv", ".txt", ".lst", ".tsv"})


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A video: `path`, `written` as in the list or folder, and the `label` that followed it (empty for none)."""

    path: str
    written: str
    label: str = ""


def find_videos(names: Sequence[str], *, prefix: str = "") -> list[ListedVideo]:
    """The videos in files, folders (searched recursively) and lists, each once.

    Args:
        names: paths from the command line.
        prefix: folder of the paths in lists; by default the current folder, then the folder of the list.

    Raises:
        AnnotationError: a list does not exist, or there are no videos.
    """
    # By path, because folders and lists may overlap.
    found: dict[str, ListedVideo] = {}
    for name in names:
        place = Path(name)
        if place.is_dir():
            videos = [ListedVideo(file, os.path.relpath(file, place)) for file in files_below(place, VIDEO_SUFFIXES)]
        elif place.suffix.lower() in LIST_SUFFIXES:
            videos = _videos_of_list(place, prefix)
        else:
            videos = [ListedVideo(name, place.name)]
        for video in videos:
            # A video may be in a folder and in a list; its label is the first one.
            found.setdefault(video.path, video)
    if not found:
        raise AnnotationError(f"no videos in {', '.join(names)}")
    return list(found.values())


def _videos_of_list(place: Path, prefix: str) -> list[ListedVideo]:
    videos = []
    for line in read_lines(place):
        text = line.strip()
        if not text:
            continue
        fields = split_line(text, " ")
        labeled = fields is not None and WHOLE_NUMBER.fullmatch(fields[1]) is not None
        # Lists without labels are accepted, too; then the whole line is the path.
        written, label = fields if fields is not None and labeled else (unquote(text), "")
        path = os.path.join(prefix, written) if prefix else written
        # Paths of our own lists are relative to the list.
        if not prefix and not os.path.exists(path):
            path = os.path.join(place.parent, written)
        videos.append(ListedVideo(path, written, label))
    return videos
