"""Multiscale attention: pooled queries, keys and values, with or without relative positions.

The class token stays apart from the grid: pooling, residual pooling and relative positions concern the grid alone, and
a separate token costs less than splitting and joining large tensors in every block.

B clips, T H W grid in tokens, N query tokens, L key/value tokens (class token first), M heads, D head width,
C channels that enter, E = M * D channels of q, k or v, P columns of key positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.models.contract import Grid, HasPlainForm
from videovit.models.layers.basic import Triple, matmul_dtype
from videovit.models.layers.pooling import avg_pool, depthwise_conv, max_pool, touched_index
from videovit.models.layers.position import gather_rel_pos
from videovit.models.layers.scaled_dot_product import (
    apply_map,
    attend,
    attention_map,
    key_positions,
    relative_map,
    relative_terms,
    with_positions,
)
from videovit.models.mvit.block_specs import BlockSpec
from videovit.models.mvit.windows import cut, hidden_keys, join

PoolMode = Literal["conv", "max", "avg"]


class AttentionMaps(NamedTuple):
    """Attention maps of a block, after the softmax.

    Attributes:
        grid_BMNL: of the grid's queries; None if only the class token was computed.
        cls_BM1L: of the class token; None without one.
    """

    grid_BMNL: Tensor | None
    cls_BM1L: Tensor | None


class MultiscaleAttention(HasPlainForm):
    """Attention over pooled tokens.

    Parameter names are PySlowFast's: qkv (or q, k, v), proj, pool_{q,k,v}, norm_{q,k,v}, rel_pos_{t,h,w}. A block with
    `spec.shares_map` uses the maps of the block before it and has only v, proj, pool_v and norm_v; having no queries,
    it adds none to its output under `residual_pooling`.

    Args:
        spec: widths, heads, kernels and strides of the block.
        grid: (T, H, W) in tokens that the relative tables are sized for.
        mode: pooling operator; `conv` is depthwise and followed by a LayerNorm, the others have no parameters.
        qkv_bias: whether the projections into q, k, v have biases.
        separate_qkv: three projections in the state dict instead of one.
        residual_pooling: add the pooled queries to the output (grid tokens only).
        rel_pos_spatial: relative positions along H and W.
        rel_pos_temporal: relative positions along T.
        pool_norm_eps: eps of the pooling LayerNorms.
        dropout: after the output projection.

    Source: MViT (arXiv 2104.11227) section 3.1; MViTv2 (arXiv 2112.01526) section 4.1.
    """

    qkv: nn.Linear
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    pool_q: nn.Conv3d | None
    pool_k: nn.Conv3d | None
    pool_v: nn.Conv3d | None
    norm_q: nn.LayerNorm | None
    norm_k: nn.LayerNorm | None
    norm_v: nn.LayerNorm | None

    def __init__(
        self,
        spec: BlockSpec,
        grid: Grid,
        *,
        mode: PoolMode = "conv",
        qkv_bias: bool = True,
        separate_qkv: bool = False,
        residual_pooling: bool = False,
        rel_pos_spatial: bool = False,
        rel_pos_temporal: bool = False,
        pool_norm_eps: float = 1e-6,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec, self.mode = spec, mode
        self.num_heads, self.width = spec.num_heads, spec.dim_attention // spec.num_heads
        self.scale = self.width**-0.5
        self.residual_pooling = residual_pooling
        self.dropout = dropout
        self.separate_qkv = separate_qkv
        joint = not separate_qkv and not spec.shares_map
        for name in "v" if spec.shares_map else ("qkv",) if joint else "qkv":
            self.add_module(name, nn.Linear(spec.dim, len(name) * spec.dim_attention, bias=qkv_bias))
        self.proj = nn.Linear(spec.dim_attention, spec.dim_attention)
        self._add_pooling(pool_norm_eps)
        self._add_rel_pos(grid, rel_pos_spatial and not spec.shares_map, rel_pos_temporal and not spec.shares_map)

    def _add_pooling(self, eps: float) -> None:
        spec = self.spec
        for name, pools, kernel, stride in (
            ("q", spec.pools_q, spec.kernel_q, spec.stride_q),
            ("k", spec.pools_kv, spec.kernel_kv, spec.stride_kv),
            ("v", spec.pools_kv, spec.kernel_kv, spec.stride_kv),
        ):
            has_weights = pools and self.mode == "conv" and (name == "v" or not spec.shares_map)
            # As published, all heads share one filter per channel of a head.
            conv = nn.Conv3d(self.width, self.width, kernel, stride, groups=self.width, bias=False)
            self.add_module(f"pool_{name}", conv if has_weights else None)
            self.add_module(f"norm_{name}", nn.LayerNorm(self.width, eps=eps) if has_weights else None)

    def _add_rel_pos(self, grid: Grid, spatial: bool, temporal: bool) -> None:
        def table(size: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(2 * size - 1, self.width))

        def longest(axis: int) -> int:
            return max(1, grid[axis] // self.spec.stride_q[axis], grid[axis] // self.spec.stride_kv[axis])

        # As published: the temporal table covers the unpooled clip, the spatial ones the finer of the pooled sides.
        self.rel_pos_h = table(longest(1)) if spatial else None
        self.rel_pos_w = table(longest(2)) if spatial else None
        self.rel_pos_t = table(grid[0]) if temporal else None

    def init_rel_pos(self) -> None:
        """Truncated normal (0.02) relative tables."""
        for table in (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def unused_by_cls(self) -> list[Tensor]:
        """Parameters that only grid queries read, see `MViT`."""
        tables: list[Tensor] = [t for t in (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w) if t is not None]
        return tables if self.pool_q is None else [*tables, self.pool_q.weight]

    def forward(
        self,
        x_BTHWC: Tensor,
        cls_B1C: Tensor | None,
        cls_only: bool = False,
        maps: AttentionMaps | None = None,
        keep_maps: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, AttentionMaps | None]:
        """Attend.

        Args:
            x_BTHWC: grid tokens, normalized.
            cls_B1C: class token, normalized, or None.
            cls_only: compute the output of the class token alone.
            maps: those of another block, to use instead of own ones.
            keep_maps: return the maps; computing them as a whole is slower.

        Returns:
            (B, T', H', W', E), or None with `cls_only`; (B, 1, E), or None without a class token; the maps that were
            passed in or are kept, else None.
        """
        x_BTHWC = x_BTHWC.to(matmul_dtype(x_BTHWC))
        if maps is not None:
            return *self._attend_with(maps, x_BTHWC, cls_B1C, cls_only), maps
        in_the_open = keep_maps or self.plain
        k_BLMD, v_BLMD, kv_grid = self._keys_and_values(x_BTHWC, cls_B1C)
        cls_B1E = grid_BMNL = cls_BM1L = None
        if cls_B1C is not None:
            q_B1MD = self._normed(self.norm_q, self._heads(self._project_q(cls_B1C)))
            if in_the_open:
                cls_BM1L = attention_map(q_B1MD, k_BLMD, self.scale)
                out_B1MD = apply_map(cls_BM1L, v_BLMD)
            else:
                out_B1MD = self._attend(q_B1MD, k_BLMD, v_BLMD)
            cls_B1E = self._output(out_B1MD.flatten(2))
        if cls_only:
            return None, cls_B1E, AttentionMaps(None, cls_BM1L) if keep_maps else None
        q_BTHWMD = self.pool_as_queries(self._project_q(x_BTHWC))
        if 0 < self.spec.window < max(x_BTHWC.shape[2:4]):
            out_BNMD = self._attend_in_windows(q_BTHWMD, k_BLMD, v_BLMD, kv_grid)
        elif in_the_open:
            grid_BMNL = self._grid_map(q_BTHWMD, k_BLMD, kv_grid)
            out_BNMD = apply_map(grid_BMNL, v_BLMD)
        else:
            out_BNMD = self._attend_grid(q_BTHWMD, k_BLMD, v_BLMD, kv_grid)
        if self.residual_pooling:
            out_BNMD = out_BNMD + q_BTHWMD.flatten(1, 3)
        out_BTHWE = self._output(torch.unflatten(out_BNMD.flatten(2), 1, q_BTHWMD.shape[1:4]))
        return out_BTHWE, cls_B1E, AttentionMaps(grid_BMNL, cls_BM1L) if keep_maps else None

    def _attend_with(
        self, maps: AttentionMaps, x_BTHWC: Tensor, cls_B1C: Tensor | None, cls_only: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Own values, weighted by the maps of another block that had its queries at the places of these tokens."""
        v_BLMD = self._values(x_BTHWC, cls_B1C)
        cls_B1E = grid_BTHWE = None
        if maps.cls_BM1L is not None:
            cls_B1E = self._output(apply_map(maps.cls_BM1L, v_BLMD).flatten(2))
        if maps.grid_BMNL is not None and not cls_only:
            out_BNE = apply_map(maps.grid_BMNL, v_BLMD).flatten(2)
            grid_BTHWE = self._output(torch.unflatten(out_BNE, 1, x_BTHWC.shape[1:4]))
        return grid_BTHWE, cls_B1E

    # -------------------------------------------------------------------------------------------------- projections

    def _project_q(self, x: Tensor) -> Tensor:
        E = self.spec.dim_attention
        source = self.q if self.separate_qkv else self.qkv
        return self._linear("q", x, source.weight[:E], None if source.bias is None else source.bias[:E])

    def _project_kv(self, x: Tensor) -> Tensor:
        E = self.spec.dim_attention
        if not self.separate_qkv:
            bias = None if self.qkv.bias is None else self.qkv.bias[E:]
            return self._linear("kv", x, self.qkv.weight[E:], bias)
        k, v = (self._linear(n, x, p.weight, p.bias) for n, p in (("k", self.k), ("v", self.v)))
        return torch.cat([k, v], dim=-1)

    def _project_v(self, x: Tensor) -> Tensor:
        E = self.spec.dim_attention
        if self.spec.shares_map or self.separate_qkv:
            return self._linear("v", x, self.v.weight, self.v.bias)
        bias = None if self.qkv.bias is None else self.qkv.bias[2 * E :]
        return self._linear("v", x, self.qkv.weight[2 * E :], bias)

    def _output(self, x: Tensor) -> Tensor:
        out = self._linear("proj", x, self.proj.weight, self.proj.bias)
        return F.dropout(out, self.dropout, self.training) if self.dropout else out

    def _linear(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`x @ weight.T + bias`; `name` identifies the projection among those of this module."""
        return F.linear(x, weight, bias)

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.num_heads, self.width))

    @staticmethod
    def _normed(norm: nn.LayerNorm | None, x: Tensor) -> Tensor:
        normed: Tensor = x if norm is None else norm(x)
        return normed

    # ------------------------------------------------------------------------------------------------------ pooling

    def pool_as_queries(self, x_BTHWE: Tensor) -> Tensor:
        """Pool and normalize tokens (B, T, H, W, E) as the queries of this block: (B, T', H', W', M, D)."""
        if self.spec.pools_q:
            x_BTHWE = self._pool(x_BTHWE, (self.pool_q,), self.spec.kernel_q, self.spec.stride_q)
        return self._normed(self.norm_q, self._heads(x_BTHWE))

    def _keys_and_values(self, x_BTHWC: Tensor, cls_B1C: Tensor | None) -> tuple[Tensor, Tensor, Grid]:
        """Pooled keys and values, class token first, and their grid."""
        spec, stride = self.spec, self.spec.stride_kv
        skips = spec.stride_kv[1] > spec.kernel_kv[1] or spec.stride_kv[2] > spec.kernel_kv[2]
        # A stride beyond the kernel leaves gaps. Nothing reads the tokens in them, so they need not be projected.
        if skips and not self.plain:
            x_BTHWC, stride = self._read_by_pooling(x_BTHWC)
        kv_BTHWX = self._project_kv(x_BTHWC)
        if spec.pools_kv:
            kv_BTHWX = self._pool(kv_BTHWX, (self.pool_k, self.pool_v), spec.kernel_kv, stride)
        T, H, W = kv_BTHWX.shape[1:4]
        k_BLMD, v_BLMD = self._two(kv_BTHWX.flatten(1, 3))
        if cls_B1C is not None:
            cls_k, cls_v = self._two(self._project_kv(cls_B1C))
            k_BLMD, v_BLMD = torch.cat([cls_k, k_BLMD], dim=1), torch.cat([cls_v, v_BLMD], dim=1)
        return self._normed(self.norm_k, k_BLMD), self._normed(self.norm_v, v_BLMD), (T, H, W)

    def _two(self, kv_BLX: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (B, L, M, D) each, of their joint projection."""
        k_BLMD, v_BLMD = torch.unflatten(kv_BLX, -1, (2, self.num_heads, self.width)).unbind(2)
        return k_BLMD, v_BLMD

    def _values(self, x_BTHWC: Tensor, cls_B1C: Tensor | None) -> Tensor:
        """Pooled values alone, class token first: (B, L, M, D)."""
        v_BTHWE = self._project_v(x_BTHWC)
        if self.spec.pools_kv:
            v_BTHWE = self._pool(v_BTHWE, (self.pool_v,), self.spec.kernel_kv, self.spec.stride_kv)
        v_BLE = v_BTHWE.flatten(1, 3)
        if cls_B1C is not None:
            v_BLE = torch.cat([self._project_v(cls_B1C), v_BLE], dim=1)
        return self._normed(self.norm_v, self._heads(v_BLE))

    def _read_by_pooling(self, x_BTHWC: Tensor) -> tuple[Tensor, Triple]:
        """The tokens that a pooling with gaps between its windows reads, and the stride that then fits."""
        _, _, H, W, _ = x_BTHWC.shape
        index, rows, columns, stride = touched_index(H, W, self.spec.kernel_kv, self.spec.stride_kv, x_BTHWC.device)
        return torch.unflatten(x_BTHWC.flatten(2, 3).index_select(2, index), 2, (rows, columns)), stride

    def _pool(self, x_BTHWC: Tensor, convs: Sequence[nn.Conv3d | None], kernel: Triple, stride: Triple) -> Tensor:
        """Pool a grid whose channels are the heads of each of `convs`, one after the other."""
        if self.mode == "max":
            return max_pool(x_BTHWC, kernel, stride)
        if self.mode == "avg":
            return avg_pool(x_BTHWC, kernel, stride)
        weight = self._pool_weight([conv for conv in convs if conv is not None], x_BTHWC.dtype)
        return depthwise_conv(x_BTHWC, weight, stride)

    def _pool_weight(self, convs: Sequence[nn.Conv3d], dtype: torch.dtype) -> Tensor:
        """The filters of all heads, which share them: one copy per head."""
        return torch.cat([conv.weight.repeat(self.num_heads, 1, 1, 1, 1) for conv in convs]).to(dtype)

    # ---------------------------------------------------------------------------------------------------- attention

    def _attend(self, q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor) -> Tensor:
        return attend(q_BNMD, k_BLMD, v_BLMD, self.scale)

    def _attend_grid(
        self, q_BTHWMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, kv_grid: Grid, added_BL: Tensor | None = None
    ) -> Tensor:
        """Attention of the grid tokens, (B, N, M, D); what is added to the scores becomes extra channels."""
        terms, positions = self._terms(q_BTHWMD, kv_grid), None
        if terms is not None:
            positions = self._key_positions(k_BLMD, kv_grid)
        if added_BL is not None:
            column = added_BL[..., None] / self.scale
            terms = [*(terms or ()), torch.ones_like(q_BTHWMD[..., :1])]
            rest = () if positions is None else (positions.expand(len(column), -1, -1),)
            positions = torch.cat([*rest, column], dim=-1)
        if terms is None or positions is None:
            return self._attend(q_BTHWMD.flatten(1, 3), k_BLMD, v_BLMD)
        q_BNMX, k_BLMX = with_positions(q_BTHWMD, k_BLMD, terms, positions)
        return self._attend(q_BNMX, k_BLMX, v_BLMD)

    def _grid_map(self, q_BTHWMD: Tensor, k_BLMD: Tensor, kv_grid: Grid, added_BL: Tensor | None = None) -> Tensor:
        """The attention map (B, M, N, L) of the grid tokens, by definition."""
        terms = self._terms(q_BTHWMD, kv_grid)
        if terms is None:
            map_BMNL = attention_map(q_BTHWMD.flatten(1, 3), k_BLMD, self.scale)
        else:
            map_BMNL = relative_map(q_BTHWMD, k_BLMD, self.scale, terms, kv_grid)
        if added_BL is None:
            return map_BMNL
        # What is added to scores multiplies what they are after the exponential.
        weighted = map_BMNL * added_BL[:, None, None].exp()
        return weighted / weighted.sum(dim=-1, keepdim=True)

    def _attend_in_windows(self, q_BTHWMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, kv_grid: Grid) -> Tensor:
        """Attention of the grid tokens, (B, N, M, D), each to the keys of its window."""
        spec, grid = self.spec, q_BTHWMD.shape[1:4]
        key_side = spec.window // spec.stride_kv[1]
        queries = cut(q_BTHWMD, spec.window // spec.stride_q[1])
        keys, values = (cut(torch.unflatten(x, 1, kv_grid), key_side).flatten(1, 3) for x in (k_BLMD, v_BLMD))
        window_grid = (kv_grid[0], key_side, key_side)
        added = hidden_keys(kv_grid, key_side, keys)
        if added is not None:
            added = added.repeat(len(q_BTHWMD), 1)
        if self.plain:
            out = apply_map(self._grid_map(queries, keys, window_grid, added), values)
        else:
            out = self._attend_grid(queries, keys, values, window_grid, added)
        T, H, W = grid
        return join(torch.unflatten(out, 1, queries.shape[1:4]), (T, H, W)).flatten(1, 3)

    def _terms(self, q_BTHWMD: Tensor, kv_grid: Grid) -> list[Tensor | None] | None:
        """Relative terms of the queries, None for a block without relative positions."""
        tables = (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)
        if all(table is None for table in tables):
            return None
        rows = [
            None if table is None else self._relative_rows(table, axis, q_BTHWMD.shape[1 + axis], kv_grid[axis])
            for axis, table in enumerate(tables)
        ]
        return relative_terms(q_BTHWMD, rows)

    def _relative_rows(self, table_LD: Tensor, axis: int, num_q: int, num_k: int) -> Tensor:
        """Rows (num_q, num_k, D) of one axis, divided by the scale, which multiplies the sum of score and terms."""
        rows: Tensor = gather_rel_pos(table_LD, num_q, num_k) / self.scale
        return rows

    def _key_positions(self, k_BLMD: Tensor, kv_grid: Grid) -> Tensor:
        axes = [table is not None for table in (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)]
        return key_positions(kv_grid, axes, k_BLMD.shape[1] - math.prod(kv_grid), k_BLMD)
