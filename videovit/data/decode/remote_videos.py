"""Remote videos, and videos in remote shards: downloaded to the cache, and read there like files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from videovit.config.urls import is_remote, join_url
from videovit.data.columns import Columns, DamagedColumnsError
from videovit.data.decode.located import Located
from videovit.data.decode.protocol import DecodeError, DecodeOptions
from videovit.data.decode.shards import (
    INDEX,
    SCHEME,
    ShardIndex,
    check_content,
    find_member,
    is_in_shards,
    split_member,
)
from videovit.data.files.folders import suffix_of
from videovit.data.files.listed_paths import written_outside
from videovit.data.remote import Wanted, fetch, prefetch
from videovit.data.stores import RemoteError

SUFFIX = re.compile(r"\.[a-z0-9]{1,6}")


def is_stored_remotely(path: str, prefix: str) -> bool:
    """Whether a path is below a URL, or names a member of shards at a URL.

    Args:
        path: the path.
        prefix: the URL (DATA.PATH_PREFIX). Lists come from strangers, and must not choose a server.
    """
    below = path.startswith(prefix.rstrip("/") + "/") and not isinstance(path, Located)
    return below and is_remote(prefix.removeprefix(SCHEME))


def is_missing(path: str, prefix: str) -> bool:
    """Whether a path leads nowhere; False for members of shards and remote videos, which are not looked for.

    Args:
        path: the path.
        prefix: DATA.PATH_PREFIX.
    """
    return not (is_stored_remotely(path, prefix) or is_in_shards(path) or os.path.exists(path))


def locate_remote(path: str, options: DecodeOptions, backend: str) -> str:
    """A remote video in the cache; other paths are returned as they are.

    Args:
        path: the path.
        options: `inside` is the URL that it is below.
        backend: the decoder, for messages.

    Raises:
        DecodeError: it leads out of options.inside, or cannot be downloaded; its shard is truncated or damaged.
    """
    if not is_stored_remotely(path, options.inside):
        return path
    try:
        index, row, wanted = _wanted(path, options, backend)
        file = fetch(wanted, 1e9 * options.cache_gb)
        if index is not None:
            with open(file, "rb") as content:
                check_content(index, row, content.read(), path, backend)
        return Located.whole(path, file, os.stat(file))
    except (RemoteError, DamagedColumnsError) as error:
        raise DecodeError(path, str(error), backend) from None
    except OSError as error:
        raise DecodeError(path, f"its copy in the cache cannot be read: {error.strerror}", backend) from None


def prefetch_videos(paths: Iterable[str], options: DecodeOptions) -> None:
    """Begin to download the remote videos of a batch, several at once.

    Args:
        paths: of the videos; others than remote ones are left out.
        options: as of `locate_remote`.
    """
    prefetch(list(_all_wanted(paths, options)), 1e9 * options.cache_gb)


def _all_wanted(paths: Iterable[str], options: DecodeOptions) -> Iterator[Wanted]:
    for path in paths:
        if is_stored_remotely(path, options.inside):
            try:
                yield _wanted(path, options, "")[2]
            except (DecodeError, RemoteError, DamagedColumnsError, OSError):
                continue  # reported when the video is read


def _wanted(path: str, options: DecodeOptions, backend: str) -> tuple[ShardIndex | None, int, Wanted]:
    """What to download for a video; for a member of shards also their index and its row."""
    if is_in_shards(path):
        folder, name = split_member(path, options, backend)
        index = _index(folder, options.cache_gb)
        row = find_member(index, path, name, backend)
        url = join_url(folder, index.shards[int(index.shard_M[row])])
        return index, row, Wanted(url, int(index.place_M[row]), int(index.size_M[row]), _short_suffix(name))
    name = path[len(options.inside.rstrip("/")) :].lstrip("/")
    if written_outside(name):
        raise DecodeError(path, f"leads out of DATA.PATH_PREFIX {options.inside!r}", backend)
    return None, 0, Wanted(join_url(options.inside, name), suffix=_short_suffix(path))


def _short_suffix(name: str) -> str:
    """The suffix for the cache, where decoders look at it; none if it is not one that they may know."""
    suffix = suffix_of(name)
    return suffix if SUFFIX.fullmatch(suffix) else ""


@lru_cache(maxsize=8)
def _index(folder: str, cache_gb: float) -> ShardIndex:
    file = fetch(Wanted(join_url(folder, INDEX), suffix=".columns"), 1e9 * cache_gb)
    return ShardIndex(Columns(os.open(file, os.O_RDONLY | os.O_CLOEXEC)))
