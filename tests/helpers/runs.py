"""A tiny data set and config for whole runs, and how to start one."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.helpers.project import ROOT
from tests.helpers.videos import write_list, write_video
from videovit import cli
from videovit.config import Config
from videovit.engine import distributed, launch

Make = Callable[..., Config]

TINY = """
TRAIN: {BATCH_SIZE: 4, EVAL_PERIOD: 2, CHECKPOINT_PERIOD: 1}
TEST: {BATCH_SIZE: 4, NUM_ENSEMBLE_VIEWS: 2, NUM_SPATIAL_CROPS: 3}
DATA:
  NUM_FRAMES: 4
  SAMPLING_RATE: 2
  TRAIN_JITTER_SCALES: [32, 40]
  TRAIN_CROP_SIZE: 32
  TEST_CROP_SIZE: 32
  USE_OFFSET_SAMPLING: True
  RANDOM_FLIP: False
MVIT:
  PATCH_KERNEL: (3, 7, 7)
  PATCH_STRIDE: (2, 4, 4)
  PATCH_PADDING: (1, 3, 3)
  EMBED_DIM: 16
  DEPTH: 2
  DIM_MUL: [[1, 2.0]]
  HEAD_MUL: [[1, 2.0]]
  POOL_Q_STRIDE: [[1, 1, 2, 2]]
  POOL_KV_STRIDE_ADAPTIVE: [1, 2, 2]
  POOL_KVQ_KERNEL: [3, 3, 3]
  SEP_POS_EMBED: True
  DROPPATH_RATE: 0.1
SOLVER:
  OPTIMIZING_METHOD: adamw
  BASE_LR: 0.003
  MAX_EPOCH: 2
  CLIP_GRAD_L2NORM: 1.0
MODEL: {NUM_CLASSES: 3, DROPOUT_RATE: 0.1}
DATA_LOADER: {NUM_WORKERS: 0}
NUM_GPUS: 0
LOG_PERIOD: 1
LOG_MODEL_INFO: False
"""


def write_data(folder: Path, *, num_train: int = 12, num_test: int = 7) -> Path:
    """Write videos of three classes: a bar on the left, in the middle or on the right, in noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[tuple[str | Path, int]]] = {}
    for split, number in (("train", num_train), ("val", num_test), ("test", num_test)):
        rows[split] = []
        for i in range(number):
            rng = np.random.default_rng([len(split), ord(split[0]), i])
            label = i % 3

            def draw(frame: int, rng: np.random.Generator = rng, label: int = label) -> Any:
                image = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8)
                image[:, 16 * label : 16 * label + 16] += 150
                return image

            path = folder / f"{split}{i}.mp4"
            write_video(path, num_frames=16, size=(48, 48), draw=draw)
            rows[split].append((path.name, label))
    for split, lines in rows.items():
        write_list(folder / f"{split}.csv", lines)
    return folder


def write_config(folder: Path, text: str = TINY) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def run_tool(tool: str, *args: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run tools/<tool> in a fork of this process, which has imported torch already, and capture its output."""
    command = [str(ROOT / "tools" / tool), *map(str, args)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def main() -> None:
            renew_threads()
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(fd, "w"), line_buffering=True) for fd in (1, 2))
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")

        process = multiprocessing.get_context("fork").Process(target=main)
        process.start()
        (code,) = exit_codes([process], seconds=300)
        assert code is not None
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(command, code, out.read(), err.read())
    if check and done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def stats(output_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Records of one kind in stats.jsonl."""
    lines = (output_dir / "stats.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["_type"] == kind]


def assert_same_bits(first: Any, second: Any) -> None:
    """Compare nested dicts and lists of tensors and other values."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same_bits(first[key], second[key])
    elif isinstance(first, list):
        for one, two in zip(first, second, strict=True):
            assert_same_bits(one, two)
    else:
        assert first == second


def start_ranks(cfg: Config, world_size: int = 1, call: Callable[[Config], object] = launch.run) -> list[BaseProcess]:
    """Fork the processes of a run, which saves their imports; a single one has no environment of a launcher."""
    return _fork(world_size, lambda rank: sys.exit(cli.exit_code(lambda: call(cfg) and None)))


def run_group(target: Callable[[int, Path], None], world_size: int, folder: Path) -> None:
    """Call `target(rank, folder)` in forked processes with a process group, but without a run."""

    def member(rank: int) -> None:
        with distributed.process_group(use_gpu=False, timeout_s=60):
            target(rank, folder)

    assert exit_codes(_fork(world_size, member), seconds=120) == [0] * world_size


def _fork(world_size: int, target: Callable[[int], None]) -> list[BaseProcess]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def member(rank: int) -> None:
        renew_threads()
        if world_size > 1:
            words = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in words.items()}, MASTER_ADDR="127.0.0.1")
        target(rank)

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=member, args=(rank,)) for rank in range(world_size)]
    for process in ranks:
        process.start()
    return list(ranks)


def renew_threads() -> None:
    """To be called first in a forked process: PyTorch creates new threads at first use, which must not happen twice."""
    torch.set_num_threads(1)


def exit_codes(ranks: Sequence[BaseProcess], seconds: float = 60) -> list[int | None]:
    """Wait for the processes, and kill those that do not end in time."""
    for process in ranks:
        process.join(seconds)
        process.kill()
    return [process.exitcode for process in ranks]


def freeze(pid: int) -> None:
    """Stop a process, and wait until all its threads have stopped."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    wait_for(lambda: all(state.read_text().rpartition(")")[2].split()[0] == "T" for state in tasks.glob("*/stat")))


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Poll until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
