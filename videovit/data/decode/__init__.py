"""Video decoding: one protocol, one module per backend, chosen by name (DATA.DECODING_BACKEND).

A new decoder is one module with an `open_*(path, options) -> Video` function and one line in BACKENDS.
"""

from __future__ import annotations

import os
from os import PathLike, fspath

from videovit.data.decode.decord_backend import open_decord
from videovit.data.decode.image_backend import open_frames, open_image
from videovit.data.decode.opening import Opener, open_here
from videovit.data.decode.protocol import DEFAULTS, DecodeError, DecodeOptions, Video
from videovit.data.decode.pyav_backend import open_pyav
from videovit.data.decode.remote_videos import locate_remote
from videovit.data.decode.time_limit import open_limited
from videovit.data.decode.torchcodec_backend import open_torchcodec
from videovit.errors import UserError
from videovit.messages import did_you_mean

__all__ = ["BACKENDS", "DecodeError", "DecodeOptions", "Video", "open_video"]

# The names are the choices of DATA.DECODING_BACKEND; a test compares them.
BACKENDS: dict[str, Opener] = {
    "decord": open_decord,
    "pyav": open_pyav,
    "torchcodec": open_torchcodec,
    "frames": open_frames,
    "image": open_image,
}


def is_path(path: str) -> bool:
    """Whether the system could have a file of this name."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def open_video(path: str | PathLike[str], backend: str = "decord", options: DecodeOptions = DEFAULTS) -> Video:
    """Open a video for reading frames.

    Args:
        path: a file; for `frames` a folder or list of images. A URL or a member of shards only below `options.inside`.
        backend: a name in BACKENDS. `decord` falls back to `pyav` if decord is not installed. Folders are read by
            `frames`, whatever the name.
        options: scaling and limits. With a time limit, the video is decoded in a helper process.

    Returns:
        A Video, to be used in a `with` block.

    Raises:
        DecodeError: the file is missing, empty, damaged or too large, has no video stream, takes too long, or leads
            out of its folder.
        UserError: the backend is not installed.
        UserError: there is no such backend.
    """
    if backend not in BACKENDS:
        raise UserError(
            f"unknown decoding backend {backend!r}",
            expected=f"one of {', '.join(sorted(BACKENDS))}",
            near=did_you_mean(backend, BACKENDS),
        )
    if not is_path(fspath(path)):
        raise DecodeError(fspath(path), "no file can have this name: it contains a null or half a character", backend)
    # Here, because a helper process cannot use the threads of downloads.
    located = locate_remote(fspath(path), options, backend)
    # Without a limit there is nothing to gain from a second process.
    if options.timeout_s > 0:
        return open_limited(located, backend, BACKENDS, options)
    return open_here(located, backend, BACKENDS, options)
