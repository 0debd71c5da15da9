"""Pack videos into shards: tar files with an index, read by `videovit.data.decode.shards`, GNU tar and WebDataset.

A shard gets its name when it is complete, with a file that says what is in it. Stopped at any moment, packing the same
videos again keeps the complete shards.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from videovit.config.urls import is_remote, without_secrets
from videovit.data.columns import Columns, DamagedColumnsError, Texts, texts, write_columns
from videovit.data.decode.protocol import shorten
from videovit.data.decode.shards import INDEX, KEY, index_columns
from videovit.data.files.listed_paths import Folders, leads_out, quote, written_outside
from videovit.data.files.video_files import ListedVideo
from videovit.errors import UserError
from videovit.messages import plural, printable

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 22  # bytes that are copied at once
CONTENT = "members 1"  # key of the file that says what is in a shard
LABEL_SUFFIX = ".cls"  # of the file with the label of a video, as WebDataset expects it
LIST = "videos.csv"


@dataclass(frozen=True)
class Member:
    """A video to pack.

    Attributes:
        name: in the shards.
        path: of the file.
        size: in bytes.
        changed_ns: modification time.
        label: as listed; empty for none.
    """

    name: str
    path: str
    size: int
    changed_ns: int
    label: str


@dataclass(frozen=True)
class Packed:
    """What a shard holds: name, place, size and CRC-32 of each video."""

    shard: str
    names: Sequence[str]
    places: Sequence[int]
    sizes: Sequence[int]
    crcs: Sequence[int]


def members_of(videos: Sequence[ListedVideo], prefix: str) -> tuple[list[Member], list[tuple[str, str]]]:
    """What is packed, and which files cannot be, with the reasons.

    Args:
        videos: the videos; their names are the listed paths.
        prefix: folder of the listed paths; empty for none.

    Raises:
        UserError: the folder is remote, a listed path is absolute or leads out of it, or two paths are the same.
    """
    if is_remote(prefix):
        raise UserError(
            "remote videos cannot be packed",
            where=without_secrets(prefix),
            hint="Download them, pack them, and upload the shards",
        )
    members: list[Member] = []
    failed: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    folders = Folders()
    for video in videos:
        name = posixpath.normpath(video.written)
        if written_outside(name) or name == ".":
            raise UserError(
                "an absolute path, or one that leads out of its folder, cannot name a member",
                found=video.written,
                hint="Make the paths of the list relative to a folder, and give it as --prefix",
            )
        why = leads_out(name, prefix, folders) if prefix else None
        if why is not None:
            raise UserError(why, where=video.written)
        if name in seen:
            raise UserError(f"{printable(video.path)} and {printable(seen[name])} would both become {printable(name)}")
        seen[name] = video.path
        try:
            status = os.stat(video.path)
        except OSError as error:
            failed.append((video.path, error.strerror or str(error)))
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size:
            members.append(Member(name, video.path, status.st_size, status.st_mtime_ns, video.label))
        else:
            failed.append((video.path, "empty" if stat.S_ISREG(status.st_mode) else "not a regular file"))
    return members, failed


def plan_shards(members: Sequence[Member], size: int) -> list[list[Member]]:
    """Cut the members, in their order, into shards of at most `size` bytes; a larger one has a shard of its own."""
    shards: list[list[Member]] = []
    filled = 0
    for member in members:
        needed = member.size + 4 * BLOCK
        if not shards or filled + needed > size:
            shards.append([])
            filled = 0
        shards[-1].append(member)
        filled += needed
    return shards


def shard_name(number: int) -> str:
    """The name of a shard."""
    return f"shard-{number:06d}.tar"


def pack(shards: Sequence[Sequence[Member]], folder: Path) -> Iterator[tuple[Packed, list[tuple[str, str]]]]:
    """Write the shards that are not there yet.

    Args:
        shards: what each of them holds.
        folder: for the shards.

    Yields:
        What is in each shard, and the files that could not be read, with the reasons.

    Raises:
        UserError: a shard cannot be written.
    """
    for number, members in enumerate(shards):
        place = folder / shard_name(number)
        kept = read_content(place, members)
        if kept is not None:
            yield kept, []
            continue
        partial = place.with_name(f"{place.name}.partial")
        try:
            with open(partial, "wb") as file:
                packed, failed = write_shard(file, place.name, members)
                file.flush()
                os.fsync(file.fileno())
            if not failed:
                write_content(place, packed, members)
            os.replace(partial, place)
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=place) from None
        finally:
            partial.unlink(missing_ok=True)
        yield packed, failed


def write_shard(file: BinaryIO, name: str, members: Sequence[Member]) -> tuple[Packed, list[tuple[str, str]]]:
    """Write a tar file.

    Args:
        file: empty.
        name: of the shard.
        members: what it holds.

    Returns:
        What is in it, and the files that could not be read, with the reasons.

    Raises:
        OSError: it cannot be written.
    """
    rows: list[tuple[str, int, int, int]] = []
    failed: list[tuple[str, str]] = []
    for member in members:
        start = file.tell()
        file.write(header(member.name, member.size))
        place = file.tell()
        try:
            crc = copy(member, file)
        except ReadFailed as error:
            failed.append((member.path, str(error)))
            file.seek(start)
            file.truncate()
            continue
        file.write(bytes(-member.size % BLOCK))
        rows.append((member.name, place, member.size, crc))
        if member.label:
            label = member.label.encode()
            file.write(header(os.path.splitext(member.name)[0] + LABEL_SUFFIX, len(label)))
            file.write(label.ljust(BLOCK, b"\0"))
    file.write(bytes(2 * BLOCK))
    names, places, sizes, crcs = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Packed(name, names, places, sizes, crcs), failed


def header(name: str, size: int) -> bytes:
    """The header of a member: the same for the same name and size, whoever packs it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")


