"""Checkpoints of a run: written atomically, and found again.

Files are SlowFast's: `OUTPUT_DIR/checkpoints/checkpoint_epoch_00010.pyth` with the keys epoch, model_state,
optimizer_state, scaler_state and cfg; ours adds step (steps done in the epoch that follows) and pool_norm_eps.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from videovit.engine import distributed
from videovit.engine.log import logger
from videovit.models.convert import CheckpointError, pool_norm_eps, set_pool_norm_eps
from videovit.models.convert.read import read_file

FILE_NAME = re.compile(r"checkpoint_epoch_(\d{5,})(?:_step_(\d+))?\.pyth$")


@dataclass(frozen=True)
class Position:
    """Where training stands: `epoch` whole epochs done, and `step` of the `num_steps` steps of the next one."""

    epoch: int = 0
    step: int = 0
    num_steps: int = 0


def checkpoint_path(output_dir: Path, position: Position) -> Path:
    """The file of a position: `checkpoint_epoch_00003.pyth`, mid-epoch `checkpoint_epoch_00003_step_000120.pyth`."""
    step = f"_step_{position.step:06d}" if position.step else ""
    return output_dir / "checkpoints" / f"checkpoint_epoch_{position.epoch:05d}{step}.pyth"


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, newest (furthest in training) first."""

    def order(path: Path) -> tuple[int, int]:
        match = FILE_NAME.search(path.name)
        return (int(match.group(1)), int(match.group(2) or 0)) if match else (-1, -1)

    folder = output_dir / "checkpoints"
    found = [p for p in folder.glob("checkpoint_epoch_*.pyth") if FILE_NAME.search(p.name)] if folder.is_dir() else []
    return sorted(found, key=order, reverse=True)


def save_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    position: Position,
    cfg_text: str,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write a checkpoint to a temporary name, flush it to disk, then rename: a reader never sees half a file.

    Raises:
        CheckpointError: the disk is full or not writable; the partial file is removed, older ones are untouched.
    """
    state = {
        "epoch": position.epoch - 1,  # SlowFast: index of the last finished epoch
        "step": position.step,
        "num_steps": position.num_steps,
        "model_state": model.state_dict(),
        "optimizer_state": optimizer.state_dict() if optimizer else None,
        "scaler_state": scaler.state_dict() if scaler else None,
        "cfg": cfg_text,
        "pool_norm_eps": pool_norm_eps(model),  # follows the weights, whatever the config says
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(".checkpoint_epoch_*.tmp"):  # by a run that was killed while saving
            left.unlink(missing_ok=True)
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch wraps a failing write of its zip writer in a RuntimeError
        folder = next(p for p in path.parents if p.is_dir())
        free = shutil.disk_usage(folder).free
        full = " (disk full)" if getattr(error, "errno", None) == errno.ENOSPC else ""
        raise CheckpointError(f"{path}: could not be written{full}, {free:,} bytes free: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # there only when the write was cut short, by Ctrl-C too


def load_model(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load the weights of a checkpoint of this engine, strictly; returns the checkpoint's content.

    Raises:
        CheckpointError: unreadable, or its names or shapes are not those of `model`; the first of each are listed.
    """
    state = read_file(path)
    if not isinstance(state.get("model_state"), dict):
        raise CheckpointError(f"{path}: expected the key 'model_state', found {sorted(map(str, state))[:5]}")
    _check_fit(model.state_dict(), state["model_state"], path)
    model.load_state_dict(state["model_state"])
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
    cfg_text: str = "",
    num_steps: int = 0,
) -> Position | None:
    """Continue from the newest checkpoint in `output_dir` that can be read; a damaged one is passed over aloud.

    Moments come from the file; weight decay, momentum and the like stay those of `optimizer`.

    Args:
        cfg_text: of this run; keys that shape training and differ from the earlier run's are named in a warning.
        num_steps: steps of an epoch now, which a stop in the middle of an epoch must agree with; 0 is not compared.

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
        if position.step and num_steps and position.num_steps != num_steps:
            raise CheckpointError(
                f"{path} stands at step {position.step} of {position.num_steps} of an epoch that now has {num_steps} "
                f"steps: another TRAIN.BATCH_SIZE or another list? Go on with the earlier ones, or {ANOTHER_START}"
            )
        _load_optimizer(optimizer, state.get("optimizer_state"), path)
        if scaler is not None and state.get("scaler_state"):
            scaler.load_state_dict(state["scaler_state"])
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
            f"ZERO_WD_1D_PARAM, LAYER_DECAY, MVIT.ZERO_DECAY_POS_CLS); take the earlier ones, or {ANOTHER_START}"
        )
    optimizer.load_state_dict(state)
    for group, setting in zip(optimizer.param_groups, settings, strict=True):
        group.update(setting)


SHAPING = ("MODEL", "MVIT", "SOLVER", "AUG", "MIXUP", "DATA", "TRAIN", "RNG_SEED", "NUM_SHARDS")
FREE = (
    "PATH_TO_DATA_DIR",
    "PATH_PREFIX",
    "CLASS_NAMES_FILE",
    "MAX_STEPS",
    "EVAL_PERIOD",
    "CHECKPOINT_PERIOD",
    "AUTO_RESUME",
)


def changed_keys(before: str, now: str) -> list[str]:
    """Keys that shape training and differ between two dumped configs, as "SOLVER.BASE_LR 0.1 (was 0.003)"."""
    first, second = (_flat(yaml.safe_load(text) or {}) for text in (before, now))
    shared = [key for key in second if key in first and key.split(".")[0] in SHAPING and key.split(".")[-1] not in FREE]
    return [f"{key} {second[key]} (was {first[key]})" for key in shared if first[key] != second[key]]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
