"""Workers hand over batches without room in /dev/shm or a short TMPDIR; a failure is an error, never a wait."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.data import test_workers
from tests.helpers.project import ROOT
from videovit.data.build import ClipLoader
from videovit.data.handover import _mailboxes
from videovit.data.memory_files import map_frames, write_frames
from videovit.data.order import EpochSampler
from videovit.data.records import Clip, Item
from videovit.errors import UserError

FRAMES = (4, 256, 256, 3)  # 0.8 MB


class Large(test_workers.Scripted):
    """Clips that do not fit into /dev/shm together."""

    def __getitem__(self, key: tuple[int, int]) -> Item:
        frames_THWC = torch.full(FRAMES, key[1], dtype=torch.uint8)
        return Item([Clip(frames_THWC, key[1], key[1], 0, 7)], [])


def nothing(index: int) -> None:
    pass


def loader(num_workers: int = 2, **arguments: object) -> ClipLoader:
    num_videos = len(test_workers.SAMPLES)
    sampler = EpochSampler(num_videos, batch_size=2)
    return ClipLoader(Large(nothing), num_workers=num_workers, batch_size=2, sampler=sampler, **arguments)


def read_all() -> None:
    batches = list(loader())
    videos = [batch.videos_B.tolist() for batch in batches]
    assert videos == [[0, 1], [2, 3], [4, 5], [6, 7]], videos
    assert all(int(batch.frames_BTHWC[1, -1, -1, -1, -1]) == batch.videos_B[1] for batch in batches)


# The error is dropped before the end, as in a program that goes on: what PyTorch says about a loader that it made in
# part is then printed.
READ = """
import sys
from tests.data import test_handover
from videovit.errors import UserError

said = ""
try:
    test_handover.read_all()
except UserError as error:
    said = f"UserError: {error}"
sys.exit(said or None)
"""


def run(words: list[str], **environment: str) -> str:
    """Read all batches in a process of its own; returns its stderr."""
    done = subprocess.run(
        [*words, sys.executable, "-c", READ],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 or "UserError" in done.stderr, done.stderr
    return done.stderr


def with_shm(options: str) -> list[str]:
    """The beginning of a command that runs with a /dev/shm of its own."""
    mount = ["sh", "-c", f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"', "sh"]
    words = ["unshare", "--user", "--map-root-user", "--mount", *mount]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no mounts allowed here")
    return words


def test_small_shm() -> None:
    """As in a container, but smaller."""
    assert not run(with_shm("size=64k"))


@pytest.mark.parametrize("num_files", [1, 5])
def test_shm_without_room_for_semaphores(num_files: int) -> None:
    """For none of them, or only for some; the folder counts as one file."""
    said = run(with_shm(f"nr_inodes={num_files}"))
    assert "2 data loader workers could not be started: [Errno 28] No space left on device" in said
    assert "/dev/shm" in said.splitlines()[-1] and "Exception ignored" not in said


def test_long_temporary_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    assert not run([], TMPDIR=str(folder))


@pytest.fixture
def no_more_files() -> Iterator[Callable[[], None]]:
    """`no_more_files()` keeps this process from opening any."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_open_files(no_more_files: Callable[[], None]) -> None:
    batches = iter(loader(1))
    next(batches)
    no_more_files()
    with pytest.raises(UserError, match=r"a batch of a worker could not be received.*ulimit -n"):
        list(batches)


def test_no_memory_for_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(frames: torch.Tensor) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("videovit.data.handover.write_frames", full)
    with pytest.raises(UserError, match="a worker could not hand over a batch: No space left on device"):
        list(loader())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4, 3), (0, 0, 0, 0, 3)])
def test_frames_of_any_type(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    frames = (100 * torch.rand(shape)).to(dtype)
    arrived = map_frames(write_frames(frames), shape, dtype)
    assert arrived.dtype == dtype and torch.equal(arrived, frames)


def test_no_files_left_open() -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    made = loader(persistent_workers=True)
    list(made)
    before = opened()
    for _ in range(3):
        next(iter(made))  # the rest of the epoch is dropped
    list(made)
    assert opened() == before
    number = made.board.start_worker.number
    del made
    assert opened() < before
    assert number not in _mailboxes
