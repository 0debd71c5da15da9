"""Changed frame orders of a clip, to test whether a model uses temporal order at all.

`engine/tasks/shuffle_eval.py` moves the frames of a batch into these orders.

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

_WINDOW = re.compile(r"window([1-9]\d*)")


def frame_order(num_frames: int, order: str, rng: np.random.Generator) -> Indices:
    """The frame at each position of the reordered clip.

        ordered    0 1 2 3 4 5 6 7
        reversed   7 6 5 4 3 2 1 0
        shuffled   5 0 3 7 1 6 2 4      drawn from `rng`
        static     4 4 4 4 4 4 4 4      the middle frame, T // 2
        window4    2 0 3 1|5 4 7 6      drawn from `rng` in windows of 4; the last may be shorter

    Args:
        num_frames: T.
        order: a key of ORDERS, or "window<w>" with w >= 1 in frames.
        rng: source of randomness; not used by deterministic orders.

    Returns:
        int64 (T,), indices into the clip.

    Raises:
        UserError: unknown order.

    Source: MViT (arXiv 2104.11227), section 4.2 and Table 9 (shuffled); the other orders are controls.
    """
    if order in ORDERS:
        return ORDERS[order](num_frames, rng)
    window = _WINDOW.fullmatch(order)
    if window is None:
        raise UserError(
            f"unknown frame order {order!r}", expected=f"one of {', '.join(ORDERS)} or window<w>, such as window4"
        )
    # Local order changes, while the coarse order of events stays.
    width, frames = int(window[1]), np.arange(num_frames)
    return np.concatenate([rng.permutation(frames[i : i + width]) for i in range(0, num_frames, width)])
