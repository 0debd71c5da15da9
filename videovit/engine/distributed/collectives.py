"""What the processes of a run exchange: small values in host memory, through gloo, on GPUs too.

A process that dies closes its gloo connections, and the others notice at once; nccl would wait for its watchdog. That
is also why processes wait for their GPUs together (`wait_for_gpus`). Gradients and weights travel through nccl.

Without a process group every function does what it would do in a group of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
POLL_S = 0.005  # longest pause between two queries of a GPU


def rank() -> int:
    """Global rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes of the run; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: T) -> list[T]:
    """Collect a picklable value from every rank; a collective call.

    Returns:
        The values in rank order, on every rank.
    """
    if not dist.is_initialized():
        return [value]
    # all_gather_object overwrites every item, so the list holds nothing but T afterwards.
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def mean(values: Sequence[float | Tensor]) -> list[float]:
    """Average each number over all ranks; a collective call.

    Args:
        values: numbers, or scalar tensors on any device.

    Returns:
        The averages, on every rank.
    """
    row = _reduce(values, dist.ReduceOp.SUM)
    return [value / world_size() for value in row]


def highest(values: Sequence[float | Tensor]) -> list[float]:
    """The maximum of each number over all ranks; a collective call.

    Args:
        values: numbers, or scalar tensors on any device.

    Returns:
        The maxima, on every rank.
    """
    return _reduce(values, dist.ReduceOp.MAX)


def _reduce(values: Sequence[float | Tensor], operation: dist.ReduceOp.RedOpType) -> list[float]:
    row = torch.tensor([float(value) for value in values])
    if dist.is_initialized():
        dist.all_reduce(row, op=operation)
    numbers: list[float] = row.tolist()
    return numbers


def barrier() -> None:
    """Wait until every rank has called this."""
    highest([0])


def wait_for_gpus(device: torch.device) -> None:
    """Wait until the GPUs of all ranks have finished what was queued so far; a collective call.

    Reading a number from a GPU waits too, but forever if a gradient is due from a process that has died.

    Args:
        device: of this rank; on a CPU there is nothing to wait for.
    """
    if device.type == "cuda" and dist.is_initialized():
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        wait_together(event.query)


def wait_together(is_done: Callable[[], bool]) -> None:
    """Wait until `is_done()` is true on every rank; fails like any collective call if a rank dies meanwhile."""
    begin = time.monotonic()
    while highest([not is_done()])[0]:
        # Poll short steps often and long ones rarely: at most 2 % of the time is lost.
        time.sleep(min(POLL_S, 0.02 * (time.monotonic() - begin)))
