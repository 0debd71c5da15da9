"""Reading of weight files without running code that they contain.

`.pyth`, `.pth`, `.pt` (tensors and plain values only), `.safetensors` and Caffe2's `.pkl` (arrays only); containers of
PySlowFast and pytorchvideo (`model_state`), Lightning (`state_dict`), timm (`state_dict_ema`, `state_dict`), DeiT
(`model`) and DeepSpeed (`module`), or a bare state dict.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videovit.errors import UserError
from videovit.messages import printable, why_no_file
from videovit.models.contract import Grid
from videovit.models.convert.caffe2 import read_caffe2
from videovit.models.convert.checksums import STATE_KEY, state_crc, verify_zip
from videovit.models.convert.expansion import reason_against_archive, reason_against_tensors
from videovit.models.convert.grids import as_grid
from videovit.models.convert.wrappers import COUNTERS, strip_prefixes
from videovit.models.download import local_file

SHARDED_SUFFIX = ".dcp"  # of a folder
INDEX_SUFFIX = ".index.json"
# In order of preference: a trainer that keeps averaged weights publishes and tests those.
CONTAINERS = ("model_state", "state_dict_ema", "state_dict", "model", "module")
_TORCH_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # first bytes of files written before torch 1.6

# PyTorch's reader raises any of these on files with flipped or missing bytes.
_DAMAGED = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


class CheckpointError(UserError):
    """A weight file is missing, damaged, not supported, or does not fit the model."""


@dataclass(frozen=True)
class Weights:
    """The content of a weight file.

    Attributes:
        state: names without wrapper prefixes -> tensors.
        cfg: text of the config saved beside the weights; empty without one.
        pool_norm_eps: eps of the pooling norms saved beside the weights; None without one.
        grid: (T, H, W) of the position tables, saved beside the weights; None without one.
        origin: the file, for messages.
    """

    state: dict[str, Tensor]
    cfg: str
    pool_norm_eps: float | None
    grid: Grid | None
    origin: str


def read_file(path: str | Path) -> dict[str, Any]:
    """The content of a weight file, on the CPU.

    Args:
        path: `.safetensors`, a file of `torch.save`, an index of such files as transformers writes it
            (`.index.json`), or the folder of a sharded checkpoint, `.dcp`; or `zoo:NAME` or a URL, which are
            downloaded.

    Returns:
        The top-level dict of the file.

    Raises:
        CheckpointError: missing, truncated, or with objects other than tensors and plain values (NumPy numbers
            included); a plain pickle with something other than Caffe2's NumPy arrays.
    """
    path = local_file(path)
    is_folder = path.suffix == SHARDED_SUFFIX and os.path.isdir(path)
    # Not Path.is_file, which raises if a name is too long.
    if not os.path.isfile(path) and not is_folder:
        folder = path if os.path.isdir(path) else path.parent
        patterns = ("*.p*th", "checkpoints/*.p*th") if os.path.isdir(folder) else ()
        files = sorted(p for pattern in patterns for p in folder.glob(pattern) if p != path)
        hint = f"; in that folder: {', '.join(str(p.relative_to(folder)) for p in files[-5:])}" if files else ""
        found = why_no_file(path)
        what = f"{found}, expected a weight file" if found else "no such weight file"
        raise CheckpointError(f"{path}: {what}{hint}")
    content = _read_indexed(path) if path.name.endswith(INDEX_SUFFIX) else _read_one(path, is_folder=is_folder)
    if content.get("pool_norm_eps") is not None:
        content["pool_norm_eps"] = _as_number(content["pool_norm_eps"], f"{path}: pool_norm_eps")
    return content


def _read_one(path: Path, *, is_folder: bool) -> dict[str, Any]:
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_tensors(path, is_folder=is_folder)


def _read_indexed(path: Path) -> dict[str, Any]:
    """The tensors of all files that an index of transformers lists; they lie beside it."""
    try:
        names = {str(name) for name in json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"not a readable index: {error!r}", where=path) from error
    state: dict[str, Any] = {}
    for name in sorted(names):
        part = path.parent / name
        if name != part.name or not part.is_file():
            raise CheckpointError("a file of the index is missing beside it", where=path, found=printable(name))
        content = _read_one(part, is_folder=False)
        state |= content.get("model_state", content)
    return {"model_state": state}


def _read_tensors(path: Path, *, is_folder: bool) -> dict[str, Any]:
    content = _read_folder(path) if is_folder else _read_pickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    files = list(path.iterdir()) if is_folder else [path]
    if reason := reason_against_tensors(content, sum(file.stat().st_size for file in files)):
        raise CheckpointError(reason, where=path)
    return content


def _read_folder(path: Path) -> Any:
    # Importing torch.distributed.checkpoint takes a second, and most runs never read such a folder.
    from torch.distributed.checkpoint.api import CheckpointException

    from videovit.models.convert.shards import read_shards

    try:
        return read_shards(path)
    except CheckpointException as error:
        reason: BaseException = next(iter(error.failures.values()))[0]
    except _DAMAGED as error:
        reason = error
    raise CheckpointError(f"{path}: {_why(str(reason))}") from reason


def _read_pickle(path: Path) -> Any:
    if _is_plain_pickle(path):
        return _read_caffe2(path)
    if reason := reason_against_archive(path, path.stat().st_size):
        raise CheckpointError(reason, where=path)
    try:
        verify_zip(path)
        # timm saves its arguments beside the weights: a record of plain values, which is safe to unpickle.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: {_why(str(error))} ({path.stat().st_size:,} bytes)") from error


def read_weights(source: str | Path | Mapping[str, Any], own_names: Collection[str] = ()) -> Weights:
    """Weights of a file or a dict in memory, taken out of their container and without wrapper prefixes.

    Args:
        source: path; or a state dict, or a container of one (`{"model_state": ...}`).
        own_names: names of the model, which are never shortened.

    Raises:
        CheckpointError: as `read_file`; a Caffe2 container; or no tensors in it.
    """
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    content: Mapping[str, Any] = source if isinstance(source, Mapping) else read_file(source)
    if "blobs" in content:
        raise CheckpointError(
            "Caffe2 weights are not supported", where=origin, hint="Use the PyTorch file of the same model"
        )
    inner: Any = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), content)
    counters = set(COUNTERS).difference(own_names)
    state = {name: value for name, value in inner.items() if isinstance(value, Tensor) and name not in counters}
    if not state:
        # Keys of other types may be tuples of tuples without end.
        keys = ", ".join(sorted(key for key in content if isinstance(key, str))[:5]) or "none"
        expected = "expected a state dict, or one under the key model_state"
        raise CheckpointError(f"no tensors in it; {expected}; found the keys {keys}", where=origin)
    cfg, eps = content.get("cfg"), content.get("pool_norm_eps")
    return Weights(
        state=strip_prefixes(state, own_names),
        cfg=cfg if isinstance(cfg, str) else "",
        pool_norm_eps=None if eps is None else _as_number(eps, f"{origin}: pool_norm_eps"),
        grid=as_grid(content.get("grid")) or _carried_grid(inner),
        origin=origin,
    )


def _carried_grid(state: Mapping[str, Any]) -> Grid | None:
    """The grid that a state dict of a `VideoModel`, wrapped or not, carries beside its tensors."""
    if not hasattr(state, "_metadata") or not isinstance(state._metadata, Mapping):
        return None
    modules = state._metadata.values()
    grids = (as_grid(module["grid"]) for module in modules if isinstance(module, Mapping) and "grid" in module)
    return next((grid for grid in grids if grid is not None), None)


def _as_number(value: Any, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise CheckpointError(where=what, found=value, expected="a number") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    if metadata.get(STATE_KEY, "") not in ("", state_crc(tensors)):
        raise CheckpointError("damaged: its content and its checksum differ", where=path)
    return {**metadata, "model_state": tensors}


def _is_plain_pickle(path: Path) -> bool:
    """Whether a file is what `pickle.dump` writes, which PyTorch's files are not; `.pkl` is used for both."""
    with open(path, "rb") as file:
        head = file.read(len(_TORCH_MAGIC))
    is_torch = head == _TORCH_MAGIC or head[:2] == b"PK"
    return not is_torch and (path.suffix == ".pkl" or head[:1] == b"\x80")


