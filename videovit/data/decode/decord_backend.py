"""Decoding with decord, in the one way of using it that is safe.

One reader per video with one thread, opened in the process that uses it and never carried across a fork; one
`get_batch` of sorted, distinct indices; then the reader is dropped, because its thread keeps decoding ahead of what
was asked for as long as it lives.
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
    ClosingVideo,
    DecodeError,
    Indices,
    Video,
    check_file,
    check_indices,
    shorten,
)
from videovit.data.decode.pyav_backend import open_pyav

NAME = "decord"
# Substituted frames that decord may hand out for ones it cannot decode, before it raises.
FAULT_TOLERANCE = 1


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


def open_decord(path: str) -> Video:
    """Open a video with decord; with PyAV where decord is not installed.

    Raises:
        DecodeError: the file is missing, empty, damaged, or has no video stream.
    """
    check_file(path, NAME)
    decord = load_decord()
    return open_pyav(path) if decord is None else DecordVideo(path, decord)


class DecordVideo(ClosingVideo):
    """A video open in decord. `frames` is meant to be called once."""

    def __init__(self, path: str, decord: Any) -> None:
        self._path = path
        self._decord = decord
        self._reader: Any = None
        self._reader = self._open()
        try:
            self.num_frames = len(self._reader)
            self.fps = float(self._reader.get_avg_fps())
        except self._errors() as error:
            raise DecodeError(path, shorten_decord(error), NAME) from None
        if self.num_frames < 1 or not self.fps > 0:
            raise DecodeError(path, f"{self.num_frames} frames at {self.fps} frames per second", NAME)

    def frames(self, indices: Indices) -> Tensor:
        """See `Video.frames`."""
        check_indices(indices, self.num_frames)
        wanted, places = np.unique(indices, return_inverse=True)
        reader = self._open() if self._reader is None else self._reader
        self._reader = None  # a second call opens the file again: a used reader would run ahead in memory
        try:
            batch = reader.get_batch(wanted.tolist())
            frames: Tensor = from_dlpack(batch.to_dlpack())
        except self._errors() as error:
            raise DecodeError(self._path, shorten_decord(error), NAME) from None
        if frames.shape[0] != len(wanted):
            raise DecodeError(self._path, f"{frames.shape[0]} frames decoded, {len(wanted)} wanted", NAME)
        return frames if np.array_equal(wanted, indices) else frames[torch.from_numpy(places.reshape(-1))]

    def close(self) -> None:
        """Drop the reader, which ends its thread."""
        self._reader = None

    def _open(self) -> Any:
        try:
            return self._decord.VideoReader(
                self._path, ctx=self._decord.cpu(0), num_threads=1, fault_tol=FAULT_TOLERANCE
            )
        except self._errors() as error:
            raise DecodeError(self._path, shorten_decord(error), NAME) from None

    def _errors(self) -> tuple[type[BaseException], ...]:
        base = self._decord._ffi.base
        return base.DECORDError, base.DECORDLimitReachedError, RuntimeError, ValueError, OSError, IndexError


def shorten_decord(error: BaseException) -> str:
    """decord's message without its time stamp, source position and stack trace."""
    text = str(error).split("Stack trace")[0]
    _, _, tail = text.rpartition("] ")
    text = tail or text
    if "cannot find video stream" in text.lower() or "st_nb" in text:
        return "no video stream"
    return shorten(ValueError(text))
