"""Temporal sampling: which frames of a video form a clip. Index arithmetic only, no decoding.

    a video of 20 frames, 4 sampled with stride 2 at the video's own rate: a span of 8 frames

    frame   0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19
    span                      [start ............... end]
    clip                       x     x        x     x             start + (0, 7/3, 14/3, 7), truncated

The span has stride * num_sampled frames, and the samples are spread evenly from its first to its last frame. Their
mean distance is therefore slightly larger than the stride: (span - 1) / (num_sampled - 1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, TypedDict

import numpy as np
import torch

from videovit.data.clock import Timeline, clock_of, frames_on_screen
from videovit.data.decode.protocol import Indices, Knots


class WindowPlan(Protocol):
    """Chooses the frames of a clip that starts anywhere in a video."""

    @property
    def target_fps(self) -> float | None:
        """The frame rate that strides count in; None if the plan has no stride."""

    def span(self, num_frames: int, fps: float) -> float:
        """Length of a clip in frames of the video, from its start to the start of an adjacent clip."""

    def window(self, start: float, num_frames: int, fps: float) -> Indices:
        """The (T,) frame indices of a clip that starts at frame `start`, as in evaluation."""


class ClipPlan(WindowPlan, Protocol):
    """Chooses the frames of every clip taken from a video."""

    @property
    def num_clips(self) -> int:
        """Clips per video."""

    def clips(self, video: Timeline, rng: np.random.Generator, key_s: float | None = None) -> list[Indices]:
        """The (T,) frame indices of each clip.

        Args:
            video: the times of its frames.
            rng: source of randomness.
            key_s: player time of the sample's key frame, in seconds; None if it has none.
        """


class ClockPlan(ABC):
    """Base of plans that count on the clock of a video; clips do not depend on a key frame.

    Attributes:
        target_fps: see `WindowPlan`.
    """

    target_fps: float | None

    @abstractmethod
    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The (T,) frame indices of each clip in a video of constant frame rate."""

    def clips(self, video: Timeline, rng: np.random.Generator, key_s: float | None = None) -> list[Indices]:
        """See `ClipPlan`."""
        clock = clock_of(video, self.target_fps)
        return [clock.frames(ticks_T) for ticks_T in self(clock.num_ticks, clock.rate, rng)]


def span_length(fps: float, *, num_sampled: int, stride: int, target_fps: float) -> float:
    """Length of a span in frames of the video: the duration of num_sampled * stride frames at `target_fps`.

    Args:
        fps: frame rate of the video.
        num_sampled: frames in the clip.
        stride: distance between sampled frames, at `target_fps`.
        target_fps: the frame rate that `stride` counts in.
    """
    return stride * num_sampled / target_fps * fps


def last_start(num_frames: int, span: float) -> float:
    """The last start at which a span fits, in frames; 0 if the video is shorter than the span."""
    # A shorter video starts at 0 and repeats its last frame.
    return max(num_frames - span, 0.0)


def span_indices(
    num_frames: int, fps: float, *, num_sampled: int, stride: int, target_fps: float, start: float
) -> Indices:
    """Frame indices of one clip whose span starts at `start`.

    Args:
        num_frames: frames in the video, at least 1.
        fps: frame rate of the video.
        num_sampled: frames in the clip.
        stride: distance between sampled frames, at `target_fps`.
        target_fps: the frame rate that `stride` counts in.
        start: start of the span in frames, not necessarily an integer.

    Returns:
        (num_sampled,) int64, non-decreasing and inside the video; beyond its end the last frame is repeated.

    Raises:
        ValueError: num_frames is below 1.

    Source: PySlowFast, temporal sampling of the Kinetics loader.
    """
    if num_frames < 1:
        raise ValueError(f"cannot sample from a video of {num_frames} frames")
    # The last sample is the last frame of the span, not the first frame after it.
    end = start + span_length(fps, num_sampled=num_sampled, stride=stride, target_fps=target_fps) - 1
    # In single precision, as in the published training code: in double precision, truncation would choose another frame
    # at some positions near integers.
    positions = torch.linspace(start, end, num_sampled).clamp(0, num_frames - 1)
    indices: Indices = positions.long().numpy()
    return indices


