"""Columns of a long list, kept in a file beside it, so that the list is parsed once and not by every process.

`train.csv.columns` belongs to `train.csv`; if its folder cannot be written to, it is in the cache folder. It states a
hash of the list, and is made anew after a change of the list. One process writes it, under another name at first, while
the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from videovit.config.cache_folder import cache_folder
from videovit.data.columns import Array, Columns, DamagedColumnsError, columns_in_memory, write_columns
from videovit.messages import printable

logger = logging.getLogger("videovit")

LEAST_CACHED = 1 << 20  # bytes of a list; shorter ones are parsed in an instant
SUFFIX = ".columns"
PATIENCE_S = 600.0  # for another process that parses the list; then this one does it, too


def cached_columns(
    list_file: Path,
    content: bytes,
    recipe: str,
    parse: Callable[[], tuple[Mapping[str, Array], bool]],
    accept: Callable[[Columns], bool],
) -> Columns:
    """The columns of a list, from its cache if there is one.

    Args:
        list_file: the list.
        content: its bytes.
        recipe: what else the columns depend on.
        parse: makes the columns, and says whether they may be kept.
        accept: whether columns of a cache can be used; a file beside a list may come from a stranger.

    Returns:
        The columns, which processes share.
    """
    if len(content) < LEAST_CACHED:
        return columns_in_memory(parse()[0])
    key = f"{hashlib.blake2b(content, digest_size=32).hexdigest()} {recipe}"
    places = _places(list_file, key)
    found = _find(places, key, accept)
    if found is not None:
        return found
    place = next((place for place in places if _is_writable(place.parent)), None)
    with _locked(place):
        # Another process may have written it in the meantime.
        found = _find(places, key, accept)
        if found is not None:
            return found
        arrays, keep = parse()
        if place is not None and keep and _write(place, arrays, key):
            written = _find([place], key, accept)
            if written is not None:
                return written
        return columns_in_memory(arrays)


def _places(list_file: Path, key: str) -> list[Path]:
    """Where the columns may be: beside the list, and in the cache folder."""
    path = list_file.absolute()
    name = hashlib.blake2b(f"{path} {key}".encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return [path.with_name(path.name + SUFFIX), cache_folder() / "lists" / f"{name}{SUFFIX}"]


def _find(places: list[Path], key: str, accept: Callable[[Columns], bool]) -> Columns | None:
    for place in places:
        try:
            columns = Columns(os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except (OSError, DamagedColumnsError):
            continue
        with contextlib.suppress(DamagedColumnsError, KeyError):
            if columns.key == key and accept(columns):
                return columns
    return None


def _is_writable(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK | os.X_OK)


@contextlib.contextmanager
def _locked(place: Path | None) -> Iterator[None]:
    """Let one process parse while the others wait; without a lock where the file system has none."""
    lock = None if place is None else FileLock(place.with_name(place.name + ".lock"))
    try:
        if lock is not None:
            lock.acquire(timeout=PATIENCE_S)
    except (OSError, NotImplementedError, Timeout):
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            # At worst two processes write the same file, one after the other.
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)
            lock.release()


def _write(place: Path, arrays: Mapping[str, Array], key: str) -> bool:
    """Write the columns completely or not at all; False if that is impossible."""
    try:
        # Left by processes that were killed while they wrote.
        for left in place.parent.glob(f"{_escaped(place.name)}.*.partial"):
            left.unlink(missing_ok=True)
        partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
        try:
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                write_columns(handle, arrays, key)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s could not be written: %s", printable(place), error.strerror)
        return False
    return True


def _escaped(name: str) -> str:
    """A name as a pattern of glob that means this name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
