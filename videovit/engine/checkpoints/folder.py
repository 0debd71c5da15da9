"""The folder of checkpoints: the names in it, and a check before the first step."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from videovit.errors import UserError
from videovit.models.convert.read import SHARDED_SUFFIX

FILE_NAME = re.compile(r"checkpoint_epoch_(\d{5,})(?:_step_(\d+))?\.(pyth|dcp)$")


@dataclass(frozen=True)
class Position:
    """How far training has come.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch that follows.
        num_steps: all steps of that epoch; 0 if `step` is 0.
    """

    epoch: int = 0
    step: int = 0
    num_steps: int = 0


def checkpoint_path(output_dir: Path, position: Position, *, sharded: bool = False) -> Path:
    """The checkpoint of a position: `checkpoint_epoch_00003.pyth`, mid-epoch `checkpoint_epoch_00003_step_000120.pyth`.

    Args:
        output_dir: of the run.
        position: of its training.
        sharded: name a folder that ends in `.dcp` instead of a file.
    """
    step = f"_step_{position.step:06d}" if position.step else ""
    suffix = SHARDED_SUFFIX if sharded else ".pyth"
    return output_dir / "checkpoints" / f"checkpoint_epoch_{position.epoch:05d}{step}{suffix}"


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, furthest in training first; of the same position the file before the folder."""

    def order(path: Path) -> tuple[int, int, bool]:
        match = FILE_NAME.search(path.name)
        return (int(match[1]), int(match[2] or 0), match[3] == "pyth") if match else (-1, -1, False)

    folder = output_dir / "checkpoints"
    found = [p for p in folder.glob("checkpoint_epoch_*") if FILE_NAME.search(p.name)] if folder.is_dir() else []
    # By position and not by time: copying a run to another disk changes the times.
    return sorted(found, key=order, reverse=True)


def best_checkpoint(output_dir: Path) -> Path:
    """Where a run keeps the weights of its best validation; not one of those that training is resumed from."""
    return output_dir / "checkpoints" / "checkpoint_best.pyth"


def check_folder(output_dir: Path) -> None:
    """Make sure that checkpoints can be found and written; a folder that does not exist yet is fine.

    Args:
        output_dir: of the run.

    Raises:
        UserError: it is a file or a link to nothing, cannot be listed, or cannot be written.
    """
    folder = output_dir / "checkpoints"
    if not os.path.lexists(folder):
        return
    try:
        # Not Path.glob, which takes a folder that cannot be read for an empty one: training would start anew.
        os.listdir(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot be used: {error.strerror}",
            where=folder,
            expected="a folder to list and write, or nothing at this path",
            hint="Earlier checkpoints may be there, so nothing was trained",
        ) from error
