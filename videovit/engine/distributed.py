"""The process group: five environment variables in, a few collective functions out.

RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are all that is read; who set them (our spawn, torchrun,
submitit) is unknown here. Not being able to join is an error, never a run of one.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from videovit.config.errors import UserError

T = TypeVar("T")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class LaunchError(UserError):
    """The processes of a run could not be started or could not find each other."""


def is_launched() -> bool:
    """Whether a launcher has set the environment of a distributed process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def process_group(*, use_gpu: bool, backend: str = "auto", timeout_s: float = 600.0) -> Iterator[torch.device]:
    """Join the process group that the environment describes, and leave it at the end.

    Without RANK and WORLD_SIZE in the environment, or with a world of one, no group is made.

    Args:
        use_gpu: compute on `cuda:LOCAL_RANK`, otherwise on the CPU.
        backend: "nccl", "gloo", or "auto" (nccl on a GPU, gloo on the CPU).
        timeout_s: how long joining, or one collective, may take, in seconds.

    Yields:
        The device of this process.

    Raises:
        LaunchError: a variable is missing or not a number, the GPU is absent, or the others did not come in time.
    """
    device = _device(use_gpu)
    world = _env_int("WORLD_SIZE") if is_launched() else 1
    if world == 1:
        yield device
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise LaunchError(f"distributed run: {', '.join(missing)} not set; needed are {', '.join(VARIABLES)}")
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    name = ("nccl" if use_gpu else "gloo") if backend == "auto" else backend
    try:
        dist.init_process_group(
            name,
            rank=_env_int("RANK"),
            world_size=world,
            timeout=datetime.timedelta(seconds=timeout_s),
            device_id=device if use_gpu else None,
        )
    except (dist.DistError, RuntimeError) as error:
        raise LaunchError(f"rank {_env_int('RANK')} of {world} could not join at {where} ({name}): {error}") from error
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _device(use_gpu: bool) -> torch.device:
    if not use_gpu:
        return torch.device("cpu")
    local = _env_int("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0
    found = torch.cuda.device_count()
    if local >= found:
        raise LaunchError(f"GPU {local} wanted, {found} found; set NUM_GPUS to at most {found} (0 runs on the CPU)")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _env_int(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdigit():
        raise LaunchError(f"environment variable {name}: a number is needed, found {text!r}")
    return int(text)


def rank() -> int:
    """Global rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes of the run; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: T) -> list[T]:
    """The picklable value of every rank, in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def mean(values: torch.Tensor) -> torch.Tensor:
    """Elementwise mean over ranks of a float tensor on this process's device."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()
