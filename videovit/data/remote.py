"""Remote files: `s3://`, `gs://`, `hf://`, `https://`, with a local cache of bounded size.

A file, or a part of one, is downloaded once and then read from the cache, by any number of processes. It is asked for
again after an hour, and downloaded again if it has changed (its ETag differs). Files that were used least recently make
room for others. Credentials are the business of the stores' libraries: they come from environment variables and
configuration files, and never from a URL.

    cache/remote/3f/3f2a...d1/88c0ab12.mp4      hash of URL and part / hash of version, with the suffix of the file
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from videovit.config.cache_folder import cache_folder
from videovit.config.urls import has_credentials, is_remote, join_url, without_secrets
from videovit.data.stores import BusyError, RemoteError, open_store, shown_error

logger = logging.getLogger("videovit")
Result = TypeVar("Result")

ATTEMPTS = 4
PAUSE_S = 0.5  # before the second attempt; doubled before each further one
CHUNK = 32 << 20  # bytes per request
CHECK_S = 3600.0  # from one look at the version of a cached file to the next
FRESH_S = 10.0  # files used this recently stay, since a decoder may be about to open them
OLD_PARTIAL_S = 3600.0
LOCK_S = 600.0  # wait for another process that downloads the same file
THREADS = 8  # downloads at once, per process


def check_url(url: str) -> None:
    """Refuse a URL with credentials, which would end up in logs.

    Raises:
        RemoteError: it has some; the message does not show them.
    """
    if has_credentials(url):
        raise RemoteError(
            "a URL with credentials, which logs would show",
            where=without_secrets(url),
            hint="Give them to fsspec by its environment variables or configuration files",
        )


@dataclass(frozen=True)
class Wanted:
    """A remote file, or a part of one.

    Attributes:
        url: of the file.
        start: where the part begins.
        size: of the part in bytes; None for the whole file.
        suffix: of the local file.
    """

    url: str
    start: int = 0
    size: int | None = None
    suffix: str = ""

    @property
    def folder(self) -> Path:
        """The folder of its entry in the cache."""
        part = "" if self.size is None else f" {self.start} {self.size}"
        name = hashlib.blake2b(f"{self.url}{part}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return cache_folder() / "remote" / name[:2] / name


def fetch(wanted: Wanted, limit_bytes: float) -> str:
    """The local path of a remote file, downloaded first if it is not in the cache.

    Args:
        wanted: the file.
        limit_bytes: size of the cache.

    Raises:
        RemoteError: there is no such file, it cannot be downloaded, or it is too large for the cache.
    """
    check_url(wanted.url)
    found = _cached(wanted.folder)
    if found is not None and _is_fresh(found):
        return _used(found)
    try:
        with _locked(wanted.folder):
            return _used(_download(wanted, limit_bytes))
    except OSError as error:
        what = f"could not be stored in the cache {cache_folder()}: {error.strerror or shown_error(error)}"
        raise RemoteError(what, where=without_secrets(wanted.url)) from None


def _cached(folder: Path) -> str | None:
    """The complete file of an entry, if there is one."""
    try:
        with os.scandir(folder) as entries:
            return next((entry.path for entry in entries if not entry.name.endswith(".partial")), None)
    except OSError:
        return None


def _is_fresh(path: str) -> bool:
    """Whether the version of a cached file was looked at recently; False if another process has just removed it."""
    try:
        return time.time() - os.stat(path).st_mtime < CHECK_S
    except FileNotFoundError:
        return False


def _used(path: str) -> str:
    """Note that a file was used; its modification time says when its version was last looked at."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
    return path


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process, or thread, download an entry while the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=LOCK_S)
    except Timeout:
        yield  # at worst it is downloaded twice
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def _download(wanted: Wanted, limit_bytes: float) -> str:
    found = _cached(wanted.folder)
    # Another process may have downloaded it while this one waited.
    if found is not None and _is_fresh(found):
        return found

    def attempt() -> str:
        store = open_store(wanted.url)
        size, version = store.info()
        place = wanted.folder / f"{hashlib.blake2b(version.encode(), digest_size=8).hexdigest()}{wanted.suffix}"
        if found == str(place):
            with contextlib.suppress(FileNotFoundError):
                os.utime(found)
                return found
        size = size if wanted.size is None else min(wanted.size, max(0, size - wanted.start))
        if size > limit_bytes / 2:
            raise RemoteError(
                f"{size / 1e9:.3g} GB, more than half of the cache",
                where=without_secrets(wanted.url),
                hint="Raise DATA.REMOTE_CACHE_GB",
            )
        wanted.folder.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}.{os.getpid()}.{threading.get_ident()}.partial")
        try:
            with open(partial, "wb") as file:
                for first in range(wanted.start, wanted.start + size, CHUNK):
                    last = min(first + CHUNK, wanted.start + size)
                    content = store.read(first, last)
                    if len(content) < last - first:
                        raise ConnectionError(f"cut off after {len(content):,} of {last - first:,} bytes")
                    if len(content) > last - first:
                        raise ConnectionError(f"more than the {last - first:,} bytes of the range that was asked for")
                    file.write(content)
            # Its parts must be of one version.
            if size > CHUNK and store.info()[1] != version:
                raise ConnectionError("changed while it was downloaded")
            if found is not None:
                with contextlib.suppress(OSError):
                    os.unlink(found)
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)
        _room.added(size, limit_bytes)
        return str(place)

    return _retried(attempt, wanted.url)


