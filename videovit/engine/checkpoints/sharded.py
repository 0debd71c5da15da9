"""Write the checkpoints of a sharded model: folders, into which every process writes its part.

`torch.distributed.checkpoint` writes the shards, and `rest.pyth` holds everything else; `models.convert.shards` reads
both. As in `saving.write_checkpoint`, the folder gets its name when all of it is on the disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

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
from videovit.models.convert.checksums import file_crc
from videovit.models.convert.shards import CHECKSUMS, INDEX, REST

T = TypeVar("T")


class ShardWriter:
    """Writes sharded checkpoints; creating it and calling it are collective.

    Args:
        timeout_s: how long a process waits for the others, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        # A group of its own: a thread writes while training goes on, and collective calls of two threads would mix.
        # gloo, since the shards are in host memory by then.
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        assert isinstance(group, dist.ProcessGroup)  # every process is a member of it
        self._group = group

    def write(self, path: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint to a temporary folder, flush it to disk, then rename it; `path` is complete or absent.

        Args:
            path: of the folder, on a disk that all processes share.
            state: from `saving.snapshot`, in host memory.

        Raises:
            CheckpointError: as in `saving.write_checkpoint`; on all processes.
        """
        partial = path.with_name(f".{path.name}.tmp")
        shards: dict[str, DTensor] = {}
        rest = _take_shards(state, "", shards)
        first = dist.get_rank() == 0
        try:
            self._together(path, lambda: _begin(path, partial, shards, first=first))
            # Copying ahead would make every process use the first GPU, for data that is in host memory already.
            writer = FileSystemWriter(partial, per_thread_copy_ahead=0)
            save(shards, storage_writer=writer, process_group=self._group)
            parts = self._together(path, lambda: _checksums(partial, dist.get_rank()))
            rest[CHECKSUMS] = {name: crc for part in parts for name, crc in part.items()}
            self._together(path, lambda: _finish(path, partial, rest) if first else None)
        except CheckpointException as error:
            reason, _ = next(iter(error.failures.values()))
            raise not_written(path, reason) from error
        finally:
            if first:
                shutil.rmtree(partial, ignore_errors=True)  # still there only if the write was cut short

    def _together(self, path: Path, step: Callable[[], T]) -> list[T]:
        """Do the part of this process, and fail if any process fails: they would wait for each other otherwise.

        Returns:
            The results of all processes.
        """
        outcome: T | CheckpointError
        try:
            outcome = step()
        except CheckpointError as refusal:
            outcome = refusal
        except Exception as failure:  # noqa: BLE001  (any kind: the others wait)
            outcome = not_written(path, failure)
        outcomes: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(outcomes, outcome, group=self._group)
        for found in outcomes:
            if isinstance(found, CheckpointError):
                raise found
        return outcomes


def _take_shards(value: Any, name: str, shards: dict[str, DTensor]) -> Any:
    """Move sharded tensors to `shards`; meta tensors, which have a shape and no data, take their places."""
    if isinstance(value, DTensor):
        shards[name] = value
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, dict):
        return {key: _take_shards(item, f"{name}/{key}" if name else str(key), shards) for key, item in value.items()}
    return value


def _begin(path: Path, partial: Path, shards: dict[str, DTensor], *, first: bool) -> None:
    refuse_nan(path, {name: shard.to_local() for name, shard in shards.items()})
    if first:
        clear_partial(path.parent)
        partial.mkdir(parents=True)


def _checksums(partial: Path, rank: int) -> dict[str, int]:
    """File -> checksum, of the files that a process has written; the first one wrote the index, too."""
    files = [*partial.glob(f"__{rank}_*"), *([partial / INDEX] if rank == 0 else [])]
    return {path.name: file_crc(path) for path in files}


def _finish(path: Path, partial: Path, rest: dict[str, Any]) -> None:
    save_flushed(rest, partial / REST)
    flush_folder(partial)
    if path.exists():  # damaged, and skipped when this run started
        remove(path)
    os.replace(partial, path)
    flush_folder(path.parent)
