"""The frame rate of a video, from the times of its frames: the rate that a header states may be a guess."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from videovit.data.decode.protocol import Indices, Knots

# Deviation from a constant frame rate, in frames, up to which the rate counts as constant.
MOST_UNEVEN = 1.01


def measured_rate(frames: Indices, seconds: NDArray[np.float64], header_fps: float) -> tuple[float, Knots | None]:
    """The mean frame rate, and the times of the frames unless they follow from the rate of the header.

    Args:
        frames: some frame indices, ascending, the first and the last frame among them; or none.
        seconds: their times.
        header_fps: rate according to the header; 0 if it states none.

    Returns:
        Frames per second, and `Video.knots`. If the frames are at i / header_fps, up to MOST_UNEVEN frames, these are
        header_fps and None. The rate is 0 if nothing is known.
    """
    # Times that stand still or go back do not determine the rate.
    if len(frames) < 2 or (np.diff(seconds) <= 0).any():
        return header_fps, None
    seconds = seconds - seconds[0]
    if header_fps > 0 and np.abs(seconds * header_fps - frames).max() <= MOST_UNEVEN:
        return header_fps, None
    # The last frame is shown as long as most others are.
    last_s = float(np.median(np.diff(seconds) / np.diff(frames)))
    return float((frames[-1] + 1) / (seconds[-1] + last_s)), (frames, seconds)
