"""Checksums of weight files: bits that a disk or a network changed must not become weights.

PyTorch writes a checksum of every entry of its zip files and does not look at it when it reads them. `.safetensors` has
none: files of this project carry their own. Files of before torch 1.6, and `.safetensors` of others, cannot be checked.
"""

from __future__ import annotations

import mmap
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

STATE_KEY = "videovit_crc32"  # in the metadata of a `.safetensors` file
_ZIP_MAGIC = b"PK\x03\x04"
_PIECE = 1 << 20  # bytes read at once
_THREADS = 4  # zlib releases the interpreter's lock


def verify_zip(path: Path) -> None:
    """Compare every entry of a zip file with its checksum; a file of another format passes.

    Raises:
        ValueError: an entry differs, or the file is not a whole zip file.
    """
    with open(path, "rb") as file:
        if file.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not any(entry.CRC for entry in entries):
                return  # `torch.serialization.set_crc32_options(False)` writes zeros

            def read(entry: zipfile.ZipInfo) -> None:
                with archive.open(entry) as content:  # raises at the end of an entry that differs
                    while content.read(_PIECE):
                        pass

            with ThreadPoolExecutor(_THREADS) as pool:
                for _ in pool.map(read, entries):
                    pass
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, LookupError) as error:
        differs = "damaged: content and checksum differ: " if "CRC-32" in str(error) else ""
        raise ValueError(f"{differs}{error}") from error


def file_crc(path: Path) -> int:
    """The checksum of a whole file."""
    with open(path, "rb") as file:
        if not path.stat().st_size:  # nothing to map
            return 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return zlib.crc32(content)


def state_crc(state: Mapping[str, Tensor]) -> str:
    """The checksum of tensors, with their names, types and shapes, as text."""
    crc = 0
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def not_finite(value: object, name: str = "") -> list[str]:
    """Names of tensors that are not finite, in a tensor or in nested dicts and lists; bits may have been changed."""
    if isinstance(value, Tensor):
        if value.is_meta or not value.is_floating_point():  # on meta, tensors have shapes alone
            return []
        return [] if bool(torch.isfinite(value.float()).all()) else [name]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in not_finite(item, f"{name}.{key}" if name else str(key))]
