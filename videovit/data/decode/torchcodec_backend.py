"""Decoding with torchcodec (an optional extra), in its exact mode only.

Its approximate mode finds frames by time, which returns neighboring frames if the frame rate varies. Files that even
the exact mode gets wrong are read with PyAV.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from videovit.data.decode.decoder_choice import reason_against
from videovit.data.decode.located import check_file, read_once, url_of
from videovit.data.decode.protocol import (
    DEFAULTS,
    BaseVideo,
    DecodeOptions,
    Indices,
    Video,
    check_memory,
    shorten,
)
from videovit.data.decode.pyav_backend import PyavVideo, open_pyav
from videovit.errors import UserError

NAME = "torchcodec"
ERRORS = (RuntimeError, ValueError, IndexError, OSError)


@functools.cache
def load_torchcodec() -> Any:
    """torchcodec's VideoDecoder.

    Raises:
        UserError: it is not installed, or cannot load FFmpeg's libraries.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise UserError(
            shorten(error),
            where="DATA.DECODING_BACKEND torchcodec",
            hint="Install it with pip install 'videovit[torchcodec]', or use decord or pyav",
        ) from None
    # Its libraries are loaded on import, so missing FFmpeg libraries are a RuntimeError there.
    except (RuntimeError, OSError):
        raise UserError(
            "installed, but cannot be loaded without FFmpeg's shared libraries",
            where="DATA.DECODING_BACKEND torchcodec",
            hint="Install them (for example apt-get install ffmpeg), or use decord or pyav, which include theirs",
        ) from None
    return VideoDecoder


def open_torchcodec(path: str, options: DecodeOptions = DEFAULTS) -> Video:
    """Open a video with torchcodec, or with PyAV if torchcodec would return wrong frames.

    Raises:
        DecodeError: the file is missing, empty, damaged, too large, or has no video stream.
        UserError: torchcodec cannot be used.
    """
    check_file(path, NAME)
    decoder = load_torchcodec()
    path = read_once(path)
    exact = open_pyav(path, options)
    reason = reason_against(exact, options)
    if not reason:
        try:
            video = TorchcodecVideo(path, decoder, options, exact)
        except ERRORS:
            reason = "torchcodec failed"
        else:
            # A last check of what the rules may not foresee.
            if video.num_frames == exact.num_frames:
                exact.close()
                return video
            video.close()
            reason = "number of frames"
    exact.served_by = f"{exact.served_by} ({reason})"
    return exact


class TorchcodecVideo(BaseVideo):
    """A video open in torchcodec; `frames` may be called repeatedly.

    If torchcodec cannot decode the file, PyAV takes over, which returns the right frames or raises.
    """

    def __init__(self, path: str, decoder: Any, options: DecodeOptions, exact: PyavVideo) -> None:
        self._path = path
        self._options = options
        self.served_by = NAME
        # One thread, because the workers of the data loader already use all cores.
        self._decoder: Any = decoder(url_of(path), seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC")
        metadata = self._decoder.metadata
        self.num_frames: int = metadata.num_frames or 0
        self._size = metadata.width or 0, metadata.height or 0
        self.fps, self.knots, self.start_s = exact.fps, exact.knots, exact.start_s

    def _decode(self, wanted: Indices) -> Tensor:
        try:
            check_memory(len(wanted), *self._size, self._options)
            frames: Tensor = self._decoder.get_frames_at(wanted.tolist()).data.contiguous()
        except ERRORS:
            with open_pyav(self._path, self._options) as exact:
                self.served_by = f"{exact.served_by} (torchcodec failed)"
                return exact.frames(wanted)
        return frames

    def close(self) -> None:
        """Drop the decoder."""
        self._decoder = None
