"""A cache of graphs on disk: making one takes up to a minute, reading it a second.

    CACHE/graphs/KEY/graph.onnx     or graph.xml and graph.bin
                     about.json     digests of these files, and what the maker returned

An entry gets its name when it is complete. One process makes it while others wait for its lock, KEY.lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

import videovit
from videovit.config.cache_folder import cache_folder
from videovit.engine.reporting.log import logger
from videovit.messages import printable

MOST_BYTES = 4 * 10**9  # of all entries; those used least recently are removed
ABOUT = "about.json"
PACKAGES = ("torch", "torchvision", "transformers", "pytorchvideo", "onnx", "onnxscript", "onnxruntime", "openvino")

Kept = Sequence[int] | None
Make = Callable[[Path], Kept]
"""Writes a graph under a path, and returns what is kept beside it."""


@contextlib.contextmanager
def kept_graph(key: str | None, suffix: str, make: Make) -> Iterator[tuple[Path, Kept]]:
    """A graph from the cache, made first if it is not there or damaged.

    Args:
        key: of `graph_key`; without one the graph is not kept.
        suffix: of its file.
        make: see `Make`.

    Yields:
        The path, which may be gone after the block, and what `make` returned when the graph was made.
    """
    with contextlib.ExitStack() as stack:
        folder = None if key is None else _locked(key, stack)
        if key is None or folder is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"graph{suffix}"
            yield path, make(path)
            return
        entry = folder / key
        found = _read(entry)
        if found is None:
            entry, found = _add(entry, suffix, make, stack)
        yield entry / f"graph{suffix}", found[0]


def _locked(key: str, stack: contextlib.ExitStack) -> Path | None:
    """The folder of all graphs, with one entry locked; None if it cannot be written."""
    folder = cache_folder() / "graphs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(FileLock(folder / f"{key}.lock"))
    except OSError as error:
        reason = error.strerror or error
        logger.warning("%s: the graph is not kept for the next process: %s", printable(str(folder)), reason)
        return None
    return folder


def _read(entry: Path) -> tuple[Kept] | None:
    """What was kept with a graph; None if there is no entry, or a damaged one, which is removed."""
    if not entry.is_dir():
        return None
    try:
        about = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
        damaged = [name for name, digest in about["files"].items() if _sha256(entry / name) != digest]
        if not damaged:
            os.utime(entry)
            return (about["kept"],)
        reason = f"{damaged[0]} has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error)
    logger.warning("%s: damaged (%s); the graph is made again", printable(str(entry)), reason)
    shutil.rmtree(entry, ignore_errors=True)
    return None


def _add(entry: Path, suffix: str, make: Make, stack: contextlib.ExitStack) -> tuple[Path, tuple[Kept]]:
    """Make a graph; its folder, temporary if the disk is full, and what was kept with it."""
    partial = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=entry.parent, ignore_cleanup_errors=True)))
    kept = make(partial / f"graph{suffix}")
    files = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
    try:
        (partial / ABOUT).write_text(json.dumps({"files": files, "kept": kept}), encoding="utf-8")
        os.rename(partial, entry)
    except OSError as error:
        logger.warning("%s: the graph is not kept: %s", printable(str(entry)), error.strerror or error)
        return partial, (kept,)
    _make_room(entry)
    return entry, (kept,)


def _make_room(newest: Path) -> None:
    entries = [path for path in newest.parent.iterdir() if (path / ABOUT).is_file() and path != newest]
    room = MOST_BYTES - _size(newest)
    for entry in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True):
        room -= _size(entry)
        if room < 0:
            shutil.rmtree(entry, ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(entry: Path) -> int:
    return sum(path.stat().st_size for path in entry.iterdir())


# ---------------------------------------------------------------------------------------------------------------- keys


class _Digest(pickle.Pickler):
    """Writes a model without its tensors, of which only their digests are written."""

    def persistent_id(self, value: object) -> object:
        """A digest in place of a tensor; sets sorted, since their order differs between processes; None for others."""
        if isinstance(value, set | frozenset):
            return sorted(map(repr, value))
        if not isinstance(value, Tensor):
            return None
        flat = value.detach().contiguous().flatten().view(torch.uint8)
        return str(value.dtype), tuple(value.shape), hashlib.sha256(flat.numpy().data).hexdigest()


def graph_key(model: nn.Module, *others: object) -> str | None:
    """A name for a graph by what it depends on: modules and weights, code and versions; None for a model that cannot be
    pickled.

    Args:
        model: on the CPU.
        others: whatever else the graph depends on.
    """
    written = io.BytesIO()
    try:
        _Digest(written, protocol=4).dump(model)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        logger.info("the graph is not kept for the next process: %s", error)
        return None
    parts = [hashlib.sha256(written.getvalue()).hexdigest(), _code(), *map(repr, others)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """A digest of the code that graphs are made by: models and exporters, and versions of packages."""
    top = Path(videovit.__file__).parent
    files = [path for folder in ("models", "engine/exported") for path in sorted((top / folder).rglob("*.py"))]
    own = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return " ".join([own, *(f"{name} {_version(name)}" for name in PACKAGES)])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
