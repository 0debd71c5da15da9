"""How workers hand over their batches: frames in memory files, everything else through PyTorch's queue.

    worker   frames -> memory file -> its descriptor, by a socket ---> owner   maps the file
             labels, indices, ... -> PyTorch's queue ---------------->         puts the Batch together

PyTorch would copy every tensor to /dev/shm and pass descriptors through sockets in TMPDIR. If /dev/shm is full, or the
path of a socket too long, that fails in a thread of the worker, which drops the batch, and the owner waits forever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videovit.data.memory_files import map_frames, write_frames
from videovit.data.records import Batch, Item
from videovit.errors import UserError

NAME_BYTES = 16  # random, so that no two batches of any worker have the same name
HANDOVER_HINT = (
    "Fewer DATA_LOADER.NUM_WORKERS, a smaller batch or a higher limit (ulimit -n; memory of the container) helps"
)


class Mailbox:
    """Receives the memory files of all workers of a loader.

    Attributes:
        outlet: where workers send; passed on to them when they start.
        number: finds the mailbox again in the process that owns it.
    """

    def __init__(self) -> None:
        self._inlet, self.outlet = socket.socketpair()
        self._inlet.setblocking(False)
        self._arrived: dict[bytes, int] = {}
        self.number = next(_numbers)
        _mailboxes[self.number] = self

    def collect(self) -> None:
        """Take out what has arrived, so that no worker waits for room in the socket.

        Raises:
            OSError: this process has too many open files.
        """
        with contextlib.suppress(BlockingIOError):
            while True:
                name, handles, _, _ = socket.recv_fds(self._inlet, NAME_BYTES, 1)
                if not handles:
                    raise OSError("the descriptor of a batch could not be received: too many open files?")
                self._arrived[name] = handles[0]

    def take(self, name: bytes) -> int:
        """The descriptor of a memory file, which its worker has sent before its name.

        Raises:
            OSError: see `collect`.
        """
        self.collect()
        return self._arrived.pop(name)

    def __del__(self) -> None:
        for handle in self._arrived.values():
            os.close(handle)
        self._inlet.close()
        self.outlet.close()


_numbers = count()
_mailboxes: weakref.WeakValueDictionary[int, Mailbox] = weakref.WeakValueDictionary()  # of this process
_outlet: tuple[socket.socket, int] | None = None  # in a worker: where it sends, and the number of the mailbox


def send_to(outlet: socket.socket, number: int) -> None:
    """In a worker: send frames to this mailbox from now on."""
    global _outlet
    _outlet = outlet, number


class Lost:
    """A batch that could not be received; its error is raised when the batch is requested."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def pin_memory(self) -> Lost:
        return self


class Parcel:
    """A batch on its way; becomes a Batch again, or `Lost`, when it is unpickled.

    Args:
        batch: its frames are sent to the mailbox at once.

    Raises:
        UserError: there is no memory for it.
    """

    def __init__(self, batch: Batch, outlet: socket.socket, number: int) -> None:
        name = os.urandom(NAME_BYTES)
        try:
            handle = write_frames(batch.frames_BTHWC)
            try:
                socket.send_fds(outlet, [name], [handle])
            finally:
                os.close(handle)
        except OSError as error:
            raise UserError(f"a worker could not hand over a batch: {error.strerror}", hint=HANDOVER_HINT) from error
        # As arrays: PyTorch has registered its own way to pickle tensors for queues.
        rest = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "frames_BTHWC"}
        arrays = {key: value.numpy() if isinstance(value, Tensor) else value for key, value in rest.items()}
        frames = batch.frames_BTHWC
        self._arguments = number, name, tuple(frames.shape), frames.dtype, arrays

    def __reduce__(self) -> tuple[object, ...]:
        return _open, self._arguments


def _open(number: int, name: bytes, shape: tuple[int, ...], dtype: torch.dtype, arrays: dict[str, Any]) -> Batch | Lost:
    try:
        frames_BTHWC = map_frames(_mailboxes[number].take(name), shape, dtype)
    except OSError as error:  # not raised: PyTorch unpickles in a thread that would end, and with it all batches
        return Lost(error)
    rest: dict[str, Any] = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in arrays.items()}
    return Batch(frames_BTHWC=frames_BTHWC, **rest)


class HandedOver:
    """What collates items and, in a worker, hands the batch over.

    Args:
        collate: items -> batch.
    """

    def __init__(self, collate: Callable[[Sequence[Item]], Batch]) -> None:
        self._collate = collate

    def __call__(self, items: Sequence[Item]) -> Batch | Parcel:
        batch = self._collate(items)
        return batch if _outlet is None else Parcel(batch, *_outlet)
