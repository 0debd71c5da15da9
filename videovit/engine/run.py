"""Where a task runs, and what every task leaves behind: its config, and which decoder read its videos."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from videovit.config import Config, dump_config
from videovit.data.build import ClipLoader
from videovit.engine import distributed
from videovit.engine.reporting.log import Progress, RunLog, logger
from videovit.errors import UserError


@dataclass(frozen=True)
class Run:
    """Where a task runs: its log, its device, and which of how many processes it is."""

    log: RunLog
    device: torch.device
    rank: int = 0
    world_size: int = 1

    def progress(self, name: str, total: int, *, first: int = 0, log_period: int = 10) -> Progress:
        quiet = self.rank != 0
        return Progress(name, total, first=first, log_period=log_period, quiet=quiet, num_processes=self.world_size)


def record_config(cfg: Config, run: Run, name: str) -> None:
    """Write what runs to `OUTPUT_DIR/<name>`, which loads again; whole, or not at all.

    Raises:
        UserError: it cannot be written.
    """
    if run.rank != 0:
        return
    path = Path(cfg.OUTPUT_DIR) / name
    partial = path.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        partial.write_text(dump_config(cfg), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(f"{path}: could not be written: {error.strerror}") from error
    logger.info("config of this run: %s", path)


def report_decoders(loader: ClipLoader) -> None:
    """Say how many videos went to which decoder, of all ranks."""
    total: Counter[str] = Counter()
    for part in distributed.gather(loader.served_by):
        total.update(part)
    loader.served_by.clear()
    if total:
        counts = ", ".join(f"{number} {name}" for name, number in total.most_common())
        logger.info("videos were decoded by: %s", counts)
