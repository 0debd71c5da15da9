"""Sharded checkpoints of this project, read in one piece without running anything that they contain.

A folder `checkpoint_epoch_00010.dcp` as `torch.distributed.checkpoint` writes it, one `.distcp` file a process and an
index, `.metadata`; and beside them `rest.pyth`: what a whole checkpoint holds, with a shape in the place of each
sharded tensor. The tensor at `content["a"]["b"]` has the name `a/b` in the index.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata

REST = "rest.pyth"
INDEX = ".metadata"

# The index is a pickle; these are all the names that one written by PyTorch mentions. None of them does anything.
_PLAIN = {
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},
    "torch": {"Size", "strided", *(str(v).split(".")[1] for v in vars(torch).values() if isinstance(v, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _PLAIN.get(module, ()):
            raise pickle.UnpicklingError(f"its index names {module}.{name}, which is not part of one")
        return super().find_class(module, name)


class _Reader(dcp.FileSystemReader):
    """PyTorch's, which would run whatever an index asks for and open whatever file it names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / INDEX, "rb") as file:
            index = _IndexUnpickler(file).load()
        if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
            raise pickle.UnpicklingError("its index is not one")
        for place in index.storage_data.values():
            name = Path(place.relative_path)
            if name.name != str(name) or (Path(self.path) / name).is_symlink():
                raise pickle.UnpicklingError(f"its index leads out of the folder, to {name}")
        return index


def read_shards(folder: Path) -> dict[str, Any]:
    """The content of a sharded checkpoint, as the same checkpoint in one file would have it.

    Raises:
        CheckpointException, OSError and what `torch.load` raises: a file is missing or damaged.
    """
    content: Any = torch.load(folder / REST, map_location="cpu", weights_only=True)
    tensors = {name: torch.zeros_like(shape, device="cpu") for name, shape in _shapes(content, "")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is ")  # one process reads all of it, and means to
        dcp.load(tensors, storage_reader=_Reader(folder), no_dist=True)
    return _filled(content, "", tensors)


def _shapes(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _shapes(item, f"{name}/{key}" if name else str(key))
    elif isinstance(value, Tensor) and value.is_meta:
        yield name, value


def _filled(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, f"{name}/{key}" if name else str(key), tensors) for key, item in value.items()}
    return tensors[name] if isinstance(value, Tensor) and value.is_meta else value
