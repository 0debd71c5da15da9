"""Videos in shards: tar files with an index, as `videovit pack` writes them.

    shards/index.columns         name -> shard, place, size, checksum
    shards/shard-000000.tar      what GNU tar and WebDataset read, too

With `shards:FOLDER` as DATA.PATH_PREFIX a listed path is the name of a member. A member is read by its place, in one go
and in any order; nothing is unpacked. Its bytes are checked, and given to a decoder in a memory file.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import zlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from videovit.data.columns import Array, Columns, DamagedColumnsError, Texts, texts
from videovit.data.decode.located import MEMORY_MB, Located, has_descriptors, memory_file
from videovit.data.decode.protocol import DecodeError, DecodeOptions, shorten
from videovit.messages import plural, printable

SCHEME = "shards:"
INDEX = "index.columns"
KEY = "shards 1"
SHARD_NAME = re.compile(r"[\w-][\w.-]*\.tar", re.ASCII)
MOST_OPEN = 16  # shards


def is_in_shards(path: str) -> bool:
    """Whether a path names a member of shards."""
    return path.startswith(SCHEME) and not isinstance(path, Located)


def number_of(name: str) -> int:
    """What members are sorted by: a hash of the name."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class ShardIndex:
    """The members of shards.

    Args:
        columns: as `index_columns` makes them.

    Raises:
        DamagedColumnsError: they contradict each other.
    """

    def __init__(self, columns: Columns) -> None:
        try:
            self.names = Texts(columns["names"], columns["name_ends"])
            self.shards = Texts(columns["shards"], columns["shard_ends"])
            self.hash_M, self.shard_M, self.place_M, self.size_M, self.crc_M = (
                columns[name] for name in ("hash", "shard", "place", "size", "crc")
            )
        except KeyError as error:
            raise DamagedColumnsError(f"no column {error}") from None
        number = len(self.names)
        columns_M = (self.hash_M, self.shard_M, self.place_M, self.size_M, self.crc_M)
        if columns.key != KEY or any(column.shape != (number,) for column in columns_M):
            raise DamagedColumnsError("not an index of shards")
        if not all(map(SHARD_NAME.fullmatch, self.shards)):
            raise DamagedColumnsError("a shard whose name is a path")
        if number and not (0 <= self.shard_M.min() <= self.shard_M.max() < len(self.shards)):
            raise DamagedColumnsError("a member of no shard")
        # Compared, because the difference of two hashes can be too large for its type.
        unsorted = (self.hash_M[1:] < self.hash_M[:-1]).any()
        if number and (self.place_M.min() < 0 or self.size_M.min() < 0 or unsorted):
            raise DamagedColumnsError("members out of order")

    def find(self, name: str) -> int | None:
        """The number of a member; None if there is none of this name."""
        wanted = number_of(name)
        row = int(np.searchsorted(self.hash_M, wanted))
        while row < len(self.names) and self.hash_M[row] == wanted:
            if self.names[row] == name:
                return row
            row += 1
        return None


def index_columns(
    names: Sequence[str], shards: Sequence[str], shard_M: Array, place_M: Array, size_M: Array, crc_M: Array
) -> dict[str, Array]:
    """The index of shards as arrays.

    Args:
        names: of the members.
        shards: names of the shards.
        shard_M: number of the shard of each member.
        place_M: where it begins in the shard, in bytes.
        size_M: its size in bytes.
        crc_M: its CRC-32.
    """
    hash_M = np.array([number_of(name) for name in names], dtype=np.int64)
    order = np.argsort(hash_M, kind="stable")
    return {
        **dict(zip(("names", "name_ends"), texts([names[row] for row in order.tolist()]), strict=True)),
        **dict(zip(("shards", "shard_ends"), texts(shards), strict=True)),
        "hash": hash_M[order],
        "shard": np.asarray(shard_M, dtype=np.int32)[order],
        "place": np.asarray(place_M, dtype=np.int64)[order],
        "size": np.asarray(size_M, dtype=np.int64)[order],
        "crc": np.asarray(crc_M, dtype=np.int64)[order],
    }


