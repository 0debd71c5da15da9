"""Video decoding: one protocol, one module per backend, chosen by name (DATA.DECODING_BACKEND).

Adding a decoder is one module with an `open_*(path, options) -> Video` function and one line in BACKENDS.
"""

from __future__ import annotations

import difflib
import os
from os import PathLike, fspath

from videovit.data.decode.decord_backend import open_decord
from videovit.data.decode.image_backend import open_frames, open_image
from videovit.data.decode.limited import Opener, open_limited
from videovit.data.decode.protocol import DEFAULTS, DecodeError, DecodeOptions, Video
from videovit.data.decode.pyav_backend import open_pyav
from videovit.data.decode.torchcodec_backend import MissingBackendError, open_torchcodec

__all__ = ["BACKENDS", "DecodeError", "DecodeOptions", "MissingBackendError", "Video", "open_video"]

BACKENDS: dict[str, Opener] = {
    "decord": open_decord,
    "pyav": open_pyav,
    "torchcodec": open_torchcodec,
    "frames": open_frames,
    "image": open_image,
}


def open_video(path: str | PathLike[str], backend: str = "decord", options: DecodeOptions = DEFAULTS) -> Video:
    """Open a video file for reading frames.

    Args:
        path: a file on disk; addresses of other kinds are not opened. For `frames` a folder or list of images.
        backend: a name in BACKENDS. `decord` is served by `pyav` where decord is not installed, and a folder by
            `frames` whatever the name.
        options: scaling and limits; with a time limit the video is decoded in a process of its own.

    Returns:
        A Video; use it in a `with` block.

    Raises:
        DecodeError: the file is missing, empty, damaged, too large, took too long, or has no video stream.
        MissingBackendError: the backend is not installed.
        ValueError: no such backend.
    """
    if backend not in BACKENDS:
        near = difflib.get_close_matches(backend, BACKENDS, n=1)
        hint = f"; nearest: {near[0]!r}" if near else ""
        raise ValueError(f"unknown decoding backend {backend!r}; expected one of {sorted(BACKENDS)}{hint}")
    if os.path.isdir(path):
        backend = "frames"
    if options.timeout_s > 0:
        return open_limited(fspath(path), backend, BACKENDS, options)
    return BACKENDS[backend](fspath(path), options)
