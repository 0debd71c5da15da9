"""What every decoder offers, and the one error that all of them raise."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from videovit.errors import UserError

Indices = NDArray[np.int64]

LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How videos are decoded, and what is refused.

    Attributes:
        short_side: frames whose shorter side is longer are scaled down to it while decoding, in pixels; 0: never.
        max_pixels: pixels of the largest frame that is decoded.
        max_frames: frames of the longest video that is read.
        frames_fps: frame rate of folders and lists of images, which have none of their own.
        timeout_s: seconds that one video may take, opening it and decoding, before its decoder is ended; 0: no limit.
        timeout_name: what the user sets that limit with, for messages.
    """

    short_side: int = 0
    max_pixels: int = 7680 * 4320
    max_frames: int = 1_000_000
    frames_fps: float = 30.0
    timeout_s: float = 0.0
    timeout_name: str = "DATA.DECODE_TIMEOUT_S"


DEFAULTS = DecodeOptions()


class DecodeError(UserError):
    """A video cannot be read: `path`, `reason` in plain words, and the `backend` that tried."""

    def __init__(self, path: str, reason: str = "", backend: str = "") -> None:
        self.path = path
        self.reason = reason
        self.backend = backend
        super().__init__(f"cannot read video {path!r}: {reason} [{backend}]" if reason else path)

    def __reduce__(self) -> tuple[Any, ...]:
        return DecodeError, (self.path, self.reason, self.backend)


Knots = tuple[Indices, NDArray[np.float64]]
"""Some frames of a video, the first one among them, and their times in seconds from the first; both rise."""


class Video(Protocol):
    """An open video. Belongs to the process that opened it and is closed after use (`with open_video(...) as v`)."""

    @property
    def num_frames(self) -> int:
        """Frames that can be asked for."""

    @property
    def fps(self) -> float:
        """Mean frame rate, frames per second."""

    @property
    def knots(self) -> Knots | None:
        """Where the frame rate varies, as far as the decoder looks; None: `fps` holds everywhere."""

    @property
    def served_by(self) -> str:
        """The decoder that reads the file, and why if it is not the one that was asked for: "pyav (codec hevc)"."""

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
    """The context manager part of a Video, and an even frame rate, for decoders to build on."""

    knots: Knots | None = None

    def close(self) -> None:
        """Let the file go; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Version = tuple[int, int]
"""Time of change and size of a file: while they stay, what is known of the file stays true."""


def check_file(path: str, backend: str) -> Version:
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
    return status.st_mtime_ns, status.st_size


def check_size(path: str, width: int, height: int, options: DecodeOptions, backend: str) -> None:
    """Refuse frames too large to be decoded, by what the header says.

    Raises:
        DecodeError: more than options.max_pixels.
    """
    if width * height > options.max_pixels:
        reason = f"frames of {width} x {height} pixels, more than DATA.MAX_PIXELS {options.max_pixels}"
        raise DecodeError(path, reason, backend)


def check_length(path: str, num_frames: int, options: DecodeOptions, backend: str) -> None:
    """Refuse videos with too many frames, by what the header says.

    Raises:
        DecodeError: more than options.max_frames.
    """
    if num_frames > options.max_frames:
        raise DecodeError(path, f"{num_frames} frames, more than DATA.MAX_FRAMES {options.max_frames}", backend)


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height with the shorter side scaled down to `short_side`; 0, or one that is no shorter: unchanged."""
    shorter = min(width, height)
    if not 0 < short_side < shorter:
        return width, height
    return max(1, width * short_side // shorter), max(1, height * short_side // shorter)


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
