"""Write checkpoints: copy the state to host memory, then write, flush and rename it in a background thread.

Training waits for the copy only. A reader never sees half a file: the temporary file is flushed to disk before it gets
its name, and so is the folder. Old files are removed after the new one is safe.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from videovit import __version__
from videovit.engine import distributed
from videovit.engine.checkpoints.folder import FILE_NAME, Position, best_checkpoint, checkpoint_path, find_checkpoints
from videovit.engine.checkpoints.resume import MAX_LISTED
from videovit.engine.reporting.log import logger
from videovit.models.convert import CheckpointError, pool_norm_eps
from videovit.models.convert.checksums import not_finite
from videovit.models.layers.batch_norm import part_statistics

MID_EPOCH_KEPT = 2  # mid-epoch checkpoints to keep; two, so that one is left if the newest turns out damaged
WEIGHTS = ("model_state", "ema_state", "optimizer_state", "norm_parts")


def snapshot(
    model: nn.Module,
    *,
    position: Position,
    cfg_text: str,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: torch.amp.GradScaler | None = None,
    ema: AveragedModel | None = None,
    global_batch: int = 0,
    train_list: dict[str, object] | None = None,
) -> dict[str, Any]:
    """Collect the content of a checkpoint; tensors are references that training goes on to change, see `to_host`.

    Args:
        model: without its distributed wrapper.
        position: of training.
        cfg_text: the config as YAML.
        optimizer: if training is to be resumed.
        scaler: of gradients in half precision, if any.
        ema: moving average of the weights, if any.
        global_batch: videos per step on all ranks together.
        train_list: `list_digest` of the training videos.

    Returns:
        The keys that `resume` describes.
    """
    parts = part_statistics(model)
    return {
        "epoch": position.epoch - 1,  # SlowFast: index of the last finished epoch
        "step": position.step,
        "num_steps": position.num_steps,
        "model_state": model.state_dict(),
        "optimizer_state": optimizer.state_dict() if optimizer else None,
        "scaler_state": scaler.state_dict() if scaler else None,
        "ema_state": ema.module.state_dict() if ema else None,
        "ema_updates": int(ema.n_averaged) if ema else 0,
        "cfg": cfg_text,
        "pool_norm_eps": pool_norm_eps(model),  # belongs to the weights: loaded ones may differ from the config
        "train_list": train_list,
        "versions": {
            "videovit": __version__,
            "torch": str(torch.__version__),
            "world_size": distributed.world_size(),
            "global_batch": global_batch,
        },
        **({"norm_parts": parts} if parts else {}),
    }


def to_host(value: Any) -> Any:
    """Copy nested dicts, lists and tuples; tensors get memory of their own on the host."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: to_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_host(item) for item in value)
    return value


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary file, flush it to disk, then rename it; `path` is complete or absent.

    Args:
        path: of the file; its folder is created if absent.
        state: from `snapshot`.

    Raises:
        CheckpointError: a weight is not finite, or the disk is full or not writable. The partial file is removed, older
            checkpoints are untouched.
    """
    refuse_nan(path, {part: state.get(part) for part in WEIGHTS})
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_partial(path.parent)
        save_flushed(state, partial)
        os.replace(partial, path)
        flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch wraps a failed write of its zip writer in a RuntimeError
        # Before the error is made: its message states how much space is free.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise not_written(path, error) from error
    finally:
        # Still there only if another exception, such as Ctrl-C, cut the write short.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def clear_partial(folder: Path) -> None:
    """Remove what was left in `checkpoints` by runs that were killed while saving or removing a checkpoint."""
    for left in folder.glob(".checkpoint_*.tmp"):
        remove(left)


def remove(path: Path) -> None:
    """Remove a file, or the folder of a sharded checkpoint; it may be gone already."""
    if path.is_dir():
        # Renamed first: a folder that is only partly removed must not look like a checkpoint.
        gone = path if path.suffix == ".tmp" else path.rename(path.with_name(f".{path.name}.old.tmp"))
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


def save_flushed(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, then wait until the file is on the disk."""
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def not_written(path: Path, error: BaseException) -> CheckpointError:
    """The error for a checkpoint that could not be written.

    Args:
        path: of the checkpoint.
        error: the cause.
    """
    folder = next(p for p in path.parents if p.is_dir())
    free = shutil.disk_usage(folder).free
    full = " (disk full)" if _is_disk_full(error) else ""
    return CheckpointError(f"{path}: could not be written{full}, {free:,} bytes free: {error}")


