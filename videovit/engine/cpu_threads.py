"""Threads of PyTorch on a CPU: NUM_CPU_THREADS, or by default a fair share of the cores for every process."""

from __future__ import annotations

import os

import torch

from videovit.config import Config


def set_cpu_threads(cfg: Config, device: torch.device) -> None:
    """Compute on NUM_CPU_THREADS threads, if the config sets them and the device is a CPU."""
    if device.type == "cpu" and cfg.NUM_CPU_THREADS:
        torch.set_num_threads(cfg.NUM_CPU_THREADS)


def share_cores(num_processes: int) -> None:
    """Compute on this process's share of the cores, unless OMP_NUM_THREADS says otherwise.

    By default each process would take all cores, and they would slow each other down.

    Args:
        num_processes: on this machine.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_processes))
