"""URLs of remote files: what they may contain, and how messages show them."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import parse_qsl, quote, urlsplit

REMOTE = re.compile(r"(s3|gs|hf|https?)://", re.ASCII)
SECRET_NAME = re.compile(r"sig|token|secret|passw|credential|auth|key", re.IGNORECASE)


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return REMOTE.match(path) is not None


def has_credentials(url: str) -> bool:
    """Whether a URL holds a password, a token or a signature, which logs and saved configs would show."""
    if not is_remote(url):
        return False
    parts = urlsplit(url)
    return "@" in parts.netloc or any(SECRET_NAME.search(name) for name, _ in parse_qsl(parts.query, True))


def without_secrets(url: str) -> str:
    """A URL as messages may show it: *** for user and password, no query; other paths stay as they are."""
    if not is_remote(url):
        return url
    start, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    _, secret, host = host.rpartition("@")
    return f"{start}://{'***@' if secret else ''}{host}{slash}{path.partition('?')[0]}"


def join_url(folder: str, name: str) -> str:
    """The URL of a file in a remote folder.

    Args:
        folder: its URL.
        name: of the file, relative to it; a path as on a disk: a % or ? in it is a character of the name.
    """
    name = posixpath.normpath(name)
    if folder.startswith("http"):
        name = quote(name, errors="surrogateescape")
    return f"{folder.rstrip('/')}/{name}"