class ReadFailed(Exception):
    """A file cannot be packed; the message says why."""


def copy(member: Member, file: BinaryIO) -> int:
    """Copy a video; returns the CRC-32 of its bytes.

    Raises:
        ReadFailed: it cannot be read, or has changed since its size was taken.
    """
    crc, left = 0, member.size
    try:
        # Without waiting: a pipe would block until somebody writes to it.
        source = os.open(member.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ReadFailed(shorten(error)) from None
    try:
        while left:
            try:
                chunk = os.read(source, min(left, CHUNK))
            except OSError as error:
                raise ReadFailed(shorten(error)) from None
            if not chunk:
                raise ReadFailed("changed while it was packed")
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
            file.write(chunk)
        if os.fstat(source).st_mtime_ns != member.changed_ns:
            raise ReadFailed("changed while it was packed")
    finally:
        os.close(source)
    return crc


def content_file(shard: Path) -> Path:
    """The file that says what is in a shard."""
    return shard.with_name(f"{shard.name}.columns")


def write_content(shard: Path, packed: Packed, members: Sequence[Member]) -> None:
    """Write down what is in a shard, before it gets its name."""
    arrays = {
        **dict(zip(("names", "name_ends"), texts(packed.names), strict=True)),
        **dict(zip(("labels", "label_ends"), texts([member.label for member in members]), strict=True)),
        "place": np.array(packed.places, dtype=np.int64),
        "size": np.array(packed.sizes, dtype=np.int64),
        "crc": np.array(packed.crcs, dtype=np.int64),
        "changed": np.array([member.changed_ns for member in members], dtype=np.int64),
    }
    write_whole(content_file(shard), arrays, CONTENT)


def write_whole(path: Path, arrays: dict[str, np.ndarray], key: str) -> None:
    """Write a file of columns completely or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as file:
        write_columns(file.fileno(), arrays, key)
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_content(shard: Path, members: Sequence[Member]) -> Packed | None:
    """What is in a complete shard of exactly these members; None if there is none."""
    try:
        columns = Columns(os.open(content_file(shard), os.O_RDONLY | os.O_CLOEXEC))
        names, labels = Texts(columns["names"], columns["name_ends"]), Texts(columns["labels"], columns["label_ends"])
        places, sizes, crcs, changed = (columns[name].tolist() for name in ("place", "size", "crc", "changed"))
        shard_size = os.path.getsize(shard)
    except (OSError, DamagedColumnsError, KeyError):
        return None
    found = list(zip(names, sizes, changed, labels, strict=False))
    wanted = [(member.name, member.size, member.changed_ns, member.label) for member in members]
    if found != wanted or shard_size < places[-1] + sizes[-1] + 2 * BLOCK:
        return None
    return Packed(shard.name, list(names), places, sizes, crcs)


def write_index(folder: Path, shards: Sequence[Packed], labels: dict[str, str]) -> Path:
    """Write the index of all shards, and a list of the videos in them; remove shards of an earlier packing.

    Args:
        folder: of the shards.
        shards: what is in them.
        labels: name of a member -> label as listed.

    Returns:
        The list.

    Raises:
        UserError: they cannot be written.
    """
    names = [name for shard in shards for name in shard.names]
    numbers = [number for number, shard in enumerate(shards) for _ in shard.names]
    rows = [row for shard in shards for row in zip(shard.places, shard.sizes, shard.crcs, strict=True)]
    places, sizes, crcs = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    arrays = index_columns(names, [s.shard for s in shards], np.array(numbers, dtype=np.int64), places, sizes, crcs)
    listed = folder / LIST
    try:
        write_whole(folder / INDEX, arrays, KEY)
        partial = listed.with_name(f"{listed.name}.partial")
        text = "".join(f"{quote(name)} {labels[name]}".rstrip() + "\n" for name in names)
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")
        os.replace(partial, listed)
        for number in range(len(shards), len(shards) + 1_000_000):
            old = folder / shard_name(number)
            if not old.exists():
                break
            old.unlink()
            content_file(old).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"the index cannot be written: {error.strerror}", where=folder) from None
    return listed


def summary(shards: Sequence[Packed], folder: Path) -> str:
    """What was packed, and how to use it."""
    number, size = sum(len(shard.names) for shard in shards), sum(sum(shard.sizes) for shard in shards)
    return (
        f"{plural(number, 'video')}, {size / 1e9:.3g} GB, in {plural(len(shards), 'shard')}; read them with "
        f"DATA.PATH_PREFIX shards:{printable(folder)}"
    )
