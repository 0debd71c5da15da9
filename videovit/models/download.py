"""Weight files by name or URL: `local_file` downloads a file once and says where it is.

The cache is a folder: VIDEOVIT_CACHE, else XDG_CACHE_HOME/videovit, else ~/.cache/videovit. Files lie in it under the
host and the path of their URL. A web server that shows such a folder is a mirror: VIDEOVIT_MIRROR names its URL, which
is then tried first.

A file gets its name only when it is complete and its hash is right; until then it is NAME.part, which the next attempt
continues. A lock, NAME.lock, lets one process download while the others wait.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import logging
import os
import re
import shlex
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import IO, cast
from urllib.parse import quote, unquote, urldefrag, urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

import videovit
from videovit.config.cache_folder import CACHE
from videovit.config.cache_folder import cache_folder as cache_folder
from videovit.errors import UserError
from videovit.messages import printable
from videovit.models.zoo import PREFIX, find, sha256_of

logger = logging.getLogger("videovit")

MIRROR = "VIDEOVIT_MIRROR"
"""Environment variable: the URL of a mirror."""
TIMEOUT_S = 30.0  # without a byte from the server
ATTEMPTS = 4  # in a row that bring no progress
PAUSE_S = 1.0  # before the second attempt; doubled before each further one
_CHUNK = 1 << 20
_PERMANENT = (400, 401, 403, 404, 405, 410, 451)  # statuses that another attempt would not change
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TRANSFER_ERRORS = (OSError, http.client.HTTPException, ValueError)


class _Unavailable(Exception):
    """A URL does not serve the file; the message says why."""


class _Interrupted(Exception):
    """A transfer ended early; another attempt continues it."""


def is_remote(source: str) -> bool:
    """Whether a source is a name in the zoo or a URL, not a path."""
    return source.startswith((PREFIX, "http://", "https://"))


def local_file(source: str | Path) -> Path:
    """The local path of a weight file, downloaded first if it is not in the cache.

    Args:
        source: `zoo:NAME`, or a URL (`http://`, `https://`; `#sha256=...` after it is checked); or a local path, which
            is returned as it is.

    Raises:
        UserError: no such row; the file can neither be found nor downloaded (the message says where to put it by hand),
            its hash is wrong, or there is no room for it.
    """
    if not is_remote(str(source)):
        return Path(source)
    urls = urls_of(str(source))
    found = _find_cached(urls)
    return found or _download_any(str(source), urls)


def urls_of(source: str) -> tuple[str, ...]:
    """The URLs of `zoo:NAME` in order of preference, or the URL itself."""
    return find(source).urls if source.startswith(PREFIX) else (source,)


def cached_path(url: str) -> Path:
    """Where the file of a URL is, or would be, in the cache: under host and path."""
    return cache_folder() / _place(url)


def _place(url: str) -> str:
    """Host and path of a URL as a relative path that cannot leave its folder."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].replace(":", "_") or "unknown"
    names = [quote(unquote(name), safe=" ()+,=@~") for name in parts.path.split("/")]
    names = [name for name in names if name.strip(". ")] or ["file"]
    if parts.query:  # files of the same path may differ in it alone
        stem, dot, suffix = names[-1].partition(".")
        names[-1] = f"{stem}-{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}{dot}{suffix}"
    return "/".join([host, *names])


def find_cached(source: str) -> Path | None:
    """The file of `zoo:NAME` or a URL in the cache, unchecked; None if it is not there."""
    return next((path for path in map(cached_path, urls_of(source)) if path.is_file()), None)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_cached(urls: tuple[str, ...]) -> Path | None:
    """A file in the cache, with its hash checked: it may have been put there by hand."""
    for url in urls:
        path = cached_path(url)
        if not path.is_file():
            continue
        expected = sha256_of(url)
        if expected and not (found := file_sha256(path)).startswith(expected):
            raise UserError(
                f"damaged, or not the file of {urldefrag(url)[0]}: its SHA-256 is {found}",
                where=path,
                expected=f"one that begins with {expected}",
                hint="Delete the file to download it again",
            )
        return path
    return None


