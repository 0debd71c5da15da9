"""Checkpoints of a run: written atomically, and found again.

Files are SlowFast's: `OUTPUT_DIR/checkpoints/checkpoint_epoch_00010.pyth` with the keys epoch, model_state,
optimizer_state, scaler_state and cfg; ours adds step (steps done in the epoch that follows) and pool_norm_eps.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videovit.engine.log import logger
from videovit.models.convert import CheckpointError, pool_norm_eps, set_pool_norm_eps
from videovit.models.convert.read import read_file

FILE_NAME = re.compile(r"checkpoint_epoch_(\d{5,})(?:_step_(\d+))?\.pyth$")


@dataclass(frozen=True)
class Position:
    """Where training stands: `epoch` whole epochs done, and `step` steps of the next one."""

    epoch: int = 0
    step: int = 0


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
        "model_state": model.state_dict(),
        "optimizer_state": optimizer.state_dict() if optimizer else None,
        "scaler_state": scaler.state_dict() if scaler else None,
        "cfg": cfg_text,
        "pool_norm_eps": pool_norm_eps(model),  # follows the weights, whatever the config says
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch wraps a failing write of its zip writer in a RuntimeError
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        full = " (disk full)" if getattr(error, "errno", None) == errno.ENOSPC else ""
        raise CheckpointError(f"{path}: could not be written{full}, {free:,} bytes free: {error}") from error


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
) -> Position | None:
    """Continue from the newest checkpoint in `output_dir` that can be read; a damaged one is passed over aloud.

    Returns:
        Where training stands, or None when there is no checkpoint.

    Raises:
        CheckpointError: checkpoints are there and not one of them can be used.
    """
    paths = find_checkpoints(output_dir)
    problems = []
    for path in paths:
        try:
            state = load_model(model, path)
        except CheckpointError as error:
            problems.append(str(error))
            logger.warning("warning: passed over: %s", error)
            continue
        optimizer.load_state_dict(state["optimizer_state"])
        if scaler is not None and state["scaler_state"]:
            scaler.load_state_dict(state["scaler_state"])
        position = Position(int(state["epoch"]) + 1, int(state.get("step", 0)))
        logger.info("resumed from %s: %d epochs and %d steps done", path, position.epoch, position.step)
        return position
    if problems:
        raise CheckpointError("none of the checkpoints can be used:\n" + "\n".join(problems))
    return None
