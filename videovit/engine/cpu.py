"""How a process uses the CPU: threads, and memory that it has freed."""

from __future__ import annotations

import ctypes
import os

import torch

from videovit.config import Config

# Options of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def prepare_cpu(cfg: Config, device: torch.device) -> None:
    """If the device is a CPU: compute on NUM_CPU_THREADS threads, if the config sets them, and keep freed memory."""
    if device.type != "cpu":
        return
    if cfg.NUM_CPU_THREADS:
        torch.set_num_threads(cfg.NUM_CPU_THREADS)
    keep_freed_memory()


def share_cores(num_processes: int) -> None:
    """Compute on this process's share of the cores, unless OMP_NUM_THREADS says otherwise.

    By default each process would take all cores, and they would slow each other down.

    Args:
        num_processes: on this machine.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_processes))


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors for the next ones, unless the environment tunes the allocator.

    By default glibc returns memory to the kernel as soon as some tens of MB are free, and the kernel clears it page by
    page for the next tensor (docs/performance.md has what that costs). The peak stays as it was. Other C libraries and
    allocators are left alone.
    """
    if any(name in os.environ for name in _SETTINGS):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    # The most that glibc itself would choose. Larger tensors have pages of their own: in the heap, a small object in
    # the place of a freed one would keep the next from fitting, and the heap would grow.
    mallopt(_M_MMAP_THRESHOLD, 2**25)
