"""Measuring and watching a run: BENCHMARK and TENSORBOARD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from videovit.config.limits import Positive

Measured = Literal["model", "engines", "train", "sync", "loader", "decode", "attention"]


@dataclass(frozen=True)
class Benchmark:
    """BENCHMARK: how fast a part of the program is. ENABLE to COMPILE are ours."""

    ENABLE: bool = False
    # engines: those of TEST.ENGINE; sync: averaging gradients between processes; attention: ANALYSIS
    WHAT: Measured = "model"
    BATCH_SIZE: Positive = 1  # clips
    NUM_STEPS: Positive = 10  # timed steps, after a warm-up
    COMPILE: bool = False  # add a compiled row on a CPU; on a GPU there always is one


@dataclass(frozen=True)
class Tensorboard:
    """TENSORBOARD: curves and pictures."""

    ENABLE: bool = False
    LOG_DIR: str = ""
