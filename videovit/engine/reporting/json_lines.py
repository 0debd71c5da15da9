"""Files of one JSON record a line, to which runs append; a full disk or a power cut may have left half a line."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import simplejson

from videovit.errors import UserError


class RecordError(UserError):
    """A record could not be written."""


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line, on a new one behind half a line; numbers that are not finite become null.

    Raises:
        RecordError: the file cannot be written, or the disk is full.
    """
    try:
        with open(path, "ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write(simplejson.dumps(record, ignore_nan=True).encode() + b"\n")
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise RecordError(f"{path}: could not be written, {free:,} bytes free: {error.strerror}") from error


def read_records(path: Path, *, word: str = "") -> list[dict[str, Any]]:
    """The records of a file, oldest first; what is no record is left out. None where there is no file.

    Args:
        word: only records whose line holds it, which is found faster than they are parsed.
    """
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if word in line:
            with contextlib.suppress(ValueError):
                records.append(simplejson.loads(line))
    return [record for record in records if isinstance(record, dict)]
