"""The order of the frames of a clip, changed on purpose: does a model look at time at all?

Legend: T frames.
"""

from __future__ import annotations

import re

import numpy as np

from videovit.config.schema.evaluation import ORDERS
from videovit.errors import UserError

_WINDOW = re.compile(r"window([1-9]\d*)")


class OrderError(UserError):
    """A frame order that does not exist was asked for."""


def frame_order(num_frames: int, order: str, rng: np.random.Generator) -> np.ndarray:
    """Say which frame stands at each place of the reordered clip.

        ordered    0 1 2 3 4 5 6 7
        reversed   7 6 5 4 3 2 1 0
        shuffled   5 0 3 7 1 6 2 4      drawn from `rng`
        static     4 4 4 4 4 4 4 4      the middle frame, T // 2
        window4    2 0 3 1|5 4 7 6      drawn from `rng` inside windows of 4; the last window may be shorter

    Args:
        num_frames: T.
        order: one of ORDERS, or "window<w>" with w >= 1 in frames.
        rng: source of randomness; left untouched by the orders that need none.

    Returns:
        int64 (T,), indices into the clip.

    Raises:
        OrderError: unknown order.

    Source: MViT (arXiv 2104.11227), section 4.2 and Table 9 (shuffled); the other orders are controls.
    """
    frames = np.arange(num_frames)
    if order == "ordered":
        return frames
    if order == "reversed":
        return frames[::-1].copy()
    if order == "shuffled":
        return rng.permutation(num_frames)
    if order == "static":
        return np.full(num_frames, num_frames // 2)
    window = _WINDOW.fullmatch(order)
    if window is None:
        raise OrderError(f"frame order {order!r}: expected one of {', '.join(ORDERS)} or window<w>, such as window4")
    width = int(window[1])
    return np.concatenate([rng.permutation(frames[i : i + width]) for i in range(0, num_frames, width)])
