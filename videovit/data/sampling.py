"""Which frames of a video make a clip: index arithmetic, no decoding.

    a video of 20 frames, 4 sampled with stride 2 at the video's own rate: a span of 8 frames

    frame   0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19
    span                      [start ............... end]
    clip                       x     x        x     x             start + (0, 7/3, 14/3, 7), truncated

The span has stride * num_sampled frames, and the samples stand evenly from its first to its last frame: the mean
distance is therefore slightly above the stride, (span - 1) / (num_sampled - 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class ClipPlan(Protocol):
    """Decides the frames of every clip taken from one video."""

    @property
    def num_clips(self) -> int:
        """Clips per video."""

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The (T,) frame indices of each clip of a video of `num_frames` frames."""

    def span(self, num_frames: int, fps: float) -> float:
        """Frames that a clip stands for, from its first one to where the next clip may begin."""

    def window(self, start: float, num_frames: int, fps: float) -> Indices:
        """The (T,) frame indices of a clip that begins at frame `start`, as in evaluation."""


def span_length(fps: float, *, num_sampled: int, stride: int, target_fps: float) -> float:
    """Frames that a clip covers in a video of this rate: num_sampled * stride frames at `target_fps`, in time."""
    return stride * num_sampled / target_fps * fps


def last_start(num_frames: int, span: float) -> float:
    """The latest start at which a span still fits, in frames; 0 when the video is shorter than the span."""
    return max(num_frames - span, 0.0)


def span_indices(
    num_frames: int, fps: float, *, num_sampled: int, stride: int, target_fps: float, start: float
) -> Indices:
    """Frame indices of one clip whose span begins at `start`.

    Positions are computed in single precision, as the models' published training did: near whole numbers the
    truncation would otherwise choose a neighbour now and then.

    Args:
        num_frames: frames in the video, at least 1.
        fps: frame rate of the video.
        num_sampled: frames in the clip.
        stride: wanted distance between sampled frames, at `target_fps`.
        target_fps: the frame rate that `stride` counts in.
        start: first frame of the span, in frames; need not be whole.

    Returns:
        (num_sampled,) int64, never decreasing, inside the video: past the last frame that frame is repeated.

    Raises:
        ValueError: num_frames is below 1.

    Source: PySlowFast, temporal sampling of the Kinetics loader.
    """
    if num_frames < 1:
        raise ValueError(f"a video of {num_frames} frames has none to sample")
    end = start + span_length(fps, num_sampled=num_sampled, stride=stride, target_fps=target_fps) - 1
    positions = torch.linspace(start, end, num_sampled).clamp(0, num_frames - 1)
    indices: Indices = positions.long().numpy()
    return indices


def random_start(
    num_frames: int, fps: float, *, num_sampled: int, stride: int, target_fps: float, rng: np.random.Generator
) -> float:
    """Start of a span placed anywhere in the video with equal chance, in frames (not whole)."""
    span = span_length(fps, num_sampled=num_sampled, stride=stride, target_fps=target_fps)
    return float(rng.uniform(0.0, last_start(num_frames, span)))


def view_start(
    num_frames: int,
    fps: float,
    *,
    num_sampled: int,
    stride: int,
    target_fps: float,
    view: int,
    num_views: int,
    use_offset: bool,
) -> float:
    """Start of the span of clip `view` of `num_views` clips spread over the video.

    With offset sampling the first span begins with the video and the last one ends with it, and a single one
    stands in the middle; without it the starts cut the room into `num_views` equal steps, so that the end of the
    video is not reached:

        use_offset=True,  3 views    [----]  [----]  [----]
        use_offset=False, 3 views    [----][----][----]

    Args:
        num_frames: frames in the video.
        fps: frame rate of the video.
        num_sampled: frames per clip.
        stride: distance between sampled frames, at `target_fps`.
        target_fps: the frame rate that `stride` counts in.
        view: which clip, from 0.
        num_views: clips per video.
        use_offset: DATA.USE_OFFSET_SAMPLING.

    Returns:
        Start of the span in frames.

    Source: PySlowFast, multi-view testing.
    """
    room = last_start(num_frames, span_length(fps, num_sampled=num_sampled, stride=stride, target_fps=target_fps))
    if not use_offset:
        return room * view / num_views
    if num_views == 1:
        return float(math.floor(room / 2))
    return float(view * math.floor(room / (num_views - 1)))


