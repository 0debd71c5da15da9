"""Runs killed, preempted, or resumed on other processes end with the same weights, or train on the same samples."""

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.runs import Make, assert_same_bits, exit_codes, freeze, num_lines, start_ranks, stats, wait_for
from videovit.config import Config
from videovit.engine import distributed, launch
from videovit.engine.distributed import lock
from videovit.engine.training import step as steps
from videovit.models.convert import CheckpointError

RICH = (
    "SOLVER.MAX_EPOCH 4 TRAIN.EVAL_PERIOD 4 TEST.ENABLE False TRAIN.TRACE True TRAIN.EMA_DECAY 0.9 TEST.USE_EMA True "
    "TRAIN.GRAD_ACCUM_STEPS 2 AUG.ENABLE True AUG.NUM_SAMPLE 2 MIXUP.ENABLE True MODEL.LOSS_FUNC soft_cross_entropy "
    "TRAIN.CHECKPOINT_MINUTES 0.000001"
)
PLAIN = "MVIT.DROPPATH_RATE 0 MODEL.DROPOUT_RATE 0 SOLVER.MAX_EPOCH 1 TEST.ENABLE False TRAIN.TRACE True"


@pytest.fixture(scope="module")
def whole(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 steps without interruption, two workers."""
    out = tmp_path_factory.mktemp("whole")
    launch.run(make(out, f"{RICH} DATA_LOADER.NUM_WORKERS 2"))
    return out


def trace(folder: Path, world_size: int = 1) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """(epoch, step) -> the lines of every rank; repeated steps, which must be the same, count once."""
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for rank in range(world_size):
        lines = {}
        for line in map(json.loads, (folder / f"trace_rank{rank}.jsonl").read_text().splitlines()):
            assert lines.setdefault((line["epoch"], line["step"]), line) == line
        for key, line in lines.items():
            found.setdefault(key, []).append(line)
    return found


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return content


def assert_same_training(first: Path, second: Path) -> None:
    one, two = (checkpoint(folder, "checkpoint_epoch_00004.pyth") for folder in (first, second))
    for key in ("model_state", "ema_state", "ema_updates", "optimizer_state"):
        assert_same_bits(one[key], two[key])
    assert trace(first) == trace(second)


def test_uninterrupted_run_traces_all_samples_and_averages_weights(whole: Path) -> None:
    lines = trace(whole)
    assert list(lines) == [(epoch, step) for epoch in range(4) for step in range(3)]
    for epoch in range(4):
        paths = [p for step in range(3) for p in lines[epoch, step][0]["paths"]]
        assert len(paths) == 24 and len(set(paths)) == 12  # 12 videos, each twice
    content = checkpoint(whole, "checkpoint_epoch_00004.pyth")
    assert content["ema_updates"] == 12
    assert any(not torch.equal(content["ema_state"][n], w) for n, w in content["model_state"].items())
    assert content["versions"] == {
        "videovit": content["versions"]["videovit"],
        "torch": str(torch.__version__),
        "world_size": 1,
        "global_batch": 4,
    }


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_run_resumes_with_the_same_bits(num_workers: int, whole: Path, make: Make, tmp_path: Path) -> None:
    cfg = make(tmp_path, f"{RICH} DATA_LOADER.NUM_WORKERS {num_workers}")
    (child,) = start_ranks(cfg)
    wait_for(lambda: num_lines(tmp_path / "stats.jsonl") >= 6)  # 3 steps, the epoch, 2 steps
    child.kill()
    assert exit_codes([child]) == [-signal.SIGKILL]
    assert not (tmp_path / "checkpoints/checkpoint_epoch_00002.pyth").exists()
    launch.run(cfg)
    assert_same_training(whole, tmp_path)
    assert "took over OUTPUT_DIR" in (tmp_path / "stdout.log").read_text()


def test_signal_to_one_of_two_ranks_stops_both_at_the_same_step(make: Make, tmp_path: Path) -> None:
    cfg = make(tmp_path, f"{PLAIN} SOLVER.MAX_EPOCH 200")
    ranks = start_ranks(cfg, 2)
    wait_for(lambda: num_lines(tmp_path / "stats.jsonl") >= 2)
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, signal.SIGUSR2)
    os.kill(ranks[1].pid, signal.SIGUSR2)
    assert exit_codes(ranks) == [75, 75]
    (newest,) = (tmp_path / "checkpoints").iterdir()
    done = [num_lines(tmp_path / f"trace_rank{rank}.jsonl") for rank in (0, 1)]
    content = torch.load(newest, weights_only=True)
    assert done == [3 * (content["epoch"] + 1) + content["step"]] * 2
    assert not (tmp_path / ".videovit.lock").exists()


@pytest.mark.parametrize("world_size", [1, 2])
def test_signal_in_validation_defers_it_to_the_next_start(world_size: int, make: Make, tmp_path: Path) -> None:
    """Only the last rank receives the signal."""
    cfg = make(tmp_path, f"{PLAIN} TRAIN.EVAL_PERIOD 1 SOLVER.MAX_EPOCH 2 TRAIN.CHECKPOINT_PERIOD 2")

    def run_with_a_signal(cfg: Config) -> None:
        def infer(*args: Any) -> None:
            if distributed.rank() == world_size - 1:
                os.kill(os.getpid(), signal.SIGTERM)

        pytest.MonkeyPatch().setattr("videovit.engine.evaluation.inference.infer", infer)  # in the child alone
        launch.run(cfg)

    assert exit_codes(start_ranks(cfg, world_size, call=run_with_a_signal)) == [75] * world_size
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["checkpoint_epoch_00001.pyth"]
    assert not stats(tmp_path, "val_epoch")
    launch.run(cfg)
    assert [r["epoch"] for r in stats(tmp_path, "val_epoch")] == ["1/2", "2/2"]
    assert [r["iter"] for r in stats(tmp_path, "train_iter")] == ["1/3", "2/3", "3/3"] * 2
    launch.run(cfg)  # nothing is trained or validated again
    assert len(stats(tmp_path, "val_epoch")) == 2


def test_signal_while_a_checkpoint_is_written(whole: Path, make: Make, tmp_path: Path) -> None:
    """The file is finished, the run ends with another one, and the next start resumes from that."""
    cfg = make(tmp_path, RICH)
    checkpoints = tmp_path / "checkpoints"

    def run_on_a_slow_disk(cfg: Config) -> None:
        flush = os.fsync

        def wait_for_the_signal(handle: int) -> None:
            if not (tmp_path / "signalled").exists():
                (tmp_path / "writing").touch()
                wait_for((tmp_path / "signalled").exists)
            flush(handle)

        pytest.MonkeyPatch().setattr(os, "fsync", wait_for_the_signal)  # in the child alone
        launch.run(cfg)

    (child,) = start_ranks(cfg, call=run_on_a_slow_disk)
    wait_for((tmp_path / "writing").exists)
    assert all(path.suffix == ".tmp" for path in checkpoints.iterdir())
    assert child.pid is not None
    os.kill(child.pid, signal.SIGTERM)
    os.kill(child.pid, signal.SIGUSR2)
    (tmp_path / "signalled").touch()
    assert exit_codes([child]) == [75]
    found = {path.name: checkpoint(tmp_path, path.name) for path in checkpoints.iterdir()}
    assert found["checkpoint_epoch_00000_step_000001.pyth"]["step"] == 1 and len(found) in (2, 3)
    launch.run(cfg)
    assert_same_training(whole, tmp_path)


def test_second_ctrl_c_ends_a_run_at_once(whole: Path, make: Make, tmp_path: Path) -> None:
    """In the middle of a step; only that step is lost."""
    cfg = make(tmp_path, RICH)

    def run_with_two_signals(cfg: Config) -> None:
        accumulate_gradients = steps.accumulate_gradients

        def interrupted(*args: Any) -> Any:
            if num_lines(tmp_path / "stats.jsonl") == 5:  # 3 steps, the epoch, one step
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return accumulate_gradients(*args)

        pytest.MonkeyPatch().setattr(steps, "accumulate_gradients", interrupted)  # in the child alone
        launch.run(cfg)

    assert exit_codes(start_ranks(cfg, call=run_with_two_signals)) == [130]
    assert num_lines(tmp_path / "stats.jsonl") == 5
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "checkpoint_epoch_00001_step_000001.pyth"
    assert not (tmp_path / lock.NAME).exists()
    launch.run(cfg)
    assert_same_training(whole, tmp_path)


def test_run_whose_folder_was_taken_over_stops(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It did not renew its lock: its machine was asleep, or could not reach the file system."""
    monkeypatch.setattr(lock, "RENEWAL_S", 0.05)
    cfg = make(tmp_path, f"{PLAIN} SOLVER.MAX_EPOCH 500 TRAIN.CHECKPOINT_PERIOD 500")
    (suspended,) = start_ranks(cfg)
    wait_for(lambda: num_lines(tmp_path / "stats.jsonl") >= 2)
    assert suspended.pid is not None
    assert exit_codes(start_ranks(cfg)) == [1]  # nobody takes the folder over while its owner is alive
    freeze(suspended.pid)
    long_ago = time.time() - lock.SILENT_S - 5
    os.utime(tmp_path / lock.NAME, (long_ago, long_ago))
    ours = dataclasses.replace(lock.this_process(), host="node7", place="node7")
    monkeypatch.setattr(lock, "this_process", lambda: ours)
    with lock.output_lock(tmp_path) as held:
        os.kill(suspended.pid, signal.SIGCONT)
        assert exit_codes([suspended]) == [1]
        held.verify()
    assert f"was taken over by process {os.getpid()} on node7" in (tmp_path / "stdout.log").read_text()
    assert not (tmp_path / "checkpoints").exists()


@pytest.fixture(scope="module")
def two_ranks(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first step of an epoch on two processes."""
    out = tmp_path_factory.mktemp("two")
    assert exit_codes(start_ranks(make(out, f"{PLAIN} TRAIN.MAX_STEPS 1 TRAIN.EVAL_PERIOD 9"), 2)) == [0, 0]
    return out


@pytest.mark.parametrize("world_size", [1, 4])
def test_resume_on_other_process_count_uses_same_samples(
    world_size: int, two_ranks: Path, make: Make, tmp_path: Path
) -> None:
    out = shutil.copytree(two_ranks, tmp_path / "run")
    reference = tmp_path / "reference"
    assert exit_codes(start_ranks(make(out, PLAIN), world_size)) == [0] * world_size
    launch.run(make(reference, PLAIN))
    before, after, expected = trace(two_ranks, 2), trace(out, world_size), trace(reference)
    seen = {}
    for key, lines in expected.items():
        source = before if key == (0, 0) else after
        seen[key] = [(p, f) for line in source[key] for p, f in zip(line["paths"], line["frames"], strict=True)]
        assert seen[key] == list(zip(lines[0]["paths"], lines[0]["frames"], strict=True))
    paths = [p for pairs in seen.values() for p, _ in pairs]
    assert len(paths) == len(set(paths)) == 12
    losses = [[r["loss"] for r in stats(folder, "train_iter")] for folder in (out, reference)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)
    assert losses[0][1] == pytest.approx(losses[1][1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_resume_on_three_processes_with_four_videos_is_refused(two_ranks: Path, make: Make, tmp_path: Path) -> None:
    out = shutil.copytree(two_ranks, tmp_path / "run")
    assert exit_codes(start_ranks(make(out, PLAIN), 3)) == [1, 1, 1]
    assert "4 videos per step cannot be divided evenly among 3 processes" in (out / "stdout.log").read_text()


def test_list_changed_within_an_epoch_is_refused(make: Make, tmp_path: Path) -> None:
    data = Path(make(tmp_path, "").DATA.PATH_TO_DATA_DIR)
    folder = tmp_path / "lists"
    folder.mkdir()
    for split in ("train", "val", "test"):
        shutil.copy(data / f"{split}.csv", folder)
    where = f"DATA.PATH_TO_DATA_DIR {folder} DATA.PATH_PREFIX {data} TEST.ENABLE False SOLVER.MAX_EPOCH 1"
    launch.run(make(tmp_path / "run", f"{where} TRAIN.MAX_STEPS 1"))
    rows = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join(reversed(rows)) + "\n")
    with pytest.raises(CheckpointError, match=r"list of training videos has changed \(12 rows as before"):
        launch.run(make(tmp_path / "run", where))
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    launch.run(make(tmp_path / "run", where))
