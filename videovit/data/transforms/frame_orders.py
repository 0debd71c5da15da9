"""Clips with their frames in another order, or without some of them, to test whether a model uses time at all.

`engine/tasks/shuffle_eval.py` and `engine/tasks/use_of_time.py` change the frames of a batch in these ways.

Legend: T frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from videovit.data.decode.protocol import Indices
from videovit.errors import UserError

ORDERS: dict[str, Callable[[int, np.random.Generator], Indices]] = {
    "ordered": lambda num_frames, rng: np.arange(num_frames),
    "reversed": lambda num_frames, rng: np.arange(num_frames)[::-1].copy(),
    "shuffled": lambda num_frames, rng: rng.permutation(num_frames),
    "static": lambda num_frames, rng: np.full(num_frames, num_frames // 2),
}

COVERED = -1
"""In place of a frame: one of the mean color of the data set."""

_WINDOW = re.compile(r"window([1-9]\d*)")
_EVERY = re.compile(r"every([1-9]\d*)")
_COVERED = re.compile(r"covered([1-9]\d*)of([1-9]\d*)")


def frame_order(num_frames: int, order: str, rng: np.random.Generator) -> Indices:
    """The frame at each position of the reordered clip.

        ordered    0 1 2 3 4 5 6 7
        reversed   7 6 5 4 3 2 1 0
        shuffled   5 0 3 7 1 6 2 4      drawn from `rng`
        static     4 4 4 4 4 4 4 4      the middle frame, T // 2
        window4    2 0 3 1|5 4 7 6      drawn from `rng` in windows of 4; the last may be shorter
        every2     0 0 2 2 4 4 6 6      every second frame, until the next one comes
        covered1of4  . . 2 3 4 5 6 7    the first of four parts is covered, see COVERED

    Args:
        num_frames: T.
        order: a key of ORDERS; "window<w>" or "every<k>" with w, k >= 1 in frames; or "covered<i>of<n>" with
            1 <= i <= n, in parts.
        rng: source of randomness; not used by deterministic orders.

    Returns:
        int64 (T,), indices into the clip, or COVERED.

    Raises:
        UserError: unknown order.

    Source: MViT (arXiv 2104.11227), section 4.2 and Table 9 (shuffled); the other orders are controls.
    """
    if order in ORDERS:
        return ORDERS[order](num_frames, rng)
    frames = np.arange(num_frames)
    if window := _WINDOW.fullmatch(order):
        # Local order changes, while the coarse order of events stays.
        width = int(window[1])
        return np.concatenate([rng.permutation(frames[i : i + width]) for i in range(0, num_frames, width)])
    if every := _EVERY.fullmatch(order):
        return frames // int(every[1]) * int(every[1])
    if (covered := _COVERED.fullmatch(order)) and int(covered[1]) <= int(covered[2]):
        part, number = int(covered[1]), int(covered[2])
        frames[(part - 1) * num_frames // number : part * num_frames // number] = COVERED
        return frames
    raise UserError(
        f"unknown frame order {order!r}", expected=f"one of {', '.join(ORDERS)} or window<w>, such as window4"
    )