def random_start(
    num_frames: int, fps: float, *, num_sampled: int, stride: int, target_fps: float, rng: np.random.Generator
) -> float:
    """Start of a span at a uniformly random position of the video, in frames (not an integer).

    Args:
        num_frames: frames in the video.
        fps: frame rate of the video.
        num_sampled, stride, target_fps: see `span_length`.
        rng: source of randomness.
    """
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

    With offset sampling the first span starts with the video, the last one ends with it, and a single one is centered.
    Without it, the starts divide the possible range into `num_views` equal steps, so the end of the video is not
    reached:

        use_offset=True,  3 views    [----]  [----]  [----]
        use_offset=False, 3 views    [----][----][----]

    Args:
        num_frames: frames in the video.
        fps: frame rate of the video.
        num_sampled: frames per clip.
        stride: distance between sampled frames, at `target_fps`.
        target_fps: the frame rate that `stride` counts in.
        view: index of the clip.
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
    # Rounded down, as published, so the last view may end a few frames before the video.
    return float(view * math.floor(room / (num_views - 1)))


class ClipShape(TypedDict):
    """The arguments that all functions about spans share."""

    num_sampled: int
    stride: int
    target_fps: float


@dataclass(frozen=True)
class Spans(ClockPlan):
    """Clips of a fixed duration; subclasses choose where they start."""

    num_sampled: int
    stride: int
    target_fps: float
    num_clips: int = 1

    def span(self, num_frames: int, fps: float) -> float:
        """See `WindowPlan`."""
        return span_length(fps, **self._clip)

    def window(self, start: float, num_frames: int, fps: float) -> Indices:
        """See `WindowPlan`."""
        return span_indices(num_frames, fps, **self._clip, start=start)

    @property
    def _clip(self) -> ClipShape:
        return {"num_sampled": self.num_sampled, "stride": self.stride, "target_fps": self.target_fps}


@dataclass(frozen=True)
class RandomSpans(Spans):
    """Training: `num_clips` spans at random positions. `target_fps` is raised at random by up to `jitter_fps`."""

    jitter_fps: float = 0.0

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The frame indices of each clip."""
        # A higher target rate shortens the span, so motion in the clip appears slower.
        spans = replace(self, target_fps=self.target_fps + float(rng.uniform(0.0, self.jitter_fps)))
        return [
            spans.window(random_start(num_frames, fps, **spans._clip, rng=rng), num_frames, fps)
            for _ in range(self.num_clips)
        ]


@dataclass(frozen=True)
class EvenSpans(Spans):
    """Evaluation: `num_clips` spans spread evenly over the video."""

    use_offset: bool = True

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The frame indices of each clip; does not use `rng`."""
        starts = [
            view_start(num_frames, fps, **self._clip, view=view, num_views=self.num_clips, use_offset=self.use_offset)
            for view in range(self.num_clips)
        ]
        return [self.window(start, num_frames, fps) for start in starts]


