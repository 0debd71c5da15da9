"""The same bits in every run on a GPU, whose quickest kernels add in the order in which their threads come."""

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
from videovit.models.external.pytorchvideo import PTV_MODELS


class NotDeterministicError(UserError):
    """A training step needs an operation whose result differs from run to run."""


def prepare(cfg: Config) -> None:
    """Tell the libraries that look once, before anything else happens on a GPU, or between several."""
    if cfg.NUM_GPUS and cfg.TRAIN.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # one of the two that cuBLAS is deterministic with
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # sums in the switch between GPUs come in any order


@contextmanager
def deterministic(cfg: Config, device: torch.device) -> Iterator[None]:
    """While this lasts, a GPU adds in the same order every time, where `TRAIN.DETERMINISTIC` asks for it.

    On CPUs nothing has to be done. Networks of pytorchvideo average over space and time by an operation that has no
    such version on GPUs: they go on without, with a warning.

    Raises:
        NotDeterministicError: there is no such version of an operation.
    """
    wanted = cfg.TRAIN.DETERMINISTIC and device.type == "cuda"
    if wanted and cfg.MODEL.MODEL_NAME in PTV_MODELS:
        name = cfg.MODEL.MODEL_NAME
        logger.warning("warning: %s cannot be trained to the same bits twice on a GPU (TRAIN.DETERMINISTIC)", name)
        wanted = False
    if not wanted:
        yield
        return
    prepare(cfg)
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # costs time, and nothing reads memory before it is written
    try:
        yield
    except RuntimeError as error:
        if not re.search("deterministic|unable to find an engine", str(error), re.IGNORECASE):
            raise
        raise NotDeterministicError(
            f"{str(error).splitlines()[0]}\nTRAIN.DETERMINISTIC False trains without; when such a run is killed and "
            "goes on, its weights have other last bits than those of a run that was not"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]
