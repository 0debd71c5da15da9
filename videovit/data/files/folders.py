"""Files with given suffixes in a folder and its subfolders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    ".mp4 .mkv .webm .avi .mov .m4v .ts .mts .m2ts .mpg .mpeg .vob .flv .wmv .asf .3gp .ogv".split()
)


def files_below(folder: str | Path, suffixes: Collection[str]) -> list[str]:
    """The sorted paths of all files with one of these suffixes, in any case.

    Hidden entries are skipped. Links to folders are followed, except to a parent folder, which would be an endless
    loop. A folder that cannot be listed is skipped with a warning.
    """
    # Real paths, because a loop may go through several links.
    real = Path(os.path.realpath(folder))
    return sorted(_files_below(str(folder), suffixes, frozenset(map(str, (real, *real.parents)))))


def _files_below(folder: str, suffixes: Collection[str], parents: frozenset[str]) -> list[str]:
    """The same, unsorted; `parents` are the real paths of the folders above."""
    try:
        with os.scandir(folder) as listed:
            # macOS writes hidden ._ files beside videos, with the same suffix.
            entries = [entry for entry in listed if not entry.name.startswith(".")]
    except OSError as error:
        warnings.warn(f"{folder}: skipped, it cannot be listed: {error.strerror}", stacklevel=2)
        return []
    paths: list[str] = []
    for entry in entries:
        if not is_folder(entry):
            if os.path.splitext(entry.name)[1].lower() in suffixes:
                paths.append(entry.path)
        # A link to a folder above would be an endless loop.
        elif (real := os.path.realpath(entry.path)) not in parents:
            paths += _files_below(entry.path, suffixes, parents | {real})
    return paths


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_text(path: str) -> bool:
    """Whether a path is valid UTF-8. Linux allows other names, which Python represents with surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in path)
