"""A block of MViT: pooling attention, then an MLP.

On a CPU, inference works on parts of a batch that stay in the cache: groups of clips, and rows of the MLP.

B clips, C channels, T H W grid in tokens, N tokens.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from videovit.models.layers.basic import DropPath, Linear, Mlp, add_branch, matmul_dtype
from videovit.models.layers.maps import recording
from videovit.models.mvit.attention import AttentionMaps, MultiscaleAttention
from videovit.models.mvit.pooling import max_pool
from videovit.models.mvit.schedule import BlockSpec

Triple = tuple[int, int, int]
Outputs = tuple[Tensor | None, Tensor | None, AttentionMaps | None]  # grid, class token, maps

# Both were measured (docs/performance.md): more leaves the cache, less keeps cores waiting.
_GROUP_BYTES = 5_000_000  # of the tokens of a group of clips
_CHUNK_BYTES = 6_400_000  # of the hidden layer of an MLP that is held at once


class MultiscaleBlock(nn.Module):
    """Pre-norm attention and MLP, each with a shortcut, on a grid and an optional class token.

    Where the channels change, the shortcut is a projection of the normalised tokens: in front of the attention with
    `spec.dim_attention == spec.dim_out` (MViTv2), else beside the MLP.

    Args:
        spec: widths, heads, kernels and strides.
        grid: (T, H, W) that relative tables are sized for, in tokens.
        mlp_ratio: hidden over attention channels.
        drop_path: probability of leaving a branch out.
        dropout: inside attention and MLP.
        eps: of the block's norms.
        attention: further arguments of `MultiscaleAttention`.
    """

    def __init__(
        self,
        spec: BlockSpec,
        grid: Triple,
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
        self.proj = Linear(spec.dim, spec.dim_out) if spec.dim != spec.dim_out else None
        self.widens_in_attention = self.proj is not None and spec.dim_attention == spec.dim_out
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
            Grid (B, T', H', W', C') or None with `cls_only`; class token (B, 1, C') or None; maps or None.
        """
        num_groups = self._num_groups(x_BTHWC)
        if num_groups > 1 and maps is None and not (cls_only or keep_maps):
            groups = x_BTHWC.chunk(num_groups)
            cls_groups = [None] * len(groups) if cls_B1C is None else cls_B1C.chunk(num_groups)
            grids, tokens, _ = zip(*map(self.forward, groups, cls_groups), strict=True)
            return torch.cat(grids), None if cls_B1C is None else torch.cat(tokens), None
        normed = self.norm1(x_BTHWC).to(matmul_dtype(x_BTHWC))  # under autocast nobody reads it as float32
        normed_cls = None if cls_B1C is None else self.norm1(cls_B1C)
        branch, branch_cls, maps = self.attn(normed, normed_cls, cls_only, maps, keep_maps)
        factors, mlp_factors = self.drop_path.draw(x_BTHWC), self.drop_path.draw(x_BTHWC)
        if cls_B1C is not None:
            shortcut_cls = self.proj(normed_cls) if self.widens_in_attention else cls_B1C
            cls_B1C = self._add_mlp(add_branch(shortcut_cls, branch_cls, factors), mlp_factors)
        if cls_only:
            return None, cls_B1C, maps
        shortcut = self._pool_shortcut(self.proj(normed) if self.widens_in_attention else x_BTHWC)
        del normed
        return self._add_mlp(add_branch(shortcut, branch, factors), mlp_factors), cls_B1C, maps

    def _num_groups(self, x_BTHWC: Tensor) -> int:
        """How many groups of clips to take the batch apart into."""
        if recording() or not self._in_parts(x_BTHWC):  # maps are of the whole batch
            return 1
        values = math.prod(x_BTHWC.shape[1:4]) * max(self.spec.dim, self.spec.dim_attention)
        group_size = max(1, round(_GROUP_BYTES / (values * matmul_dtype(x_BTHWC).itemsize)))
        return math.ceil(x_BTHWC.shape[0] / group_size)

    def _in_parts(self, x: Tensor) -> bool:
        """Whether this is inference on a CPU, and no compiler is looking."""
        watched = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return x.device.type == "cpu" and not (self.training or torch.is_grad_enabled() or watched)

    def _pool_shortcut(self, x_BTHWC: Tensor) -> Tensor:
        """Bring the shortcut to the resolution of the queries: maximum over windows of stride + 1."""
        stride = self.spec.stride_q
        if stride == (1, 1, 1):
            return x_BTHWC
        kernel = tuple(s + 1 if s > 1 else s for s in stride)
        return max_pool(x_BTHWC, kernel, stride)

    def _add_mlp(self, x: Tensor, factors_B: Tensor | None) -> Tensor:
        """The second half of the block, on tokens (B, ..., C)."""
        if not self._in_parts(x):
            return self._mlp_with_shortcut(x, factors_B)
        num_rows = x.numel() // x.shape[-1]
        num_chunks = round(num_rows * self.mlp.fc1.out_features * matmul_dtype(x).itemsize / _CHUNK_BYTES)
        if num_chunks < 2:
            return self._mlp_with_shortcut(x, factors_B)
        # of equal chunks none is too small to keep all cores busy
        rows = math.ceil(num_rows / num_chunks)
        tokens = x.reshape(num_rows, -1)
        out = tokens.new_empty(num_rows, self.spec.dim_out) if tokens.shape[-1] != self.spec.dim_out else tokens
        for start in range(0, num_rows, rows):
            out[start : start + rows] = self._mlp_with_shortcut(tokens[start : start + rows], None)
        return out.view(*x.shape[:-1], -1)

    def _mlp_with_shortcut(self, x: Tensor, factors_B: Tensor | None) -> Tensor:
        normed = self.norm2(x)
        shortcut = x if self.proj is None or self.widens_in_attention else self.proj(normed)
        return add_branch(shortcut, self.mlp(normed), factors_B)
