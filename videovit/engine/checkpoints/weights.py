"""From a Config to what tasks compute with: the model, its weights, and the precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from videovit.config import Config
from videovit.config.schema.evaluation import WhichCheckpoint
from videovit.engine import distributed
from videovit.engine.checkpoints import hub
from videovit.engine.checkpoints.folder import best_checkpoint, find_checkpoints
from videovit.engine.checkpoints.hf_folder import weights_in
from videovit.engine.checkpoints.resume import load_model
from videovit.engine.distributed.parallel import is_sharded, load_unsharded, unsharded
from videovit.engine.reporting.log import logger
from videovit.models import build_model, build_network, load_pretrained
from videovit.models.contract import LayeredModel, VideoModel
from videovit.models.convert import pool_norm_eps, set_pool_norm_eps
from videovit.models.convert.read import SHARDED_SUFFIX, CheckpointError, read_file
from videovit.models.download import local_file
from videovit.models.macs import count_macs, count_params

M = TypeVar("M", bound=LayeredModel)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build_seeded_model(cfg: Config, device: torch.device) -> VideoModel:
    """As `build_seeded_network`, for tasks that work with a model of clips or images."""
    return _seeded(cfg, device, build_model)


def build_seeded_network(cfg: Config, device: torch.device) -> LayeredModel:
    """Build the model or detector of a config on `device`; its initial weights depend on `RNG_SEED` alone."""
    return _seeded(cfg, device, build_network)


def _seeded(cfg: Config, device: torch.device, build: Callable[[Config], M]) -> M:
    torch.manual_seed(cfg.RNG_SEED)
    # On the CPU first: a GPU would draw other random numbers.
    model: M = build(cfg).to(device)
    if cfg.LOG_MODEL_INFO and distributed.rank() == 0:
        logger.info(describe_model(cfg))
    return model


def describe_model(cfg: Config) -> str:
    """Name, number of parameters, and multiply-adds of one training clip (papers call them FLOPs), on one line."""
    params, gmacs = model_cost(cfg)
    clip = f"{cfg.DATA.NUM_FRAMES} x {cfg.DATA.TRAIN_CROP_SIZE} x {cfg.DATA.TRAIN_CROP_SIZE}"
    what = "masked pre-training" if cfg.MASK.ENABLE else cfg.DETECTOR.NAME
    name = f"{what} on {cfg.MODEL.MODEL_NAME}" if what else cfg.MODEL.MODEL_NAME
    return f"{name}: {params:,} parameters, {gmacs:.3f} GMACs per clip of {clip}"


def model_cost(cfg: Config) -> tuple[int, float]:
    """Number of parameters, and 1e9 multiply-adds of one training clip, of the model that a config describes."""
    with torch.device("meta"):  # shapes suffice, and take no memory
        model = build_network(cfg)
    size = cfg.DATA.TRAIN_CROP_SIZE
    channels = cfg.DATA.INPUT_CHANNEL_NUM[0]
    return count_params(model), count_macs(model, (1, channels, cfg.DATA.NUM_FRAMES, size, size)) / 1e9


def unsharded_copy(cfg: Config, model: nn.Module, device: torch.device) -> nn.Module:
    """The whole model on this process; a collective call.

    Args:
        cfg: config of the model.
        model: sharded, or not.
        device: of this process.

    Returns:
        A copy of a sharded model; any other model itself.
    """
    if not is_sharded(model):
        return model
    copy: nn.Module = build_network(cfg).to(device)
    copy.load_state_dict(unsharded(model.state_dict()))
    _copy_pool_norm_eps(model, copy)  # not part of the state dict
    return copy


def _copy_pool_norm_eps(source: nn.Module, target: nn.Module) -> None:
    eps = pool_norm_eps(source)
    if eps is not None:
        set_pool_norm_eps(target, eps)


def train_dtype(cfg: Config) -> torch.dtype | None:
    """The autocast type of training; None for full precision."""
    return DTYPES[cfg.TRAIN.MIXED_PRECISION_DTYPE] if cfg.TRAIN.MIXED_PRECISION else None


def test_dtype(cfg: Config) -> torch.dtype | None:
    """The autocast type of evaluation; None for full precision."""
    return DTYPES[cfg.TRAIN.MIXED_PRECISION_DTYPE] if cfg.TEST.MIXED_PRECISION else None


def load_initial_weights(cfg: Config, model: nn.Module) -> None:
    """Load `TRAIN.CHECKPOINT_FILE_PATH`, if set, as a starting point for training; warn if random weights are frozen.

    Only weights are taken: training starts at epoch 0 with a new optimizer. (To resume a run, start the same command
    again: `TRAIN.AUTO_RESUME` finds its checkpoints in `OUTPUT_DIR`.)

    Args:
        cfg: of the run.
        model: may be sharded.

    Raises:
        CheckpointError: unreadable, or anything but the head does not fit.
    """
    if not cfg.TRAIN.CHECKPOINT_FILE_PATH:
        frozen = "MODEL.DETACH_FINAL_FC" if cfg.MODEL.DETACH_FINAL_FC else "TRAIN.FREEZE backbone"
        if cfg.MODEL.DETACH_FINAL_FC or cfg.TRAIN.FREEZE == "backbone":
            logger.warning("%s freezes random weights, since TRAIN.CHECKPOINT_FILE_PATH is empty", frozen)
        return
    # Fitting weights to a model needs whole tensors: fit them to another copy, then shard the result.
    target = build_network(cfg) if is_sharded(model) else model
    path = find_weights_file(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    report = load_pretrained(target, path)
    if target is not model:
        load_unsharded(model, target.state_dict())
        _copy_pool_norm_eps(target, model)
    if distributed.rank() == 0:
        logger.info("weights of %s:\n%s", path, report)


def load_weights_to_test(cfg: Config, model: nn.Module) -> str:
    """Load the weights that a config evaluates.

    They are those of `TEST.CHECKPOINT_FILE_PATH`, else of the newest or best checkpoint in `OUTPUT_DIR`
    (`TEST.CHECKPOINT`), else of `TRAIN.CHECKPOINT_FILE_PATH`.

    Args:
        cfg: of the run.
        model: gets the weights.

    Returns:
        The file.

    Raises:
        CheckpointError: none of the three exists (random weights are never evaluated), or the file is damaged or does
            not fit (no other weights are evaluated in its place).
    """
    which, key = cfg.TEST.CHECKPOINT, "ema_state" if cfg.TEST.USE_EMA else "model_state"
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        path = load_all_weights(model, cfg.TEST.CHECKPOINT_FILE_PATH, use_ema=cfg.TEST.USE_EMA, which=which)
    elif (own := checkpoint_of(Path(cfg.OUTPUT_DIR), which)) is not None:
        # If it is damaged, that is an error: the numbers of an older one would pass for those of the finished run.
        path = str(own)
        _load_own(cfg, model, own, key)
    elif cfg.TRAIN.CHECKPOINT_FILE_PATH:
        path = load_all_weights(model, cfg.TRAIN.CHECKPOINT_FILE_PATH, use_ema=cfg.TEST.USE_EMA)
    else:
        raise CheckpointError(
            f"nothing to test: no checkpoint in {cfg.OUTPUT_DIR}/checkpoints, and TEST.CHECKPOINT_FILE_PATH is empty"
        )
    logger.info("testing the weights of %s", path)
    return path


def _load_own(cfg: Config, model: nn.Module, path: Path, key: str) -> None:
    """Load a checkpoint of this run strictly: its model is tested exactly as it was trained."""
    try:
        load_model(model, path, key=key)
    except CheckpointError as error:
        try:
            load_all_weights(build_network(cfg), str(path))
        except CheckpointError:
            raise error from None
        hint = f"To test it with stretched position tables, set TEST.CHECKPOINT_FILE_PATH {path}"
        raise CheckpointError(f"{error}\n{hint}") from None


def load_all_weights(model: nn.Module, path: str, *, use_ema: bool = False, which: WhichCheckpoint = "last") -> str:
    """Load weights including the head: an untrained head would make results meaningless.

    Args:
        model: gets the weights.
        path: a checkpoint (file, or folder of a sharded one), or the OUTPUT_DIR of a run.
        use_ema: load the moving average of the weights, which the file must contain.
        which: of the checkpoints of a run.

    Returns:
        The file.

    Raises:
        CheckpointError: unreadable, or a weight is missing or has another shape.
    """
    path = find_weights_file(path, which)
    report = load_pretrained(model, _average_of(path) if use_ema else path)
    if report.missing or report.skipped:
        raise CheckpointError(
            f"{path} does not hold all weights of this model (is MODEL.NUM_CLASSES right?):\n{report}"
        )
    logger.info("weights of %s:\n%s", path, report)
    return path


def find_weights_file(path: str, which: WhichCheckpoint = "last") -> str:
    """The newest or best checkpoint if `path` is the OUTPUT_DIR of a run, otherwise the local path of the file.

    Args:
        path: a file, an OUTPUT_DIR, a folder of a saved model, `zoo:NAME`, `hf://user/name`, or a URL. The last three
            are downloaded, unless they are in the cache.
        which: of the checkpoints in an OUTPUT_DIR.

    Raises:
        CheckpointError: a folder that neither is a sharded checkpoint nor contains such a checkpoint.
        UserError: the download failed.
    """
    path = str(hub.download(path) if path.startswith(hub.PREFIX) else local_file(path))
    if not Path(path).is_dir() or Path(path).suffix == SHARDED_SUFFIX:
        return path
    if (saved := weights_in(Path(path))) is not None:
        return str(saved)
    found = checkpoint_of(Path(path), which)
    if found is None:
        raise CheckpointError(f"{path}: a folder without checkpoints/checkpoint_epoch_*")
    return str(found)


def checkpoint_of(output_dir: Path, which: WhichCheckpoint) -> Path | None:
    """The newest or best checkpoint of a run; None if it has no checkpoints at all.

    Raises:
        CheckpointError: it has checkpoints, but the best one is wanted and not among them.
    """
    found, best = find_checkpoints(output_dir), best_checkpoint(output_dir)
    if which == "best" and best.is_file():
        return best
    if which == "best" and found:
        raise CheckpointError(
            "does not exist, but TEST.CHECKPOINT is best",
            where=best,
            hint="Set TEST.CHECKPOINT last, or train with TRAIN.BEST and TRAIN.EVAL_PERIOD",
        )
    return found[0] if found else None


def _average_of(path: str) -> dict[str, Any]:
    content = read_file(path)
    if not isinstance(content.get("ema_state"), dict):
        raise CheckpointError(f"{path} holds no moving average of weights, but TEST.USE_EMA is True")
    return {**content, "model_state": content["ema_state"]}