@dataclass(frozen=True)
class Spans:
    """Clips that cover a length of time; where they start, a subclass says."""

    num_sampled: int
    stride: int
    target_fps: float
    num_clips: int = 1

    def span(self, num_frames: int, fps: float) -> float:
        """See `ClipPlan`."""
        return span_length(fps, **self._clip)

    def window(self, start: float, num_frames: int, fps: float) -> Indices:
        """See `ClipPlan`."""
        return span_indices(num_frames, fps, **self._clip, start=start)

    @property
    def _clip(self) -> dict[str, Any]:
        return {"num_sampled": self.num_sampled, "stride": self.stride, "target_fps": self.target_fps}


@dataclass(frozen=True)
class RandomSpans(Spans):
    """Training: `num_clips` spans, each anywhere in the video; the frame rate may be jittered up by `jitter_fps`."""

    jitter_fps: float = 0.0

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The frame indices of each clip; draws from `rng`."""
        spans = replace(self, target_fps=self.target_fps + float(rng.uniform(0.0, self.jitter_fps)))
        return [
            spans.window(random_start(num_frames, fps, **spans._clip, rng=rng), num_frames, fps)
            for _ in range(self.num_clips)
        ]


@dataclass(frozen=True)
class EvenSpans(Spans):
    """Evaluation: `num_clips` spans spread over the video, always the same ones."""

    use_offset: bool = True

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The frame indices of each clip; `rng` is not touched."""
        views = {**self._clip, "num_views": self.num_clips, "use_offset": self.use_offset}
        starts = [view_start(num_frames, fps, **views, view=view) for view in range(self.num_clips)]
        return [self.window(start, num_frames, fps) for start in starts]


