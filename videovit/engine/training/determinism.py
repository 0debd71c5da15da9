"""The same bits in every training run on a GPU, whose fastest kernels add numbers in nondeterministic order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from videovit.config import Config
from videovit.engine.reporting.log import logger
from videovit.errors import UserError
from videovit.models.contract import LayeredModel


def prepare(cfg: Config) -> None:
    """Set environment variables that libraries read once, before the first operation on a GPU or between several."""
    if cfg.NUM_GPUS and cfg.TRAIN.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # one of two values that make cuBLAS deterministic
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # sums in the switch between GPUs come in any order


@contextmanager
def deterministic(cfg: Config, model: LayeredModel, device: torch.device) -> Iterator[None]:
    """Let a GPU add numbers in a fixed order until the end of the block, if `TRAIN.DETERMINISTIC` is set.

    CPUs need nothing. A model that cannot be trained deterministically is trained all the same, with a warning.

    Args:
        cfg: the config.
        model: what is trained, without a distributed wrapper.
        device: where it is trained.

    Raises:
        UserError: an operation has no deterministic version.
    """
    enabled = cfg.TRAIN.DETERMINISTIC and device.type == "cuda"
    if enabled and not model.is_deterministic_on_gpu:
        name = cfg.MODEL.MODEL_NAME
        logger.warning("%s cannot be trained to the same bits twice on a GPU (TRAIN.DETERMINISTIC)", name)
        enabled = False
    if not enabled:
        yield
        return
    prepare(cfg)
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # it costs time, and nothing reads memory before it is written
    try:
        yield
    except RuntimeError as error:
        # PyTorch has no class of its own for these errors.
        if not re.search("deterministic|unable to find an engine", str(error), re.IGNORECASE):
            raise
        raise UserError(
            f"{str(error).splitlines()[0]}\nTRAIN.DETERMINISTIC False trains without. A run that is killed and resumed "
            "then has other last bits in its weights than one that is not"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]
