"""Checkpoints of a run: found again, and loaded (saving.py writes them).

Files are SlowFast's: `OUTPUT_DIR/checkpoints/checkpoint_epoch_00010.pyth` with the keys epoch, model_state,
optimizer_state, scaler_state and cfg; ours adds step (steps done in the epoch that follows) of num_steps,
pool_norm_eps, ema_state and ema_updates (the moving average of the weights), and versions. A sharded run writes folders
on its way, `checkpoint_epoch_00010.dcp`, which are read as those files are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from videovit.config.tree import Mapping, Node, TreeError, parse_tree, written
from videovit.engine import distributed
from videovit.engine.distributed.parallel import as_in, load_whole
from videovit.engine.reporting.log import logger
from videovit.models.convert import CheckpointError, set_pool_norm_eps
from videovit.models.convert.read import SHARDED_SUFFIX, read_file

FILE_NAME = re.compile(r"checkpoint_epoch_(\d{5,})(?:_step_(\d+))?\.(pyth|dcp)$")


@dataclass(frozen=True)
class Position:
    """Where training stands: `epoch` whole epochs done, and `step` of the `num_steps` steps of the next one."""

    epoch: int = 0
    step: int = 0
    num_steps: int = 0


def checkpoint_path(output_dir: Path, position: Position, *, sharded: bool = False) -> Path:
    """The file of a position: `checkpoint_epoch_00003.pyth`, mid-epoch `checkpoint_epoch_00003_step_000120.pyth`.

    Sharded ones are folders that end in `.dcp`.
    """
    step = f"_step_{position.step:06d}" if position.step else ""
    suffix = SHARDED_SUFFIX if sharded else ".pyth"
    return output_dir / "checkpoints" / f"checkpoint_epoch_{position.epoch:05d}{step}{suffix}"


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, newest (furthest in training) first, of one position the file before the folder."""

    def order(path: Path) -> tuple[int, int, bool]:
        match = FILE_NAME.search(path.name)
        return (int(match[1]), int(match[2] or 0), match[3] == "pyth") if match else (-1, -1, False)

    folder = output_dir / "checkpoints"
    found = [p for p in folder.glob("checkpoint_epoch_*") if FILE_NAME.search(p.name)] if folder.is_dir() else []
    return sorted(found, key=order, reverse=True)


def load_model(model: nn.Module, path: Path, *, key: str = "model_state") -> dict[str, Any]:
    """Load the weights of a checkpoint of this engine, strictly; returns the checkpoint's content.

    Args:
        key: "model_state", or "ema_state" for the moving average.

    Raises:
        CheckpointError: unreadable, or its names or shapes are not those of `model`; the first of each are listed.
    """
    state = read_file(path)
    if not isinstance(state.get(key), dict):
        if key == "ema_state":
            raise CheckpointError(f"{path} has no 'ema_state': it was trained without TRAIN.EMA_DECAY")
        raise CheckpointError(f"{path}: expected the key {key!r}, found {sorted(map(str, state))[:5]}")
    _check_fit(model.state_dict(), state[key], path)
    load_whole(model, state[key])
    if state.get("pool_norm_eps"):
        set_pool_norm_eps(model, state["pool_norm_eps"])
    return state


def _check_fit(wanted: dict[str, torch.Tensor], found: dict[str, torch.Tensor], path: Path) -> None:
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    shapes = [
        f"{n}: model {tuple(wanted[n].shape)}, file {tuple(found[n].shape)}"
        for n in wanted
        if n in found and wanted[n].shape != found[n].shape
    ]
    lines = [
        f"{title} ({len(names)}): {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for title, names in (("missing in the file", missing), ("unknown to the model", unknown), ("shapes", shapes))
        if names
    ]
    if lines:
        raise CheckpointError(f"{path} does not fit the model:\n  " + "\n  ".join(lines))


def resume(
    output_dir: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    ema: AveragedModel | None = None,
    cfg_text: str = "",
    num_steps: int = 0,
    global_batch: int = 0,
) -> Position | None:
    """Continue from the newest checkpoint in `output_dir` that can be read; a damaged one is passed over aloud.

    Moments come from the file; weight decay, momentum and the like stay those of `optimizer`.

    Args:
        cfg_text: of this run; keys that shape training and differ from the earlier run's are named in a warning.
        ema: moving average of the weights; begins with the weights themselves where the file has none.
        num_steps: steps of an epoch now, which a stop in the middle of an epoch must agree with; 0 is not compared.
        global_batch: videos a step now; the same.

    Returns:
        Where training stands, or None when there is no checkpoint.

    Raises:
        CheckpointError: checkpoints are there and not one of them can be used, or the newest belongs to another
            optimiser or another length of the epoch.
    """
    problems = []
    for path in find_checkpoints(output_dir):
        try:
            state = load_model(model, path)
        except CheckpointError as error:
            problems.append(str(error))
            if distributed.rank() == 0:
                logger.warning("warning: passed over: %s", error)
            continue
        position = Position(int(state["epoch"]) + 1, int(state.get("step", 0)), int(state.get("num_steps", 0)))
        _check_epoch(path, position, state, num_steps=num_steps, global_batch=global_batch)
        _load_optimizer(optimizer, state.get("optimizer_state"), path)
        if scaler is not None and state.get("scaler_state"):
            scaler.load_state_dict(state["scaler_state"])
        if ema is not None:
            _load_ema(ema, model, state, path)
        if distributed.rank() == 0:
            changes = changed_keys(str(state.get("cfg") or ""), cfg_text)
            if changes:
                logger.warning("warning: the run goes on with other values than before: %s", "; ".join(changes))
        logger.info("resumed from %s: %d epochs and %d steps done", path, position.epoch, position.step)
        return position
    if problems:
        more = f" ({len(problems) - 1} older ones neither)" if len(problems) > 1 else ""
        raise CheckpointError(f"none of the checkpoints can be used{more}; {ANOTHER_START}. The newest: {problems[0]}")
    return None