def _download_any(source: str, urls: tuple[str, ...]) -> Path:
    """Download from the first URL that serves the file."""
    reasons: list[str] = []
    for url in urls:
        path, expected = cached_path(url), sha256_of(url)
        mirror = os.environ.get(MIRROR, "").rstrip("/")
        places = [f"{mirror}/{quote(_place(url))}"] if mirror else []
        with _one_at_a_time(path):
            if found := _find_cached((url,)):
                return found  # another process has downloaded it
            for place in [*places, urldefrag(url)[0]]:
                try:
                    _download(place, path, expected)
                    return path
                except _Unavailable as error:
                    reasons.append(f"  {place}: {error}")
                    logger.info("%s: %s", printable(place), printable(error))
    first, path = urldefrag(urls[0])[0], cached_path(urls[0])
    command = f"curl -L --create-dirs -o {shlex.quote(str(path))} {shlex.quote(first)}"
    tried = "\n".join(reasons)
    raise UserError(
        f"{source} is not in the cache and cannot be downloaded:\n{tried}\n"
        f"On a machine with network, download {first}\n"
        f"and put it at {path}\n  {command}\n"
        f"({CACHE} names another folder for such files, {MIRROR} a mirror)"
    )


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock of a file; other processes wait for it."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            logger.info("waiting for another process, which is downloading %s", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _writing(path: Path, wanted: int = 0) -> Iterator[None]:
    """Report errors of this machine, such as a full disk, as one message."""
    try:
        yield
    except OSError as error:
        full = f"no room for {path.name.removesuffix('.part')}" + (f" ({_mb(wanted)})" if wanted else "")
        what = full if error.errno in _FULL else f"cannot be written: {error.strerror or error}"
        hint = f"Set the environment variable {CACHE} to a folder with enough room that you may write"
        raise UserError(what, where=path.parent, hint=hint) from error


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the hash that Hugging Face states on the way.

    Attributes:
        sha256: of the file; empty if no server stated it.
    """

    sha256 = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        stated = headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", stated):
            self.sha256 = stated
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _download(place: str, path: Path, expected: str) -> None:
    """Download one URL to a path, in as many attempts as bring progress.

    Raises:
        _Unavailable: it is not there, cannot be reached, or is another file.
    """
    part = path.with_name(f"{path.name}.part")
    logger.info("downloading %s to %s", printable(place), path)
    failures = 0
    while True:
        before = _size(part)
        try:
            sha256 = _receive(place, part) or expected
            found = file_sha256(part)
            if found.startswith(expected) and found.startswith(sha256):
                break
            part.unlink()
            if not before:
                raise _Unavailable(f"another file than expected: its SHA-256 is {found}, not {expected or sha256}")
            why = "what an earlier attempt had received belonged to another file"
        except urllib.error.HTTPError as error:
            why = f"{error.code} {error.reason}"
            if error.code in _PERMANENT:
                raise _Unavailable(why) from error
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)
        except UserError:
            raise  # the disk is full
        except (_Interrupted, *_TRANSFER_ERRORS) as error:
            why = _reason(error)
            if _is_offline(error):
                raise _Unavailable(why) from error
        failures = 1 if _size(part) >= before + _CHUNK else failures + 1
        if failures >= ATTEMPTS:
            raise _Unavailable(why)
        logger.info("%s: %s; trying again", printable(place), printable(why))
        time.sleep(PAUSE_S * 2 ** (failures - 1))
    with _writing(path):
        os.replace(part, path)
        _tag_file(part).unlink(missing_ok=True)


def _receive(place: str, part: Path) -> str:
    """Receive what is missing of a file.

    Returns:
        The SHA-256 that the server stated; empty if it did not.
    """
    redirects = _Redirects()
    start, tag = _size(part), _read_tag(part)
    headers = {"User-Agent": f"videovit/{videovit.__version__}", "Accept-Encoding": "identity"}
    if start and tag:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag}
    request = urllib.request.Request(place, headers=headers)
    with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S) as response:
        if response.headers.get_content_type() == "text/html":
            raise _Unavailable("a web page, not a file")
        if encoding := response.headers.get("Content-Encoding", "").removeprefix("identity"):
            raise _Unavailable(f"compressed on the way (Content-Encoding {encoding}), which was not requested")
        continued = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if not continued:
            if response.status == 206:  # its name would promise a whole file
                part.unlink(missing_ok=True)
                raise _Interrupted("206, with another part of the file than the one that is missing")
            start = 0
            _write_tag(part, response.headers)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        _check_room(part, total, start)
        with (
            _open(part, "ab" if continued else "wb") as file,
            # On a terminal only; logs have a line at the beginning.
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            while chunk := response.read1(_CHUNK):  # what has arrived, also before the connection ends
                with _writing(part, total or 0):
                    file.write(chunk)
                    file.flush()
                bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise _Interrupted(f"the connection ended after {_mb(_size(part))} of {_mb(total)}")
    if not _size(part):
        raise _Unavailable("an empty file")
    return redirects.sha256


def _open(part: Path, mode: str) -> IO[bytes]:
    with _writing(part):
        return cast(IO[bytes], open(part, mode))


def _check_room(part: Path, total: int | None, start: int) -> None:
    with _writing(part, total or 0):
        if total is not None and shutil.disk_usage(part.parent).free < total - start:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _read_tag(part: Path) -> str:
    tag = _tag_file(part)
    return tag.read_text(encoding="latin-1") if tag.is_file() else ""


def _write_tag(part: Path, headers: Message) -> None:
    """Keep what identifies this version of the file, so that no other one is appended to its beginning."""
    etag = headers.get("ETag", "")
    tag = headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    with _writing(part):
        part.unlink(missing_ok=True)
        _tag_file(part).write_text(tag, encoding="latin-1")


def _reason(error: Exception) -> str:
    """Why a transfer failed, in a few words."""
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return f"no answer for {TIMEOUT_S:g} s"
    if isinstance(inner, socket.gaierror):
        return f"no network, or no such host: {inner.strerror}"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner) or type(inner).__name__


def _is_offline(error: Exception) -> bool:
    """Whether the host has no address or no route: another attempt would fail like this one."""
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(inner, socket.gaierror) or (
        isinstance(inner, OSError) and inner.errno in (errno.ENETUNREACH, errno.ENETDOWN)
    )
