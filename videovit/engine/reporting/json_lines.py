"""Append-only files with one JSON record per line; a full disk or a power cut may have left an incomplete line."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import simplejson

from videovit.errors import UserError


def append_record(path: Path, record: Mapping[str, object]) -> None:
    """Append a record as a line of its own; numbers that are not finite become null.

    Args:
        path: created if absent.
        record: JSON values by name.

    Raises:
        UserError: the file cannot be written, or the disk is full.
    """
    with writing(path), open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            # If the last write was cut off, ending that line keeps this record readable.
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read(1) == b"\n" else b"\n")
        file.write(simplejson.dumps(record, ignore_nan=True).encode() + b"\n")


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors about space: the disk is full, or a limit is reached."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file if it cannot be written in this block.

    Raises:
        UserError: for every error of the system; if it is about space, with the space that is left.
    """
    try:
        yield
    except OSError as error:
        free = ""
        if error.errno in NO_ROOM:
            with contextlib.suppress(OSError):
                # The folder itself may have been removed.
                folder = next(folder for folder in path.absolute().parents if folder.is_dir())
                free = f", {shutil.disk_usage(folder).free:,} bytes free"
        raise UserError(f"could not be written{free}: {error.strerror or error}", where=path) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all: the block writes to the path it gets, which then becomes `path`.

    Yields:
        A path in the same folder with the same suffix.

    Raises:
        UserError: see `writing`.
    """
    partial = _partial(path)
    with writing(path):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):  # gone, if it was renamed
                partial.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder for results, with those above it, unless there is one.

    Raises:
        UserError: see `writing`.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def check_replaceable(path: Path) -> None:
    """Fail early: before minutes of work, make sure that `replacing` can write the file at its end.

    Raises:
        UserError: see `writing`.
    """
    partial = _partial(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            partial.touch()
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def read_records(path: Path, *, word: str = "") -> list[dict[str, Any]]:
    """Read all records, oldest first; lines that are not a JSON object are skipped.

    Args:
        path: a missing file holds no records.
        word: read only lines that contain it. Searching text is much faster than parsing JSON.

    Returns:
        The records.
    """
    if not path.is_file():
        return []
    records = []
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            if word in line:
                with contextlib.suppress(ValueError, RecursionError):
                    records.append(simplejson.loads(line))
    return [record for record in records if isinstance(record, dict)]
