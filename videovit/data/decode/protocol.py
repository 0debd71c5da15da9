"""What every decoder offers, and the one error that all of them raise."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videovit.config.urls import without_secrets
from videovit.errors import UserError
from videovit.messages import printable

Indices = NDArray[np.int64]

LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How videos are decoded, and which are rejected.

    Attributes:
        short_side: frames with a longer short side are scaled down to it while decoding, in pixels; 0 disables.
        max_pixels: pixels of the largest frame that is decoded.
        max_elongation: largest ratio of a frame's long side to its short one; 0 for any. A crop scales the short side,
            which would make the long one fill the memory.
        max_frames: frames of the longest video that is read.
        max_mb: memory of the decoded frames of one video, in 10^6 bytes.
        inside: folder that no sample in it leads out of, by a link or a list of frames; empty for any place.
        frames_fps: frame rate of folders and lists of images, which have none of their own.
        timeout_s: time limit for opening and decoding one video, in seconds; 0 disables.
        each_request: the limit applies to every request for frames, and to opening with OPEN_S_PER_MB more, so that a
            long video may be read piece by piece.
        timeout_name: the setting of this limit, for messages.
        cache_gb: size of the cache of remote files, in 10^9 bytes.
    """

    short_side: int = 0
    max_pixels: int = 7680 * 4320
    max_elongation: int = 0
    max_frames: int = 1_000_000
    max_mb: int = 4096
    inside: str = ""
    frames_fps: float = 30.0
    timeout_s: float = 0.0
    each_request: bool = False
    timeout_name: str = "DATA.DECODE_TIMEOUT_S"
    cache_gb: float = 20.0


DEFAULTS = DecodeOptions()

MOST_ELONGATED = 100
"""`max_elongation` of what is cropped: 256 x 25600 pixels are 20 MB."""


class DecodeError(UserError):
    """A video cannot be read.

    Attributes:
        path: the file.
        reason: why.
        backend: the decoder that failed.
    """

    def __init__(self, path: str, reason: str = "", backend: str = "") -> None:
        self.path = without_secrets(str.__str__(path))  # nor what `Located` knows
        self.reason = reason
        self.backend = backend
        kind = "image" if backend == "image" else "video"
        super().__init__(f"cannot read {kind} {self.path!r}: {reason} [{backend}]" if reason else path)

    # The message is not the constructor's argument, so the default pickling of exceptions would not restore the parts.
    def __reduce__(self) -> tuple[object, ...]:
        return DecodeError, (self.path, self.reason, self.backend)


Knots = tuple[Indices, NDArray[np.float64]]
"""Some frames of a video, including the first, and their times in seconds from the first; both ascend."""


