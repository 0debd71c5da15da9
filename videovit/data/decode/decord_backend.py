"""Decoding with decord, in the one way of using it that is safe.

One reader per video with one thread, opened in the process that uses it and never carried across a fork; one
`get_batch` of sorted, distinct indices; then the reader is dropped, because its thread keeps decoding ahead of what
was asked for as long as it lives. Files whose frames decord would get wrong, without a word, are read with PyAV.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from videovit.data.decode.protocol import (
    DEFAULTS,
    ClosingVideo,
    DecodeError,
    DecodeOptions,
    Indices,
    Version,
    Video,
    check_file,
    check_indices,
    scaled_size,
)
from videovit.data.decode.pyav_backend import PyavVideo, open_pyav

NAME = "decord"
# Substituted frames that decord may hand out for ones it cannot decode, before it raises.
FAULT_TOLERANCE = 1
# Codecs whose frames decord finds; it misplaces or cannot open others.
RIGHT_CODECS = frozenset({"h264", "vp8", "vp9", "ffv1"})
MOST_REMEMBERED = 1_000_000

# Files that need not be looked at again, with their time of change and size.
FOUND_SAFE: dict[str, tuple[Version, DecodeOptions]] = {}


@functools.cache
def load_decord() -> Any | None:
    """The decord module with its log turned off, or None (with one warning) where it is not installed."""
    try:
        import decord
    except ImportError as error:
        warnings.warn(f"decord cannot be imported ({error}); videos are read with PyAV instead", stacklevel=2)
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def open_decord(path: str, options: DecodeOptions = DEFAULTS) -> Video:
    """Open a video with decord; with PyAV where decord is not installed or would hand out wrong frames.

    A look at the packets of a file, remembered per process, tells which files those are (`reason_against`); the
    `served_by` of the Video says it.

    Raises:
        DecodeError: the file is missing, empty, damaged, too large, or has no video stream.
    """
    version = check_file(path, NAME)
    decord = load_decord()
    if decord is None:
        return open_pyav(path, options)
    if FOUND_SAFE.get(path) == (version, options):
        return DecordVideo(path, decord, options)
    exact = open_pyav(path, options)
    reason = reason_against(exact, options)
    if not reason:
        video = DecordVideo(path, decord, options)
        if video.num_frames == exact.num_frames:
            exact.close()
            if len(FOUND_SAFE) < MOST_REMEMBERED:
                FOUND_SAFE[path] = version, options
            return video
        video.close()
        reason = "number of frames"
    exact.served_by = f"{exact.served_by} ({reason})"
    return exact


def reason_against(video: PyavVideo, options: DecodeOptions = DEFAULTS) -> str:
    """Why decord would get the frames of a video wrong, or slowly, or "" when it would not.

    decord takes every key packet for a clean start and every packet for a frame that is shown; it reads ahead without
    a limit, of a long file all of it; it turns mirrored videos upside down; and it does not scale before the conversion
    to RGB.
    """
    table = video.table
    if video.codec not in RIGHT_CODECS:
        return f"codec {video.codec}"
    if video.is_long:
        return "long file"
    if not table.seekable:
        return "container or time stamps"
    if table.has_hidden_packets:
        return "packets that are not shown"
    if table.has_leading_frames or not table.entries_whole:
        return "key frames that others refer across"
    if video.mirrored:
        return "mirrored"
    if scaled_size(*video.size, options.short_side) != video.size:
        return "scaled while decoding"
    return ""


class DecordVideo(ClosingVideo):
    """A video open in decord. `frames` is meant to be called once.

    What decord cannot open or decode is given to PyAV, which either returns the right frames or raises.
    """

    def __init__(self, path: str, decord: Any, options: DecodeOptions) -> None:
        self._path = path
        self._options = options
        self.served_by = NAME
        self._decord = decord
        self._reader: Any = None
        self._instead: Video | None = None
        try:
            self._reader = self._open()
            self.num_frames: int = len(self._reader)
            self.fps = float(self._reader.get_avg_fps())
        except self._errors():
            self._instead = self._give_up()
            self.num_frames, self.fps = self._instead.num_frames, self._instead.fps
        if self.num_frames < 1 or not self.fps > 0:
            raise DecodeError(path, f"{self.num_frames} frames at {self.fps} frames per second", NAME)

    def frames(self, indices: Indices) -> Tensor:
        """See `Video.frames`."""
        check_indices(indices, self.num_frames)
        wanted, places = np.unique(indices, return_inverse=True)
        if len(wanted) == 0:
            raise ValueError("no frames were asked for")
        if self._instead is not None:
            return self._instead.frames(indices)
        try:
            reader = self._open() if self._reader is None else self._reader
            self._reader = None  # a second call opens the file again: a used reader would run ahead in memory
            frames: Tensor = from_dlpack(reader.get_batch(wanted.tolist()).to_dlpack())
        except self._errors():
            self._instead = self._give_up()
            return self._instead.frames(indices)
        if frames.shape[0] != len(wanted):
            raise DecodeError(self._path, f"{frames.shape[0]} frames decoded, {len(wanted)} wanted", NAME)
        return frames if np.array_equal(wanted, indices) else frames[torch.from_numpy(places.reshape(-1))]

    def close(self) -> None:
        """Drop the reader, which ends its thread."""
        self._reader = None
        if self._instead is not None:
            self._instead.close()

    def _give_up(self) -> Video:
        video = open_pyav(self._path, self._options)
        self.served_by = f"{video.served_by} (decord failed)"
        return video

    def _open(self) -> Any:
        return self._decord.VideoReader(self._path, ctx=self._decord.cpu(0), num_threads=1, fault_tol=FAULT_TOLERANCE)

    def _errors(self) -> tuple[type[BaseException], ...]:
        base = self._decord._ffi.base
        return base.DECORDError, base.DECORDLimitReachedError, RuntimeError, ValueError, OSError, IndexError
