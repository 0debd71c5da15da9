"""Decoding with torchcodec (an optional extra), in its exact mode only.

Its approximate mode finds frames by time, which gives neighbours instead of the asked ones where the frame rate
varies. The containers in which its exact mode goes astray too are left to PyAV.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videovit.data.decode.protocol import (
    DEFAULTS,
    ClosingVideo,
    DecodeOptions,
    Indices,
    Video,
    check_file,
    check_indices,
    scaled_size,
    shorten,
)
from videovit.data.decode.pyav_backend import PyavVideo, open_pyav
from videovit.errors import UserError

NAME = "torchcodec"
ERRORS = (RuntimeError, ValueError, IndexError, OSError)


class MissingBackendError(UserError):
    """A decoder was asked for that is not installed."""


@functools.cache
def load_torchcodec() -> Any:
    """torchcodec's VideoDecoder.

    Raises:
        MissingBackendError: it is not installed, or finds no FFmpeg libraries.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise MissingBackendError(
            f"DATA.DECODING_BACKEND torchcodec: {shorten(error)}; install it with pip install 'videovit[torchcodec]', "
            "or use decord or pyav"
        ) from None
    except (RuntimeError, OSError):
        raise MissingBackendError(
            "DATA.DECODING_BACKEND torchcodec: it is installed and cannot be loaded; it needs the shared libraries of "
            "FFmpeg (for example apt-get install ffmpeg), or use decord or pyav, which bring theirs"
        ) from None
    return VideoDecoder


def open_torchcodec(path: str, options: DecodeOptions = DEFAULTS) -> Video:
    """Open a video with torchcodec; with PyAV where its frames would not be the right ones.

    Raises:
        DecodeError: the file is missing, empty, damaged, too large, or has no video stream.
        MissingBackendError: torchcodec cannot be used.
    """
    check_file(path, NAME)
    decoder = load_torchcodec()
    exact = open_pyav(path, options)
    reason = reason_against(exact, options)
    if not reason:
        try:
            video = TorchcodecVideo(path, decoder, options)
        except ERRORS:
            reason = "torchcodec failed"
        else:
            if video.num_frames == exact.num_frames:
                exact.close()
                return video
            video.close()
            reason = "number of frames"
    exact.served_by = f"{exact.served_by} ({reason})"
    return exact


def reason_against(video: PyavVideo, options: DecodeOptions) -> str:
    """Why PyAV should read a video in torchcodec's place, or ""."""
    if video.is_long:
        return "long file"
    if not video.table.seekable:
        return "container or time stamps"
    if video.table.has_hidden_packets:
        return "packets that are not shown"
    if not video.table.entries_whole:
        return "key frames that others refer across"
    if video.mirrored:
        return "mirrored"
    if scaled_size(*video.size, options.short_side) != video.size:
        return "scaled while decoding"
    return ""


class TorchcodecVideo(ClosingVideo):
    """A video open in torchcodec. `frames` may be called as often as needed.

    What torchcodec cannot decode is given to PyAV, which either returns the right frames or raises.
    """

    def __init__(self, path: str, decoder: Any, options: DecodeOptions) -> None:
        self._path = path
        self._options = options
        self.served_by = NAME
        self._decoder: Any = decoder(path, seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC")
        metadata = self._decoder.metadata
        self.num_frames: int = metadata.num_frames or 0
        self.fps = float(metadata.average_fps or 0.0)
        if self.num_frames < 1 or not self.fps > 0:
            raise ValueError(f"{self.num_frames} frames at {self.fps} frames per second")

    def frames(self, indices: Indices) -> Tensor:
        """See `Video.frames`."""
        check_indices(indices, self.num_frames)
        wanted, places = np.unique(indices, return_inverse=True)
        if len(wanted) == 0:
            raise ValueError("no frames were asked for")
        try:
            frames: Tensor = self._decoder.get_frames_at(wanted.tolist()).data.contiguous()
        except ERRORS:
            with open_pyav(self._path, self._options) as exact:
                self.served_by = f"{exact.served_by} (torchcodec failed)"
                return exact.frames(indices)
        return frames if np.array_equal(wanted, indices) else frames[torch.from_numpy(places.reshape(-1))]

    def close(self) -> None:
        """Drop the decoder."""
        self._decoder = None
