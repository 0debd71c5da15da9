"""Fast counterparts of MViT: batches and rows in parts that stay in the cache of the CPU, and tables that are kept.

B clips, C channels, T H W grid in tokens, N query tokens, L key/value tokens, M heads, D head width, P columns of key
positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from videovit.models.contract import Grid
from videovit.models.cpu.cache import Cache, hold_for_block, in_eager_inference, uses_kept
from videovit.models.cpu.linear import fast_linear
from videovit.models.cpu.transformer import fast_attend
from videovit.models.layers.basic import matmul_dtype
from videovit.models.mvit.attention import AttentionMaps, MultiscaleAttention
from videovit.models.mvit.block import MultiscaleBlock, Outputs
from videovit.models.mvit.model import MViT

# Both were measured (docs/performance.md): more does not fit the cache, less leaves cores idle.
_GROUP_BYTES = 5_000_000  # of the tokens of a group of clips
_CHUNK_BYTES = 6_400_000  # of the hidden layer of an MLP that is held at once


class FastMultiscaleAttention(MultiscaleAttention):
    """`MultiscaleAttention` with packed projections, and with kept filters, relative rows and key positions."""

    kept: Cache

    def _linear(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if in_eager_inference():
            return fast_linear(x, weight, bias, self.kept, name)
        return super()._linear(name, x, weight, bias)

    def _pool_weight(self, convs: Sequence[nn.Conv3d], dtype: torch.dtype) -> Tensor:
        plain = super()._pool_weight
        if not uses_kept():
            return plain(convs, dtype)
        return self.kept(("pool", *map(id, convs), dtype), lambda: plain(convs, dtype))

    def _attend(self, q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor) -> Tensor:
        return fast_attend(q_BNMD, k_BLMD, v_BLMD, self.scale)

    def _relative_rows(self, table_LD: Tensor, axis: int, num_q: int, num_k: int) -> Tensor:
        plain = super()._relative_rows
        if not uses_kept():
            return plain(table_LD, axis, num_q, num_k)
        return self.kept(("rows", axis), lambda: plain(table_LD, axis, num_q, num_k), size=(num_q, num_k))

    def _key_positions(self, k_BLMD: Tensor, kv_grid: Grid) -> Tensor:
        plain = super()._key_positions
        if not uses_kept():
            return plain(k_BLMD, kv_grid)
        key = ("key positions", k_BLMD.dtype, k_BLMD.device)
        return self.kept(key, lambda: plain(k_BLMD, kv_grid), size=(kv_grid, k_BLMD.shape[1]))


class FastMultiscaleBlock(MultiscaleBlock):
    """`MultiscaleBlock` that takes a batch in groups of clips, and its MLP in chunks of tokens."""

    kept: Cache

    def forward(
        self,
        x_BTHWC: Tensor,
        cls_B1C: Tensor | None,
        cls_only: bool = False,
        maps: AttentionMaps | None = None,
        keep_maps: bool = False,
    ) -> Outputs:
        """As `MultiscaleBlock.forward`."""
        if not self._works_in_parts(x_BTHWC):
            return super().forward(x_BTHWC, cls_B1C, cls_only, maps, keep_maps)
        with hold_for_block():
            num_groups = self._num_groups(x_BTHWC)
            # Maps are of the whole batch, and the class token alone is little work.
            if num_groups < 2 or cls_only or keep_maps or maps is not None:
                return super().forward(x_BTHWC, cls_B1C, cls_only, maps, keep_maps)
            groups = x_BTHWC.chunk(num_groups)
            cls_groups = [None] * len(groups) if cls_B1C is None else cls_B1C.chunk(num_groups)
            grids, tokens = [], []
            for group, cls in zip(groups, cls_groups, strict=True):
                grid, token, _ = super().forward(group, cls)
                grids += [] if grid is None else [grid]
                tokens += [] if token is None else [token]
            return torch.cat(grids), torch.cat(tokens) if tokens else None, None

    def _works_in_parts(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and not (self.training or self.attn.plain) and in_eager_inference()

    def _num_groups(self, x_BTHWC: Tensor) -> int:
        values = math.prod(x_BTHWC.shape[1:4]) * max(self.spec.dim, self.spec.dim_attention)
        group_size = max(1, round(_GROUP_BYTES / (values * matmul_dtype(x_BTHWC).itemsize)))
        return math.ceil(x_BTHWC.shape[0] / group_size)

    def _add_mlp(self, x: Tensor, factors_B: Tensor | None) -> Tensor:
        if not self._works_in_parts(x):
            return super()._add_mlp(x, factors_B)
        num_rows = x.numel() // x.shape[-1]
        num_chunks = round(num_rows * self.mlp.fc1.out_features * matmul_dtype(x).itemsize / _CHUNK_BYTES)
        if num_chunks < 2:
            return super()._add_mlp(x, factors_B)
        # Chunks of equal size: a short last one would not keep all cores busy.
        rows = math.ceil(num_rows / num_chunks)
        tokens = x.reshape(num_rows, -1)
        # `x` is not read afterwards, so the result may overwrite it.
        out = tokens.new_empty(num_rows, self.spec.dim_out) if tokens.shape[-1] != self.spec.dim_out else tokens
        for start in range(0, num_rows, rows):
            out[start : start + rows] = super()._add_mlp(tokens[start : start + rows], None)
        return out.view(*x.shape[:-1], -1)


class FastMViT(MViT):
    """`MViT` that keeps its stretched position tables."""

    kept: Cache

    def positions(self, grid: Grid) -> Tensor:
        """(1, T, H, W, C), see `MViT.positions`."""
        plain = super().positions
        return self.kept("positions", lambda: plain(grid), size=grid) if uses_kept() else plain(grid)
