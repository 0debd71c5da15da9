"""Workers of a data loader: signals of schedulers are blocked, and errors name the video."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from videovit.data.build import ClipLoader
from videovit.data.dataset import ClipDataset
from videovit.data.order import EpochSampler
from videovit.data.records import Batch, Clip, Item, Sample, collate
from videovit.data.sampling import EvenSpans
from videovit.data.workers import note_reading, workers_named
from videovit.errors import UserError

SAMPLES = [Sample(f"video{i}.mp4", 0) for i in range(8)]


def keep(frames: torch.Tensor, rng: object) -> list[torch.Tensor]:
    return [frames]


class Scripted(ClipDataset):
    """Empty items; `act(index)` runs in the worker."""

    def __init__(self, act: Callable[[int], object]) -> None:
        super().__init__(SAMPLES, plan=EvenSpans(1, 1, 30.0), crops=keep)
        self._act = act

    def __getitem__(self, key: tuple[int, int]) -> Item:
        note_reading(key[1])
        self._act(key[1])
        return Item([Clip(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), 0, key[1], 0, os.getpid())], [])


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Workers end with their test."""
    yield
    gc.collect()


def read(act: Callable[[int], object], *, num_workers: int = 2, timeout: float = 0) -> list[Batch]:
    """All batches of one video each, read as tasks do."""
    loader = ClipLoader(
        Scripted(act),
        rank=3,
        num_workers=num_workers,
        batch_size=1,
        sampler=EpochSampler(len(SAMPLES), batch_size=1),
        collate_fn=collate,
        timeout=timeout,
    )
    with workers_named():
        return list(loader)


def kill_at_3(index: int) -> None:
    if index == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def hang_at_3(index: int) -> None:
    if index == 3:
        time.sleep(600)


def signal_oneself(index: int) -> None:
    for signum in (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(os.getpid(), signum)


def test_killed_worker_names_video() -> None:
    message = r"rank 3: a data loader worker .*killed.* video 3 of the list, 'video3.mp4'.*NUM_WORKERS"
    with pytest.raises(UserError, match=message):
        read(kill_at_3)


def test_hanging_worker_times_out() -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"rank 3: no batch .* for 1.* s \(DATA_LOADER.TIMEOUT\).*video3.mp4"):
        read(hang_at_3, num_workers=1, timeout=1)
    gc.collect()
    assert time.monotonic() - start < 60  # it sleeps for 600 s


def test_workers_ignore_scheduler_signals() -> None:
    assert len(read(signal_oneself)) == len(SAMPLES)


ORPHAN = """
import os, time
from videovit.data.workers import Board
board, parent = Board([], num_workers=1, rank=0), os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
board.start_worker(0)
time.sleep(600)
"""


def test_worker_of_dead_parent_exits() -> None:
    subprocess.run(
        [sys.executable, "-c", ORPHAN], check=True, stdout=subprocess.PIPE, timeout=120
    )  # returns when the last process has closed stdout


def test_other_errors_unchanged() -> None:
    with pytest.raises(RuntimeError, match="of another kind"), workers_named():
        raise RuntimeError("of another kind")
