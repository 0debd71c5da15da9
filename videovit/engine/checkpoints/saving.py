"""Writing checkpoints: a copy in host memory, then a background thread that writes, flushes and renames.

Training waits for the copy only. A reader never sees half a file: the temporary one is flushed to disk before it gets
its name, and so is the folder. Files that are no longer wanted go after the new one is safe.
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
from videovit.engine.checkpoints.resume import FILE_NAME, Position, checkpoint_path, find_checkpoints
from videovit.engine.reporting.log import logger
from videovit.models.convert import CheckpointError, pool_norm_eps

MID_EPOCH_KEPT = 2
WEIGHTS = ("model_state", "ema_state", "optimizer_state")


def snapshot(
    model: nn.Module,
    *,
    position: Position,
    cfg_text: str,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: torch.amp.GradScaler | None = None,
    ema: AveragedModel | None = None,
    global_batch: int = 0,
) -> dict[str, Any]:
    """Everything that a checkpoint holds, as references to what training goes on to change; see `to_host`.

    Args:
        model: without its distributed wrapper.
        position: steps done.
        cfg_text: the config as YAML.
        global_batch: videos a step of all ranks together.
    """
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
        "pool_norm_eps": pool_norm_eps(model),  # follows the weights, whatever the config says
        "versions": {
            "videovit": __version__,
            "torch": str(torch.__version__),
            "world_size": distributed.world_size(),
            "global_batch": global_batch,
        },
    }


def to_host(value: Any) -> Any:
    """A copy of nested dicts, lists and tensors, all tensors in host memory and with memory of their own."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: to_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_host(item) for item in value)
    return value


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary name, flush it to disk, then rename; a later crash finds it whole.

    Raises:
        CheckpointError: a weight is not finite, or the disk is full or not writable; the partial file is removed,
            older ones are untouched.
    """
    refuse_nan(path, {part: state.get(part) for part in WEIGHTS})
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_partial(path.parent)
        save_flushed(state, partial)
        os.replace(partial, path)
        flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch wraps a failing write of its zip writer in a RuntimeError
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # there only when the write was cut short, by Ctrl-C too


def clear_partial(folder: Path) -> None:
    """Remove what runs that were killed while saving, or while removing, have left in `checkpoints`."""
    for left in folder.glob(".checkpoint_epoch_*.tmp"):
        remove(left)


def remove(path: Path) -> None:
    """Remove a file, or the folder of a sharded checkpoint; one that is not there any more is no error."""
    if path.is_dir():
        # Half a folder must not look like a checkpoint.
        gone = path if path.suffix == ".tmp" else path.rename(path.with_name(f".{path.name}.old.tmp"))
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


def save_flushed(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, and wait until it is on the disk."""
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def not_written(path: Path, error: BaseException) -> CheckpointError:
    """What to tell about a checkpoint that could not be written."""
    folder = next(p for p in path.parents if p.is_dir())
    free = shutil.disk_usage(folder).free
    full = " (disk full)" if _is_full(error) else ""
    return CheckpointError(f"{path}: could not be written{full}, {free:,} bytes free: {error}")


def _is_full(error: BaseException) -> bool:
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
    """Nothing, unless a weight, average or moment is not finite.

    Raises:
        CheckpointError: one is; the first are named.
    """
    bad = [f"{part}{name}" for part, values in state.items() for name in _not_finite(values)]
    if bad:
        raise CheckpointError(f"{path}: not written, since values are not finite: {', '.join(bad[:5])}")


def _not_finite(value: Any, name: str = "") -> list[str]:
    if isinstance(value, Tensor):
        return [name] if value.is_floating_point() and not bool(torch.isfinite(value).all()) else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in _not_finite(item, f"{name}.{key}")]


def prune(output_dir: Path, *, keep: int, newest: Path) -> None:
    """Remove old checkpoints: all but the newest `keep` of whole epochs, and MID_EPOCH_KEPT of those in an epoch.

    A file that cannot be removed is left with a warning.

    Args:
        keep: 0 keeps all of whole epochs.
        newest: the one just written. What is further in training was passed over by this run, being damaged or of
            another model; it is left alone, and does not count.
    """
    found = find_checkpoints(output_dir)
    found = found[found.index(newest) :] if newest in found else []
    middle = [path for path in found if (match := FILE_NAME.search(path.name)) and match.group(2)]
    whole = [path for path in found if path not in middle]
    for path in (whole[keep:] if keep else []) + middle[MID_EPOCH_KEPT:]:
        try:
            remove(path)
        except OSError as error:
            logger.warning("warning: the old checkpoint %s could not be removed: %s", path, error.strerror)


Writer = Callable[[Path, dict[str, Any]], None]
"""`write_checkpoint`, or a `sharded.ShardWriter`'s counterpart."""


class Saver:
    """Saves a run's checkpoints from a background thread, one at a time; used as a context manager.

    Leaving the block waits for the file that is being written.

    Args:
        output_dir: of the run.
        minutes: between two checkpoints within an epoch; 0 for none.
        keep: see `prune`.

    Attributes:
        position, path: of the last checkpoint; the same on all ranks.
    """

    def __init__(self, output_dir: Path, *, minutes: float = 0.0, keep: int = 0) -> None:
        self._output_dir, self._minutes, self._keep = output_dir, minutes, keep
        self._last = time.monotonic()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
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
        except (CheckpointError, RuntimeError) as second:
            logger.error("error: %s", second)

    def due(self) -> bool:
        """Whether the time for a checkpoint within the epoch has come."""
        return bool(self._minutes) and time.monotonic() - self._last > 60 * self._minutes

    def save(self, position: Position, state: dict[str, Any], *, write_shards: Writer | None = None) -> Path:
        """Copy the state and begin to write it; an earlier file is finished first. Called on all ranks.

        Args:
            write_shards: writes a folder, with a part from every rank; without it rank 0 writes a file.

        Raises:
            CheckpointError: the earlier file could not be written.
        """
        self.join()
        path = checkpoint_path(self._output_dir, position, sharded=write_shards is not None)
        if write_shards is not None or distributed.rank() == 0:
            arguments = (path, to_host(state), write_shards or write_checkpoint)
            self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint writer")
            self._thread.start()
        self._last, self.position, self.path = time.monotonic(), position, path
        return path

    def _write(self, path: Path, state: dict[str, Any], write: Writer) -> None:
        try:
            write(path, state)
        except (CheckpointError, RuntimeError) as error:  # the latter where the other processes were lost
            self._error = error
            return
        if distributed.rank() == 0:
            logger.info("saved %s", path)
            prune(self._output_dir, keep=self._keep, newest=path)

    def check(self) -> None:
        """Report a write that failed.

        Raises:
            CheckpointError: as `write_checkpoint`.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def join(self) -> None:
        """Wait until the file is on the disk.

        Raises:
            CheckpointError: as `write_checkpoint`.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
