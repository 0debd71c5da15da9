"""Worker processes of a data loader: which signals they receive, and which video each of them is reading.

Schedulers signal every process of a job. A signal that ended a worker would end training with an error before a
checkpoint is saved, so workers, and the processes that they start, are created with these signals blocked. Only SIGTERM
from the owner of the loader, by which PyTorch ends a worker, still takes effect.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from videovit.data.handover import Mailbox, send_to
from videovit.data.memory_files import SharedNumbers
from videovit.data.records import Sample
from videovit.errors import UserError
from videovit.messages import problem

BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
NOTHING = -1
# How PyTorch passes on a UserError of a worker; the message is the last thing in it.
RAISED = re.compile(r"\ACaught .* in DataLoader worker .*^videovit\.[\w.]+Error: (.*)\Z", re.DOTALL | re.MULTILINE)
POLL_S = 5.0  # how often a worker checks that the owner of its loader is alive

_row: NDArray[np.int64] | None = None  # in a worker: its own row of the board


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Start processes in this context: they keep BLOCKED blocked; this process receives pending signals at its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def try_semaphores(num_workers: int) -> None:
    """Try whether /dev/shm has room for the semaphores of workers; PyTorch would start some and leave them.

    Raises:
        OSError: it has not.
    """
    # Three per queue: one queue per worker and one for all; and those of an event.
    semaphores = [multiprocessing.Lock() for _ in range(3 * (num_workers + 1) + 5)]
    del semaphores


@dataclass(frozen=True)
class Starter:
    """Sets up a worker process: one thread, blocked signals, its row of the board, and where it sends batches.

    Args:
        rows: of the board.
        outlet, number: of the loader's mailbox.
        owner: process that the loader belongs to.
    """

    rows: SharedNumbers
    outlet: socket.socket
    number: int
    owner: int

    def __call__(self, worker: int) -> None:
        global _row
        # The other cores belong to the other workers.
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        _row = self.rows.array[worker]
        _row[0] = os.getpid()
        send_to(self.outlet, self.number)
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        if hasattr(signal, "sigtimedwait"):
            threading.Thread(target=_end_with, args=(self.owner,), daemon=True).start()


class Board:
    """Which video each worker of a loader is reading, in shared memory.

    Args:
        samples: the samples of the data set, to name videos in messages.
        num_workers: number of workers of the loader.
        rank: rank of the process that the loader belongs to.

    Attributes:
        start_worker: to be called in a new worker, with its number.
    """

    def __init__(self, samples: Sequence[Sample], *, num_workers: int, rank: int) -> None:
        # Shared memory, not a queue: it still holds what a killed worker wrote last.
        numbers = SharedNumbers((max(1, num_workers), 3))
        self.rows = numbers.array  # pid, video, since (ns)
        self.rows[:] = NOTHING
        self._mailbox = Mailbox()
        self.start_worker = Starter(numbers, self._mailbox.outlet, self._mailbox.number, os.getpid())
        self._samples = samples
        self._rank = rank
        if num_workers:
            _boards.add(self)

    def collect(self) -> None:
        """See `Mailbox.collect`."""
        self._mailbox.collect()

    def explain(self, text: str) -> str | None:
        """Explain PyTorch's error about a worker of this loader by rank and video; None for other loaders' workers."""
        where = f"rank {self._rank}"
        # PyTorch raises RuntimeErrors without attributes, so their texts have to be parsed.
        killed = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", text)
        if killed:
            pids = {int(number) for number in killed[1].split(",")}
            found = [row for row in self.rows.tolist() if row[0] in pids]
            how = killed[2].strip().rstrip(".").replace("exited unexpectedly", "was killed or crashed")
            hint = "Usually memory ran out; fewer DATA_LOADER.NUM_WORKERS need less"
            if found:
                return problem(f"a data loader worker {how}{self._reading(found)}", where=where, hint=hint)
        return None

    def late(self, waited_s: float) -> UserError:
        """The error for a batch that has not arrived in time; names the videos that take longest."""
        busy = [row for row in self.rows.tolist() if row[1] != NOTHING]
        return UserError(
            f"no batch arrived from the data loader for {waited_s:g} s (DATA_LOADER.TIMEOUT)"
            f"{self._reading(sorted(busy, key=lambda row: row[2])[:3])}",
            where=f"rank {self._rank}",
        )

    def _reading(self, rows: list[list[int]]) -> str:
        now = time.monotonic_ns()
        parts = [
            f"video {video} of the list, {self._samples[video].path!r}, for {(now - since) / 1e9:.0f} s (process {pid})"
            for pid, video, since in rows
            if video != NOTHING
        ]
        return f" while reading {', '.join(parts)}" if parts else ""


# Boards of all loaders in this process; weak, so that they disappear with their loaders.
_boards: weakref.WeakSet[Board] = weakref.WeakSet()


def note_reading(video: int) -> None:
    """In a worker: record on the board which video is being read, NOTHING if none. Elsewhere this does nothing."""
    if _row is not None:
        _row[1], _row[2] = video, time.monotonic_ns()


@contextlib.contextmanager
def workers_named() -> Iterator[None]:
    """Turn PyTorch's errors about workers, wherever they surface, into errors that name the video.

    Raises:
        UserError: a worker was killed, or raised it; then without the traceback that PyTorch adds.
    """
    try:
        yield
    except UserError as error:
        raised = RAISED.search(str(error))
        if raised is None:
            raise
        raise UserError(raised[1]) from error
    except RuntimeError as error:
        explained = next((text for board in list(_boards) if (text := board.explain(str(error)))), None)
        if explained is None:
            raise
        raise UserError(explained) from error


def _end_with(owner: int) -> None:
    """End this process when the owner of the loader sends SIGTERM or dies.

    PyTorch's own watchdog remembers the parent that it finds when it starts. If the owner is killed while the worker is
    starting, the worker would watch the wrong process and stay forever.
    """
    lives = _life_of(owner)
    while lives():
        info = signal.sigtimedwait({signal.SIGTERM}, POLL_S)
        if info is not None and info.si_pid == owner:
            break
    # Clean-up handlers belong to the main process.
    os._exit(0)


def _life_of(owner: int) -> Callable[[], bool]:
    """A function that returns whether the owner is alive."""
    parent = multiprocessing.parent_process()
    if os.getppid() == owner or parent is None:
        return lambda: os.getppid() == owner
    # Started by a fork server, which is the parent. The owner holds a pipe that closes with it.
    return parent.is_alive
