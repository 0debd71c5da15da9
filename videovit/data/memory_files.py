"""Memory that two processes map: files without a name, passed on by their descriptors.

They need neither room in /dev/shm, of which containers have 64 MB, nor a folder. A file is gone when the last process
that holds it ends, however it ends.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import weakref
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Populating a mapping avoids a page fault for every 4 KiB.
_POPULATE = mmap.MAP_POPULATE if sys.platform == "linux" else 0


def create_file() -> int:
    """An empty memory file; returns its descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("frames", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_frames(frames: Tensor) -> int:
    """Write frames of any shape and type to a memory file; returns its descriptor.

    Raises:
        OSError: there is not enough memory.
    """
    handle = create_file()
    try:
        rest: memoryview = frames.contiguous().reshape(-1).view(torch.uint8).numpy().data
        while rest:
            rest = rest[os.write(handle, rest) :]
    except OSError:
        os.close(handle)
        raise
    return handle


def map_frames(handle: int, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
    """The frames in a memory file, without copying; closes the descriptor.

    Args:
        handle: descriptor of the file, from `write_frames`.
        shape: of the frames.
        dtype: of the frames.
    """
    try:
        size = int(np.prod(shape)) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        memory = mmap.mmap(handle, size, flags=mmap.MAP_SHARED | _POPULATE)
    finally:
        os.close(handle)
    return torch.from_numpy(np.frombuffer(memory, dtype=np.uint8)).view(dtype).reshape(shape)


class SharedNumbers:
    """int64 numbers that several processes read and write; may be passed to a process when it starts.

    Args:
        shape: of the array.
        handle: descriptor of the memory file, which this object closes; None makes a new file, full of zeros.

    Attributes:
        array: the numbers.
    """

    def __init__(self, shape: tuple[int, ...], handle: int | None = None) -> None:
        self._handle = create_file() if handle is None else handle
        weakref.finalize(self, os.close, self._handle)
        size = 8 * int(np.prod(shape))
        os.ftruncate(self._handle, size)
        self.array: NDArray[np.int64] = np.frombuffer(mmap.mmap(self._handle, size), dtype=np.int64).reshape(shape)

    def __reduce__(self) -> tuple[object, ...]:
        return _open_numbers, (self.array.shape, DupFd(self._handle))


def _open_numbers(shape: tuple[int, ...], handle: Any) -> SharedNumbers:
    return SharedNumbers(shape, handle.detach())
