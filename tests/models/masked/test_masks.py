"""Masks hide exactly their share, in the shape that they are named after, as a function of their generator alone."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from videovit.models.contract import Grid
from videovit.models.masked.masks import Kind, MaskSampler

GRIDS: list[Grid] = [(8, 7, 7), (8, 14, 14), (1, 14, 14), (4, 3, 5)]


def drawn(kind: Kind, ratio: float, grid: Grid, seed: int, largest: int | None = None) -> np.ndarray:
    numbers = MaskSampler(kind, ratio, largest).draw(grid, np.random.default_rng(seed))
    assert (np.diff(numbers) > 0).all() and numbers.dtype == np.int64
    mask = np.zeros(np.prod(grid), dtype=bool)
    mask[numbers] = True
    return mask.reshape(grid)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", get_args(Kind))
def test_share_is_exact_and_follows_from_the_generator(kind: Kind, grid: Grid) -> None:
    T, H, W = grid
    for ratio in (0.4, 0.75, 0.9):
        if kind == "frames" and T == 1:
            continue  # one frame is never hidden as a whole
        masks = [drawn(kind, ratio, grid, seed) for seed in range(3)]
        expected = {
            "patches": round(T * H * W * ratio),
            "cubes": round(T * H * W * ratio),
            "frames": min(round(T * ratio), T - 1) * H * W,
        }.get(kind, T * round(H * W * ratio))
        assert [mask.sum() for mask in masks] == [expected] * 3
        assert len({mask.tobytes() for mask in masks}) > 1
        assert (masks[2] == drawn(kind, ratio, grid, 2)).all()


def test_masks_have_their_shapes() -> None:
    grid = (8, 14, 14)
    for kind in ("tubes", "blocks"):
        mask = drawn(kind, 0.9, grid, 0)
        assert (mask == mask[0]).all()
    per_frame = drawn("patches of each frame", 0.9, grid, 0)
    assert (per_frame.sum((1, 2)) == 176).all() and not (per_frame == per_frame[0]).all()
    frames = drawn("frames", 0.4, grid, 0).reshape(8, -1)
    assert (frames.all(1) | ~frames.any(1)).all()
    # Blocks and cubes are compact: a hidden cell has more hidden neighbors than one of single patches.
    window = (8, 7, 7)
    means = {}
    for kind in ("patches", "cubes"):
        masks = [drawn(kind, 0.4, window, seed) for seed in range(20)]
        beside = [mask[:, :, 1:][mask[:, :, :-1]].mean() for mask in masks]
        after = [mask[1:][mask[:-1]].mean() for mask in masks]
        means[kind] = np.mean(beside), np.mean(after)
    assert min(means["cubes"]) > 0.6 and max(means["patches"]) < 0.5


def test_largest_block_limits_the_blocks_of_an_image() -> None:
    sizes = []
    for largest in (None, 16):
        mask = drawn("cubes", 0.3, (1, 14, 14), 1, largest)[0]
        runs = [len(run) for row in mask for run in "".join("x" if hidden else " " for hidden in row).split()]
        sizes.append(max(runs))
        assert mask.sum() == round(196 * 0.3)
    assert sizes[1] < sizes[0]
