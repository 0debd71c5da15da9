"""The clock on which clips are planned, and the times of frames.

Plans count frames of a constant rate (`sampling`). A video of constant rate is its own clock. In a video whose rate
varies, they count the ticks of a clock at DATA.TARGET_FPS instead, and a tick shows the frame that is on the screen
then:

    ticks     0   1   2   3   4   5   6   7   8   9
    frames    0   1   2                   3   4   5       a still screen in between: frame 2 stays
    shown     0   1   2   2   2   2   2   3   4   5
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from videovit.data.decode.protocol import Indices, Knots

# Containers round times, some to milliseconds: a frame that is due by then is on the screen.
RESOLUTION_S = 0.001


class Timeline(Protocol):
    """The times of the frames of a video; see `Video`."""

    @property
    def num_frames(self) -> int: ...

    @property
    def fps(self) -> float: ...

    @property
    def knots(self) -> Knots | None: ...

    @property
    def start_s(self) -> float: ...


def frames_on_screen(knots: Knots, seconds: NDArray[np.floating]) -> Indices:
    """The frames that are on the screen at some moments.

    Args:
        knots: some frames and their times in seconds, to interpolate between.
        seconds: the moments, counted as in `knots`; the first and the last frame are shown beyond the ends.
    """
    indices: Indices = np.floor(np.interp(seconds + RESOLUTION_S, knots[1], knots[0])).astype(np.int64)
    return indices


@dataclass(frozen=True)
class Clock:
    """Counts what a plan takes for the frames of a video.

    Attributes:
        num_ticks: length of the video in ticks.
        rate: ticks per second.
        start_s: player time of the first tick, in seconds.
        knots: times of frames, if they differ from ticks; see `Video.knots`.
    """

    num_ticks: int
    rate: float
    start_s: float
    knots: Knots | None = None

    def frames(self, ticks: Indices) -> Indices:
        """The frame that is on the screen at each tick."""
        return ticks if self.knots is None else frames_on_screen(self.knots, ticks / self.rate)

    def time_s(self, tick: float) -> float:
        """Player time of a tick, in seconds."""
        return self.start_s + tick / self.rate


def clock_of(video: Timeline, target_fps: float | None) -> Clock:
    """The clock of a video.

    Args:
        video: the times of its frames.
        target_fps: the rate that a plan counts in; None if it counts frames, whatever their times.
    """
    if video.knots is None or target_fps is None:
        return Clock(video.num_frames, video.fps, video.start_s)
    return Clock(max(1, round(video.num_frames / video.fps * target_fps)), target_fps, video.start_s, video.knots)
