"""Where a PS-ViT samples: its points per iteration, how far they move, and where they gather.

I iterations, B clips, N points, T H W frames, rows and columns.

Source: PS-ViT (arXiv 2108.01684), Figure 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CELLS = 28  # rows and columns of the density


def as_fractions(points_IBN3: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Points in index units of the model's map as fractions of the clip.

    Args:
        points_IBN3: (t, y, x) from `ProgressiveSamplingViT.sampling_points`.
        size: (T, H, W) of the clip in frames and pixels.

    Returns:
        (I, B, N, 3): 0 to 1 along every axis inside of the clip; frame k ends at (k + 1) / T.
    """
    # The map has a quarter of the resolution: index p is at pixel 4 p. Frame k is at index k, its middle.
    pixels_IBN3 = points_IBN3 * points_IBN3.new_tensor([1.0, 4.0, 4.0]) + points_IBN3.new_tensor([0.5, 0.0, 0.0])
    return pixels_IBN3 / points_IBN3.new_tensor(size)


def is_inside(points_IBN3: Tensor) -> Tensor:
    """Whether points (I, B, N, 3) from `as_fractions` are inside of the clip, in space and time: (I, B, N)."""
    return ((points_IBN3 >= 0) & (points_IBN3 < 1)).all(-1)


def density(points_IBN3: Tensor) -> Tensor:
    """Share of each iteration's points in every cell of the frame, over all clips and frames.

    Args:
        points_IBN3: from `as_fractions`.

    Returns:
        (I, CELLS, CELLS), rows from top to bottom; sums to the share of points inside of the clip.
    """
    iterations = points_IBN3.shape[0]
    cells = (points_IBN3[..., 1:] * CELLS).floor().long().flatten(1, 2)
    inside = is_inside(points_IBN3).flatten(1, 2)
    counts = torch.zeros(iterations, CELLS * CELLS, dtype=torch.float64)
    index = (cells[..., 0] * CELLS + cells[..., 1]).clamp(0, CELLS * CELLS - 1)
    counts.scatter_add_(1, index.cpu(), inside.double().cpu())
    return counts.view(iterations, CELLS, CELLS) / cells.shape[1]


def moved(points_IBN3: Tensor) -> Tensor:
    """Mean distance, in sides of the frame, that points have moved from one iteration to the next: (I - 1,)."""
    steps_IBN2 = points_IBN3[1:, ..., 1:] - points_IBN3[:-1, ..., 1:]
    return steps_IBN2.square().sum(-1).sqrt().double().mean((1, 2)).cpu()


def share_inside(points_IBN3: Tensor, masks_BTHW: Tensor) -> Tensor:
    """Share of each iteration's points that are on an object.

    Args:
        points_IBN3: from `as_fractions`.
        masks_BTHW: True on the object, at any resolution.

    Returns:
        (I,), 0 to 1; points outside of the clip count as beside the object.
    """
    size = masks_BTHW.shape[1:]
    index_IBN3 = (points_IBN3 * points_IBN3.new_tensor(size)).floor().long()
    t, y, x = (index_IBN3[..., axis].clamp(0, side - 1) for axis, side in enumerate(size))
    clip = torch.arange(len(masks_BTHW), device=t.device)[None, :, None]
    return (masks_BTHW[clip, t, y, x] & is_inside(points_IBN3)).double().mean((1, 2))


class PointStatistics:
    """Adds up where points are, over a data set."""

    def __init__(self) -> None:
        self._density: Tensor | float = 0.0
        self._moved: Tensor | float = 0.0
        self._num_clips = 0

    def update(self, points_IBN3: Tensor) -> None:
        """Add the points of a batch, from `as_fractions`."""
        B = points_IBN3.shape[1]
        self._density = self._density + B * density(points_IBN3)
        self._moved = self._moved + B * moved(points_IBN3)
        self._num_clips += B

    def merge(self, others: Sequence[PointStatistics]) -> PointStatistics:
        """Statistics of all points that these and the others have seen."""
        joined = PointStatistics()
        for part in (self, *others):
            joined._density = joined._density + part._density
            joined._moved = joined._moved + part._moved
            joined._num_clips += part._num_clips
        return joined

    def density(self) -> Tensor:
        """See `density`, the mean over clips."""
        return torch.as_tensor(self._density) / self._num_clips

    def moved(self) -> Tensor:
        """See `moved`, the mean over clips."""
        return torch.as_tensor(self._moved) / self._num_clips
