"""What a masked model predicts of each token: its pixels, or a histogram of their gradients.

B clips, C channels, T H W pixels (in x_BTHWD: tokens), D values per token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from videovit.errors import UserError
from videovit.models.layers.basic import Triple, cut

_EPS = 1e-6  # of the variance of a patch
BINS, CELL = 9, 8  # orientations; pixels per side
_HOG_EPS = 1e-5


class Target(ABC):
    """Values to predict per token.

    Attributes:
        dim: D.
        stride: (T, H, W) in pixels from token to token.
    """

    dim: int
    stride: Triple

    @abstractmethod
    def __call__(self, x_BCTHW: Tensor) -> Tensor:
        """(B, T', H', W', D) in full precision, without a gradient.

        Args:
            x_BCTHW: clips as the model gets them.
        """


class PixelTarget(Target):
    """The pixels of the patch of a token, in the order frame, row, column, channel.

    Args:
        stride: from token to token.
        channels: of the clips.
        first_frame: only of the first of the frames of a token.
        normalize: by mean and standard deviation of the patch.

    Source: MAE (arXiv 2111.06377), section 3; for clips MAE-ST (arXiv 2205.09113), section 3.
    """

    def __init__(self, stride: Triple, channels: int, *, first_frame: bool = True, normalize: bool = True) -> None:
        self.stride, self.channels, self.normalize = stride, channels, normalize
        self.frames = 1 if first_frame else stride[0]
        self.dim = self.frames * stride[1] * stride[2] * channels

    @torch.no_grad()
    def __call__(self, x_BCTHW: Tensor) -> Tensor:
        patches_BTHWD = self.patches(x_BCTHW)
        if not self.normalize:
            return patches_BTHWD
        mean, spread = _statistics(patches_BTHWD)
        return (patches_BTHWD - mean) / spread

    def patches(self, x_BCTHW: Tensor) -> Tensor:
        """(B, T', H', W', D): the pixels as they are."""
        patches = cut(x_BCTHW.float(), self.stride)[..., : self.frames, :, :]
        return patches.permute(0, 1, 2, 3, 5, 6, 7, 4).flatten(4)

    @torch.no_grad()
    def pixels(self, values_BTHWD: Tensor, x_BCTHW: Tensor) -> Tensor:
        """Clips (B, C, frames * T', H, W) that have these values; the reverse of calling.

        Args:
            values_BTHWD: of the tokens, such as predictions.
            x_BCTHW: clips; their patches have the means and deviations to scale back to, since a model that predicts
                normalized pixels says nothing about them.
        """
        if self.normalize:
            mean, spread = _statistics(self.patches(x_BCTHW))
            values_BTHWD = values_BTHWD * spread + mean
        sizes = (self.frames, *self.stride[1:], self.channels)
        split = torch.unflatten(values_BTHWD, 4, sizes)  # B T' H' W' t h w C
        return split.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6).flatten(4, 5).flatten(2, 3)


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + _EPS).sqrt()


class HogTarget(Target):
    """Histograms of oriented gradients of the cells in a token, of the first of its frames, per channel.

    Gradients are differences of the neighbors of a pixel, zero at the borders of the frame. A pixel votes with the
    length of its gradient for one of 9 orientations from 0 to 180 degrees; the histogram of each cell of 8 x 8 pixels
    is divided by its L2 norm. Values of a token are in the order channel, orientation, row, column of cells.

    Args:
        stride: from token to token; in space a multiple of a cell.
        channels: of the clips.

    Raises:
        UserError: tokens that are not made of whole cells.

    Source: MaskFeat (arXiv 2112.09133), section 3; equal to scikit-image's `hog` with one cell per block.
    """

    def __init__(self, stride: Triple, channels: int) -> None:
        if stride[1] % CELL or stride[2] % CELL:
            raise UserError(
                where="MASK.PRED_HOG",
                found=f"one token per {stride[1]} x {stride[2]} pixels",
                expected=f"multiples of {CELL}, the side of a cell",
            )
        self.stride, self.channels = stride, channels
        self.dim = channels * BINS * (stride[1] // CELL) * (stride[2] // CELL)

    @torch.no_grad()
    def __call__(self, x_BCTHW: Tensor) -> Tensor:
        _, h, w = self.stride
        x_BCTHW = x_BCTHW[:, :, :: self.stride[0]]
        rows, columns = (size // side * (side // CELL) for size, side in zip(x_BCTHW.shape[3:], (h, w), strict=True))
        cells = hog(x_BCTHW)[..., :rows, :columns, :]
        split = torch.unflatten(torch.unflatten(cells, 4, (-1, w // CELL)), 3, (-1, h // CELL))
        return split.permute(0, 2, 3, 5, 1, 7, 4, 6).flatten(4)  # of B C T H' row W' column bin

    def cells(self, values_BTHWD: Tensor) -> Tensor:
        """Histograms (B, C, T', rows, columns, 9) of the cells; the reverse of calling."""
        sides = (self.stride[1] // CELL, self.stride[2] // CELL)
        split = torch.unflatten(values_BTHWD, 4, (self.channels, BINS, *sides))  # B T' H' W' C bin row column
        return split.permute(0, 4, 1, 2, 6, 3, 7, 5).flatten(5, 6).flatten(3, 4)


def hog(x: Tensor) -> Tensor:
    """Normalized histograms (..., rows, columns, 9) of the cells of images (..., H, W), see `HogTarget`."""
    x = x if x.dtype == torch.float64 else x.float()
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    down[..., 1:-1, :] = x[..., 2:, :] - x[..., :-2, :]
    right[..., 1:-1] = x[..., 2:] - x[..., :-2]
    degrees = torch.rad2deg(torch.atan2(down, right)).remainder(180.0)
    bins = (degrees / (180.0 / BINS)).long().clamp_(max=BINS - 1)
    rows, columns = x.shape[-2] // CELL, x.shape[-1] // CELL

    def by_cell(values: Tensor) -> Tensor:
        """(..., rows, columns, CELL * CELL)"""
        values = values[..., : rows * CELL, : columns * CELL]
        values = torch.unflatten(torch.unflatten(values, -1, (columns, CELL)), -3, (rows, CELL))
        return values.transpose(-3, -2).flatten(-2)

    votes, bins = by_cell(torch.hypot(down, right)), by_cell(bins)
    histogram = votes.new_zeros(*votes.shape[:-1], BINS).scatter_add_(-1, bins, votes) / CELL**2
    return histogram / (histogram.square().sum(-1, keepdim=True) + _HOG_EPS**2).sqrt()
