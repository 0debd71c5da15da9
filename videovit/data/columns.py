"""Arrays in one file, mapped into memory: processes that open the file share its pages.

A file begins with MAGIC, the length of a header and the header, JSON with the type, shape and place of every array. It
holds numbers only, and is checked before it is used, because a file beside a list may come from a stranger.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videovit.data.memory_files import create_file

MAGIC = b"videovit columns 1\n"
ALIGNMENT = 64  # bytes
TYPES = frozenset({"uint8", "int8", "int16", "int32", "int64", "float64"})
LONGEST_HEADER = 1 << 20  # bytes

Array = NDArray[Any]


class DamagedColumnsError(ValueError):
    """A file does not hold columns, or not all of them."""


class Columns(Mapping[str, Array]):
    """The arrays of a file, by name. It stays open after the file was removed, and may be passed to other processes.

    Args:
        handle: descriptor of the file, which this object closes.

    Attributes:
        key: what the file was made from, as given to `write_columns`.

    Raises:
        DamagedColumnsError: the file is no file of columns, or was cut off.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        weakref.finalize(self, os.close, handle)
        try:
            memory = mmap.mmap(handle, 0, prot=mmap.PROT_READ)
            header = _read_header(memory)
            self.key = str(header["key"])
            self._arrays = {str(name): _view(memory, *place) for name, place in header["arrays"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedColumnsError(str(error)) from None

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[object, ...]:
        return _open_columns, (DupFd(self._handle),)


def _open_columns(handle: Any) -> Columns:
    return Columns(handle.detach())


def _read_header(memory: mmap.mmap) -> dict[str, Any]:
    if memory[: len(MAGIC)] != MAGIC:
        raise ValueError("not a file of columns")
    start = len(MAGIC) + 8
    length = int.from_bytes(memory[len(MAGIC) : start], "little")
    if length > LONGEST_HEADER:
        raise ValueError("header too long")
    header: dict[str, Any] = json.loads(memory[start : start + length])
    if header["size"] != len(memory):
        raise ValueError(f"{len(memory)} bytes instead of {header['size']}")
    return header


def _view(memory: mmap.mmap, kind: str, shape: Sequence[int], offset: int) -> Array:
    if kind not in TYPES or any(length < 0 for length in shape) or offset < 0:
        raise ValueError("an array that cannot be")
    count = math.prod(shape)
    # An array without elements may lie at the end of the file, where there is nothing to map.
    array: Array = np.frombuffer(memory, dtype=kind, count=count, offset=offset) if count else np.empty(0, dtype=kind)
    return array.reshape(shape)


def write_columns(handle: int, arrays: Mapping[str, Array], key: str = "") -> None:
    """Write arrays to an empty file.

    Args:
        handle: its descriptor.
        arrays: by name, of TYPES.
        key: what they were made from.

    Raises:
        OSError: there is no room.
    """
    places: dict[str, tuple[str, Sequence[int], int]] = {}
    size = 0
    # The header states places, and its length changes them: reserve a length first.
    room = ALIGNMENT * (4 + 2 * len(arrays)) + len(key)
    for name, array in arrays.items():
        size = -(-(size or len(MAGIC) + 8 + room) // ALIGNMENT) * ALIGNMENT
        places[name] = str(array.dtype), array.shape, size
        size += array.nbytes
    header = json.dumps({"key": key, "arrays": places, "size": size}).encode()
    assert len(header) <= room, "the header of columns outgrows its room"
    header = header.ljust(room)
    with os.fdopen(os.dup(handle), "wb") as file:
        file.write(MAGIC + len(header).to_bytes(8, "little") + header)
        for name, array in arrays.items():
            file.write(bytes(places[name][2] - file.tell()))
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def columns_in_memory(arrays: Mapping[str, Array], key: str = "") -> Columns:
    """Arrays in a memory file, which forked and spawned processes share.

    Args:
        arrays, key: see `write_columns`.
    """
    handle = create_file()
    write_columns(handle, arrays, key)
    return Columns(handle)


class Texts(Sequence[str]):
    """Strings in two arrays.

    Args:
        bytes_: UTF-8 of all strings, one after the other.
        ends_N: where each of them ends.

    Raises:
        DamagedColumnsError: the ends do not ascend, or lie outside.
    """

    def __init__(self, bytes_: Array, ends_N: Array) -> None:
        check_ends(ends_N, len(bytes_))
        self.bytes, self.ends_N = bytes_, ends_N

    def __len__(self) -> int:
        return len(self.ends_N)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self.between(start, max(start, stop))
            return [self[i] for i in range(start, stop, step)]
        index = range(len(self))[index]
        return self.between(index, index + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self.between(start, min(start + CHUNK, len(self)))

    def between(self, start: int, stop: int) -> list[str]:
        """The strings from `start` up to `stop`."""
        if start >= stop:
            return []
        first = int(self.ends_N[start - 1]) if start else 0
        ends = (self.ends_N[start:stop] - first).tolist()
        whole = self.bytes[first : first + ends[-1]].tobytes()
        return [whole[a:b].decode("utf-8", "surrogateescape") for a, b in zip([0, *ends[:-1]], ends, strict=True)]


CHUNK = 4096  # rows that are turned into Python objects at once


def check_ends(ends_N: Array, length: int) -> None:
    """Check the ends of consecutive parts of an array.

    Raises:
        DamagedColumnsError: they do not ascend from 0 to the length of the array.
    """
    if len(ends_N) and (ends_N[0] < 0 or ends_N[-1] != length or (np.diff(ends_N) < 0).any()):
        raise DamagedColumnsError("parts outside of their array")


def texts(strings: Sequence[str]) -> tuple[Array, Array]:
    """Strings as the arrays of `Texts`."""
    encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
    ends_N = np.cumsum([len(one) for one in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), ends_N
