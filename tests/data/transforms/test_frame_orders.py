"""Frame orders of the shuffle evaluation."""

import numpy as np
import pytest

from videovit.data.transforms.frame_orders import COVERED, frame_order
from videovit.errors import UserError


def test_frame_order_fixed():
    rng = np.random.default_rng(0)
    assert frame_order(5, "ordered", rng).tolist() == [0, 1, 2, 3, 4]
    assert frame_order(5, "reversed", rng).tolist() == [4, 3, 2, 1, 0]
    assert frame_order(5, "static", rng).tolist() == [2] * 5
    assert frame_order(8, "static", rng).tolist() == [4] * 8


def test_frame_order_shuffled_uses_generator():
    first = frame_order(16, "shuffled", np.random.default_rng(3))
    assert sorted(first) == list(range(16)) and first.tolist() != list(range(16))
    assert np.array_equal(first, frame_order(16, "shuffled", np.random.default_rng(3)))
    assert not np.array_equal(first, frame_order(16, "shuffled", np.random.default_rng(4)))


def test_frame_order_shuffled_uniform():
    rng = np.random.default_rng(0)
    draws = np.stack([frame_order(4, "shuffled", rng) for _ in range(4000)])
    for place in range(4):
        assert np.all(np.abs(np.bincount(draws[:, place], minlength=4) / 4000 - 0.25) < 0.03)


@pytest.mark.parametrize("width", [1, 2, 3, 8, 20])
def test_frame_order_windows(width):
    for seed in range(20):
        places = frame_order(8, f"window{width}", np.random.default_rng(seed))
        assert sorted(places) == list(range(8))
        assert all(place // width == frame // width for place, frame in enumerate(places))


def test_frame_order_lost_and_covered():
    rng = np.random.default_rng(0)
    assert frame_order(7, "every3", rng).tolist() == [0, 0, 0, 3, 3, 3, 6]
    assert frame_order(8, "covered1of4", rng).tolist() == [COVERED, COVERED, 2, 3, 4, 5, 6, 7]
    parts = [frame_order(7, f"covered{part}of3", rng) == COVERED for part in (1, 2, 3)]
    assert np.sum(parts, axis=0).tolist() == [1] * 7  # every frame is in one part


@pytest.mark.parametrize(
    "order", ["covered5of4", "covered0of4", "every0", "", "shuffle", "window", "window0", "window-2", "Reversed"]
)
def test_frame_order_unknown_raises(order):
    with pytest.raises(UserError, match="ordered, reversed, shuffled, static or window<w>"):
        frame_order(4, order, np.random.default_rng(0))
