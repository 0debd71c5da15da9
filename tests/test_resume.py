"""Killed, preempted, continued on other processes: the same weights, or the same samples."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import exit_codes, num_lines, start_ranks, stats, wait_for, write_config, write_data

from videovit.config import Config, load_config
from videovit.engine import launch

RICH = (
    "SOLVER.MAX_EPOCH 4 TRAIN.EVAL_PERIOD 4 TEST.ENABLE False TRAIN.TRACE True TRAIN.EMA_DECAY 0.9 TEST.USE_EMA True "
    "TRAIN.GRAD_ACCUM_STEPS 2 AUG.ENABLE True AUG.NUM_SAMPLE 2 MIXUP.ENABLE True MODEL.LOSS_FUNC soft_cross_entropy "
    "TRAIN.CHECKPOINT_MINUTES 0.000001"
)
PLAIN = "MVIT.DROPPATH_RATE 0 MODEL.DROPOUT_RATE 0 SOLVER.MAX_EPOCH 1 TEST.ENABLE False TRAIN.TRACE True"

Make = Callable[..., Config]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Config of a run in a folder: `make(folder, "KEY VALUE ...")`."""
    home = tmp_path_factory.mktemp("home")
    data, file = write_data(home / "data"), write_config(home)

    def config(output_dir: Path, opts: str) -> Config:
        common = ["DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(output_dir)]
        return load_config(file, [*common, *opts.split()])

    return config


@pytest.fixture(scope="module")
def whole(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 steps without a break, two workers."""
    out = tmp_path_factory.mktemp("whole")
    launch.run(make(out, f"{RICH} DATA_LOADER.NUM_WORKERS 2"))
    return out


def trace(folder: Path, world_size: int = 1) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """(epoch, step) -> the lines of every rank; a step that was done again must be the same again."""
    steps: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for rank in range(world_size):
        lines = {}
        for line in map(json.loads, (folder / f"trace_rank{rank}.jsonl").read_text().splitlines()):
            assert lines.setdefault((line["epoch"], line["step"]), line) == line
        for key, line in lines.items():
            steps.setdefault(key, []).append(line)
    return steps


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return content


def assert_same_bits(first: Any, second: Any) -> None:
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


def assert_same_training(first: Path, second: Path) -> None:
    one, two = (checkpoint(folder, "checkpoint_epoch_00004.pyth") for folder in (first, second))
    for key in ("model_state", "ema_state", "ema_updates", "optimizer_state"):
        assert_same_bits(one[key], two[key])
    assert trace(first) == trace(second)


def test_the_trace_and_the_average_are_what_they_should_be(whole: Path) -> None:
    steps = trace(whole)
    assert list(steps) == [(epoch, step) for epoch in range(4) for step in range(3)]
    for epoch in range(4):
        paths = [p for step in range(3) for p in steps[epoch, step][0]["paths"]]
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


def test_five_steps_a_kill_and_seven_steps(whole: Path, make: Make, tmp_path: Path) -> None:
    cfg = make(tmp_path, RICH)
    (child,) = start_ranks(cfg)
    wait_for(lambda: num_lines(tmp_path / "stats.jsonl") >= 6)  # 3 steps, the epoch, 2 steps
    child.kill()
    assert exit_codes([child]) == [-signal.SIGKILL]
    assert not (tmp_path / "checkpoints/checkpoint_epoch_00002.pyth").exists()
    launch.run(cfg)
    assert_same_training(whole, tmp_path)
    assert "took over OUTPUT_DIR" in (tmp_path / "stdout.log").read_text()


def test_a_signal_to_one_of_two_ranks_ends_both_at_the_same_step(make: Make, tmp_path: Path) -> None:
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


def test_a_signal_in_validation_leaves_it_for_the_next_start(make: Make, tmp_path: Path) -> None:
    cfg = make(tmp_path, f"{PLAIN} TRAIN.EVAL_PERIOD 1 SOLVER.MAX_EPOCH 2 TRAIN.CHECKPOINT_PERIOD 2")

    def run_with_a_signal(cfg: Config) -> None:
        def infer(*args: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        pytest.MonkeyPatch().setattr("videovit.engine.loops._infer", infer)  # in the child alone
        launch.run(cfg)

    assert exit_codes(start_ranks(cfg, call=run_with_a_signal)) == [75]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["checkpoint_epoch_00001.pyth"]
    assert not stats(tmp_path, "val_epoch")
    launch.run(cfg)
    assert [r["epoch"] for r in stats(tmp_path, "val_epoch")] == ["1/2", "2/2"]
    assert [r["iter"] for r in stats(tmp_path, "train_iter")] == ["1/3", "2/3", "3/3"] * 2
    launch.run(cfg)  # nothing is trained or validated again
    assert len(stats(tmp_path, "val_epoch")) == 2


@pytest.fixture(scope="module")
def two_ranks(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first step of an epoch, on two processes."""
    out = tmp_path_factory.mktemp("two")
    assert exit_codes(start_ranks(make(out, f"{PLAIN} TRAIN.MAX_STEPS 1 TRAIN.EVAL_PERIOD 9"), 2)) == [0, 0]
    return out


@pytest.mark.parametrize("world_size", [1, 4])
def test_other_processes_go_on_with_the_same_samples(
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


def test_three_processes_cannot_share_four_videos(two_ranks: Path, make: Make, tmp_path: Path) -> None:
    out = shutil.copytree(two_ranks, tmp_path / "run")
    assert exit_codes(start_ranks(make(out, PLAIN), 3)) == [1, 1, 1]
    assert "4 videos a step cannot be shared evenly by 3 processes" in (out / "stdout.log").read_text()