class Shards:
    """The shards of a folder, open for reading.

    Args:
        folder: the folder.

    Raises:
        OSError: the index cannot be read.
        DamagedColumnsError: it is damaged.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.index = ShardIndex(Columns(os.open(os.path.join(folder, INDEX), os.O_RDONLY | os.O_CLOEXEC)))
        self._handles: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def open(self, shard: int) -> tuple[int, int]:
        """Descriptor and modification time of a shard; the last few stay open, so that members cost no opening.

        Raises:
            OSError: it cannot be opened.
        """
        found = self._handles.pop(shard, None)
        if found is None:
            handle = os.open(os.path.join(self.folder, self.index.shards[shard]), os.O_RDONLY | os.O_CLOEXEC)
            found = handle, os.fstat(handle).st_mtime_ns
            if len(self._handles) >= MOST_OPEN:
                os.close(self._handles.popitem(last=False)[1][0])
        self._handles[shard] = found
        return found

    def close(self) -> None:
        """Close all shards."""
        while self._handles:
            os.close(self._handles.popitem()[1][0])


_open: dict[str, Shards] = {}


def _forget() -> None:
    while _open:
        _open.popitem()[1].close()


if hasattr(os, "register_at_fork"):
    # A helper process closes all descriptors that it inherits.
    os.register_at_fork(after_in_child=_forget)


def split_member(path: str, options: DecodeOptions, backend: str) -> tuple[str, str]:
    """The folder of the shards and the name of a member.

    Args:
        path: `shards:FOLDER/NAME`.
        options: `inside` is `shards:FOLDER`.
        backend: the decoder, for messages.

    Raises:
        DecodeError: the folder is unknown.
    """
    start = options.inside.rstrip("/") + "/"
    if not options.inside.startswith(SCHEME) or not path.startswith(start):
        raise DecodeError(path, f"videos in shards need DATA.PATH_PREFIX {SCHEME}FOLDER", backend)
    return options.inside.rstrip("/").removeprefix(SCHEME), path[len(start) :].lstrip("/")


def find_member(index: ShardIndex, path: str, name: str, backend: str) -> int:
    """The number of a member.

    Raises:
        DecodeError: there is none of this name, or it is empty.
    """
    row = index.find(name)
    row = index.find(posixpath.normpath(name)) if row is None else row
    if row is None:
        raise DecodeError(path, f"not among the {plural(len(index.names), 'member')} of the shards", backend)
    if index.size_M[row] == 0:
        raise DecodeError(path, "empty file (0 bytes)", backend)
    return row


def check_content(index: ShardIndex, row: int, content: bytes, path: str, backend: str) -> None:
    """Check what was read of a member.

    Raises:
        DecodeError: the shard ends too early, or its bytes have changed.
    """
    shard = index.shards[int(index.shard_M[row])]
    if len(content) < index.size_M[row]:
        wanted = int(index.place_M[row] + index.size_M[row])
        raise DecodeError(path, f"{shard} is truncated: it ends before byte {wanted:,}, where this video does", backend)
    if zlib.crc32(content) != index.crc_M[row]:
        raise DecodeError(path, f"{shard} is damaged: the checksum of this video differs", backend)


def locate_member(path: str, options: DecodeOptions, backend: str) -> Located:
    """Find a member of shards, and read it into memory unless it is very large.

    Args:
        path: `shards:FOLDER/NAME`.
        options: `inside` is `shards:FOLDER`.
        backend: the decoder, for messages.

    Raises:
        DecodeError: there is no such member, or its shard cannot be read, is truncated or damaged.
    """
    folder, name = split_member(path, options, backend)
    try:
        if folder not in _open:
            _open[folder] = Shards(folder)
        shards = _open[folder]
        index = shards.index
        row = find_member(index, path, name, backend)
        shard, place, size = (int(column[row]) for column in (index.shard_M, index.place_M, index.size_M))
        handle, changed = shards.open(shard)
        version = changed, size
        if size > MEMORY_MB << 20 or not has_descriptors():
            # Its checksum would need all of it.
            check_content_ends(shards, row, os.fstat(handle).st_size, path, backend)
            return Located.part_of(path, os.path.join(folder, index.shards[shard]), place, size, version)
        content = read_fully(handle, place, size)
        check_content(index, row, content, path, backend)
        return Located.in_memory(path, memory_file(content), version)
    except FileNotFoundError as error:
        missing = os.path.basename(str(error.filename))
        raise DecodeError(path, f"{printable(missing)} does not exist in {printable(folder)}", backend) from None
    except DamagedColumnsError as error:
        raise DecodeError(path, f"{INDEX} of {printable(folder)} is damaged: {error}", backend) from None
    except OSError as error:
        raise DecodeError(path, shorten(error), backend) from None


def check_content_ends(shards: Shards, row: int, shard_size: int, path: str, backend: str) -> None:
    """Check that a shard holds a member whose bytes are not read as a whole.

    Raises:
        DecodeError: it does not.
    """
    index = shards.index
    if shard_size < index.place_M[row] + index.size_M[row]:
        check_content(index, row, b"", path, backend)


def read_fully(handle: int, place: int, size: int) -> bytes:
    """Bytes of a file; fewer only at its end."""
    parts: list[bytes] = []
    while size > 0 and (part := os.pread(handle, size, place)):
        parts.append(part)
        place, size = place + len(part), size - len(part)
    return b"".join(parts)
