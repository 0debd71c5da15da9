"""Where a PS-ViT samples: its points per iteration, how far they move, and where they gather.

I iterations, B clips, N points, T H W frames, rows and columns.

Source: PS-ViT (arXiv 2108.01684), Figure 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CELLS = 28  # rows and columns of the density


def as_fractions(points_IBN3: Tensor, size: tuple[int, int]) -> Tensor:
    """Points in index units of the model's map as fractions of the clip.

    Args:
        points_IBN3: (t, y, x) from `ProgressiveSamplingViT.sampling_points`.
        size: (H, W) of the frames in pixels.

    Returns:
        (I, B, N, 3): t is the number of a frame, y and x are in sides of the frame; outside of it below 0 or above 1.
    """
    H, W = size
    # The map has a quarter of the resolution; index p is at pixel 4 p.
    scale = points_IBN3.new_tensor([1.0, 4.0 / H, 4.0 / W])
    return points_IBN3 * scale


def density(points_IBN3: Tensor) -> Tensor:
    """Share of each iteration's points in every cell of the frame, over all clips and frames.

    Args:
        points_IBN3: from `as_fractions`.

    Returns:
        (I, CELLS, CELLS), rows from top to bottom; sums to the share of points inside of the frame.
    """
    iterations = points_IBN3.shape[0]
    cells = (points_IBN3[..., 1:] * CELLS).floor().long().flatten(1, 2)
    inside = ((cells >= 0) & (cells < CELLS)).all(-1)
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
        points_IBN3: from `as_fractions`; a point belongs to the frame that is nearest in time.
        masks_BTHW: True on the object, at any resolution.

    Returns:
        (I,), 0 to 1; points outside of the frame count as beside the object.
    """
    B = points_IBN3.shape[1]
    T, H, W = masks_BTHW.shape[1:]
    t = points_IBN3[..., 0].round().long().clamp(0, T - 1)
    y, x = ((points_IBN3[..., axis] * side).floor().long() for axis, side in ((1, H), (2, W)))
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    clip = torch.arange(B)[None, :, None]
    on = masks_BTHW[clip, t, y.clamp(0, H - 1), x.clamp(0, W - 1)] & inside
    return on.double().mean((1, 2))


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
