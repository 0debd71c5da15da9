"""Where the bytes of a video are: in its own file, in part of a shard, in memory, or in the cache of a remote file.

A decoder gets a path as listed, which names the video in messages and caches. `Located` is such a path that knows where
the bytes are, so one `stat` serves all who ask.
"""

from __future__ import annotations

import contextlib
import io
import mimetypes
import os
import stat
import weakref
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import BinaryIO

from videovit.config.urls import is_remote
from videovit.data.decode.protocol import DecodeError, DecodeOptions, Version, shorten
from videovit.data.files.listed_paths import is_inside
from videovit.data.memory_files import create_file
from videovit.messages import printable

MEMORY_MB = 64  # larger videos are not read into memory as a whole
_DESCRIPTORS = "/proc/self/fd"


class Located(str):
    """The path of a video as listed.

    Attributes:
        file: what holds its bytes.
        start: where they begin in it.
        size: number of bytes.
        part: whether they are only a part of the file.
        version: see `Version`.
    """

    file: str
    start: int
    size: int
    part: bool
    version: Version

    @classmethod
    def whole(cls, path: str, file: str, status: os.stat_result) -> Located:
        """A video that is a whole file."""
        return cls._make(path, file, 0, status.st_size, (status.st_mtime_ns, status.st_size), part=False)

    @classmethod
    def part_of(cls, path: str, file: str, start: int, size: int, version: Version) -> Located:
        """A video that is a part of a file."""
        return cls._make(path, file, start, size, version, part=True)

    @classmethod
    def in_memory(cls, path: str, handle: int, version: Version) -> Located:
        """A video in a memory file, which is closed when the last object that names it is gone."""
        located = cls._make(path, f"{_DESCRIPTORS}/{handle}", 0, os.fstat(handle).st_size, version, part=False)
        weakref.finalize(located, os.close, handle)
        return located

    @classmethod
    def _make(cls, path: str, file: str, start: int, size: int, version: Version, *, part: bool) -> Located:
        located = cls(path)
        located.file, located.start, located.size, located.version, located.part = file, start, size, version, part
        return located


def locate(path: str, options: DecodeOptions, backend: str) -> Located:
    """Find a file with a single system call, and check that it can be read.

    Args:
        path: the file.
        options: the folder that its samples must stay in.
        backend: the decoder, for messages.

    Returns:
        The path, with the place of its bytes.

    Raises:
        DecodeError: it is missing, a folder, not a regular file, empty, or leads out of its folder.
    """
    if isinstance(path, Located):
        return path
    try:
        status = os.lstat(path)
        linked = stat.S_ISLNK(status.st_mode)
        if linked:
            status = os.stat(path)
    except FileNotFoundError:
        hint = "; write / in lists, not backslashes" if "\\" in path else ""
        hint = "; a URL is read only below DATA.PATH_PREFIX" if is_remote(path) else hint
        raise DecodeError(path, f"file does not exist{hint}", backend) from None
    except (OSError, ValueError) as error:
        raise DecodeError(path, shorten(error), backend) from None
    check_inside(path, path, options, backend, linked=linked)
    if stat.S_ISDIR(status.st_mode):
        raise IsFolderError(path, "is a folder, not a file", backend)
    # Opening a named pipe would block forever.
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(path, "is not a regular file", backend)
    if status.st_size == 0:
        raise DecodeError(path, "empty file (0 bytes)", backend)
    return Located.whole(path, path, status)


class IsFolderError(DecodeError):
    """A path leads to a folder, which may be one of images."""


