"""Start the processes of a run and, in each of them, its tasks.

A launcher that sets RANK and WORLD_SIZE (torchrun, submitit) starts this program once per process. Without one, `run`
spawns as many local processes as the config requests, or uses this process if that is one.
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
from videovit.data.catalog import find_dataset
from videovit.data.workers import workers_named
from videovit.engine import distributed
from videovit.engine.cpu import prepare_cpu, share_cores
from videovit.engine.distributed.processes import run_processes
from videovit.engine.problem import Problem
from videovit.engine.reporting.log import RunLog, logger
from videovit.engine.run_context import Run, record_start
from videovit.engine.tasks.analyze import analyze
from videovit.engine.tasks.benchmark import benchmark
from videovit.engine.tasks.features import features
from videovit.engine.tasks.robustness import robustness
from videovit.engine.tasks.search import search
from videovit.engine.tasks.shuffle_eval import shuffle_eval
from videovit.engine.tasks.test import test
from videovit.engine.tasks.train import train
from videovit.engine.tasks.use_of_time import use_of_time
from videovit.engine.training import determinism
from videovit.errors import UserError
from videovit.messages import plural

MAX_PORT = 65535
Task = Callable[[Problem, Run], dict[str, float]]
Results = dict[str, dict[str, float]]
"""Task -> its results."""

TASKS: dict[str, tuple[Callable[[Config], bool], Task]] = {
    "train": (lambda cfg: cfg.TRAIN.ENABLE, train),
    "search": (lambda cfg: cfg.SEARCH.ENABLE, search),
    "test": (lambda cfg: cfg.TEST.ENABLE, test),
    "shuffle_eval": (lambda cfg: cfg.SHUFFLE_EVAL.ENABLE, shuffle_eval),
    "use_of_time": (lambda cfg: cfg.USE_OF_TIME.ENABLE, use_of_time),
    "robustness": (lambda cfg: cfg.ROBUSTNESS.ENABLE, robustness),
    "analysis": (lambda cfg: cfg.ANALYSIS.ENABLE, analyze),
    "features": (lambda cfg: cfg.FEATURES.ENABLE, features),
    "benchmark": (lambda cfg: cfg.BENCHMARK.ENABLE, benchmark),
}
"""Name -> whether a config enables the task, and the task; they run in this order."""


def run(cfg: Config) -> Results:
    """Run the enabled tasks of a config in as many processes as it requests.

    Returns:
        Results per task, of the first process on this machine.

    Raises:
        UserError: processes could not be started or could not find each other, GPUs are missing, or a process failed;
            the message is that of the first one to fail.
        Preempted: a signal ended the run after training was saved.
    """
    if distributed.is_launched():
        return run_tasks(cfg)
    _check_gpus(cfg.NUM_GPUS)
    if _num_processes(cfg) == 1:
        return run_tasks(cfg)
    per_shard = _num_processes(cfg) // cfg.NUM_SHARDS
    host, port = _rendezvous(cfg)
    names = [f"rank {cfg.SHARD_ID * per_shard + i}" for i in range(per_shard)]
    return run_processes(_run_spawned, names, cfg, per_shard, host, port)


def _num_processes(cfg: Config) -> int:
    """Number of processes that the config requests, over all shards."""
    return (cfg.NUM_GPUS or cfg.NUM_CPU_PROCS) * cfg.NUM_SHARDS


def _run_spawned(local_rank: int, cfg: Config, per_shard: int, host: str, port: int) -> Results:
    os.environ.update(
        RANK=str(cfg.SHARD_ID * per_shard + local_rank),
        WORLD_SIZE=str(per_shard * cfg.NUM_SHARDS),
        LOCAL_RANK=str(local_rank),
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )
    if cfg.NUM_GPUS == 0:
        share_cores(per_shard)  # run_tasks follows NUM_CPU_THREADS, if that is set
    return run_tasks(cfg)


def run_tasks(cfg: Config) -> Results:
    """Join the process group of the environment, if any, and run the enabled tasks in order.

    Raises:
        PeerError: another process failed first; with its message.
    """
    determinism.prepare(cfg)
    group = distributed.process_group(use_gpu=cfg.NUM_GPUS > 0, backend=cfg.DIST_BACKEND, timeout_s=cfg.DIST_TIMEOUT_S)
    output_dir = Path(cfg.OUTPUT_DIR)
    with group as device:
        prepare_cpu(cfg, device)
        rank, world_size = distributed.rank(), distributed.world_size()
        tensorboard = Path(cfg.TENSORBOARD.LOG_DIR or "tensorboard") if cfg.TENSORBOARD.ENABLE else None
        log = RunLog(
            output_dir,
            rank=rank,
            tensorboard_dir=output_dir / tensorboard if tensorboard else None,
            log_json=cfg.LOG_JSON,
            held=cfg.TRAIN.ENABLE,  # until training holds the lock of the folder
        )
        with log, distributed.naming_the_fault():
            logger.info("%s, process %d of %d", _describe(device), rank + 1, world_size)
            if distributed.is_launched() and world_size == 1 < _num_processes(cfg):
                logger.warning(
                    "RANK and WORLD_SIZE=1 are set, as by a launcher of one process, so NUM_GPUS, NUM_CPU_PROCS and "
                    "NUM_SHARDS start no others. Unset RANK and WORLD_SIZE to start them"
                )
            warnings.filterwarnings("ignore", message="This DataLoader will create .* worker processes")
            run = Run(log, device, rank, world_size, find_dataset(cfg.TEST.DATASET).noun)
            if not cfg.TRAIN.ENABLE:  # the trainer records the config itself, once it knows that it can go on
                fresh = not (output_dir / "config.yaml").exists()
                record_start(cfg, run, "config.yaml" if fresh else "config_test.yaml")
            problem = Problem(cfg)
            with workers_named():
                results = {name: task(problem, run) for name, (enabled, task) in TASKS.items() if enabled(cfg)}
            if not results:
                logger.warning("nothing to do: %s are all False", ", ".join(f"{t.upper()}.ENABLE" for t in TASKS))
            return results


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"device {device} ({torch.cuda.get_device_name(device)})"
    return f"device cpu ({plural(torch.get_num_threads(), 'thread')})"


def _check_gpus(num_gpus: int) -> None:
    found = torch.cuda.device_count()
    if num_gpus > found:
        fewer = f"Set NUM_GPUS to at most {found}, or to 0" if found else "Set it to 0"
        raise UserError(
            f"NUM_GPUS {num_gpus}: PyTorch finds {plural(found, 'GPU')} here",
            hint=f"{fewer} for the CPU (in NUM_CPU_PROCS processes)",
        )


def _rendezvous(cfg: Config) -> tuple[str, int]:
    """Host and port at which the processes meet: from --init_method, or for one shard a free port of this machine."""
    if cfg.DIST_INIT_METHOD:
        match = re.fullmatch(r"tcp://([^:/]+|\[[^\]]+\]):(\d+)", cfg.DIST_INIT_METHOD)
        if not match or int(match.group(2)) > MAX_PORT:
            raise UserError(where="--init_method", found=cfg.DIST_INIT_METHOD, expected="tcp://HOST:PORT")
        return match.group(1).strip("[]"), int(match.group(2))
    if cfg.NUM_SHARDS > 1:
        raise UserError(f"NUM_SHARDS {cfg.NUM_SHARDS} needs --init_method tcp://HOST:PORT, the same on every shard")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", int(probe.getsockname()[1])
