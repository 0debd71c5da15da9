"""Files of a kind in a folder and below."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    ".mp4 .mkv .webm .avi .mov .m4v .ts .mts .m2ts .mpg .mpeg .vob .flv .wmv .asf .3gp .ogv".split()
)


def files_below(folder: str | Path, suffixes: Collection[str]) -> list[str]:
    """The paths of files with one of these suffixes (in any case), sorted.

    What is hidden is left out. Links to folders are followed, but for those to a folder that holds them: they would
    lead round in circles. A folder that cannot be listed is left out with a warning.
    """
    real = Path(os.path.realpath(folder))
    return sorted(_files_below(str(folder), suffixes, frozenset(map(str, (real, *real.parents)))))


def _files_below(folder: str, suffixes: Collection[str], around: frozenset[str]) -> list[str]:
    """The same, unsorted; `around` are the real paths of the folders on the way here."""
    try:
        with os.scandir(folder) as listed:
            entries = [entry for entry in listed if not entry.name.startswith(".")]
    except OSError as error:
        warnings.warn(f"{folder}: cannot be listed and is left out: {error.strerror}", stacklevel=2)
        return []
    paths: list[str] = []
    for entry in entries:
        if not is_folder(entry):
            if os.path.splitext(entry.name)[1].lower() in suffixes:
                paths.append(entry.path)
        elif (real := os.path.realpath(entry.path)) not in around:
            paths += _files_below(entry.path, suffixes, around | {real})
    return paths


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_text(path: str) -> bool:
    """Whether the name of a file can be written as UTF-8; Linux allows others, which Python spells with surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in path)