def _retried(attempt: Callable[[], Result], url: str) -> Result:
    """Call until it succeeds, a few times.

    Raises:
        RemoteError: it does not.
    """
    reason, pause_s = "", 0.0
    for number in range(ATTEMPTS):
        if number:
            time.sleep(max(pause_s, PAUSE_S * 2 ** (number - 1)))
        pause_s = 0.0
        try:
            return attempt()
        except RemoteError:
            raise
        except OSError as error:
            # A full disk is no fault of the network.
            if error.errno is not None and error.filename is not None:
                raise
            reason, pause_s = shown_error(error), error.pause_s if isinstance(error, BusyError) else 0.0
        except Exception as error:  # noqa: BLE001  (libraries of stores raise errors of many kinds)
            reason = shown_error(error)
    raise RemoteError(f"could not be downloaded in {ATTEMPTS} attempts: {reason}", where=without_secrets(url))


class _Room:
    """Keeps the cache below its limit: looks at its size whenever this process has added a fiftieth of it."""

    def __init__(self) -> None:
        self._since = float("inf")
        self._lock = threading.Lock()

    def added(self, size: int, limit_bytes: float) -> None:
        """Note that a file was added."""
        with self._lock:
            self._since += size
            if self._since < limit_bytes / 50:
                return
            self._since = 0.0
        make_room(limit_bytes)


_room = _Room()


def make_room(limit_bytes: float) -> None:
    """Remove the files of the cache that were used least recently, down to nine tenths of its limit."""
    root = cache_folder() / "remote"
    try:
        with FileLock(root / ".lock", timeout=0):
            entries, total, now = [], 0, time.time()
            for path in root.glob("??/*/*"):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if path.name.endswith(".partial"):
                        if now - status.st_mtime > OLD_PARTIAL_S:
                            path.unlink()
                        continue
                    entries.append((status.st_atime, status.st_size, path))
                    total += status.st_size
            for used, size, path in sorted(entries):
                if total <= 0.9 * limit_bytes or now - used < FRESH_S:
                    break
                with contextlib.suppress(OSError):
                    path.unlink()
                    total -= size
                    path.parent.rmdir()
    except (Timeout, OSError):
        return  # another process makes room


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="videovit-fetch")


def prefetch(wanted: Sequence[Wanted], limit_bytes: float) -> None:
    """Begin to download files that will be needed soon; what fails is reported when it is needed."""

    def one(file: Wanted) -> None:
        with contextlib.suppress(RemoteError):
            fetch(file, limit_bytes)

    # By process, because threads do not survive a fork.
    for file in wanted:
        if _cached(file.folder) is None:
            _pool(os.getpid()).submit(one, file)


def local_file(folder: str, name: str, limit_bytes: float) -> Path:
    """The path of a file in a folder, which may be remote; then it is in the cache, and need not exist.

    Args:
        folder: a folder or a URL.
        name: of the file.
        limit_bytes: size of the cache.

    Raises:
        RemoteError: it cannot be downloaded.
    """
    if not is_remote(folder):
        return Path(folder) / name
    return Path(fetch(Wanted(join_url(folder, name), suffix=f"-{Path(name).name}"), limit_bytes))
