"""Files of object stores and web servers through fsspec: size, version, and bytes by ranges.

A store says at once why a file cannot be had (`RemoteError`); every other error may pass, and `remote.py` tries again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache, partial
from http import HTTPStatus
from typing import Any, NoReturn, Protocol

from videovit.config.urls import SECRET_NAME, without_secrets
from videovit.errors import UserError
from videovit.messages import printable

SILENCE_S = 30.0  # without a byte from the store
SLOWEST = 100_000  # bytes per second, below which a transfer is given up
LONGEST_REASON = 200
LONGEST_PAUSE_S = 300.0  # of what a store asks for
VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified", "mtime")  # the best first
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp"}
REFUSED, ABSENT = (401, 403), (404, 410)  # status of HTTP


class RemoteError(UserError):
    """A remote file cannot be had."""


class AbsentError(RemoteError):
    """There is no such remote file."""


class BusyError(ConnectionError):
    """A store that limits the number of requests says how long to pause.

    Attributes:
        pause_s: that many seconds.
    """

    def __init__(self, text: str, pause_s: float) -> None:
        super().__init__(text)
        self.pause_s = min(pause_s, LONGEST_PAUSE_S)


class Store(Protocol):
    """A file of a store."""

    def info(self) -> tuple[int, str]:
        """Size in bytes, and the version.

        Raises:
            RemoteError: there is no such file, or it may not be read.
        """
        ...

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`; fewer or more if the store is wrong."""
        ...


def open_store(url: str) -> Store:
    """The file of a URL, which may not exist.

    Raises:
        RemoteError: the package for this store is not installed, or the URL is malformed.
    """
    protocol = url.partition("://")[0]
    try:
        if protocol == "hf":
            from videovit.data.hub_store import HubFile

            return HubFile(url)
        return _FsspecFile(url, protocol)
    except ImportError as error:
        raise RemoteError(
            f"{protocol}:// needs the package {PACKAGES[protocol]}: {shown_error(error)}",
            where=without_secrets(url),
            hint="Install it with pip install 'videovit[remote]'",
        ) from None


def shown_error(error: BaseException) -> str:
    """An error of a library on one line, without secrets of the environment."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = re.sub(r"https?://\S+", lambda found: without_secrets(found[0]), text)
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."


def longest_s(num_bytes: int) -> float:
    """How long a transfer may take."""
    return SILENCE_S + num_bytes / SLOWEST


class _FsspecFile:
    """A file of S3, Google Cloud Storage or a web server."""

    def __init__(self, url: str, protocol: str) -> None:
        self._url, self._protocol = url, protocol
        self._system = _open_system(protocol)
        self._path = self._system._strip_protocol(url)

    def info(self) -> tuple[int, str]:
        # S3 would answer from a listing that it has cached.
        refresh = {"refresh": True} if self._protocol == "s3" else {}
        try:
            found = self._call(self._system._info, SILENCE_S, self._path, **refresh)
        except FileNotFoundError:
            raise AbsentError(self._what_is_missing(), where=without_secrets(self._url)) from None
        if found.get("type") == "directory":
            self._refuse("is a folder, not a file")
        size = found.get("size")
        if size is None:
            self._refuse("the server does not state the size of the file")
        version = next((str(found[key]) for key in VERSIONS if found.get(key)), "")
        return int(size), f"{version} {size}"

    def read(self, start: int, stop: int) -> bytes:
        call = partial(_read_web, self._system) if self._is_web else self._system._cat_file
        try:
            content: bytes = self._call(call, longest_s(stop - start), self._path, start=start, end=stop)
        except FileNotFoundError:
            self._refuse("file does not exist")
        except RangesError:
            self._refuse(
                "the server sends whole files only, but shards and files above 32 MB are read in parts; "
                "serve them by one that knows ranges, such as nginx"
            )
        return content

    @property
    def _is_web(self) -> bool:
        return self._protocol in ("http", "https")

    def _what_is_missing(self) -> str:
        bucket = self._path.partition("/")[0]
        if self._protocol in ("s3", "gs"):
            try:
                self._call(self._system._info, SILENCE_S, bucket)
            except FileNotFoundError:
                return f"bucket {bucket} does not exist"
            except Exception:  # noqa: BLE001  (a bucket may hide itself, but not its files)
                return "file does not exist"
        return "file does not exist"

    def _refuse(self, what: str) -> NoReturn:
        raise RemoteError(what, where=without_secrets(self._url))

    def _call(self, call: Callable[..., Any], limit_s: float, *arguments: Any, **keywords: Any) -> Any:
        from fsspec.asyn import sync
        from fsspec.exceptions import FSTimeoutError

        try:
            return sync(self._system.loop, call, *arguments, timeout=limit_s, **keywords)
        except FSTimeoutError:
            raise TimeoutError(f"not finished in {limit_s:.0f} s") from None
        except Exception as error:
            # Over HTTP, fsspec raises FileNotFoundError for every failure.
            cause = error.__cause__ if self._is_web and isinstance(error, FileNotFoundError) else None
            if is_refusal(cause or error):
                self._refuse(f"no permission to read it: {shown_error(cause or error)}")
            if getattr(error, "status", 0) in ABSENT:
                raise FileNotFoundError from None
            if cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) in ABSENT:
                raise
            raise ConnectionError(shown_error(cause)) from None


class RangesError(Exception):
    """A web server answers with the whole file instead of a range of it."""


async def _read_web(system: Any, url: str, *, start: int, end: int) -> bytes:
    """A range of a file of a web server; fsspec would read the whole file into memory if the server ignores the range.

    Raises:
        RangesError: it does.
    """
    keywords = dict(system.kwargs)
    ranged = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    headers = {**keywords.pop("headers", {}), **ranged}
    session = await system.set_session()
    async with session.get(system.encode_url(url), headers=headers, **keywords) as answer:
        answer.raise_for_status()
        if answer.status == HTTPStatus.OK and answer.content_length != end - start:
            raise RangesError
        content: bytes = await answer.read()
    return content


def is_refusal(error: BaseException) -> bool:
    """Whether a store says that the file may not be read, or there are no credentials for it."""
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return True
    # gcsfs raises plain OSErrors for status 403. What it raises from another error is a renewal that failed.
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)
    return (status in REFUSED and error.__cause__ is None) or str(error).startswith("Forbidden: ")


def _open_system(protocol: str) -> Any:
    """A file system of fsspec: silent connections end, and attempts are counted by `remote.py` alone.

    Raises:
        ImportError: its package is not installed.
    """
    import fsspec

    if protocol == "gs":
        return _google()(use_listings_cache=False)
    if protocol != "s3":
        return fsspec.filesystem(protocol, use_listings_cache=False)
    patience = {"connect_timeout": SILENCE_S, "read_timeout": SILENCE_S, "retries": {"total_max_attempts": 1}}
    system = fsspec.filesystem(protocol, use_listings_cache=False, config_kwargs=patience)
    system.retries = 1
    return system


@cache
def _google() -> Any:
    """gcsfs without its own attempts, which take minutes and log tracebacks.

    `gcsfs.GCSFileSystem` would also ask for the kind of each bucket, and log a warning per file if it may not.
    """
    from gcsfs.core import GCSFileSystem

    return type("GoogleStorage", (GCSFileSystem,), {"_request": GCSFileSystem._request.__wrapped__})
