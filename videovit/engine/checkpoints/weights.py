"""From a Config to the objects that the tasks work with: model, weights, precision, class names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from videovit.config import Config
from videovit.engine import distributed
from videovit.engine.checkpoints.resume import find_checkpoints, load_model
from videovit.engine.distributed.parallel import is_sharded, load_whole, whole
from videovit.engine.reporting.log import logger
from videovit.models import build_model, load_pretrained
from videovit.models.convert import pool_norm_eps, set_pool_norm_eps
from videovit.models.convert.read import SHARDED_SUFFIX, CheckpointError, read_file
from videovit.models.macs import count_macs, count_params

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build_on(cfg: Config, device: torch.device) -> nn.Module:
    """The model of the config with its initial weights, which depend on `RNG_SEED` alone, on `device`."""
    torch.manual_seed(cfg.RNG_SEED)
    model: nn.Module = build_model(cfg).to(device)
    if cfg.LOG_MODEL_INFO and distributed.rank() == 0:
        logger.info(describe_model(cfg))
    return model


def describe_model(cfg: Config) -> str:
    """One line: name, parameters, and multiply-adds of one training clip (papers call them FLOPs)."""
    with torch.device("meta"):
        model = build_model(cfg)
    size = cfg.DATA.TRAIN_CROP_SIZE
    gmacs = count_macs(model, (1, 3, cfg.DATA.NUM_FRAMES, size, size)) / 1e9
    clip = f"{cfg.DATA.NUM_FRAMES} x {size} x {size}"
    return f"{cfg.MODEL.MODEL_NAME}: {count_params(model):,} parameters, {gmacs:.3f} GMACs for a clip of {clip}"


def in_one_piece(cfg: Config, model: nn.Module, device: torch.device) -> nn.Module:
    """The model itself, or where it is sharded a whole copy of it on this process; a collective call."""
    if not is_sharded(model):
        return model
    copy: nn.Module = build_model(cfg).to(device)
    copy.load_state_dict(whole(model.state_dict()))
    _copy_eps(model, copy)
    return copy


def _copy_eps(source: nn.Module, target: nn.Module) -> None:
    eps = pool_norm_eps(source)
    if eps is not None:
        set_pool_norm_eps(target, eps)


def train_dtype(cfg: Config) -> torch.dtype | None:
    """The autocast type of training, None for full precision."""
    return DTYPES[cfg.TRAIN.MIXED_PRECISION_DTYPE] if cfg.TRAIN.MIXED_PRECISION else None


def test_dtype(cfg: Config) -> torch.dtype | None:
    """The autocast type of evaluation, None for full precision."""
    return DTYPES[cfg.TRAIN.MIXED_PRECISION_DTYPE] if cfg.TEST.MIXED_PRECISION else None


def load_initial_weights(cfg: Config, model: nn.Module) -> None:
    """Weights of `TRAIN.CHECKPOINT_FILE_PATH` as a starting point for training; nothing when it is empty.

    Only weights are taken: training starts at epoch 0 with a new optimiser. (To go on with a run, start the same
    command again: `TRAIN.AUTO_RESUME` finds its checkpoints in `OUTPUT_DIR`.)
    """
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        target = build_model(cfg) if is_sharded(model) else model
        path = newest_of(cfg.TRAIN.CHECKPOINT_FILE_PATH)
        report = load_pretrained(target, path)
        if target is not model:
            load_whole(model, target.state_dict())
            _copy_eps(target, model)
        if distributed.rank() == 0:
            logger.info("weights of %s:\n%s", path, report)


def load_for_test(cfg: Config, model: nn.Module) -> str:
    """Weights to evaluate: `TEST.CHECKPOINT_FILE_PATH`, else the newest of `OUTPUT_DIR`, else the training start.

    Returns:
        The file that they came from.

    Raises:
        CheckpointError: none of the three is there (random weights are never evaluated), or the file is damaged or
            does not fit: other weights than the ones meant are not evaluated in its place.
    """
    found = find_checkpoints(Path(cfg.OUTPUT_DIR))
    key = "ema_state" if cfg.TEST.USE_EMA else "model_state"
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        path = load_checkpoint_for_test(model, cfg.TEST.CHECKPOINT_FILE_PATH, use_ema=cfg.TEST.USE_EMA)
    elif found:
        path = str(found[0])
        load_model(model, found[0], key=key)
    elif cfg.TRAIN.CHECKPOINT_FILE_PATH:
        path = load_checkpoint_for_test(model, cfg.TRAIN.CHECKPOINT_FILE_PATH, use_ema=cfg.TEST.USE_EMA)
    else:
        raise CheckpointError(
            f"nothing to test: no checkpoint in {cfg.OUTPUT_DIR}/checkpoints, and TEST.CHECKPOINT_FILE_PATH is empty"
        )
    logger.info("testing the weights of %s", path)
    return path


def load_checkpoint_for_test(model: nn.Module, path: str, *, use_ema: bool = False) -> str:
    """All weights of `path`, the head included: a model with a new head has nothing to tell.

    Args:
        path: a checkpoint (file, or folder of a sharded one), or the OUTPUT_DIR of a run, whose newest one is taken.
        use_ema: take the moving average of the weights, which the file must hold.

    Returns:
        The file.

    Raises:
        CheckpointError: unreadable, or a weight is missing or has another shape.
    """
    path = newest_of(path)
    report = load_pretrained(model, _average_of(path) if use_ema else path)
    if report.missing or report.skipped:
        raise CheckpointError(
            f"{path} does not hold all weights of this model (is MODEL.NUM_CLASSES right?):\n{report}"
        )
    logger.info("weights of %s:\n%s", path, report)
    return path


def newest_of(path: str) -> str:
    """The newest checkpoint where `path` is the OUTPUT_DIR of a run, otherwise `path` itself.

    Raises:
        CheckpointError: a folder that is neither a sharded checkpoint nor holds any.
    """
    if not Path(path).is_dir() or Path(path).suffix == SHARDED_SUFFIX:
        return path
    found = find_checkpoints(Path(path))
    if not found:
        raise CheckpointError(f"{path}: a folder without checkpoints/checkpoint_epoch_*")
    return str(found[0])


def _average_of(path: str) -> dict[str, Any]:
    content = read_file(path)
    if not isinstance(content.get("ema_state"), dict):
        raise CheckpointError(f"{path} holds no moving average of weights, but TEST.USE_EMA is True")
    return {**content, "model_state": content["ema_state"]}
