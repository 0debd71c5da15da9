"""The videos given to a command-line tool: files, folders, and lists with optional labels after the paths."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videovit.config.urls import ANY_SCHEME, folder_fault, without_secrets
from videovit.data.decode.image_backend import SUFFIXES
from videovit.data.files.annotation_files import WHOLE_NUMBER, read_lines
from videovit.data.files.folders import VIDEO_SUFFIXES, passed_over, split_files, suffix_of
from videovit.data.files.listed_paths import split_line, unquote
from videovit.data.records import AnnotationError

LIST_SUFFIXES = frozenset({".csv", ".txt", ".lst", ".tsv"})


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A video.

    Attributes:
        path: the file.
        written: as in the list or folder.
        label: what followed it in the list; empty for none.
        by_suffix: False for a file of a folder whose suffix is not that of a video.
    """

    path: str
    written: str
    label: str = ""
    by_suffix: bool = True


def find_videos(names: Sequence[str], *, prefix: str = "", every_suffix: bool = False) -> list[ListedVideo]:
    """The videos in files, folders (searched recursively) and lists, each once.

    Args:
        names: paths from the command line.
        prefix: folder of the paths in lists; by default the current folder, then the folder of the list.
        every_suffix: return files of folders whatever their suffix, except images and lists. A warning names those
            that are left out.

    Raises:
        AnnotationError: a list does not exist, there are no videos, or a name is a URL.
    """
    if fault := folder_fault(prefix.removeprefix("shards:"))[0]:
        raise AnnotationError(fault, where=without_secrets(prefix))
    # By path, because folders and lists may overlap.
    found: dict[str, ListedVideo] = {}
    for name in names:
        place = Path(name)
        if ANY_SCHEME.match(name) and not place.exists():
            raise AnnotationError(
                "a URL; remote videos are read from a list of their paths",
                where=without_secrets(name),
                hint="Give a local list, and the URL of the folder of its videos as --prefix",
            )
        if place.is_dir():
            found_here, others = split_files(place, VIDEO_SUFFIXES)
            # Folders of frames may hold millions of images.
            tried = [file for file in others if every_suffix and suffix_of(file) not in SUFFIXES | LIST_SUFFIXES]
            if left := sorted(set(others) - set(tried)):
                warnings.warn(passed_over(place, left), stacklevel=2)
            videos = [ListedVideo(file, os.path.relpath(file, place)) for file in found_here]
            videos += [ListedVideo(file, os.path.relpath(file, place), by_suffix=False) for file in tried]
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
