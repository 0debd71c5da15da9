"""Start the processes of a run and, in each of them, its tasks.

Three ways in, one way on: a launcher that has set RANK and WORLD_SIZE (torchrun, submitit) starts this program once
per process; otherwise several local processes are spawned; otherwise everything happens in this process.
"""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from videovit.config import Config
from videovit.data.workers import workers_named
from videovit.engine import distributed
from videovit.engine.distributed.group import LaunchError
from videovit.engine.distributed.processes import run_processes
from videovit.engine.reporting.log import RunLog, logger
from videovit.engine.run import Run, record_config
from videovit.engine.tasks.benchmark import benchmark
from videovit.engine.tasks.search import search
from videovit.engine.tasks.shuffle_eval import shuffle_eval
from videovit.engine.tasks.test import test
from videovit.engine.tasks.train import train
from videovit.engine.training import determinism

Task = Callable[[Config, Run], dict[str, float]]
Results = dict[str, dict[str, float]]

TASKS: dict[str, tuple[Callable[[Config], bool], Task]] = {
    "train": (lambda cfg: cfg.TRAIN.ENABLE, train),
    "search": (lambda cfg: cfg.SEARCH.ENABLE, search),
    "test": (lambda cfg: cfg.TEST.ENABLE, test),
    "shuffle_eval": (lambda cfg: cfg.SHUFFLE_EVAL.ENABLE, shuffle_eval),
    "benchmark": (lambda cfg: cfg.BENCHMARK.ENABLE, benchmark),
}


def run(cfg: Config) -> Results:
    """Run the enabled tasks of a config in as many processes as it asks for.

    Returns:
        Task name -> its numbers, as the first process here has them.

    Raises:
        LaunchError: processes could not be started or could not find each other, or GPUs are missing.
        SpawnedRunError: a spawned process failed; the message is that of the one that failed first.
        Preempted: a signal ended the run after training was saved.
    """
    if distributed.is_launched():
        return run_tasks(cfg)
    _check_gpus(cfg.NUM_GPUS)
    if _num_wanted(cfg) == 1:
        return run_tasks(cfg)
    per_shard = _num_wanted(cfg) // cfg.NUM_SHARDS
    host, port = _rendezvous(cfg)
    names = [f"rank {cfg.SHARD_ID * per_shard + i}" for i in range(per_shard)]
    results: Results = run_processes(_run_spawned, names, cfg, per_shard, host, port)
    return results


def _num_wanted(cfg: Config) -> int:
    """Processes of the whole run that the config asks for."""
    return (cfg.NUM_GPUS or cfg.NUM_CPU_PROCS) * cfg.NUM_SHARDS


def _run_spawned(local_rank: int, cfg: Config, per_shard: int, host: str, port: int) -> Results:
    os.environ.update(
        RANK=str(cfg.SHARD_ID * per_shard + local_rank),
        WORLD_SIZE=str(per_shard * cfg.NUM_SHARDS),
        LOCAL_RANK=str(local_rank),
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )
    if cfg.NUM_GPUS == 0 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // per_shard))
    return run_tasks(cfg)


def run_tasks(cfg: Config) -> Results:
    """Join the process group of the environment, if any, and run the enabled tasks in order.

    Raises:
        PeerError: another process failed first; its message.
    """
    determinism.prepare(cfg)
    group = distributed.process_group(use_gpu=cfg.NUM_GPUS > 0, backend=cfg.DIST_BACKEND, timeout_s=cfg.DIST_TIMEOUT_S)
    output_dir = Path(cfg.OUTPUT_DIR)
    if cfg.NUM_GPUS == 0 and cfg.NUM_CPU_THREADS:
        torch.set_num_threads(cfg.NUM_CPU_THREADS)
    with group as device:
        rank, world_size = distributed.rank(), distributed.world_size()
        tensorboard = Path(cfg.TENSORBOARD.LOG_DIR or "tensorboard") if cfg.TENSORBOARD.ENABLE else None
        log = RunLog(output_dir, rank=rank, tensorboard_dir=output_dir / tensorboard if tensorboard else None)
        with log, distributed.naming_the_fault():
            logger.info("%s, process %d of %d", _describe(device), rank + 1, world_size)
            if distributed.is_launched() and world_size == 1 < _num_wanted(cfg):
                logger.warning(
                    "warning: RANK and WORLD_SIZE=1 are set, as by a launcher of one process: NUM_GPUS, NUM_CPU_PROCS "
                    "and NUM_SHARDS start no others. Unset RANK and WORLD_SIZE to have them started"
                )
            warnings.filterwarnings("ignore", message="This DataLoader will create .* worker processes")
            with workers_named():
                return _run_enabled(cfg, Run(log, device, rank, world_size))


def _run_enabled(cfg: Config, run: Run) -> Results:
    if not cfg.TRAIN.ENABLE:  # training records its config itself, once it is sure to go on
        fresh = not (Path(cfg.OUTPUT_DIR) / "config.yaml").exists()
        record_config(cfg, run, "config.yaml" if fresh else "config_test.yaml")
    results = {name: task(cfg, run) for name, (enabled, task) in TASKS.items() if enabled(cfg)}
    if not results:
        logger.warning("warning: nothing to do: %s are all False", ", ".join(f"{t.upper()}.ENABLE" for t in TASKS))
    return results


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"device {device} ({torch.cuda.get_device_name(device)})"
    return f"device cpu ({torch.get_num_threads()} threads)"


def _check_gpus(num_gpus: int) -> None:
    found = torch.cuda.device_count()
    if num_gpus > found:
        fewer = f"set NUM_GPUS to at most {found}, or to 0" if found else "set it to 0"
        raise LaunchError(
            f"NUM_GPUS {num_gpus}: PyTorch finds {found} GPUs here; {fewer} for the CPU (in NUM_CPU_PROCS processes)"
        )


def _rendezvous(cfg: Config) -> tuple[str, int]:
    """Host and port where the processes meet: from --init_method, or for one shard a free port of this machine."""
    if cfg.DIST_INIT_METHOD:
        match = re.fullmatch(r"tcp://([^:/]+|\[[^\]]+\]):(\d+)", cfg.DIST_INIT_METHOD)
        if not match:
            raise LaunchError(f"--init_method: found {cfg.DIST_INIT_METHOD!r}, expected tcp://HOST:PORT")
        return match.group(1).strip("[]"), int(match.group(2))
    if cfg.NUM_SHARDS > 1:
        raise LaunchError(f"NUM_SHARDS {cfg.NUM_SHARDS} needs --init_method tcp://HOST:PORT, the same on every shard")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", int(probe.getsockname()[1])
