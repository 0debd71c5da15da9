"""Windows of a stream: those that a file with the same frames would be cut into, each as soon as it is complete.

A stream has no length, and its rate may change at any time. As in files (`data.decode.rate`), frames are counted while
their times agree with the stated rate; from the first deviation on, the clock counts instead (`data.clock`):

    frames   0 1 2 3 4 5 6 7 8 9 ...      span 4, stride 4
    held     . . . . . . [6 7 8 9]        the last window may have to begin at any of these
    windows  [0 - 3] [4 - 7] [8 ...
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from videovit.data.clock import RESOLUTION_S, Clock
from videovit.data.decode.rate import MOST_UNEVEN
from videovit.data.sampling import WindowPlan
from videovit.errors import UserError

MOST_MB = 4096.0  # as DATA.MAX_VIDEO_MB


@dataclass(frozen=True)
class StreamWindow:
    """A window, complete.

    Attributes:
        start_s, end_s: in seconds since the first frame.
        frames: T entries, what was kept of its frames.
    """

    start_s: float
    end_s: float
    frames: list[Tensor]


class _Held(NamedTuple):
    time_s: float
    kept: Tensor


class StreamWindows:
    """Cuts a growing row of frames into windows.

    Args:
        plan: chooses the frames of a window.
        fps: frame rate that the stream states; 0 if it states none.
        stride_s: between the starts of two windows, in seconds; 0 puts windows back to back.
        max_mb: memory of the frames that are held, in 10^6 bytes.

    Raises:
        UserError: a clip of this plan is a whole video.
    """

    def __init__(self, plan: WindowPlan, *, fps: float, stride_s: float = 0.0, max_mb: float = MOST_MB) -> None:
        if plan.target_fps is None:
            raise UserError(
                "this model takes one clip of a whole video, but a stream has no end",
                where="TEST.DATASET",
                hint="Record a part of the stream to a file, and predict that",
            )
        self._plan, self._target_fps = plan, plan.target_fps
        # As `window_starts`: windows begin at least a frame apart.
        self._stride_s, self._max_bytes = max(stride_s, 1 / fps) if stride_s else 0.0, max_mb * 1e6
        self._by_time = fps <= 0
        self._rate = self._target_fps if self._by_time else fps
        self._held: deque[_Held] = deque()
        self._num_frames = 0
        # The next window starts `_number` strides after tick `_base`; the last one was cut at `_cut_at`.
        self._base, self._number = 0.0, 0
        self._cut_at: float | None = None

    def add(self, time_s: float, kept: Tensor) -> Iterator[StreamWindow]:
        """Take the next frame; yields the windows that it completes.

        Args:
            time_s: since the first frame; ascends.
            kept: what a window needs of the frame.

        Raises:
            UserError: a window has more frames than the memory may hold.
        """
        self._held.append(_Held(time_s, kept))
        self._num_frames += 1
        if not self._by_time and abs(time_s * self._rate - (self._num_frames - 1)) > MOST_UNEVEN:
            self._count_by_time()
        seen = time_s * self._rate if self._by_time else self._num_frames
        while seen >= self._next + self._span:
            # Nothing is known of the end yet, so nothing is clipped to it.
            yield self._cut(self._next, math.ceil(self._next + self._span) + 2)
            self._number += 1
        self._drop(min(self._next, seen - self._span))
        if len(self._held) * kept.nbytes > self._max_bytes:
            raise UserError(
                f"the {len(self._held)} frames of one window take more than {self._max_bytes / 1e6:,.0f} MB",
                where="DATA.MAX_VIDEO_MB",
                hint="DATA.TEST_DECODE_SHORT_SIDE scales frames down",
            )

    def end(self) -> Iterator[StreamWindow]:
        """The windows that are left at the end of the stream: the last one ends where the stream does."""
        if not self._num_frames:
            return
        num_ticks = self._num_frames
        if self._by_time:
            times = np.array([held.time_s for held in self._held])
            # The last frame is shown as long as most others are.
            shown_s = float(np.median(np.diff(times))) if len(times) > 1 else 1 / self._rate
            num_ticks = max(1, round((float(times[-1]) + shown_s) * self._rate))
        last = max(num_ticks - self._span, 0.0)
        while self._next <= last:
            yield self._cut(self._next, num_ticks)
            self._number += 1
        if self._cut_at is None or last - self._cut_at >= 1.0:
            yield self._cut(last, num_ticks)

    @property
    def period_s(self) -> float:
        """Seconds between the starts of two windows."""
        return self._stride_s or self._span / self._rate

    @property
    def _span(self) -> float:
        return self._plan.span(0, self._rate)

    @property
    def _next(self) -> float:
        return self._base + self._number * (self._stride_s * self._rate or self._span)

    def _count_by_time(self) -> None:
        """Continue with ticks of the clock instead of frames."""
        scale = self._target_fps / self._rate
        self._base, self._number = self._next * scale, 0
        self._cut_at = None if self._cut_at is None else self._cut_at * scale
        self._rate, self._by_time = self._target_fps, True

    def _cut(self, start: float, num_ticks: int) -> StreamWindow:
        first = self._num_frames - len(self._held)
        knots = None
        if self._by_time:
            times = np.array([held.time_s for held in self._held])
            knots = np.arange(first, self._num_frames), times
        clock = Clock(num_ticks, self._rate, 0.0, knots)
        frames_T = clock.frames(self._plan.window(start, num_ticks, self._rate)) - first
        self._cut_at = start
        end = min(start + self._span, num_ticks)
        return StreamWindow(clock.time_s(start), clock.time_s(end), [self._held[i].kept for i in frames_T.tolist()])

    def _drop(self, tick: float) -> None:
        """Drop the frames that no window from `tick` on shows."""
        if self._by_time:
            # The frame before the moment is still on the screen then.
            moment_s = tick / self._rate - RESOLUTION_S
            while len(self._held) > 1 and self._held[1].time_s < moment_s:
                self._held.popleft()
            return
        for _ in range(int(tick) - (self._num_frames - len(self._held))):
            self._held.popleft()
