"""Reading of sharded checkpoints of this project in one piece, without running code that they contain.

A folder `checkpoint_epoch_00010.dcp` holds the files of `torch.distributed.checkpoint`, one `.distcp` file per process
and an index, `.metadata`; and `rest.pyth`: the content of a whole checkpoint, with a tensor on `meta` in place of each
sharded one, and the checksums of the other files. The tensor at `content["a"]["b"]` has the name `a/b` in the index.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load

from videovit.models.convert.checksums import file_crc, verify_zip
from videovit.models.convert.expansion import reason_against_archive, reason_against_tensors

REST = "rest.pyth"
INDEX = ".metadata"
CHECKSUMS = "file_crc32"  # key in REST: file -> checksum

# The index is a pickle. These are all the names in an index that PyTorch writes; none of them has side effects.
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
            raise pickle.UnpicklingError(f"its index contains {module}.{name}, which does not belong there")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """PyTorch's reader, which would run any code in an index and open any file, restricted; it verifies the files."""

    def __init__(self, path: Path, checksums: Mapping[str, int]) -> None:
        super().__init__(path)
        self._checksums = checksums

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / INDEX, "rb") as file:
            index = _IndexUnpickler(file).load()
        if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
            raise pickle.UnpicklingError("its index is of another type")
        for place in index.storage_data.values():
            name = Path(place.relative_path)
            if vars(place).get("transform_descriptors"):
                raise pickle.UnpicklingError(f"its {name} is compressed, which this project never does")
            if name.name != str(name) or (Path(self.path) / name).is_symlink():
                raise pickle.UnpicklingError(f"its index leads out of the folder, to {name}")
        for file_name, crc in self._checksums.items():
            if file_crc(Path(self.path) / Path(file_name).name) != crc:
                raise ValueError(f"damaged: {file_name} and its checksum differ")
        return index

    def _slice_file(self, file: IO[bytes], sinfo: _StorageInfo) -> IO[bytes]:
        piece = super()._slice_file(file, sinfo)
        if reason := reason_against_archive(piece, sinfo.length):
            raise pickle.UnpicklingError(f"a piece of its {sinfo.relative_path} {reason}")
        piece.seek(0)
        return piece


def read_shards(folder: Path) -> dict[str, Any]:
    """The content of a sharded checkpoint, equal to the same checkpoint in one file.

    Raises:
        CheckpointException, OSError and everything that `torch.load` raises: a file is missing or damaged.
    """
    rest, size = folder / REST, sum(file.stat().st_size for file in folder.iterdir())
    if reason := reason_against_archive(rest, rest.stat().st_size):
        raise pickle.UnpicklingError(f"its {REST} {reason}")
    verify_zip(rest)
    content: Any = torch.load(rest, map_location="cpu", weights_only=True)
    checksums = content.pop(CHECKSUMS, {})  # absent in folders of earlier versions
    # Tensors on `meta` have a size and no content yet.
    if reason := reason_against_tensors(content, size):
        raise pickle.UnpicklingError(reason)
    tensors = {name: torch.zeros_like(shape, device="cpu") for name, shape in _shapes(content, "")}
    with warnings.catch_warnings():
        # PyTorch warns that one process reads everything, which is the purpose here.
        warnings.filterwarnings("ignore", "torch.distributed is ")
        load(tensors, storage_reader=_Reader(folder, checksums), no_dist=True)
    whole: dict[str, Any] = _filled(content, "", tensors)
    return whole


def _shapes(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _shapes(item, f"{name}/{key}" if name else str(key))
    elif isinstance(value, Tensor) and value.is_meta:
        yield name, value


def _filled(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, f"{name}/{key}" if name else str(key), tensors) for key, item in value.items()}
    return tensors[name] if isinstance(value, Tensor) and value.is_meta else value