ANOTHER_START = "start anew in another OUTPUT_DIR"


def _check_epoch(path: Path, position: Position, state: dict[str, Any], *, num_steps: int, global_batch: int) -> None:
    """A stop in the middle of an epoch goes on with the same batches only."""
    versions = state.get("versions")
    batch_before = int(versions.get("global_batch", 0)) if isinstance(versions, dict) else 0
    if position.step and num_steps and position.num_steps != num_steps:
        raise CheckpointError(
            f"{path} stands at step {position.step} of {position.num_steps} of an epoch that now has {num_steps} "
            f"steps: another TRAIN.BATCH_SIZE or another list? Go on with the earlier ones, or {ANOTHER_START}"
        )
    if position.step and global_batch and batch_before not in (0, global_batch):
        raise CheckpointError(
            f"{path} stands in the middle of an epoch of {batch_before} videos a step, and now a step has "
            f"{global_batch} (TRAIN.BATCH_SIZE x NUM_SHARDS): samples would be lost or doubled. Take {batch_before}, "
            f"or {ANOTHER_START}"
        )


def _load_ema(ema: AveragedModel, model: nn.Module, state: dict[str, Any], path: Path) -> None:
    if isinstance(state.get("ema_state"), dict):
        _check_fit(ema.module.state_dict(), state["ema_state"], path)
        load_whole(ema.module, state["ema_state"])
        ema.n_averaged.fill_(int(state.get("ema_updates", 0)))
    else:
        ema.module.load_state_dict(model.state_dict())
        logger.warning("warning: %s holds no moving average (TRAIN.EMA_DECAY): it begins with its weights", path)


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any] | None, path: Path) -> None:
    """Moments of the file, settings of this run."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    groups = state["param_groups"] if state else []
    same = [len(g["params"]) for g in groups] == sizes and all(
        set(settings[i]) - {"lr_scale"} <= set(g) | {"lr_scale"} for i, g in enumerate(groups)
    )
    if state is None or not same:
        raise CheckpointError(
            f"{path} was written with another optimiser or other parameter groups (SOLVER.OPTIMIZING_METHOD, "
            f"ZERO_WD_1D_PARAM, LAYER_DECAY, MVIT.ZERO_DECAY_POS_CLS; or another version of this project, which decays "
            f"other weights); take the earlier ones, or {ANOTHER_START}"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {i: {k: _cut(parameters[i], v) for k, v in values.items()} for i, values in state["state"].items()}
    optimizer.load_state_dict({**state, "state": moments})
    for group, setting in zip(optimizer.param_groups, settings, strict=True):
        group.update(setting)


def _cut(parameter: nn.Parameter, value: Any) -> Any:
    """What is kept for every element of a parameter, cut as the parameter is."""
    return as_in(parameter, value) if isinstance(value, torch.Tensor) and value.shape == parameter.shape else value


FREE_SECTIONS = ("TEST", "SHUFFLE_EVAL", "PREDICT", "SEARCH", "BENCHMARK", "DATA_LOADER", "TENSORBOARD")
FREE = (
    "TASK",
    "NUM_GPUS",
    "NUM_CPU_PROCS",
    "NUM_CPU_THREADS",
    "SHARD_ID",
    "DIST_BACKEND",
    "DIST_INIT_METHOD",
    "DIST_TIMEOUT_S",
    "OUTPUT_DIR",
    "LOG_PERIOD",
    "LOG_MODEL_INFO",
    "MOVIE_DIR",
    "FRAME_DIR",
    "FRAME_LIST_DIR",
    "ANNOTATION_DIR",
    "PATH_TO_DATA_DIR",
    "PATH_PREFIX",
    "CLASS_NAMES_FILE",
    "MAX_BAD_FRACTION",
    "TEST_DECODE_SHORT_SIDE",  # from here on read in validation and test alone
    "TEST_CROP_SIZE",
    "TEST_SHORT_SIDE",
    "IN_VAL_CROP_RATIO",
    "ENSEMBLE_METHOD",
    "TEST_LISTS",
    "TEST_PREDICT_BOX_LISTS",
    "FULL_TEST_ON_VAL",
    "LABEL_MAP_FILE",
    "EXCLUSION_FILE",
    "GROUNDTRUTH_FILE",  # up to here
    "MAX_STEPS",
    "EVAL_PERIOD",
    "CHECKPOINT_PERIOD",
    "CHECKPOINT_MINUTES",
    "CHECKPOINT_KEEP",
    "TRACE",
    "AUTO_RESUME",
)
"""What may differ between two runs of the same training; everything else shapes it."""


def changed_keys(before: str, now: str) -> list[str]:
    """Keys that shape training and differ between two dumped configs, as "SOLVER.BASE_LR 0.1 (was 0.003)".

    The first is text of a file, which may be anyone's: it is read as configs are, with limits; nothing where it cannot.
    """
    try:
        first, second = (_flat(parse_tree(text)) for text in (before, now))
    except TreeError:
        return []
    shared = [key for key in second if key in first and key.split(".")[0] not in FREE_SECTIONS]
    shaping = [key for key in shared if key.split(".")[-1] not in FREE]
    return [f"{key} {second[key]} (was {first[key]})" for key in shaping if first[key] != second[key]]


def _flat(node: Node, prefix: str = "") -> dict[str, str]:
    if not isinstance(node, Mapping):
        return {prefix: written(node)}
    flat: dict[str, str] = {}
    for key, value in node.value:
        flat.update(_flat(value, f"{prefix}.{key.value}" if prefix else key.value))
    return flat
