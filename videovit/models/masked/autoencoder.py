"""Masked autoencoder: an encoder of the visible patches, and a light decoder of all of them.

B clips, C channels, T H W pixels (in names of grids: tokens), N tokens, L visible ones, M hidden ones, X class tokens,
D values per token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from videovit.models.contract import Grid, MaskableModel
from videovit.models.layers.position import resize_pos_embed
from videovit.models.layers.transformer import Block, init_linear
from videovit.models.masked.model import MaskedModel, Reconstruction, as_mask
from videovit.models.masked.targets import Target

_HEAD_DIM = 64  # channels per head of the decoder, as published


class Decoder(nn.Module):
    """Plain transformer on visible tokens and mask tokens, in their order.

    Args:
        dim_in: channels of the encoder's tokens.
        dim: channels of its own.
        depth: blocks.
        grid: (T, H, W) in tokens that the position tables are made for; they are stretched for others.
        num_cls: class tokens of the encoder, which take part.
        dim_out: values per token.
        mlp_ratio, qkv_bias: of the blocks.
        separate_tables: positions as a sum of space, time and class instead of one joint table.

    Source: MAE (arXiv 2111.06377), section 3.
    """

    def __init__(
        self,
        dim_in: int,
        dim: int,
        depth: int,
        *,
        grid: Grid,
        num_cls: int,
        dim_out: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        separate_tables: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.num_cls = grid, num_cls
        self.embed = nn.Linear(dim_in, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        T, H, W = grid

        def table(rows: int, exists: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(1, rows, dim)) if exists and rows else None

        self.pos_embed = table(num_cls + T * H * W, not separate_tables)
        self.pos_embed_spatial = table(H * W, separate_tables)
        self.pos_embed_temporal = table(T, separate_tables)
        self.pos_embed_class = table(num_cls, separate_tables)
        heads = max(1, dim // _HEAD_DIM)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.projection = nn.Linear(dim, dim_out)
        self._init_weights()

    def _init_weights(self) -> None:
        """Truncated normal (0.02), zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)
        for _, table in self.named_parameters(recurse=False):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x_BLC: Tensor, visible_BL: Tensor, grid: Grid) -> Tensor:
        """Values (B, N, D) of all tokens of a grid.

        Args:
            x_BLC: (B, X + L, C), class tokens first.
            visible_BL: numbers of the other tokens.
            grid: (T, H, W) in tokens.
        """
        x_BLC = self.embed(x_BLC)
        cls_BXC, seen_BLC = x_BLC[:, : self.num_cls], x_BLC[:, self.num_cls :]
        everywhere = self.mask_token.to(seen_BLC.dtype).expand(len(seen_BLC), math.prod(grid), -1)
        x_BNC = everywhere.scatter(1, visible_BL[:, :, None].expand_as(seen_BLC), seen_BLC)
        x_BNC = torch.cat([cls_BXC, x_BNC], dim=1) + self._positions(grid)
        for block in self.blocks:
            x_BNC = block(x_BNC)
        values: Tensor = self.projection(self.norm(x_BNC)[:, self.num_cls :])
        return values

    def _positions(self, grid: Grid) -> Tensor:
        """(1, X + N, C)"""
        if self.pos_embed is not None:
            cls_1XC, table_1NC = self.pos_embed[:, : self.num_cls], self.pos_embed[:, self.num_cls :]
            return torch.cat([cls_1XC, resize_pos_embed(table_1NC, self.grid, grid)], dim=1)
        assert self.pos_embed_spatial is not None and self.pos_embed_temporal is not None
        (T, H, W), (t, h, w) = self.grid, grid
        space = resize_pos_embed(self.pos_embed_spatial, (1, H, W), (1, h, w))
        time = resize_pos_embed(self.pos_embed_temporal, (T, 1, 1), (t, 1, 1))
        table_1NC = (space[:, None] + time[:, :, None]).flatten(1, 2)
        return table_1NC if self.pos_embed_class is None else torch.cat([self.pos_embed_class, table_1NC], dim=1)


class MaskedAutoencoder(MaskedModel):
    """The encoder gets visible patches alone, and the decoder predicts the pixels of the hidden ones.

    Args:
        encoder: pools nothing.
        target: what is predicted.
        decoder: of the encoder's tokens.
        mask_ratio: share of hidden patches, for counting.

    Source: MAE (arXiv 2111.06377); for clips VideoMAE (arXiv 2203.12602) and MAE-ST (arXiv 2205.09113).
    """

    def __init__(self, encoder: MaskableModel, target: Target, decoder: Decoder, mask_ratio: float) -> None:
        super().__init__(encoder, target, mask_ratio)
        encoder.reset_head(nn.Identity())
        self.decoder = decoder

    def head_modules(self) -> Sequence[nn.Module]:
        """The last norm of the encoder, and the decoder."""
        return [*self.encoder.head_modules(), self.decoder]

    def _tables(self) -> frozenset[str]:
        return frozenset(f"decoder.{name}" for name, _ in self.decoder.named_parameters(recurse=False))

    def _reconstruct(self, x_BCTHW: Tensor, target_BTHWD: Tensor, hidden_BM: Tensor) -> Reconstruction:
        grid = self.mask_grid(x_BCTHW.shape[2:])
        hidden_BTHW = as_mask(hidden_BM, grid)
        # Stable: visible patches stay in their order, before the hidden ones.
        order_BN = hidden_BTHW.flatten(1).to(torch.uint8).argsort(dim=1, stable=True)
        visible_BL = order_BN[:, : order_BN.shape[1] - hidden_BM.shape[1]]
        values_BND = self.decoder(self.encoder.encode_visible(x_BCTHW, visible_BL), visible_BL, grid)
        return Reconstruction(torch.unflatten(values_BND, 1, grid), target_BTHWD, hidden_BTHW)
