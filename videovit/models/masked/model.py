"""What both masked models share: an encoder, a target, and a loss on what was hidden.

B clips, C channels, T H W pixels (in names of grids: tokens), N tokens, M hidden cells, D values per token.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from videovit.models.contract import Grid, LayeredModel, MaskableModel
from videovit.models.masked.targets import Target


class Reconstruction(NamedTuple):
    """What a masked model predicts, and what is true.

    Attributes:
        predicted_BTHWD: values of all tokens.
        target_BTHWD: true values.
        hidden_BTHW: true for tokens that were hidden: the loss is about these.
    """

    predicted_BTHWD: Tensor
    target_BTHWD: Tensor
    hidden_BTHW: Tensor

    def losses(self) -> Tensor:
        """(B,): mean squared error over the hidden tokens of each clip."""
        squares_BTHW = (self.predicted_BTHWD.float() - self.target_BTHWD).square().mean(-1)
        hidden_BTHW = self.hidden_BTHW.to(squares_BTHW.dtype)
        return (squares_BTHW * hidden_BTHW).sum((1, 2, 3)) / hidden_BTHW.sum((1, 2, 3))


class MaskedModel(LayeredModel):
    """Predicts what is hidden from its encoder.

    Its layers are those of the encoder, so weights, decay and freezing are those of the model that is fine-tuned later;
    all the rest is its head.

    Args:
        encoder: what is pre-trained, without its classifier.
        target: what is predicted.
        mask_ratio: share of hidden cells, for counting.
    """

    def __init__(self, encoder: MaskableModel, target: Target, mask_ratio: float) -> None:
        super().__init__()
        self.encoder, self.target, self.mask_ratio = encoder, target, mask_ratio
        self.in_channels = encoder.in_channels

    def forward(self, x: Tensor, hidden_BM: Tensor) -> Reconstruction:
        """Predict the hidden tokens.

        Args:
            x: clips or images, as for the encoder.
            hidden_BM: numbers of the hidden cells of `mask_grid`, row by row; as many in every clip.
        """
        x_BCTHW = self.encoder.as_clips(x)
        return self._reconstruct(x_BCTHW, self.target(x_BCTHW), hidden_BM)

    def mask_grid(self, size: Sequence[int]) -> Grid:
        """(T, H, W) in cells, each hidden as a whole, of clips of `size` (T, H, W) in pixels."""
        T, H, W = (max(1, n // s) for n, s in zip(size, self.encoder.patch_stride, strict=True))
        return T, H, W

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        """Those of the encoder."""
        return self.encoder.layers()

    def units_to_shard(self) -> Iterator[nn.Module]:
        """Those of the encoder."""
        yield from self.encoder.units_to_shard()

    def freeze(self, num: int) -> None:
        """As `LayeredModel.freeze`; the encoder knows what of it is frozen."""
        super().freeze(num)
        self.encoder.freeze(num)

    def no_weight_decay(self) -> frozenset[str]:
        """Position tables and tokens, unless those of the encoder are decayed too."""
        of_encoder = frozenset(f"encoder.{name}" for name in self.encoder.no_weight_decay())
        return of_encoder | self._tables() if of_encoder else of_encoder

    def run_for_cost(self, x: Tensor) -> None:
        """Encoder and decoder, with as many hidden cells as in training."""
        x_BCTHW = self.encoder.as_clips(x)
        T, H, W = self.mask_grid(x_BCTHW.shape[2:])
        hidden_M = torch.arange(num_hidden(T * H * W, self.mask_ratio), device=x.device)
        self(x_BCTHW, hidden_M.expand(len(x_BCTHW), -1))

    @abstractmethod
    def _reconstruct(self, x_BCTHW: Tensor, target_BTHWD: Tensor, hidden_BM: Tensor) -> Reconstruction: ...

    @abstractmethod
    def _tables(self) -> frozenset[str]:
        """Names of own position tables and tokens."""


def num_hidden(number: int, ratio: float) -> int:
    """How many of a number of cells are hidden: the nearest whole number, but neither all nor none of them."""
    return min(max(round(number * ratio), 1), number - 1)


def as_mask(hidden_BM: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, T, H, W), true for the cells with these numbers."""
    T, H, W = grid
    mask_BN = torch.zeros(len(hidden_BM), T * H * W, dtype=torch.bool, device=hidden_BM.device)
    return torch.unflatten(mask_BN.scatter(1, hidden_BM, True), 1, (T, H, W))


def stretched(mask_BTHW: Tensor, grid: Sequence[int]) -> Tensor:
    """A mask of cells as a mask of tokens: that of the cell in which a token is."""
    for axis, size in enumerate(grid, 1):
        index = torch.arange(size, device=mask_BTHW.device) * mask_BTHW.shape[axis] // size
        mask_BTHW = mask_BTHW.index_select(axis, index)
    return mask_BTHW
