"""Decoding with decord, in the one way that is safe.

One reader per video with one thread, opened in the process that uses it and never carried across a fork; one
`get_batch` of sorted, distinct indices; then the reader is dropped, because its thread keeps decoding ahead for as
long as it exists. Files of which decord would silently return wrong frames are read with PyAV.
"""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from videovit.data.decode.decoder_choice import reason_against
from videovit.data.decode.located import check_file, read_once, url_of
from videovit.data.decode.protocol import (
    DEFAULTS,
    BaseVideo,
    DecodeOptions,
    Indices,
    Knots,
    Version,
    Video,
    check_memory,
)
from videovit.data.decode.pyav_backend import PyavVideo, open_pyav
from videovit.messages import printable

NAME = "decord"
# Number of undecodable frames that decord may replace by others before it raises.
FAULT_TOLERANCE = 1
# Codecs in which decord finds the right frames. It misplaces them or fails in others; FFV1 may be interlaced anywhere.
RIGHT_CODECS = frozenset({"h264", "vp8", "vp9"})
MOST_CACHED = 1_000_000


class Facts(NamedTuple):
    """What PyAV says about a file that decord reads.

    Attributes:
        num_frames, fps, knots, start_s: see `Video`.
        shape: height and width of the upright frames.
    """

    num_frames: int
    fps: float
    knots: Knots | None
    start_s: float
    shape: tuple[int, int]


# Files that decord reads correctly, with their versions, so that their packets are examined only once.
FOUND_SAFE: dict[str, tuple[Version, DecodeOptions, Facts]] = {}


@functools.cache
def load_decord() -> Any | None:
    """The decord module with its log turned off; None, with one warning, if it is not installed."""
    os.environ.setdefault("PATH", os.defpath)  # decord extends it, and cannot be imported without one
    try:
        import decord
    except ImportError as error:
        warnings.warn(f"decord cannot be imported ({error}); reading videos with PyAV instead", stacklevel=2)
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def open_decord(path: str, options: DecodeOptions = DEFAULTS) -> Video:
    """Open a video with decord, or with PyAV if decord is not installed or would return wrong frames.

    Which files those are is seen from their packets (`decoder_choice`), and from what decord itself says about them,
    once per file and process. The Video's `served_by` gives the reason.

    Raises:
        DecodeError: the file is missing, empty, damaged, too large, or has no video stream.
    """
    version = check_file(path, NAME)
    decord = load_decord()
    if decord is None:
        return open_pyav(path, options)
    name = str.__str__(path)  # what `Located` knows may keep memory
    # decord prints the path of a file that it cannot open, as it is.
    if printable(path) != path:
        exact = open_pyav(path, options)
        exact.served_by = f"{exact.served_by} (name)"
        return exact
    safe = FOUND_SAFE.get(name)
    if safe is not None and safe[:2] == (version, options):
        return DecordVideo(path, decord, options, safe[2])
    path = read_once(path)
    exact = open_pyav(path, options)
    reason = "" if exact.codec in RIGHT_CODECS else f"codec {exact.codec}"
    reason = reason or reason_against(exact, options)
    # decord treats every key packet as a clean entry point.
    reason = reason or ("key frames that others refer across" if exact.table.has_leading_frames else "")
    if not reason:
        facts = facts_of(exact)
        video = DecordVideo(path, decord, options, facts)
        # A last check of what the rules may not foresee.
        reason = video.differs_from(exact)
        if not reason:
            exact.close()
            # Bounds the memory of a worker.
            if len(FOUND_SAFE) < MOST_CACHED and facts.knots is None:
                FOUND_SAFE[name] = version, options, facts
            return video
        video.close()
    exact.served_by = f"{exact.served_by} ({reason})"
    return exact


def facts_of(video: PyavVideo) -> Facts:
    """Facts of a video whose first frame PyAV can decode."""
    width, height = video.size
    swap = video.look is not None and video.look.orientation.swap
    shape = (width, height) if swap else (height, width)
    return Facts(video.num_frames, video.fps, video.knots, video.start_s, shape)


class DecordVideo(BaseVideo):
    """A video open in decord; `frames` is meant to be called once.

    If decord cannot open or decode the file, PyAV takes over, which returns the right frames or raises.
    """

    def __init__(self, path: str, decord: Any, options: DecodeOptions, facts: Facts) -> None:
        self._path = path
        self._options = options
        self._facts = facts
        self.num_frames, self.fps, self.knots, self.start_s, _ = facts
        self.served_by = NAME
        self._decord = decord
        self._reader: Any = None
        self._fallback: Video | None = None
        try:
            self._reader = self._open()
            if len(self._reader) != self.num_frames:
                raise ValueError(f"{len(self._reader)} frames, expected {self.num_frames}")
        except self._errors():
            self._reader = None
            self._fallback = self._open_fallback()

    def differs_from(self, exact: PyavVideo) -> str:
        """What decord sees differently from PyAV in the packets of the file; empty if nothing."""
        if self._reader is None:
            return "decord failed"
        table = exact.table
        # decord's FFmpeg may trust wrong flags of key packets.
        if not np.array_equal(self._reader.get_key_indices(), table.keys):
            return "key frames"
        tick_s = exact.tick_s
        # decord's times are in single precision, and count from elsewhere in fragmented files.
        begin_s = self._reader.get_frame_timestamp(list(range(self.num_frames)))[:, 0]
        expected_s = (table.stamps - table.stamps[0]) * tick_s
        if not np.allclose(begin_s - begin_s[0], expected_s, rtol=1e-6, atol=tick_s / 2):
            return "time stamps"
        return ""

    def _decode(self, wanted: Indices) -> Tensor:
        frames = self._read_batch(wanted) if self._fallback is None else None
        if frames is not None:
            return frames
        # Outside the handling of decord's error, which would keep its reader alive: a fork with one hangs.
        if self._fallback is None:
            self._fallback = self._open_fallback()
        return self._fallback.frames(wanted)

    def _read_batch(self, wanted: Indices) -> Tensor | None:
        """The frames at `wanted`; None if decord fails, or returns others than were requested."""
        try:
            height, width = self._facts.shape
            check_memory(len(wanted), width, height, self._options)
            reader = self._open() if self._reader is None else self._reader
            self._reader = None  # a second call reopens the file: a used reader would decode ahead and fill memory
            frames: Tensor = from_dlpack(reader.get_batch(wanted.tolist()).to_dlpack())
        except self._errors():
            return None
        # A missing frame would shift all later ones.
        return frames if tuple(frames.shape[:3]) == (len(wanted), *self._facts.shape) else None

    def close(self) -> None:
        """Drop the reader, which ends its thread."""
        self._reader = None
        if self._fallback is not None:
            self._fallback.close()

    def _open_fallback(self) -> Video:
        video = open_pyav(self._path, self._options)
        self.served_by = f"{video.served_by} (decord failed)"
        return video

    def _open(self) -> Any:
        url = url_of(self._path)
        return self._decord.VideoReader(url, ctx=self._decord.cpu(0), num_threads=1, fault_tol=FAULT_TOLERANCE)

    def _errors(self) -> tuple[type[BaseException], ...]:
        base = self._decord._ffi.base
        return base.DECORDError, base.DECORDLimitReachedError, RuntimeError, ValueError, OSError, IndexError