def check_inside(path: str, file: str, options: DecodeOptions, backend: str, *, linked: bool = True) -> None:
    """Reject a file of a sample in options.inside that is elsewhere.

    Args:
        path: the sample. One that is outside by its own path was not listed relative to the folder.
        file: the sample itself, or one of its images.
        options: the folder.
        backend: the decoder.
        linked: whether the file itself may be a symbolic link.

    Raises:
        DecodeError: the file leads out, by `..` or a symbolic link.
    """
    folder = options.inside
    if not folder or not is_inside(os.path.normpath(path), os.path.normpath(folder)):
        return
    above, name = os.path.split(file)
    if linked or name in ("", ".", ".."):
        real = os.path.realpath(file)
    else:
        # Resolving every path would look at each of its folders for every video.
        real = os.path.join(_real_folder(os.path.abspath(above)), name)
    if not is_inside(real, _real_folder(os.path.abspath(folder))):
        what = "" if file == path else f"{printable(file)} "
        raise DecodeError(path, f"{what}leads out of DATA.PATH_PREFIX {folder!r}, to {real!r}", backend)


@lru_cache(maxsize=100_000)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def check_file(path: str, backend: str) -> Version:
    """Check that a path is a non-empty file, before a decoder sees it.

    Raises:
        DecodeError: it is missing, a folder, not a regular file, or empty.
    """
    return locate(path, DecodeOptions(), backend).version


class PartReader:
    """A part of a file as PyAV reads it.

    Args:
        path: of the video.

    Attributes:
        name: as of a file of its own, since its suffix helps FFmpeg to find the format.
    """

    def __init__(self, path: Located) -> None:
        # By the suffix of an image, FFmpeg would choose a demuxer that opens files by itself.
        is_image = (mimetypes.guess_type(path)[0] or "").startswith("image/")
        self.name = "" if is_image else f"file:{path}"
        self._file = io.FileIO(path.file)
        self._start, self._size, self._place = path.start, path.size, 0

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        left = max(0, self._size - self._place)
        content = os.pread(self._file.fileno(), left if size < 0 else min(size, left), self._start + self._place)
        self._place += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; returns the new place."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        """The place."""
        return self._place


def input_of(path: str) -> str | PartReader:
    """What PyAV opens."""
    if not isinstance(path, Located):
        return f"file:{path}"
    # A memory file has no suffix.
    return PartReader(path) if path.part or path.file.startswith(_DESCRIPTORS) else f"file:{path.file}"


def url_of(path: str) -> str:
    """What other decoders open: an absolute path, or part of a file in FFmpeg's words.

    A relative path such as http://a/b.mp4 would be a URL to them, although it may be a file.
    """
    if isinstance(path, Located) and path.part:
        return f"subfile,,start,{path.start},end,{path.start + path.size},,:file:{os.path.abspath(path.file)}"
    return os.path.abspath(path.file if isinstance(path, Located) else path)


def size_of(path: str) -> int:
    """The size of a video in bytes."""
    return path.size if isinstance(path, Located) else os.path.getsize(path)


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The bytes of a video as a file that begins with them; a part is read into memory."""
    if not isinstance(path, Located):
        with open(path, "rb") as file:
            yield file
        return
    with open(path.file, "rb") as file:
        if not path.part:
            yield file
            return
        file.seek(path.start)
        yield io.BytesIO(file.read(path.size))


def content_of(path: str) -> bytes:
    """The bytes of a video or image.

    Raises:
        OSError: they cannot be read.
    """
    with opened(path) as file:
        return file.read()


def read_once(path: str) -> str:
    """A video of moderate size in memory, for decoders that open it several times; else the path itself.

    Opening a file is what is slow on network storage.
    """
    if not isinstance(path, Located) or path.part or path.size > MEMORY_MB << 20 or not has_descriptors():
        return path
    if path.file.startswith(_DESCRIPTORS):
        return path
    try:
        handle = memory_file(content_of(path))
    except OSError:
        return path  # the decoder says why
    return Located.in_memory(path, handle, path.version)


@cache
def has_descriptors() -> bool:
    """Whether open files have paths, so that decoders can open memory files."""
    return os.path.isdir(_DESCRIPTORS)


def memory_file(content: bytes) -> int:
    """A memory file with this content; returns its descriptor.

    Raises:
        OSError: there is not enough memory.
    """
    handle = create_file()
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
    except OSError:
        os.close(handle)
        raise
    return handle
