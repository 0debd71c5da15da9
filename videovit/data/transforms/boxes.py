"""Boxes transformed together with their frames.

Legend: R boxes, S side of the square crop in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Placement:
    """The position of a frame relative to a crop of it.

    The point at the fraction (x, y) of the frame is at (x * scale_x + shift_x, y * scale_y + shift_y) in the crop. A
    mirrored frame has a negative scale_x.

        frame of 400 x 200, short side scaled to 256, crop of 224 at left 100, top 16

        0 ......... 512                      scale_x 512, shift_x -100
            100 [..] 324                     scale_y 256, shift_y  -16

    Coordinates start at the outer edge of the first pixel, so a frame of W pixels spans 0 to W.
    """

    scale_x: float
    scale_y: float
    shift_x: float = 0.0
    shift_y: float = 0.0

    def cropped(self, top: int, left: int) -> Placement:
        """The placement after cutting off `top` rows and `left` columns."""
        return replace(self, shift_x=self.shift_x - left, shift_y=self.shift_y - top)

    def mirrored(self, width: int) -> Placement:
        """The placement after mirroring a crop of `width` pixels left to right."""
        # x becomes width - x.
        return replace(self, scale_x=-self.scale_x, shift_x=width - self.shift_x)

    def boxes(self, boxes_R4: Tensor, size: int) -> Tensor:
        """Convert boxes to pixels of the crop.

        Args:
            boxes_R4: x1, y1, x2, y2 as fractions of the frame.
            size: S.

        Returns:
            (R, 4) float32, x1, y1, x2, y2 in pixels, clipped to the crop; boxes outside it have no area.
        """
        # x and y of both corners.
        scale = torch.tensor([self.scale_x, self.scale_y] * 2)
        shift = torch.tensor([self.shift_x, self.shift_y] * 2)
        moved_R4 = boxes_R4.float() * scale + shift
        if self.scale_x < 0:  # mirroring exchanges the left and right corners
            moved_R4 = moved_R4[:, [2, 1, 0, 3]]
        # Boxes partly outside keep their visible part.
        return moved_R4.clamp(0, size)


def has_area(boxes_R4: Tensor, least: float = 1.0) -> Tensor:
    """Which boxes are at least `least` pixels wide and high; (R,) bool."""
    return (boxes_R4[:, 2:] - boxes_R4[:, :2] >= least).all(dim=1)
