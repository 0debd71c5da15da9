"""Masked feature prediction: hidden patches are replaced by a token, and a linear layer predicts what was there.

B clips, T H W grid in tokens, M hidden cells, C channels, D values per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from videovit.models.contract import Grid, MaskableModel
from videovit.models.masked.model import MaskedModel, Reconstruction, as_mask, stretched
from videovit.models.masked.targets import Target


class MaskedFeatures(MaskedModel):
    """All blocks see all tokens, so the encoder may pool.

    Args:
        encoder: of any kind; its last norm and classifier are not trained and removed.
        target: what is predicted, at the resolution of the last block.
        dim: channels of the first tokens.
        dim_out: channels of the last tokens.
        window: (T, H, W): number of cells that are hidden as a whole; None: one per token of the last block.
        mask_ratio: share of hidden cells, for counting.

    Source: MaskFeat (arXiv 2112.09133).
    """

    def __init__(
        self,
        encoder: MaskableModel,
        target: Target,
        *,
        dim: int,
        dim_out: int,
        window: Grid | None = None,
        mask_ratio: float = 0.4,
    ) -> None:
        super().__init__(encoder, target, mask_ratio)
        encoder.drop_head()
        self.window = window
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm = nn.LayerNorm(dim_out, eps=1e-6)
        self.projection = nn.Linear(dim_out, target.dim)
        for weight in (self.mask_token, self.projection.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.zeros_(self.projection.bias)

    def mask_grid(self, size: Sequence[int]) -> Grid:
        """See `MaskedModel.mask_grid`."""
        if self.window is not None:
            return self.window
        T, H, W = (max(1, n // s) for n, s in zip(size, self.encoder.output_stride, strict=True))
        return T, H, W

    def head_modules(self) -> Sequence[nn.Module]:
        """Norm and linear layer of the prediction."""
        return [self.norm, self.projection]

    def _tables(self) -> frozenset[str]:
        return frozenset({"mask_token"})

    def _reconstruct(self, x_BCTHW: Tensor, target_BTHWD: Tensor, hidden_BM: Tensor) -> Reconstruction:
        size = x_BCTHW.shape[2:]
        cells_BTHW = as_mask(hidden_BM, self.mask_grid(size))
        grid = super().mask_grid(size)  # of the patches
        x_BTHWC = self.encoder.encode_replaced(x_BCTHW, stretched(cells_BTHW, grid), self.mask_token)
        predicted_BTHWD = self.projection(self.norm(x_BTHWC))
        return Reconstruction(predicted_BTHWD, target_BTHWD, stretched(cells_BTHW, x_BTHWC.shape[1:4]))
