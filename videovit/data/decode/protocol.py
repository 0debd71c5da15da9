"""What every decoder offers, and the one error that all of them raise."""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]

LONGEST_REASON = 200


class DecodeError(ValueError):
    """A video cannot be read: `path`, `reason` in plain words, and the `backend` that tried."""

    def __init__(self, path: str, reason: str = "", backend: str = "") -> None:
        self.path = path
        self.reason = reason
        self.backend = backend
        super().__init__(f"cannot read video {path!r}: {reason} [{backend}]" if reason else path)

    def __reduce__(self) -> tuple[Any, ...]:
        return DecodeError, (self.path, self.reason, self.backend)


class Video(Protocol):
    """An open video. Belongs to the process that opened it and is closed after use (`with open_video(...) as v`)."""

    @property
    def num_frames(self) -> int:
        """Frames that can be asked for."""

    @property
    def fps(self) -> float:
        """Mean frame rate, frames per second."""

    def frames(self, indices: Indices) -> Tensor:
        """Decode the frames at `indices`: any order, repeats allowed; one call for all that is wanted is cheapest.

        Args:
            indices: (N,) int64, each in 0..num_frames-1.

        Returns:
            uint8 (N, H, W, 3), RGB, upright, in the order of `indices`.

        Raises:
            IndexError: an index lies outside the video.
            DecodeError: a frame cannot be decoded.
        """

    def close(self) -> None:
        """Let the file go; may be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ClosingVideo:
    """The context manager part of a Video, for decoders to build on."""

    def close(self) -> None:
        """Let the file go; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_file(path: str, backend: str) -> None:
    """Refuse what is not a readable, non-empty file, before a decoder sees it.

    Raises:
        DecodeError: the path is missing, a folder, not a plain file, unreadable, or empty.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise DecodeError(path, "file does not exist", backend) from None
    except (OSError, ValueError) as error:
        raise DecodeError(path, shorten(error), backend) from None
    if stat.S_ISDIR(status.st_mode):
        raise DecodeError(path, "is a folder, not a file", backend)
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(path, "is not a plain file", backend)
    if status.st_size == 0:
        raise DecodeError(path, "empty file (0 bytes)", backend)
    if not os.access(path, os.R_OK):
        raise DecodeError(path, "no permission to read it", backend)


def check_indices(indices: Indices, num_frames: int) -> None:
    """Refuse frame indices outside a video.

    Raises:
        IndexError: names the first index that is not in 0..num_frames-1.
    """
    bad = indices[(indices < 0) | (indices >= num_frames)]
    if len(bad):
        raise IndexError(f"frame {int(bad[0])} was asked for; the video has frames 0 to {num_frames - 1}")


def shorten(error: BaseException) -> str:
    """The message of a library's error on one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."
