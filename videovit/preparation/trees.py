"""Videos in class folders, which may be in folders of splits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from videovit.data.decode.image_backend import SUFFIXES
from videovit.data.files.folders import VIDEO_SUFFIXES, split_files, suffix_of
from videovit.data.records import AnnotationError
from videovit.preparation.splits import SPLIT_NAMES


def find_tree(folder: Path) -> tuple[list[Path], list[str]]:
    """The videos below a folder, relative to it, and the paths of all files that belong to none.

    A folder of images without videos in or below it is a video of frames, as in training; but a class folder is not.
    """
    files, others = split_files(folder, VIDEO_SUFFIXES)
    videos = [Path(path).relative_to(folder) for path in files]
    with_videos = {parent for video in videos for parent in video.parents}
    holders = {Path(path).parent.relative_to(folder) for path in others if suffix_of(path) in SUFFIXES}
    frames = [holder for holder in holders - with_videos if len(holder.parts) > 1]
    depth = 2 if is_divided(folder, videos + frames) else 1
    frames = [holder for holder in frames if len(holder.parts) > depth]
    used = {str(folder / holder) for holder in frames}
    left = [path for path in others if os.path.dirname(path) not in used or suffix_of(path) not in SUFFIXES]
    return sorted(videos + frames), left


def is_divided(folder: Path, videos: Sequence[Path]) -> bool:
    """Whether the videos are in class folders inside folders train, val and test (in any case).

    Raises:
        AnnotationError: some are and others are not.
    """
    classes = {video.parts[0] for video in videos if video.parts[0].lower() not in SPLIT_NAMES}
    splits = {video.parts[0] for video in videos if len(video.parts) > 2} - classes
    if splits and classes:
        raise AnnotationError(
            f"{str(folder)!r} contains both the split {min(splits)!r} and {min(classes)!r}",
            expected=f"either folders of splits ({', '.join(SPLIT_NAMES)}) with class folders, or class folders only",
        )
    return not classes
