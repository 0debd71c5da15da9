"""Where a task runs, and what every task records: its config, and which decoders read its videos."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from videovit import __version__
from videovit.config import Config, dump_config
from videovit.data.build import ClipLoader
from videovit.engine import distributed
from videovit.engine.reporting.json_lines import append_record, replacing
from videovit.engine.reporting.log import RunLog, logger
from videovit.engine.reporting.progress import Progress

ENVIRONMENT = "environment.jsonl"


@dataclass(frozen=True)
class Run:
    """Where a task runs.

    Attributes:
        log: of this process.
        device: of this process.
        rank: of this process.
        world_size: number of processes, over all shards.
        noun: what a sample of the training or test is, see `DatasetSpec.noun`.
    """

    log: RunLog
    device: torch.device
    rank: int = 0
    world_size: int = 1
    noun: str = "video"

    def progress(self, name: str, total: int, *, first: int = 0, log_period: int = 10) -> Progress:
        """Progress of something that all processes do together; rank 0 shows it."""
        quiet = self.rank != 0
        return Progress(
            name,
            total,
            first=first,
            log_period=log_period,
            quiet=quiet,
            num_processes=self.world_size,
            noun="image" if self.noun == "image" else "clip",
        )


def record_start(cfg: Config, run: Run, name: str) -> None:
    """Record what runs, by `record_config`, and with what it is computed, in `environment.jsonl`.

    Raises:
        UserError: a file cannot be written.
    """
    record_config(cfg, run, name)
    if run.rank == 0:
        append_record(Path(cfg.OUTPUT_DIR) / ENVIRONMENT, {"config": name, **describe_environment(run)})


def record_config(cfg: Config, run: Run, name: str) -> None:
    """Write the config to `OUTPUT_DIR/<name>`, from where it can be loaded again; completely, or not at all.

    Raises:
        UserError: it cannot be written.
    """
    if run.rank != 0:
        return
    path = Path(cfg.OUTPUT_DIR) / name
    with replacing(path) as partial:
        partial.write_text(dump_config(cfg), encoding="utf-8")
    logger.info("config of this run: %s", path)


def describe_environment(run: Run) -> dict[str, object]:
    """What a run was computed with; numbers may differ with it."""
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "cpu"
    return {
        "videovit": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda or ""),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "processes": run.world_size,
    }


def report_decoders(loader: ClipLoader, run: Run, name: str) -> None:
    """Log how many samples each decoder has read, on all ranks; a collective call.

    Args:
        loader: its counts begin anew.
        run: this process.
        name: what they were read for. A line that would repeat the last one of this name is left out.
    """
    total: Counter[str] = Counter()
    for part in distributed.gather(loader.served_by):
        total.update(part)
    loader.served_by.clear()
    if total:
        counts = ", ".join(f"{number} {name}" for name, number in total.most_common())
        run.log.info_if_new(f"{name}: {run.noun}s were decoded by", counts)