@dataclass(frozen=True)
class Segments(ClockPlan):
    """One clip of the whole video: one frame from each of `num_sampled` equal segments.

        a video of 11 frames, 4 segments of 2.5 frames; neighbors share their boundary, rounded

        frame      0  1  2  3  4  5  6  7  8  9 10
        segments  [-----]     [-----]
                        [--------]  [--------]           0-2, 2-5, 5-8, 8-10
        test          x     x        x        x          the middle, rounded down
        training   any frame of each segment, its ends included

    Args:
        num_sampled: T.
        random: draw the frames (training) instead of taking the middle ones (evaluation).

    Source: Temporal Segment Networks (arXiv 1608.00859); boundaries and rounding of PySlowFast's Something-Something.
    """

    num_sampled: int
    random: bool = False
    num_clips: ClassVar[int] = 1
    target_fps: None = field(default=None, init=False)

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The (T,) frame indices; uses `rng` only if `random`."""
        if num_frames < 1:
            raise ValueError(f"cannot sample from a video of {num_frames} frames")
        # np.round rounds half to even, as the published code does.
        bounds = np.round((num_frames - 1) / self.num_sampled * np.arange(self.num_sampled + 1)).astype(np.int64)
        if self.random:
            return [rng.integers(bounds[:-1], bounds[1:], endpoint=True)]
        # Rounded down, as published.
        return [(bounds[:-1] + bounds[1:]) // 2]

    def span(self, num_frames: int, fps: float) -> float:
        """See `WindowPlan`: the whole video."""
        return float(num_frames)

    def window(self, start: float, num_frames: int, fps: float) -> Indices:
        """See `WindowPlan`; the clip is always the whole video, whatever `start`."""
        # The generator is not used then.
        return replace(self, random=False)(num_frames, fps, np.random.default_rng(0))[0]


@dataclass(frozen=True)
class StridedClips(ClockPlan):
    """Clips of frames exactly `stride` apart; beyond either end of the video the first or last frame is repeated.

    In a video longer than the clip, starts are integers: random in training, otherwise spread from the first to the
    last possible start (a single clip is centered). A shorter video is at a random position of the clip in training,
    otherwise at its start. If the frame rate is not `target_fps`, the stride is scaled and the nearest frames are used.

    Args:
        num_sampled: T.
        stride: distance between sampled frames, at `target_fps`.
        target_fps: the frame rate that `stride` counts in.
        num_clips: clips per video.
        random: draw the starts (training).

    Source: PySlowFast, sampling of the Charades loader.
    """

    num_sampled: int
    stride: int
    target_fps: float
    num_clips: int = 1
    random: bool = False

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The frame indices of each clip; uses `rng` only if `random`."""
        if num_frames < 1:
            raise ValueError(f"cannot sample from a video of {num_frames} frames")
        room = num_frames - int(self._offsets(fps)[-1]) - 1
        return [self.window(start, num_frames, fps) for start in self._starts(room, rng)]

    def span(self, num_frames: int, fps: float) -> float:
        """See `WindowPlan`."""
        return span_length(fps, num_sampled=self.num_sampled, stride=self.stride, target_fps=self.target_fps)

    def window(self, start: float, num_frames: int, fps: float) -> Indices:
        """See `WindowPlan`; `start` is truncated."""
        # Clipping repeats the first or the last frame.
        return np.clip(int(start) + self._offsets(fps), 0, num_frames - 1)

    def _offsets(self, fps: float) -> Indices:
        # Rounded per frame, so that rounding errors do not accumulate.
        offsets_T: Indices = np.rint(np.arange(self.num_sampled) * (self.stride * fps / self.target_fps)).astype(
            np.int64
        )
        return offsets_T

    def _starts(self, room: int, rng: np.random.Generator) -> list[int]:
        if self.random:
            # A video shorter than the clip has negative room: it starts inside the clip.
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
    knots: Knots | None = None,
) -> Indices:
    """Frame indices of the clip around a point in time: half of it before, half of it from that frame on.

        num_sampled 4, stride 2, key frame 10: a span of 8 frames that starts 4 before the key frame

        frame   5  6  7  8  9 10 11 12 13 14
        clip       x     x     K     x

    Args:
        num_frames: frames in the video, at least 1.
        fps: frame rate of the video.
        num_sampled: frames in the clip.
        stride: distance between sampled frames, at `target_fps`.
        target_fps: the frame rate that `stride` counts in; at other rates the nearest frames are used.
        time_s: time of the key frame, in seconds from the first frame of the video.
        knots: for a variable frame rate, some frames and their times in seconds, to interpolate between.

    Returns:
        (num_sampled,) int64, non-decreasing and inside the video, whose first and last frames are repeated.

    Raises:
        ValueError: num_frames is below 1.

    Source: PySlowFast, AVA data set (the frame at `time_s` comes after half of the span).
    """
    if num_frames < 1:
        raise ValueError(f"cannot sample from a video of {num_frames} frames")
    at_target = time_s * target_fps - num_sampled * stride // 2 + stride * np.arange(num_sampled)
    if knots is not None:
        return frames_on_screen(knots, at_target / target_fps).clip(0, num_frames - 1)
    # Frames are evenly spaced in time: the nearest one, halves rounded up; np.rint would round them to even.
    indices: Indices = np.floor(at_target * (fps / target_fps) + 0.5).astype(np.int64).clip(0, num_frames - 1)
    return indices


@dataclass(frozen=True)
class AroundKeyFrame:
    """One clip around a key frame, the same in training and evaluation.

    Attributes:
        num_sampled: T.
        stride: distance between sampled frames, at `target_fps`.
        target_fps: the frame rate that `stride` counts in.
        start_s: time stamp of the first frame of every video, in seconds.
    """

    num_sampled: int
    stride: int
    target_fps: float
    start_s: float = 0.0
    num_clips: ClassVar[int] = 1

    def clips(self, video: Timeline, rng: np.random.Generator, key_s: float | None = None) -> list[Indices]:
        """See `ClipPlan`; does not use `rng`.

        Raises:
            ValueError: the sample has no key frame.
        """
        if key_s is None:
            raise ValueError("clips around key frames need samples with a key frame")
        return self.at(key_s - video.start_s, video.num_frames, video.fps, video.knots)

    def at(self, time_s: float, num_frames: int, fps: float, knots: Knots | None = None) -> list[Indices]:
        """The frame indices of the clip around the time stamp `time_s`; see `key_frame_indices`."""
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

    def span(self, num_frames: int, fps: float) -> float:
        """See `WindowPlan`."""
        return span_length(fps, num_sampled=self.num_sampled, stride=self.stride, target_fps=self.target_fps)

    def window(self, start: float, num_frames: int, fps: float) -> Indices:
        """See `WindowPlan`: the clip around the middle of the window, which is its frame number T // 2."""
        middle_s = (start + self.span(num_frames, fps) / 2) / fps
        return self.at(self.start_s + middle_s, num_frames, fps)[0]
