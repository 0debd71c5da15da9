"""The videos of a data set in AVA's format: movies, folders of frames, or PySlowFast's frame lists."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from videovit.data.files.folders import VIDEO_SUFFIXES
from videovit.data.readers import frame_lists
from videovit.data.readers.ava import check_exists
from videovit.data.records import AnnotationError, Sample


def find_movies(folder: str | Path) -> dict[str, Sample]:
    """The video files of a folder, by name without suffix.

    Raises:
        AnnotationError: the folder cannot be listed, or two files have the same name.
    """
    movies: dict[str, Sample] = {}
    for name in _listing(folder, "AVA.MOVIE_DIR"):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in VIDEO_SUFFIXES or name.startswith("."):
            continue
        # The annotations name videos without suffix, so two files are ambiguous.
        if stem in movies:
            raise AnnotationError(
                f"{folder}: {name} and {os.path.basename(movies[stem].path)} have the same name {stem!r}"
            )
        movies[stem] = Sample(os.path.join(folder, name))
    return movies


def find_frame_folders(folder: str | Path) -> dict[str, Sample]:
    """The folders of images in `folder`, by name.

    Raises:
        AnnotationError: the folder cannot be listed.
    """
    return {
        name: Sample(os.path.join(folder, name))
        # Files beside the folders are ignored.
        for name in _listing(folder, "AVA.FRAME_DIR")
        if os.path.isdir(os.path.join(folder, name))
    }


def _listing(folder: str | Path, key: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise AnnotationError(f"{str(folder)!r} cannot be listed: {error.strerror}", where=key) from None


def read_frame_lists(paths: Iterable[str | Path], *, fps: float, frame_dir: str) -> dict[str, Sample]:
    """The videos in PySlowFast's frame lists: folders of images, with the number of images.

    Args:
        paths: the lists (AVA.TRAIN_LISTS or AVA.TEST_LISTS).
        fps: frame rate of the images.
        frame_dir: folder that their paths are relative to (AVA.FRAME_DIR).

    Raises:
        AnnotationError: a list cannot be used.
    """
    videos: dict[str, Sample] = {}
    for path in paths:
        check_exists(Path(path))
        # Labels of frame lists are not used: the boxes have them.
        videos |= frame_lists.read(path, num_classes=0, fps=fps, prefix=frame_dir, with_labels=False)
    return videos