@dataclass(frozen=True)
class Segments:
    """One clip from the whole video: `num_sampled` equal segments, a frame of each.

        a video of 11 frames, 4 segments of 2.5 frames; neighbours share their boundary, rounded

        frame      0  1  2  3  4  5  6  7  8  9 10
        segments  [-----]     [-----]
                        [--------]  [--------]           0-2, 2-5, 5-8, 8-10
        test          x     x        x        x          the middle, rounded down
        training   any frame of each segment, its ends included

    Args:
        num_sampled: T.
        random: draw the frame (training) instead of taking the middle (evaluation).

    Source: Temporal Segment Networks (arXiv 1608.00859); boundaries and rounding of PySlowFast's Something-Something.
    """

    num_sampled: int
    random: bool = False
    num_clips: ClassVar[int] = 1

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The (T,) frame indices; `rng` is touched only if `random`."""
        if num_frames < 1:
            raise ValueError(f"a video of {num_frames} frames has none to sample")
        bounds = np.round((num_frames - 1) / self.num_sampled * np.arange(self.num_sampled + 1)).astype(np.int64)
        if self.random:
            return [rng.integers(bounds[:-1], bounds[1:], endpoint=True)]
        return [(bounds[:-1] + bounds[1:]) // 2]

    def span(self, num_frames: int, fps: float) -> float:
        """See `ClipPlan`: the whole video."""
        return float(num_frames)

    def window(self, start: float, num_frames: int, fps: float) -> Indices:
        """See `ClipPlan`; there is one place for it, whatever `start`."""
        return replace(self, random=False)(num_frames, fps, np.random.default_rng(0))[0]


@dataclass(frozen=True)
class StridedClips:
    """Clips of frames exactly `stride` apart; past either end of the video the outermost frame is repeated.

    In a video longer than the clip, starts are whole frames: drawn in training, else spread from the first possible to
    the last (a single clip stands in the middle). A shorter video stands anywhere within the clip in training, else at
    its beginning. At another frame rate than `target_fps` the stride is scaled, and frames are the nearest.

    Args:
        num_sampled: T.
        stride: frames from one sample to the next, at `target_fps`.
        target_fps: the frame rate that `stride` counts in.
        num_clips: clips a video.
        random: draw the start (training).

    Source: PySlowFast, sampling of the Charades loader.
    """

    num_sampled: int
    stride: int
    target_fps: float
    num_clips: int = 1
    random: bool = False

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The frame indices of each clip; `rng` is touched only if `random`."""
        if num_frames < 1:
            raise ValueError(f"a video of {num_frames} frames has none to sample")
        room = num_frames - int(self._offsets(fps)[-1]) - 1
        return [self.window(start, num_frames, fps) for start in self._starts(room, rng)]

    def span(self, num_frames: int, fps: float) -> float:
        """See `ClipPlan`."""
        return span_length(fps, num_sampled=self.num_sampled, stride=self.stride, target_fps=self.target_fps)

    def window(self, start: float, num_frames: int, fps: float) -> Indices:
        """See `ClipPlan`; it begins with a whole frame."""
        return np.clip(int(start) + self._offsets(fps), 0, num_frames - 1)

    def _offsets(self, fps: float) -> Indices:
        offsets_T: Indices = np.rint(np.arange(self.num_sampled) * (self.stride * fps / self.target_fps)).astype(
            np.int64
        )
        return offsets_T

    def _starts(self, room: int, rng: np.random.Generator) -> list[int]:
        if self.random:
            low, high = min(room, 0), max(room, 0)
            return [int(rng.integers(low, high, endpoint=True)) for _ in range(self.num_clips)]
        if self.num_clips == 1:
            return [max(room, 0) // 2]
        gap = max(room, 0) / (self.num_clips - 1)
        return [round(gap * clip) for clip in range(self.num_clips)]


def key_frame_indices(
    num_frames: int,
    fps: float,
    *,
    num_sampled: int,
    stride: int,
    target_fps: float,
    time_s: float,
    knots: tuple[Indices, NDArray[np.float64]] | None = None,
) -> Indices:
    """Frame indices of the clip around a point in time: half of it before, half of it from there on.

        num_sampled 4, stride 2, key frame 10: a span of 8 frames that begins 4 before the key frame

        frame   5  6  7  8  9 10 11 12 13 14
        clip       x     x     K     x

    Args:
        num_frames: frames in the video, at least 1.
        fps: frame rate of the video.
        num_sampled: frames in the clip.
        stride: distance between sampled frames, at `target_fps`.
        target_fps: the frame rate that `stride` counts in; in a video of another rate the nearest frames are taken.
        time_s: the key frame, in seconds from the first frame of the video.
        knots: where the rate of the video varies, some of its frames and their times in seconds; between them it is
            taken to be even.

    Returns:
        (num_sampled,) int64, never decreasing, inside the video: its first and last frame are repeated.

    Raises:
        ValueError: num_frames is below 1.

    Source: PySlowFast, AVA data set (its centre is the frame at `time_s`, after half of the span).
    """
    if num_frames < 1:
        raise ValueError(f"a video of {num_frames} frames has none to sample")
    at_target = time_s * target_fps - num_sampled * stride // 2 + stride * np.arange(num_sampled)
    places = at_target * (fps / target_fps) if knots is None else np.interp(at_target / target_fps, knots[1], knots[0])
    indices: Indices = np.floor(places + 0.5).astype(np.int64).clip(0, num_frames - 1)
    return indices


@dataclass(frozen=True)
class AroundKeyFrame:
    """One clip around a key frame, always the same.

    Attributes:
        start_s: time stamp of a video's first frame, in seconds.
    """

    num_sampled: int
    stride: int
    target_fps: float
    start_s: float = 0.0
    num_clips: int = 1

    def at(
        self, time_s: float, num_frames: int, fps: float, knots: tuple[Indices, NDArray[np.float64]] | None = None
    ) -> list[Indices]:
        """The frame indices of the clip around the time stamp `time_s`; for `knots` see `key_frame_indices`."""
        return [
            key_frame_indices(
                num_frames,
                fps,
                num_sampled=self.num_sampled,
                stride=self.stride,
                target_fps=self.target_fps,
                time_s=time_s - self.start_s,
                knots=knots,
            )
        ]
