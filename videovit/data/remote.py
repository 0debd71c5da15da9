"""Remote files through fsspec: `s3://`, `gs://`, `hf://`, `https://`, with a local cache of bounded size.

A file, or a part of one, is downloaded once and then read from the cache, by any number of processes. It is asked for
again after an hour, and downloaded again if it has changed (its ETag differs). Files that were used least recently make
room for others. Credentials are fsspec's business: they come from its environment variables and configuration files,
and never from a URL.

    cache/remote/3f/3f2a...d1/88c0ab12.mp4      hash of URL and part / hash of version, with the suffix of the file
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from videovit.config.cache_folder import cache_folder
from videovit.config.urls import SECRET_NAME, has_credentials, is_remote, without_secrets
from videovit.errors import UserError
from videovit.messages import printable

logger = logging.getLogger("videovit")
Result = TypeVar("Result")

ATTEMPTS = 4
PAUSE_S = 0.5  # before the second attempt; doubled before each further one
SILENCE_S = 30.0  # without a byte from the store
SLOWEST = 100_000  # bytes per second, below which a transfer is given up
CHUNK = 32 << 20  # bytes per request
CHECK_S = 3600.0  # from one look at the version of a cached file to the next
FRESH_S = 10.0  # files used this recently stay, since a decoder may be about to open them
OLD_PARTIAL_S = 3600.0
LOCK_S = 600.0  # wait for another process that downloads the same file
THREADS = 8  # downloads at once, per process
LONGEST_REASON = 200
VERSIONS = ("ETag", "etag", "blob_id", "LastModified", "Last-Modified", "mtime")  # of stores, the best first
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)


class RemoteError(UserError):
    """A remote file cannot be had."""


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


def shown_error(error: BaseException) -> str:
    """An error of a library on one line, without secrets of the environment."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = re.sub(r"https?://\S+", lambda found: without_secrets(found[0]), text)
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."


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
    if found is not None and time.time() - os.stat(found).st_mtime < CHECK_S:
        return _used(found)
    try:
        with _locked(wanted.folder):
            return _used(_download(wanted, limit_bytes))
    except PERMANENT as error:
        raise RemoteError(_reason(error), where=without_secrets(wanted.url)) from None
    except OSError as error:
        what = f"could not be stored in the cache {cache_folder()}: {error.strerror or shown_error(error)}"
        raise RemoteError(what, where=without_secrets(wanted.url)) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "file does not exist"
    if isinstance(error, PermissionError):
        return f"no permission to read it: {shown_error(error)}"
    return shown_error(error)


def _cached(folder: Path) -> str | None:
    """The complete file of an entry, if there is one."""
    try:
        with os.scandir(folder) as entries:
            return next((entry.path for entry in entries if not entry.name.endswith(".partial")), None)
    except OSError:
        return None


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
    system = _FileSystem.of(wanted.url)
    found = _cached(wanted.folder)
    # Another process may have downloaded it while this one waited.
    if found is not None and time.time() - os.stat(found).st_mtime < CHECK_S:
        return found

    def attempt() -> str:
        size, version = system.info()
        place = wanted.folder / f"{hashlib.blake2b(version.encode(), digest_size=8).hexdigest()}{wanted.suffix}"
        if found == str(place):
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
                    content = system.read(first, last)
                    if len(content) != last - first:
                        raise ConnectionError(f"cut off after {len(content):,} of {last - first:,} bytes")
                    file.write(content)
            # Its parts must be of one version.
            if size > CHUNK and system.info()[1] != version:
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
    reason = ""
    for number in range(ATTEMPTS):
        if number:
            time.sleep(PAUSE_S * 2 ** (number - 1))
        try:
            return attempt()
        except (RemoteError, *PERMANENT):
            raise
        except OSError as error:
            # A full disk is no fault of the network.
            if error.errno is not None and error.filename is not None:
                raise
            reason = shown_error(error)
        except Exception as error:  # noqa: BLE001  (libraries of stores raise errors of many kinds)
            reason = shown_error(error)
    raise RemoteError(f"could not be downloaded in {ATTEMPTS} attempts: {reason}", where=without_secrets(url))


class _FileSystem:
    """A file of a store, through fsspec.

    Args:
        url: of the file.

    Raises:
        RemoteError: fsspec or its part for the store is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
            from fsspec.asyn import AsyncFileSystem, sync

            protocol = url.partition("://")[0]
            self._system: Any = fsspec.filesystem(protocol, **_settings(protocol))
        except ImportError as error:
            raise RemoteError(
                str(error), where=without_secrets(url), hint="Install it with pip install 'videovit[remote]'"
            ) from None
        self._path = self._system._strip_protocol(url)
        self._sync = sync if isinstance(self._system, AsyncFileSystem) else None

    @classmethod
    def of(cls, url: str) -> _FileSystem:
        """The file of a URL."""
        return cls(url)

    def info(self) -> tuple[int, str]:
        """Size in bytes, and the version."""
        found = self._call("info", SILENCE_S, self._path, **self._refresh)
        size = found.get("size")
        if size is None:
            raise NotImplementedError("the server does not state the size of the file")
        version = next((str(found[key]) for key in VERSIONS if found.get(key)), "")
        return int(size), f"{version} {size}"

    @property
    def _refresh(self) -> dict[str, Any]:
        # S3 answers from a listing that it has cached.
        return {"refresh": True} if "s3" in _protocols(self._system) else {}

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        limit_s = SILENCE_S + (stop - start) / SLOWEST
        content: bytes = self._call("cat_file", limit_s, self._path, start=start, end=stop)
        return content

    def _call(self, name: str, limit_s: float, *arguments: Any, **keywords: Any) -> Any:
        try:
            if self._sync is None:
                return getattr(self._system, name)(*arguments, **keywords)
            call = getattr(self._system, f"_{name}")
            return self._sync(self._system.loop, call, *arguments, timeout=limit_s, **keywords)
        except FileNotFoundError as error:
            # Over HTTP, fsspec raises it for every failure.
            cause = error.__cause__
            if cause is None or isinstance(cause, FileNotFoundError) or "404" in str(cause):
                raise
            raise ConnectionError(shown_error(cause)) from None


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _settings(protocol: str) -> dict[str, Any]:
    """Arguments of fsspec beside its own configuration: silent connections end, and attempts are counted here."""
    if protocol == "s3":
        patience = {"connect_timeout": SILENCE_S, "read_timeout": SILENCE_S, "retries": {"max_attempts": 1}}
        return {"config_kwargs": patience, "use_listings_cache": False}
    return {"use_listings_cache": False}


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
    url = f"{folder.rstrip('/')}/{name}"
    return Path(fetch(Wanted(url, suffix=f"-{name}"), limit_bytes))
