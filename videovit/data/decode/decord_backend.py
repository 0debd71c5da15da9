"""Decoding with decord, in the one way that is safe.

One reader per video with one thread, opened in the process that uses it and never carried across a fork; one
`get_batch` of sorted, distinct indices; then the reader is dropped, because its thread keeps decoding ahead for as
long as it exists. Files of which decord would silently return wrong frames are read with PyAV.
"""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any

from torch import Tensor
from torch.utils.dlpack import from_dlpack

from videovit.data.decode.protocol import (
    DEFAULTS,
    BaseVideo,
    DecodeError,
    DecodeOptions,
    Indices,
    Version,
    Video,
    check_file,
    check_memory,
    scaled_size,
)
from videovit.data.decode.pyav_backend import PyavVideo, open_pyav

NAME = "decord"
# Number of undecodable frames that decord may replace by others before it raises.
FAULT_TOLERANCE = 1
# Codecs in which decord finds the right frames; it misplaces them or fails in others.
RIGHT_CODECS = frozenset({"h264", "vp8", "vp9", "ffv1"})
MOST_CACHED = 1_000_000

# Files that decord reads correctly, so that their packets are examined only once: version, options, size of frames.
FOUND_SAFE: dict[str, tuple[Version, DecodeOptions, tuple[int, int]]] = {}


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

    Which files those are is seen from their packets (`reason_against`), once per file and process. The Video's
    `served_by` gives the reason.

    Raises:
        DecodeError: the file is missing, empty, damaged, too large, or has no video stream.
    """
    version = check_file(path, NAME)
    decord = load_decord()
    if decord is None:
        return open_pyav(path, options)
    known = FOUND_SAFE.get(path)
    if known is not None and known[:2] == (version, options):
        return DecordVideo(path, decord, options, known[2])
    exact = open_pyav(path, options)
    reason = reason_against(exact, options)
    if not reason:
        video = DecordVideo(path, decord, options, exact.size)
        # A last check of what the rules may not foresee.
        if video.num_frames == exact.num_frames:
            exact.close()
            # Bounds the memory of a worker.
            if len(FOUND_SAFE) < MOST_CACHED:
                FOUND_SAFE[path] = version, options, exact.size
            return video
        video.close()
        reason = "number of frames"
    exact.served_by = f"{exact.served_by} ({reason})"
    return exact


def reason_against(video: PyavVideo, options: DecodeOptions = DEFAULTS) -> str:
    """Why decord would read a video wrongly or slowly; empty if it would not.

    decord treats every key packet as a clean entry point and every packet as a shown frame. It reads ahead without
    limit, turns mirrored videos upside down, and cannot scale before the conversion to RGB.
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


class DecordVideo(BaseVideo):
    """A video open in decord; `frames` is meant to be called once.

    If decord cannot open or decode the file, PyAV takes over, which returns the right frames or raises.
    """

    def __init__(self, path: str, decord: Any, options: DecodeOptions, size: tuple[int, int]) -> None:
        self._path = path
        self._size = size
        self._options = options
        self.served_by = NAME
        self._decord = decord
        self._reader: Any = None
        self._fallback: Video | None = None
        try:
            self._reader = self._open()
            self.num_frames: int = len(self._reader)
            self.fps = float(self._reader.get_avg_fps())
        except self._errors():
            self._fallback = self._open_fallback()
            self.num_frames, self.fps = self._fallback.num_frames, self._fallback.fps
        if self.num_frames < 1 or not self.fps > 0:
            raise DecodeError(path, f"{self.num_frames} frames at {self.fps} frames per second", NAME)

    def _decode(self, wanted: Indices) -> Tensor:
        if self._fallback is not None:
            return self._fallback.frames(wanted)
        try:
            check_memory(len(wanted), *self._size, self._options)
            reader = self._open() if self._reader is None else self._reader
            self._reader = None  # a second call reopens the file: a used reader would decode ahead and fill memory
            frames: Tensor = from_dlpack(reader.get_batch(wanted.tolist()).to_dlpack())
        except self._errors():
            self._fallback = self._open_fallback()
            return self._fallback.frames(wanted)
        # A missing frame would shift all later ones.
        if frames.shape[0] != len(wanted):
            raise DecodeError(self._path, f"{frames.shape[0]} frames decoded, {len(wanted)} wanted", NAME)
        return frames

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
        # An absolute path: decord takes a relative one such as http://a/b.mp4 for a URL, although it may be a file.
        path = os.path.abspath(self._path)
        return self._decord.VideoReader(path, ctx=self._decord.cpu(0), num_threads=1, fault_tol=FAULT_TOLERANCE)

    def _errors(self) -> tuple[type[BaseException], ...]:
        base = self._decord._ffi.base
        return base.DECORDError, base.DECORDLimitReachedError, RuntimeError, ValueError, OSError, IndexError
