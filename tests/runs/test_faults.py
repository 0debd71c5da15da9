"""Faults while two processes train: both end with an error that names the cause, and nothing bad is written."""

import errno
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.runs import exit_codes, num_lines, start_ranks, write_config, write_data
from videovit.config import Config, load_config
from videovit.data import dataset
from videovit.data.decode import open_video
from videovit.engine import distributed, launch
from videovit.engine.training import step as steps
from videovit.engine.training import trainer

Start = Callable[..., tuple[list[int | None], str]]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    home = tmp_path_factory.mktemp("home")
    data, file = write_data(home / "data"), write_config(home)
    return file, ["DATA.PATH_TO_DATA_DIR", str(data), "TEST.ENABLE", "False", "TRAIN.EVAL_PERIOD", "9"]


@pytest.fixture
def train(arguments: tuple[Path, list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Start:
    """`train("KEY VALUE ...", fault)` trains on two ranks that call `fault` first; returns exit codes and stderr."""

    def run(opts: str = "", fault: Callable[[], object] = lambda: None) -> tuple[list[int | None], str]:
        def call(cfg: Config) -> None:
            fault()
            launch.run(cfg)

        cfg = load_config(arguments[0], [*arguments[1], "OUTPUT_DIR", str(tmp_path), *opts.split()])
        codes = exit_codes(start_ranks(cfg, 2, call=call))
        return codes, capfd.readouterr().err

    return run


def replace(owner: object, name: str, value: object) -> None:
    """Patch for the rest of this process, which is a child."""
    pytest.MonkeyPatch().setattr(owner, name, value)


def finite(path: Path) -> bool:
    state = torch.load(path, weights_only=True)["model_state"]
    return all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


def test_exploding_weights_are_not_saved(train: Start, tmp_path: Path) -> None:
    """Every rank dumps the batch."""
    codes, said = train("SOLVER.BASE_LR 1e30 TRAIN.CHECKPOINT_MINUTES 0.000001")
    assert codes == [1, 1]
    assert "not finite" in said or "gradient norm nan" in said
    assert all(map(finite, (tmp_path / "checkpoints").glob("*")))
    for rank in (0, 1):
        dump = torch.load(tmp_path / f"nan_dump_rank{rank}.pt", weights_only=True)
        assert dump["rank"] == rank and len(dump["paths"]) == 2


def test_nan_on_one_rank_stops_both(train: Start, tmp_path: Path) -> None:
    def fault() -> None:
        accumulate_gradients = steps.accumulate_gradients

        def poisoned(training: Any, example: Any) -> Any:
            if distributed.rank() == 1 and num_lines(tmp_path / "stats.jsonl") == 5:
                example.x_BCTHW[0] = float("nan")
            return accumulate_gradients(training, example)

        replace(steps, "accumulate_gradients", poisoned)

    codes, said = train("", fault)
    assert codes == [1, 1]
    assert "rank 1, epoch 2, step 2: loss nan" in said and "the weights were not touched" in said
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint_epoch_00001.pyth"]
    assert finite(tmp_path / "checkpoints/checkpoint_epoch_00001.pyth")


def test_full_disk_stops_both(train: Start, tmp_path: Path) -> None:
    """At the second checkpoint; once there is space the run resumes from the first."""

    def fault() -> None:
        flush = os.fsync

        def fill(handle: int) -> None:
            if list((tmp_path / "checkpoints").glob(".checkpoint_epoch_00002*")):
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(handle)

        replace(os, "fsync", fill)

    codes, said = train("", fault)
    assert codes == [1, 1]
    assert "checkpoint_epoch_00002.pyth: could not be written (disk full), " in said and " bytes free" in said
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint_epoch_00001.pyth"]
    codes, said = train()
    assert codes == [0, 0] and "checkpoint_epoch_00001.pyth: 1 epoch and 0 steps done" in said


def test_killed_worker_is_reported_by_both(train: Start) -> None:
    """The message names the video and the rank."""

    def fault() -> None:
        def killed(path: str, *others: Any) -> Any:
            if path.endswith("train3.mp4"):
                os.kill(os.getpid(), signal.SIGKILL)
            return open_video(path, *others)

        replace(dataset, "open_video", killed)

    codes, said = train("DATA_LOADER.NUM_WORKERS 1", fault)
    assert codes == [1, 1]
    pattern = r"^error: (rank \d: a data loader worker .*while reading video 3 of the list, '.*train3.mp4', .*)$"
    one, two = re.findall(pattern, said, re.MULTILINE)
    assert one == two


def test_killed_rank_is_named(train: Start, tmp_path: Path) -> None:
    def fault() -> None:
        train_step = trainer.train_step

        def killed(*args: Any, **others: Any) -> Any:
            if distributed.rank() == 1 and num_lines(tmp_path / "stats.jsonl") == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return train_step(*args, **others)

        replace(trainer, "train_step", killed)

    codes, said = train("", fault)
    assert codes == [1, -signal.SIGKILL]
    assert "error: rank 1: killed, or hangs (noticed by rank 0" in said
