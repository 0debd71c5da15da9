"""How much memory a weight file may fill: not much more than its size, since weights hardly compress."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

from torch import Tensor

# Tied weights are stored once and counted twice; small files may contain anything.
MOST_TIMES, ALWAYS_ALLOWED = 4, 64 << 20  # bytes


def reason_against_archive(file: str | Path | IO[bytes], num_bytes: int) -> str:
    """Why a file of `torch.save` must not be opened; empty if it may be, or if it is no zip archive.

    Args:
        file: the file, or a part of one.
        num_bytes: its size.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    # Older files are no archives, and damage is for PyTorch to report.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""
    return _reason(total, num_bytes, "is compressed, which PyTorch never does, and unpacks")


def reason_against_tensors(content: object, num_bytes: int) -> str:
    """Why the tensors of a weight file must not be used; empty if they may be.

    A tensor can repeat a few stored numbers without end; copying it would fill the memory.

    Args:
        content: what was read from the file.
        num_bytes: size of the file.
    """
    total, seen = 0, set()
    stack: list[object] = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            # A list may contain itself, or one other list a thousand times.
            seen.add(id(value))
            stack += value.values() if isinstance(value, dict) else value
    return _reason(total, num_bytes, "has tensors that repeat their numbers, and unfolds")


def _reason(total: int, num_bytes: int, what: str) -> str:
    allowed = max(MOST_TIMES * num_bytes, ALWAYS_ALLOWED)
    return f"{what} to {total:,} bytes, {MOST_TIMES} times its {num_bytes:,} or more" if total > allowed else ""
