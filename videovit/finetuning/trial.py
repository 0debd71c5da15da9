"""How much memory and time a video costs on this machine, and what follows for the batch and the number of epochs."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from videovit.config import Config
from videovit.data.records import collate
from videovit.engine.cpu import prepare_cpu
from videovit.engine.problem import Problem
from videovit.engine.reporting.log import RunLog
from videovit.engine.run_context import Run
from videovit.engine.tasks.benchmark import time_steps
from videovit.engine.training.build import build_training
from videovit.engine.training.step import Training, train_step

MEMORY_SHARE = 0.6  # of the free memory that a step may take
NUM_TRIED = 4  # videos that are decoded
STATE_BYTES = 12  # per trained parameter: a gradient and two moments, which do not grow with the batch
TRIAL_S = 6.0
EPOCH_S = 1.0  # for workers to start and for the checkpoint
START_S = 10.0  # until training begins, and between its parts


@dataclass(frozen=True)
class Cost:
    """Cost of a video on this machine.

    Attributes:
        mib: memory of a training step per video.
        free_mib: memory that is free; 0 if unknown.
        step_s: seconds of a training step per video, without reading it.
        train_s: seconds of training per video, read by workers while the model computes.
        read_s: seconds to read a video and to make a clip of it.
    """

    mib: float
    free_mib: float
    step_s: float
    train_s: float
    read_s: float

    @property
    def view_s(self) -> float:
        """Seconds per clip of evaluation: a forward pass is about a third of a training step."""
        return max(self.step_s / 3, self.train_s - self.step_s, self.read_s / 2)


def measure(cfg: Config) -> Cost:
    """Take a training step on a single video, and throw the model away.

    Args:
        cfg: of the run, without weights to start from, with one video per step.
    """
    with _trial(cfg) as (problem, run, training):
        dataset = problem.train.dataset()
        numbers = [number % len(dataset.samples) for number in range(NUM_TRIED)]
        start = time.perf_counter()
        items = [dataset[0, number] for number in numbers]
        read_s = (time.perf_counter() - start) / len(items)
        free_mib, batch = _free_mib(run.device), collate(items[:1])
        timing = time_steps(
            lambda: train_step(training, batch, epoch=0, step=0, num_steps=1000), run.device, num_steps=2, warmup=0
        )
    trained = sum(parameter.numel() for parameter in training.model.parameters() if parameter.requires_grad)
    mib = max(timing.peak_mib - STATE_BYTES * trained / 2**20, timing.peak_mib / 10, 1.0)
    step_s = min(timing.seconds)
    return Cost(mib, free_mib, step_s, max(step_s, read_s / max(1, cfg.DATA_LOADER.NUM_WORKERS)), read_s)


def measure_pace(cfg: Config, cost: Cost) -> Cost:
    """Train for a few seconds as the run will, with its batch and its workers, and throw the model away.

    Args:
        cfg: of the run, without weights to start from.
        cost: of `measure`; returned as it is if a step takes longer than the trial.
    """
    if cost.step_s * cfg.TRAIN.BATCH_SIZE > TRIAL_S / 4:
        return cost
    step_s, start, num_videos, num_steps = 0.0, 0.0, 0, 0
    with _trial(cfg) as (problem, run, training):
        loader = problem.train.loader(run)
        for epoch in itertools.count():
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                begin = time.perf_counter()
                train_step(training, batch, epoch=0, step=0, num_steps=1000).loss.item()
                now = time.perf_counter()
                if num_steps:  # the first step also waits for the workers to start
                    num_videos += len(batch)
                    step_s += now - begin
                num_steps += 1
                start = start or now
                if num_steps > 1 and now - start > TRIAL_S:
                    return replace(cost, step_s=step_s / num_videos, train_s=(now - start) / num_videos)
    raise AssertionError("the loop has no other exit")


@contextlib.contextmanager
def _trial(cfg: Config) -> Iterator[tuple[Problem, Run, Training]]:
    """The training of a config, without log and checkpoints."""
    problem = Problem(cfg)
    device = torch.device("cuda" if cfg.NUM_GPUS else "cpu")
    threads = torch.get_num_threads()
    prepare_cpu(cfg, device)
    try:
        run = Run(RunLog(Path(cfg.OUTPUT_DIR), rank=1), device)  # a log that is never opened
        training = build_training(problem, run)
        training.model.train()
        yield problem, run, training
    finally:
        torch.set_num_threads(threads)


def _free_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0]) / 2**20
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**10
    except (OSError, StopIteration):
        return 0.0  # not Linux


@dataclass(frozen=True)
class Batches:
    """Videos per step, in how many parts, and the learning rate that goes with them."""

    size: int
    parts: int
    rate: float

    def keys(self) -> dict[str, object]:
        """As config keys."""
        return {
            "TRAIN.BATCH_SIZE": self.size,
            "TRAIN.GRAD_ACCUM_STEPS": self.parts,
            "SOLVER.BASE_LR": f"{self.rate:.6g}",
        }


def choose_batch(cfg: Config, cost: Cost | None, *, num_train: int, size: int | None = None) -> Batches:
    """The batch of the recipe, or less if there are few videos; in parts, if it does not fit into memory.

    Args:
        cfg: TRAIN.BATCH_SIZE and SOLVER.BASE_LR of the recipe.
        cost: of a video; None if it was not measured.
        num_train: number of training videos.
        size: requested videos per step.
    """
    few = 2 ** max(0, int(math.log2(max(1, num_train // 4))))  # at least four steps per epoch
    chosen = min(size or min(cfg.TRAIN.BATCH_SIZE, few), num_train)
    fitting = chosen
    if cost and cost.free_mib:
        fitting = max(1, int(MEMORY_SHARE * cost.free_mib / cost.mib))
    parts = next(parts for parts in range(1, chosen + 1) if chosen % parts == 0 and chosen // parts <= fitting)
    return Batches(chosen, parts, cfg.SOLVER.BASE_LR * chosen / cfg.TRAIN.BATCH_SIZE)


def run_seconds(cfg: Config, cost: Cost, *, epochs: int, sizes: dict[str, int]) -> float:
    """How long a run takes.

    Args:
        cfg: of the run.
        cost: of a video.
        epochs: number of them.
        sizes: split -> number of videos.
    """
    views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
    return START_S + cost.view_s * sizes["test"] * views + epochs * epoch_seconds(cfg, cost, sizes=sizes)


def epoch_seconds(cfg: Config, cost: Cost, *, sizes: dict[str, int]) -> float:
    """How long an epoch and its validation take."""
    steps = sizes["train"] // cfg.TRAIN.BATCH_SIZE
    return EPOCH_S + steps * cfg.TRAIN.BATCH_SIZE * cost.train_s + sizes.get("val", 0) * cost.view_s


def choose_epochs(
    cfg: Config,
    cost: Cost | None,
    *,
    sizes: dict[str, int],
    least_steps: int,
    most: int,
    seconds: float | None,
) -> int:
    """The epochs of the recipe; more on few videos; or as many as fit into a time.

    Args:
        cfg: of the run, with its batch.
        cost: of a video; needed with `seconds`.
        sizes: split -> number of videos.
        least_steps: see `Recipe`.
        most: limit of the number of epochs.
        seconds: that the run may take; None for no limit.
    """
    steps = max(1, sizes["train"] // cfg.TRAIN.BATCH_SIZE)
    if seconds is None or cost is None:
        return min(most, max(cfg.SOLVER.MAX_EPOCH, math.ceil(least_steps / steps)))
    left = seconds - run_seconds(cfg, cost, epochs=0, sizes=sizes)
    return max(1, min(most, int(left / epoch_seconds(cfg, cost, sizes=sizes))))
