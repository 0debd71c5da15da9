"""Files with given suffixes in a folder and its subfolders, and what is passed over there."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from videovit.messages import plural, printable

VIDEO_SUFFIXES = frozenset(
    ".mp4 .mkv .webm .avi .mov .m4v .ts .mts .m2ts .mpg .mpeg .vob .flv .wmv .asf .3gp .ogv .gif .3g2 .mxf .f4v .divx "
    ".h264 .264 .h265 .265 .hevc .m2v .mjpeg .mjpg .ivf .y4m .nut .dv .rm .rmvb .m2p .qt .mj2".split()
)
MOST_SUFFIXES_SHOWN = 6


def files_below(folder: str | Path, suffixes: Collection[str]) -> list[str]:
    """The sorted paths of all files with one of these suffixes, in any case; warns about what is passed over.

    Hidden entries are skipped. Links to folders are followed, except to a parent folder, which would be an endless
    loop. A folder that cannot be listed is skipped with a warning.
    """
    found, others = split_files(folder, suffixes)
    if others:
        warnings.warn(passed_over(folder, others), stacklevel=2)
    return found


def split_files(folder: str | Path, suffixes: Collection[str]) -> tuple[list[str], list[str]]:
    """The sorted paths of the files with one of these suffixes, and of all others; see `files_below`."""
    # Real paths, because a loop may go through several links.
    real = Path(os.path.realpath(folder))
    paths = sorted(_files_below(str(folder), frozenset(map(str, (real, *real.parents)))))
    found = [path for path in paths if suffix_of(path) in suffixes]
    return found, [path for path in paths if suffix_of(path) not in suffixes]


def suffix_of(path: str) -> str:
    """The suffix of a file in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def passed_over(folder: str | Path, paths: Iterable[str]) -> str:
    """The message about files that are left out because of their suffixes: how many of each, and one of them."""
    paths = list(paths)
    example: dict[str, str] = {}
    for path in paths:
        example.setdefault(suffix_of(path), os.path.relpath(path, folder))
    counts = Counter(map(suffix_of, paths)).most_common()
    shown = [f"{printable(suffix) or 'no suffix'} ({n}: {printable(example[suffix])})" for suffix, n in counts]
    more = f" and {len(shown) - MOST_SUFFIXES_SHOWN} more suffixes" if len(shown) > MOST_SUFFIXES_SHOWN else ""
    listed = ", ".join(shown[:MOST_SUFFIXES_SHOWN]) + more
    return f"{printable(folder)}: {plural(len(paths), 'file')} left out: {listed}"


def _files_below(folder: str, parents: frozenset[str]) -> list[str]:
    """All files, unsorted; `parents` are the real paths of the folders above."""
    try:
        with os.scandir(folder) as listed:
            # macOS writes hidden ._ files beside videos, with the same suffix.
            entries = [entry for entry in listed if not entry.name.startswith(".")]
    except OSError as error:
        warnings.warn(f"{printable(folder)}: skipped, it cannot be listed: {error.strerror}", stacklevel=2)
        return []
    paths: list[str] = []
    for entry in entries:
        if not is_folder(entry):
            paths.append(entry.path)
        # A link to a folder above would be an endless loop.
        elif (real := os.path.realpath(entry.path)) not in parents:
            paths += _files_below(entry.path, parents | {real})
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
