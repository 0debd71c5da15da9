"""Writing the checkpoints of a sharded model: a folder, into which every process writes its part.

`torch.distributed.checkpoint` writes the shards, and `rest.pyth` holds everything else (see `models.convert.shards`,
which reads both). The folder gets its name when all of it is on the disk, as a file does in `saving.write_checkpoint`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from videovit.engine.checkpoints.saving import (
    clear_partial,
    flush_folder,
    not_written,
    refuse_nan,
    remove,
    save_flushed,
)
from videovit.models.convert import CheckpointError
from videovit.models.convert.shards import REST


class ShardWriter:
    """Writes sharded checkpoints; made by all processes together, and called by all of them.

    Args:
        timeout_s: how long a process waits for the others, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        # A group of its own, since a thread writes while training goes on; and shards are in host memory.
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        assert isinstance(group, dist.ProcessGroup)  # every process is a member
        self._group = group

    def write(self, path: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint to a temporary folder, flush it to disk, then rename; a later crash finds it whole.

        Args:
            path: of the folder, on a disk that all processes share.
            state: as `saving.snapshot` gives it, in host memory.

        Raises:
            CheckpointError: on all processes; as `saving.write_checkpoint`.
        """
        partial = path.with_name(f".{path.name}.tmp")
        shards: dict[str, DTensor] = {}
        rest = _take_shards(state, "", shards)
        first = dist.get_rank() == 0
        try:
            self._together(path, lambda: _begin(path, partial, rest, shards, first=first))
            # What it writes is in host memory; reading ahead would make every process use the first GPU.
            writer = FileSystemWriter(partial, per_thread_copy_ahead=0)
            save(shards, storage_writer=writer, process_group=self._group)
            self._together(path, lambda: _finish(path, partial) if first else None)
        except CheckpointException as error:
            reason, _ = next(iter(error.failures.values()))
            raise not_written(path, reason) from error
        finally:
            if first:
                shutil.rmtree(partial, ignore_errors=True)  # there only when the write was cut short

    def _together(self, path: Path, step: Callable[[], None]) -> None:
        """Do one's part, and fail where that of any process fails."""
        error: CheckpointError | None = None
        try:
            step()
        except CheckpointError as refused:
            error = refused
        except (OSError, RuntimeError) as failure:
            error = not_written(path, failure)
        errors: list[CheckpointError | None] = [None] * dist.get_world_size()
        dist.all_gather_object(errors, error, group=self._group)
        for found in errors:
            if found is not None:
                raise found


def _take_shards(value: Any, name: str, shards: dict[str, DTensor]) -> Any:
    """Move sharded tensors to `shards`; in their place stands a tensor that is nothing but a shape."""
    if isinstance(value, DTensor):
        shards[name] = value
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, dict):
        return {key: _take_shards(item, f"{name}/{key}" if name else str(key), shards) for key, item in value.items()}
    return value


def _begin(path: Path, partial: Path, rest: dict[str, Any], shards: dict[str, DTensor], *, first: bool) -> None:
    refuse_nan(path, {name: shard.to_local() for name, shard in shards.items()})
    if first:
        clear_partial(path.parent)
        partial.mkdir(parents=True)
        save_flushed(rest, partial / REST)


def _finish(path: Path, partial: Path) -> None:
    flush_folder(partial)
    if path.exists():  # a damaged one, passed over when this run began
        remove(path)
    os.replace(partial, path)
    flush_folder(path.parent)