def _is_disk_full(error: BaseException) -> bool:
    # torch.save raises a RuntimeError of its own while it handles the OSError: look along the chain.
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_nan(path: Path, state: Mapping[str, Any]) -> None:
    """Refuse weights, averages and moments that are not finite: resuming from them could never recover.

    Raises:
        CheckpointError: names the first ones.
    """
    bad = [name for part, values in state.items() for name in not_finite(values, part)]
    if bad:
        raise CheckpointError(f"{path}: not written, since values are not finite: {', '.join(bad[:MAX_LISTED])}")


def prune(output_dir: Path, *, keep: int, newest: Path) -> None:
    """Remove old checkpoints; one that cannot be removed stays, with a warning.

    Args:
        output_dir: of the run.
        keep: how many checkpoints of whole epochs stay, 0 for all. Of mid-epoch ones MID_EPOCH_KEPT stay.
        newest: the one just written. Checkpoints further in training were skipped by this run as damaged or of another
            model; they are neither removed nor counted.
    """
    found = find_checkpoints(output_dir)
    found = found[found.index(newest) :] if newest in found else []
    middle = [path for path in found if (match := FILE_NAME.search(path.name)) and match.group(2)]
    whole = [path for path in found if path not in middle]
    for path in (whole[keep:] if keep else []) + middle[MID_EPOCH_KEPT:]:
        try:
            remove(path)
        except OSError as error:
            logger.warning("the old checkpoint %s could not be removed: %s", path, error.strerror)


Writer = Callable[[Path, dict[str, Any]], None]
"""`write_checkpoint`, or `sharded.ShardWriter.write`."""


class Saver:
    """Saves the checkpoints of a run in a background thread, one at a time; a context manager.

    Leaving the block waits for the checkpoint that is being written.

    Args:
        output_dir: of the run.
        minutes: between two mid-epoch checkpoints; 0 disables them.
        keep: see `prune`.

    Attributes:
        position: of the last checkpoint; the same on all ranks. None before the first one.
        path: of the last checkpoint.
    """

    def __init__(self, output_dir: Path, *, minutes: float = 0.0, keep: int = 0) -> None:
        self._output_dir, self._minutes, self._keep = output_dir, minutes, keep
        self._last = time.monotonic()
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None
        self.position: Position | None = None
        self.path: Path | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.join()
            return
        try:
            self.join()
        except CheckpointError as second:
            # Logged instead of raised, so that it does not hide the error that ended the run.
            logger.error("%s", second)

    def due(self) -> bool:
        """Whether it is time for a mid-epoch checkpoint."""
        return bool(self._minutes) and time.monotonic() - self._last > 60 * self._minutes

    def save(self, position: Position, state: dict[str, Any], *, write_shards: Writer | None = None) -> Path:
        """Copy the state and start writing it, after an earlier checkpoint is finished; called on all ranks.

        Args:
            position: of training.
            state: from `snapshot`.
            write_shards: writes a folder with a part from every rank. Without it rank 0 writes a file.

        Returns:
            Where the checkpoint will be.

        Raises:
            CheckpointError: the earlier checkpoint could not be written.
        """
        self.join()  # at most one copy of the state in memory
        path = checkpoint_path(self._output_dir, position, sharded=write_shards is not None)
        if write_shards is not None or distributed.rank() == 0:
            arguments = (path, to_host(state), write_shards or write_checkpoint)
            self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint writer")
            self._thread.start()
        # On ranks that write nothing too: all of them must agree on when the next one is due.
        self._last, self.position, self.path = time.monotonic(), position, path
        return path

    def save_best(self, state: dict[str, Any]) -> None:
        """Replace the best checkpoint and wait until it is on the disk; called on all ranks.

        What is reported about a validation is then never ahead of the file, whenever the run is killed.

        Args:
            state: from `snapshot`, of a whole model.

        Raises:
            CheckpointError: as in `write_checkpoint`.
        """
        self.join()
        path = best_checkpoint(self._output_dir)
        if distributed.rank() == 0:
            write_checkpoint(path, to_host(state))
            logger.info("saved %s", path)

    def _write(self, path: Path, state: dict[str, Any], write: Writer) -> None:
        try:
            write(path, state)
            if distributed.rank() == 0:
                logger.info("saved %s", path)
                prune(self._output_dir, keep=self._keep, newest=path)
        except CheckpointError as error:
            self._error = error
        except BaseException as error:  # noqa: BLE001  (it would end the thread, and nobody would know)
            self._error = CheckpointError(f"{path}: saving failed, {type(error).__name__}: {error}")
            self._error.__cause__ = error

    def check(self) -> None:
        """Raise the error of a failed write, once.

        Raises:
            CheckpointError: as in `write_checkpoint`, or anything else that ended the thread.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def join(self) -> None:
        """Wait until the checkpoint is on the disk.

        Raises:
            CheckpointError: as in `write_checkpoint`.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