class Video(Protocol):
    """An open video. It belongs to the process that opened it and must be closed (`with open_video(...) as video`)."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""

    @property
    def fps(self) -> float:
        """Mean frame rate, frames per second."""

    @property
    def knots(self) -> Knots | None:
        """Times of some frames, if the frame rate varies; None: `fps` applies everywhere."""

    @property
    def start_s(self) -> float:
        """Time at which a player shows the first frame, in seconds; above 0 if the sound begins before the pictures."""

    @property
    def served_by(self) -> str:
        """The decoder that reads the file, and why if another one was requested: "pyav (codec hevc)"."""

    def frames(self, indices: Indices) -> Tensor:
        """Decode frames in any order, with repeats allowed. One call for many frames is cheaper than many calls.

        Args:
            indices: (N,) int64, each in 0..num_frames-1.

        Returns:
            uint8 (N, H, W, 3), RGB, upright, in the order of `indices`.

        Raises:
            IndexError: an index is outside the video.
            DecodeError: a frame cannot be decoded.
        """

    def close(self) -> None:
        """Release the file; may be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BaseVideo:
    """Base of decoders, which provide `_decode`, `num_frames`, `fps` and `served_by`.

    Unless they set `knots` and `start_s`, the frame rate is constant and the video begins at once.
    """

    num_frames: int
    fps: float
    served_by: str
    knots: Knots | None = None
    start_s: float = 0.0

    def frames(self, indices: Indices) -> Tensor:
        """See `Video.frames`."""
        check_indices(indices, self.num_frames)
        # Decoders differ in what they make of repeated or descending indices, so none of them gets any.
        wanted, places = np.unique(indices, return_inverse=True)
        if len(wanted) == 0:
            raise ValueError("no frames requested")
        frames = self._decode(wanted)
        return frames if np.array_equal(wanted, indices) else frames[torch.from_numpy(places.reshape(-1))]

    def _decode(self, wanted: Indices) -> Tensor:
        """Decode the frames at `wanted`, which are sorted and distinct."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the file; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Version = tuple[int, int]
"""Modification time and size of a file. While they stay the same, what is known about the file stays valid."""


def check_size(path: str, width: int, height: int, options: DecodeOptions, backend: str) -> None:
    """Reject frames that are too large to decode, or too long to scale, going by the header.

    Raises:
        DecodeError: more than options.max_pixels, or one side is longer than options.max_elongation allows.
    """
    if fault := _elongation(width, height, options.max_elongation):
        raise DecodeError(path, fault, backend)
    # A damaged header may state a size that would fill the memory.
    if width * height > options.max_pixels:
        reason = f"frames of {width} x {height} pixels, more than DATA.MAX_PIXELS {options.max_pixels}"
        raise DecodeError(path, reason, backend)


def _elongation(width: int, height: int, most: int) -> str:
    """What is wrong with the shape of frames; empty if nothing."""
    if most == 0 or max(width, height) <= most * min(width, height):
        return ""
    return f"frames of {width} x {height} pixels: one side is more than {most} times as long as the other"


def check_length(path: str, num_frames: int, options: DecodeOptions, backend: str) -> None:
    """Reject videos with too many frames, going by the header.

    Raises:
        DecodeError: more than options.max_frames.
    """
    # The tables of a video grow with its length.
    if num_frames > options.max_frames:
        raise DecodeError(path, f"{num_frames} frames, more than DATA.MAX_FRAMES {options.max_frames}", backend)


def check_memory(num_frames: int, width: int, height: int, options: DecodeOptions) -> None:
    """Reject a request whose frames would fill the memory, however small the file is.

    Args:
        num_frames: number of distinct frames that are wanted.
        width, height: of these frames after scaling, in pixels.
        options: the limit.

    Raises:
        ValueError: more than options.max_mb, or options.max_elongation is exceeded, unlike in the header.
    """
    if fault := _elongation(width, height, options.max_elongation):
        raise ValueError(fault)
    mbytes = num_frames * width * height * 3 / 1e6
    if mbytes > options.max_mb:
        frames = f"{num_frames} frames of {width} x {height} pixels take {mbytes:,.0f} MB"
        raise ValueError(f"{frames}, more than DATA.MAX_VIDEO_MB {options.max_mb}; DATA.DECODE_SHORT_SIDE scales them")


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height scaled so that the shorter side is `short_side`; unchanged if that is 0 or no reduction.

    Args:
        width, height: in pixels.
        short_side: in pixels; 0 leaves the size alone.
    """
    shorter = min(width, height)
    if not 0 < short_side < shorter:
        return width, height
    # Very narrow frames keep at least one pixel.
    return max(1, width * short_side // shorter), max(1, height * short_side // shorter)


def check_indices(indices: Indices, num_frames: int) -> None:
    """Check that frame indices are inside a video.

    Raises:
        IndexError: an index is not in 0..num_frames-1; the message shows the first.
    """
    bad = indices[(indices < 0) | (indices >= num_frames)]
    if len(bad):
        raise IndexError(f"frame {int(bad[0])} requested, but the video has frames 0 to {num_frames - 1}")


def shorten(error: BaseException) -> str:
    """The message of a library's error on one line, truncated."""
    # Messages of libraries may contain line breaks and stack traces.
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."
