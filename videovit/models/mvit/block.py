"""A block of MViT: pooling attention, then an MLP.

B clips, C channels, T H W grid in tokens, N tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from videovit.models.contract import Grid
from videovit.models.layers.basic import DropPath, Mlp, add_branch, matmul_dtype
from videovit.models.layers.pooling import max_pool
from videovit.models.mvit.attention import AttentionMaps, MultiscaleAttention
from videovit.models.mvit.block_specs import NO_POOLING, BlockSpec

Outputs = tuple[Tensor | None, Tensor | None, AttentionMaps | None]
"""Grid, class token, maps."""


class MultiscaleBlock(nn.Module):
    """Pre-norm attention and MLP, each with a shortcut, on a grid and an optional class token.

    If the channels change, the shortcut is a projection of the normalized tokens: before the attention with
    `spec.dim_attention == spec.dim_out` (MViTv2), else beside the MLP.

    Args:
        spec: widths, heads, kernels and strides.
        grid: (T, H, W) in tokens that relative tables are sized for.
        mlp_ratio: hidden over attention channels.
        drop_path: probability of dropping a branch.
        dropout: inside attention and MLP.
        eps: of the block's norms.
        attention: further arguments of `MultiscaleAttention`.

    Source: MViT (arXiv 2104.11227), section 3; MViTv2 (arXiv 2112.01526), section 4.1.
    """

    def __init__(
        self,
        spec: BlockSpec,
        grid: Grid,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        eps: float = 1e-6,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.norm1 = nn.LayerNorm(spec.dim, eps=eps)
        self.attn = MultiscaleAttention(spec, grid, dropout=dropout, **attention)
        self.norm2 = nn.LayerNorm(spec.dim_attention, eps=eps)
        self.mlp = Mlp(spec.dim_attention, int(spec.dim_attention * mlp_ratio), spec.dim_out, dropout=dropout)
        self.proj = nn.Linear(spec.dim, spec.dim_out) if spec.dim != spec.dim_out else None
        self.widens_in_attention = spec.dim != spec.dim_out and spec.dim_attention == spec.dim_out
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x_BTHWC: Tensor,
        cls_B1C: Tensor | None,
        cls_only: bool = False,
        maps: AttentionMaps | None = None,
        keep_maps: bool = False,
    ) -> Outputs:
        """The block's output tokens.

        Args:
            x_BTHWC: grid tokens.
            cls_B1C: class token or None.
            cls_only: leave out what only the grid's output needs.
            maps, keep_maps: as in `MultiscaleAttention.forward`.

        Returns:
            Grid (B, T', H', W', C'), or None with `cls_only`; class token (B, 1, C') or None; maps or None.
        """
        # Every reader casts to the dtype of the products. Doing it once keeps the fp32 copy short-lived under autocast.
        normed = self.norm1(x_BTHWC).to(matmul_dtype(x_BTHWC))
        normed_cls = None if cls_B1C is None else self.norm1(cls_B1C)
        branch, branch_cls, maps = self.attn(normed, normed_cls, cls_only, maps, keep_maps)
        factors, mlp_factors = self.drop_path.draw(x_BTHWC), self.drop_path.draw(x_BTHWC)
        if cls_B1C is not None:
            shortcut_cls = self._project_shortcut(cls_B1C, normed_cls)
            cls_B1C = self._add_mlp(add_branch(shortcut_cls, branch_cls, factors), mlp_factors)
        if cls_only:
            return None, cls_B1C, maps
        shortcut = self._pool_shortcut(self._project_shortcut(x_BTHWC, normed))
        del normed  # the largest tensor here, and the MLP is about to need as much again
        return self._add_mlp(add_branch(shortcut, branch, factors), mlp_factors), cls_B1C, maps

    def _project_shortcut(self, x: Tensor, normed: Tensor | None) -> Tensor:
        if self.proj is None or not self.widens_in_attention:
            return x
        projected: Tensor = self.proj(normed)
        return projected

    def _pool_shortcut(self, x_BTHWC: Tensor) -> Tensor:
        """The shortcut at the resolution of the queries: maximum over windows of stride + 1."""
        t, h, w = self.spec.stride_q
        if (t, h, w) == NO_POOLING:
            return x_BTHWC
        kernel = (t + (t > 1), h + (h > 1), w + (w > 1))
        return max_pool(x_BTHWC, kernel, (t, h, w))

    def _add_mlp(self, x: Tensor, factors_B: Tensor | None) -> Tensor:
        """The second half of the block, on tokens (B, ..., C)."""
        normed = self.norm2(x)
        shortcut = x if self.proj is None or self.widens_in_attention else self.proj(normed)
        return add_branch(shortcut, self.mlp(normed), factors_B)