def _read_caffe2(path: Path) -> dict[str, Any]:
    try:
        return {"model_state": read_caffe2(path.read_bytes())}
    except (*_DAMAGED, MemoryError, RecursionError) as error:
        raise CheckpointError(
            f"a pickle that is not one of Caffe2's weights: {str(error)[:200] or type(error).__name__}",
            where=path,
            hint="Nothing in it was run. Files of PyTorch (.pyth, .pth) are read too",
        ) from error


def _why(message: str) -> str:
    """Why a read failed, from PyTorch's message."""
    if message.startswith("damaged: "):
        return message
    if "numpy" in message:
        return (
            "has numpy numbers beside its weights, which the safe reader refuses; if you trust its origin, save the "
            "weights alone once: state = torch.load(old, weights_only=False)['model_state']; "
            "torch.save({'model_state': state}, new)"
        )
    if "Unsupported operand" in message or message.isdecimal():  # a byte that no pickle begins with
        return "not a weight file of PyTorch"
    if "weights_only" in message or "Unsupported" in message:
        first = next((line.strip() for line in message.splitlines() if "Unsupported" in line), "")
        return f"has objects other than tensors and plain values, which are not supported {first}".rstrip()
    return f"not a readable weight file: {message.splitlines()[0][:200] if message else 'empty or cut off'}"
