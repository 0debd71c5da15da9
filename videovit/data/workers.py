"""The worker processes of a data loader: which signals they hear, and what each of them is reading.

Schedulers signal every process of a job. A worker that a signal ended would end training with an error before it has
saved; so workers, and the processes that they start, are born with those signals blocked and keep them so. SIGTERM of
the worker's own parent, by which the parent ends it, is heard all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from videovit.data.records import Sample
from videovit.errors import UserError

BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
NOTHING = -1
LOOK_S = 5.0  # how often a worker looks whether its parent lives

_row: NDArray[np.int64] | None = None  # in a worker: its own row of the board


class WorkerError(UserError):
    """A worker process of a data loader was killed, or did not answer in time."""


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Start processes in here: they keep BLOCKED blocked for good; this one hears what came meanwhile at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Board:
    """Which video each worker of a loader is reading, in memory that they share.

    Args:
        samples: of the data set, to name videos.
        num_workers: of the loader.
        rank: of the process that the loader belongs to.
    """

    def __init__(self, samples: Sequence[Sample], *, num_workers: int, rank: int) -> None:
        self.rows = torch.full((num_workers, 3), NOTHING, dtype=torch.int64)  # pid, video, since (ns)
        self.rows.share_memory_()  # type: ignore[no-untyped-call]
        self._samples = samples
        self._rank = rank
        self._owner = os.getpid()
        if num_workers:
            _boards.add(self)

    def start_worker(self, worker: int) -> None:
        """Set up a worker process: one thread, signals, and its row here."""
        global _row
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        _row = self.rows[worker].numpy()
        _row[0] = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        if hasattr(signal, "sigtimedwait"):
            threading.Thread(target=_end_with, args=(self._owner,), daemon=True).start()

    def explain(self, text: str) -> str | None:
        """What PyTorch's message about a worker of this loader means: which rank, which video; None for another's."""
        killed = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", text)
        if killed:
            pids = {int(number) for number in killed[1].split(",")}
            found = [row for row in self.rows.tolist() if row[0] in pids]
            how = killed[2].strip().rstrip(".").replace("exited unexpectedly", "was killed or crashed")
            hint = "memory is the usual reason, and lower DATA_LOADER.NUM_WORKERS takes less"
            return f"rank {self._rank}: a data loader worker {how}{self._reading(found)}; {hint}" if found else None
        late = re.search(r"DataLoader timed out after ([\d.]+) seconds", text)
        busy = [row for row in self.rows.tolist() if row[1] != NOTHING]
        if not late or not busy:
            return None
        return (
            f"rank {self._rank}: no batch came from the data loader for {late[1]} s (DATA_LOADER.TIMEOUT)"
            f"{self._reading(sorted(busy, key=lambda row: row[2])[:3])}"
        )

    def _reading(self, rows: list[list[int]]) -> str:
        now = time.monotonic_ns()
        parts = [
            f"video {video} of the list, {self._samples[video].path!r}, for {(now - since) / 1e9:.0f} s (process {pid})"
            for pid, video, since in rows
            if video != NOTHING
        ]
        return f" while reading {', '.join(parts)}" if parts else ""


_boards: weakref.WeakSet[Board] = weakref.WeakSet()


def note_reading(video: int) -> None:
    """In a worker: tell the board which video is read now; NOTHING when it is done. Elsewhere nothing happens."""
    if _row is not None:
        _row[1], _row[2] = video, time.monotonic_ns()


@contextlib.contextmanager
def workers_named() -> Iterator[None]:
    """Turn PyTorch's errors about dead or hanging workers, wherever they surface, into ones that name the video.

    Raises:
        WorkerError: a worker was killed or timed out.
    """
    try:
        yield
    except RuntimeError as error:
        told = next((text for board in list(_boards) if (text := board.explain(str(error)))), None)
        if told is None:
            raise
        raise WorkerError(told) from error


def _end_with(parent: int) -> None:
    """End this process when its parent asks for it, or is gone.

    PyTorch's own look at the parent takes the one that it finds at its beginning for the right one; where that is
    killed while a worker starts, the worker would stay for ever.
    """
    while os.getppid() == parent:
        info = signal.sigtimedwait({signal.SIGTERM}, LOOK_S)
        if info is not None and info.si_pid == parent:
            break
    os._exit(0)
