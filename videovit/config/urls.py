"""URLs of remote files: what they may contain, and how messages show them."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import parse_qsl, quote, urlsplit

REMOTE = re.compile(r"(s3|gs|hf|https?)://", re.ASCII)
ANY_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.ASCII | re.IGNORECASE)
FOLDERS = {  # what a URL must name at least
    "s3": ("bucket", r"[^/]+"),
    "gs": ("bucket", r"[^/]+"),
    "hf": ("repository", r"((datasets|models|spaces)/|(?!(datasets|models|spaces|buckets)/))[^/@]+/[^/@]+"),
    "http": ("host", r"[^/]+"),
    "https": ("host", r"[^/]+"),
}
OTHER_NAMES = {"gcs": "gs", "s3a": "s3", "s3n": "s3", "huggingface": "hf"}
OTHER_PACKAGES = {"az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
SECRET_NAME = re.compile(r"sig|token|secret|passw|credential|auth|key", re.IGNORECASE)


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return REMOTE.match(path) is not None


def has_credentials(url: str) -> bool:
    """Whether a URL holds a password, a token or a signature, which logs and saved configs would show."""
    if not is_remote(url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:  # malformed; `folder_fault` says so
        return "@" in url
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


def folder_fault(folder: str) -> tuple[str, str]:
    """What is wrong with the URL of a folder, and what was probably meant; both empty for local paths, too.

    Args:
        folder: the URL. It must name at least a bucket, repository or host, which lists must not choose.
    """
    found = ANY_SCHEME.match(folder)
    if found is None:
        return "", ""
    scheme, rest = found[1], folder[found.end() :]
    if scheme not in FOLDERS:
        meant = OTHER_NAMES.get(scheme.lower(), scheme.lower())
        package = OTHER_PACKAGES.get(scheme.lower())
        other = f", nor through {package}" if package else ""
        known = ", ".join(f"{name}://" for name in FOLDERS)
        near = f"{meant}://{rest}" if meant in FOLDERS else rest if meant == "file" else ""
        return f"{scheme}:// cannot be read{other}; expected {known} or a local folder", near
    part, pattern = FOLDERS[scheme]
    if re.match(pattern, rest) is None:
        return f"names no {part}", ""
    if scheme.startswith("http"):
        try:
            parts = urlsplit(folder)
            valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            valid = False
        if not valid:
            return "is not a valid URL", ""
        if "?" in rest or "#" in rest:
            return "a folder has no query and no fragment, since names of files follow it", ""
    return "", ""
