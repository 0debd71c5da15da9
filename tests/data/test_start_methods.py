"""Workers that are forked, spawned, or from a fork server (default since Python 3.14) read the same batches."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import ava_data
from tests.helpers.project import ROOT
from tests.helpers.runs import Make, assert_same_bits, wait_for
from tests.helpers.videos import write_list
from videovit.config import load_config
from videovit.data.build import build_loader
from videovit.data.catalog import Split
from videovit.engine import launch

METHODS = ("fork", "spawn", "forkserver")
TINY = """NUM_GPUS 0 TRAIN.BATCH_SIZE 2 TEST.BATCH_SIZE 6 DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_CROP_SIZE 32
    DATA.TEST_CROP_SIZE 32
    DATA.TRAIN_JITTER_SCALES [36,44] TEST.NUM_ENSEMBLE_VIEWS 2 AUG.ENABLE True AUG.NUM_SAMPLE 2"""


@pytest.fixture
def start_by() -> Iterator[Callable[[str], None]]:
    """`start_by("spawn")`: how this process starts workers from now on, until the end of the test."""
    before = multiprocessing.get_start_method()
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


def read(split: Split, num_workers: int, opts: list[str], config: Path | None = None) -> list[Any]:
    cfg = load_config(config, [*opts, "DATA_LOADER.NUM_WORKERS", str(num_workers)])
    return [[getattr(batch, f.name) for f in fields(batch)] for batch in build_loader(cfg, split)]


@pytest.mark.parametrize("method", METHODS)
def test_videos_same(
    method: str, start_by: Callable[[str], None], numbered: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [(numbered(f"start_{n}.mp4", num_frames=n), 0) for n in (20, 30, 40, 25)]
    for split in ("train", "test"):
        write_list(tmp_path / f"{split}.csv", rows)
    start_by(method)
    opts = [*TINY.split(), "DATA.PATH_TO_DATA_DIR", str(tmp_path)]
    assert_same_bits(read("train", 2, opts), read("train", 0, opts))
    assert_same_bits(read("test", 1, opts), read("test", 0, opts))


@pytest.mark.parametrize("method", METHODS)
def test_key_frames_same(method: str, start_by: Callable[[str], None], tmp_path: Path) -> None:
    config = ava_data.write_ava(tmp_path, num_train=1)
    start_by(method)
    assert_same_bits(read("val", 1, [], config), read("val", 0, [], config))
    assert_same_bits(read("train", 1, [], config), read("train", 0, [], config))


def test_whole_runs_same(start_by: Callable[[str], None], make: Make, tmp_path: Path) -> None:
    for method in METHODS:
        start_by(method)
        launch.run(make(tmp_path / method, "DATA_LOADER.NUM_WORKERS 1 SOLVER.MAX_EPOCH 1 TEST.ENABLE False"))
    name = "checkpoints/checkpoint_epoch_00001.pyth"
    states = [torch.load(tmp_path / method / name, weights_only=True) for method in METHODS]
    for state in states[1:]:
        assert_same_bits(state["model_state"], states[0]["model_state"])


HANG = """
import multiprocessing, os, sys, time
from pathlib import Path
from tests.data.test_workers import Scripted, read

def hang(index):
    (Path(sys.argv[2]) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    read(hang)
"""


@pytest.mark.parametrize("method", METHODS)
def test_workers_end_with_owner(method: str, tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(HANG)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script, method, folder], env=environment) as owner:
        try:
            wait_for(lambda: len(list(folder.iterdir())) == 2, seconds=120)
        finally:
            owner.kill()
    workers = [int(path.name) for path in folder.iterdir()]
    wait_for(lambda: not any(map(lives, workers)), seconds=20)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
