"""Video decoding: one protocol, one module per backend, chosen by name (DATA.DECODING_BACKEND).

Adding a decoder is one module with an `open_*(path) -> Video` function and one line in BACKENDS.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from os import PathLike, fspath

from videovit.data.decode.decord_backend import open_decord
from videovit.data.decode.protocol import DecodeError, Video
from videovit.data.decode.pyav_backend import open_pyav

__all__ = ["BACKENDS", "DecodeError", "Video", "open_video"]

BACKENDS: dict[str, Callable[[str], Video]] = {"decord": open_decord, "pyav": open_pyav}


def open_video(path: str | PathLike[str], backend: str = "decord") -> Video:
    """Open a video file for reading frames.

    Args:
        path: a file on disk; addresses of other kinds are not opened.
        backend: a name in BACKENDS. `decord` is served by `pyav` where decord is not installed.

    Returns:
        A Video; use it in a `with` block.

    Raises:
        DecodeError: the file is missing, empty, damaged, or has no video stream.
        ValueError: no such backend.
    """
    if backend not in BACKENDS:
        near = difflib.get_close_matches(backend, BACKENDS, n=1)
        hint = f"; nearest: {near[0]!r}" if near else ""
        raise ValueError(f"unknown decoding backend {backend!r}; expected one of {sorted(BACKENDS)}{hint}")
    return BACKENDS[backend](fspath(path))
