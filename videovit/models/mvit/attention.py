"""Multiscale attention: pooled queries, keys and values, optional relative positions, one exact fast path.

The class token stays apart from the grid: pooling, residual pooling and relative positions are about the grid alone,
and a token of its own costs less than cutting and joining large tensors in every block.

B clips, T H W grid in tokens, N query tokens, L key/value tokens (class token first), M heads, D head width,
C channels that enter, E = M * D channels of q, k or v, J relative-position columns.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.models.cpu.derived import Derived
from videovit.models.layers.attend import (
    apply_map,
    attend,
    attend_relative,
    attend_relative_plain,
    attention_map,
    key_positions,
    relative_map,
    relative_terms,
)
from videovit.models.layers.basic import linear, matmul_dtype
from videovit.models.layers.position import gather_rel_pos
from videovit.models.mvit.pooling import avg_pool, depthwise_conv, max_pool, touched_index
from videovit.models.mvit.schedule import BlockSpec

PoolMode = Literal["conv", "max", "avg"]
Grid = tuple[int, int, int]


class AttentionMaps(NamedTuple):
    """What a block attended to, after the softmax.

    Attributes:
        grid_BMNL: of the grid's queries, None where only the class token was asked for.
        cls_BM1L: of the class token, None without one.
    """

    grid_BMNL: Tensor | None
    cls_BM1L: Tensor | None


class MultiscaleAttention(nn.Module):
    """Attention over pooled tokens.

    Parameter names are PySlowFast's: qkv (or q, k, v), proj, pool_{q,k,v}, norm_{q,k,v}, rel_pos_{t,h,w}. A block whose
    `spec.shares_map` is set uses the maps of the block before it and has only v, proj, pool_v and norm_v; there are no
    queries for `residual_pooling` to add.

    Args:
        spec: widths, heads, kernels and strides of the block.
        grid: (T, H, W) that the relative tables are sized for, in tokens.
        mode: pooling operator; `conv` is depthwise and followed by a LayerNorm, the others have no parameters.
        qkv_bias: whether the projections into q, k, v have biases.
        separate_qkv: three projections in the state dict instead of one.
        residual_pooling: add the pooled queries to the output (grid tokens only), where they are computed.
        rel_pos_spatial: relative positions along H and W.
        rel_pos_temporal: relative positions along T.
        pool_norm_eps: eps of the pooling LayerNorms.
        dropout: after the output projection.

    Source: MViT (arXiv 2104.11227) section 3.1; MViTv2 (arXiv 2112.01526) section 4.1.
    """

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
        self._derived = Derived()

    def _add_pooling(self, eps: float) -> None:
        spec = self.spec
        for name, pools, kernel, stride in (
            ("q", spec.pools_q, spec.kernel_q, spec.stride_q),
            ("k", spec.pools_kv, spec.kernel_kv, spec.stride_kv),
            ("v", spec.pools_kv, spec.kernel_kv, spec.stride_kv),
        ):
            has_weights = pools and self.mode == "conv" and (name == "v" or not spec.shares_map)
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

    def unused_by_cls(self) -> list[nn.Parameter]:
        """Parameters that only grid queries read (see `MViT`)."""
        tables = [t for t in (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w) if t is not None]
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
            x_BTHWC: grid tokens, normalised.
            cls_B1C: class token, normalised, or None.
            cls_only: compute the output of the class token alone.
            maps: those of another block, to be used in place of own ones.
            keep_maps: return the maps; they are computed as a whole, which is slower.

        Returns:
            (B, T', H', W', E) or None with `cls_only`; (B, 1, E) or None without a class token; the maps that were
            handed in or are kept, else None.
        """
        x_BTHWC = x_BTHWC.to(matmul_dtype(x_BTHWC))
        if maps is not None:
            return *self._attend_with(maps, x_BTHWC, cls_B1C, cls_only), maps
        k_BLMD, v_BLMD, kv_grid = self._keys_and_values(x_BTHWC, cls_B1C)
        cls_B1E = grid_BMNL = cls_BM1L = None
        if cls_B1C is not None:
            q_B1MD = self._normed(self.norm_q, self._heads(self._project_q(cls_B1C)))
            cls_BM1L = attention_map(q_B1MD, k_BLMD, self.scale) if keep_maps else None
            out_B1MD = attend(q_B1MD, k_BLMD, v_BLMD, self.scale) if cls_BM1L is None else apply_map(cls_BM1L, v_BLMD)
            cls_B1E = self._output(out_B1MD.flatten(2))
        if cls_only:
            return None, cls_B1E, AttentionMaps(None, cls_BM1L) if keep_maps else None
        q_BTHWE = self._project_q(x_BTHWC)
        if self.spec.pools_q:
            q_BTHWE = self._pool(q_BTHWE, (self.pool_q,), self.spec.kernel_q, self.spec.stride_q)
        q_BTHWMD = self._normed(self.norm_q, self._heads(q_BTHWE))
        if keep_maps:
            grid_BMNL = self._grid_map(q_BTHWMD, k_BLMD, kv_grid)
            out_BNMD = apply_map(grid_BMNL, v_BLMD)
        else:
            out_BNMD = self._attend_grid(q_BTHWMD, k_BLMD, v_BLMD, kv_grid)
        if self.residual_pooling:
            out_BNMD = out_BNMD + q_BTHWMD.flatten(1, 3)
        out_BTHWE = self._output(out_BNMD.flatten(2).unflatten(1, q_BTHWMD.shape[1:4]))
        return out_BTHWE, cls_B1E, AttentionMaps(grid_BMNL, cls_BM1L) if keep_maps else None

    def _attend_with(
        self, maps: AttentionMaps, x_BTHWC: Tensor, cls_B1C: Tensor | None, cls_only: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Own values, weighted by the maps of another block, whose queries stood where these tokens stand."""
        v_BLMD = self._values(x_BTHWC, cls_B1C)
        cls_B1E = grid_BTHWE = None
        if maps.cls_BM1L is not None:
            cls_B1E = self._output(apply_map(maps.cls_BM1L, v_BLMD).flatten(2))
        if maps.grid_BMNL is not None and not cls_only:
            grid_BTHWE = self._output(apply_map(maps.grid_BMNL, v_BLMD).flatten(2).unflatten(1, x_BTHWC.shape[1:4]))
        return grid_BTHWE, cls_B1E

    def _project_q(self, x: Tensor) -> Tensor:
        E = self.spec.dim_attention
        source = self.q if self.separate_qkv else self.qkv
        bias = None if source.bias is None else source.bias[:E]
        return linear(x, source.weight[:E], bias, self._derived, "q")

    def _project_kv(self, x: Tensor) -> Tensor:
        E = self.spec.dim_attention
        if not self.separate_qkv:
            bias = None if self.qkv.bias is None else self.qkv.bias[E:]
            return linear(x, self.qkv.weight[E:], bias, self._derived, "kv")
        return torch.cat([linear(x, p.weight, p.bias, self._derived, n) for n, p in (("k", self.k), ("v", self.v))], -1)

    def _project_v(self, x: Tensor) -> Tensor:
        E = self.spec.dim_attention
        if self.spec.shares_map or self.separate_qkv:
            return linear(x, self.v.weight, self.v.bias, self._derived, "v")
        bias = None if self.qkv.bias is None else self.qkv.bias[2 * E :]
        return linear(x, self.qkv.weight[2 * E :], bias, self._derived, "v")

    def _output(self, x: Tensor) -> Tensor:
        out = linear(x, self.proj.weight, self.proj.bias, self._derived, "proj")
        return F.dropout(out, self.dropout, self.training) if self.dropout else out

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.width))

    @staticmethod
    def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
        return x if norm is None else norm(x)

    def _pool(self, x_BTHWC: Tensor, convs: tuple[nn.Conv3d | None, ...], kernel: Grid, stride: Grid) -> Tensor:
        """Pool a grid whose channels hold, one after the other, the heads of each of `convs`."""
        if self.mode == "max":
            return max_pool(x_BTHWC, kernel, stride)
        if self.mode == "avg":
            return avg_pool(x_BTHWC, kernel, stride)
        weights = [conv.weight for conv in convs]

        def tiled() -> Tensor:
            return torch.cat([w.repeat(self.num_heads, 1, 1, 1, 1) for w in weights]).to(x_BTHWC.dtype)

        key = ("pool", len(weights), x_BTHWC.dtype)
        return depthwise_conv(x_BTHWC, self._derived(key, weights, tiled), stride)

    def _keys_and_values(self, x_BTHWC: Tensor, cls_B1C: Tensor | None) -> tuple[Tensor, Tensor, Grid]:
        """Pooled keys and values, class token first, and their grid."""
        spec, stride = self.spec, self.spec.stride_kv
        skips = spec.stride_kv[1] > spec.kernel_kv[1] or spec.stride_kv[2] > spec.kernel_kv[2]
        if skips and not x_BTHWC.is_meta:
            x_BTHWC, stride = self._read_by_pooling(x_BTHWC)
        kv_BTHWX = self._project_kv(x_BTHWC)
        if spec.pools_kv:
            kv_BTHWX = self._pool(kv_BTHWX, (self.pool_k, self.pool_v), spec.kernel_kv, stride)
        kv_B2LMD = kv_BTHWX.flatten(1, 3).unflatten(-1, (2, self.num_heads, self.width)).unbind(2)
        if cls_B1C is not None:
            cls_2 = self._project_kv(cls_B1C).unflatten(-1, (2, self.num_heads, self.width)).unbind(2)
            kv_B2LMD = [torch.cat(pair, dim=1) for pair in zip(cls_2, kv_B2LMD, strict=True)]
        k_BLMD, v_BLMD = self._normed(self.norm_k, kv_B2LMD[0]), self._normed(self.norm_v, kv_B2LMD[1])
        return k_BLMD, v_BLMD, tuple(kv_BTHWX.shape[1:4])

    def _values(self, x_BTHWC: Tensor, cls_B1C: Tensor | None) -> Tensor:
        """Pooled values alone, class token first: (B, L, M, D)."""
        v_BTHWE = self._project_v(x_BTHWC)
        if self.spec.pools_kv:
            v_BTHWE = self._pool(v_BTHWE, (self.pool_v,), self.spec.kernel_kv, self.spec.stride_kv)
        v_BLE = v_BTHWE.flatten(1, 3)
        if cls_B1C is not None:
            v_BLE = torch.cat([self._project_v(cls_B1C), v_BLE], dim=1)
        return self._normed(self.norm_v, self._heads(v_BLE))

    def _read_by_pooling(self, x_BTHWC: Tensor) -> tuple[Tensor, Grid]:
        """The tokens that a pooling with gaps between its windows reads, and the stride that then fits."""
        _, _, H, W, _ = x_BTHWC.shape
        index, rows, columns, stride = touched_index(H, W, self.spec.kernel_kv, self.spec.stride_kv, x_BTHWC.device)
        return x_BTHWC.flatten(2, 3).index_select(2, index).unflatten(2, (rows, columns)), stride

    def _attend_grid(self, q_BTHWMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, kv_grid: Grid) -> Tensor:
        """Attention of the grid tokens, with relative positions where the block has them: (B, N, M, D)."""
        terms = self._terms(q_BTHWMD, kv_grid)
        if terms is None:
            return attend(q_BTHWMD.flatten(1, 3), k_BLMD, v_BLMD, self.scale)
        if q_BTHWMD.is_meta:
            return attend_relative_plain(q_BTHWMD, k_BLMD, v_BLMD, self.scale, terms, kv_grid)
        num_cls = k_BLMD.shape[1] - math.prod(kv_grid)
        key = ("positions", num_cls, k_BLMD.dtype, k_BLMD.device)
        axes = [term is not None for term in terms]
        positions_LX = self._derived(key, (), lambda: key_positions(kv_grid, axes, num_cls, k_BLMD), size=kv_grid)
        return attend_relative(q_BTHWMD, k_BLMD, v_BLMD, self.scale, terms, positions_LX)

    def _grid_map(self, q_BTHWMD: Tensor, k_BLMD: Tensor, kv_grid: Grid) -> Tensor:
        """What `_attend_grid` weights the values by, (B, M, N, L)."""
        terms = self._terms(q_BTHWMD, kv_grid)
        if terms is None:
            return attention_map(q_BTHWMD.flatten(1, 3), k_BLMD, self.scale)
        return relative_map(q_BTHWMD, k_BLMD, self.scale, terms, kv_grid)

    def _terms(self, q_BTHWMD: Tensor, kv_grid: Grid) -> list[Tensor | None] | None:
        """Relative terms of the queries, None in a block without relative positions."""
        if all(table is None for table in (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)):
            return None
        rows = [self._relative_rows(a, q_BTHWMD.shape[1 + a], kv_grid[a]) for a in range(3)]
        return relative_terms(q_BTHWMD, rows)

    def _relative_rows(self, axis: int, num_q: int, num_k: int) -> Tensor | None:
        """Relative rows of one axis (num_q, num_k, D), over the scale: the scores are multiplied by it as a whole."""
        table = (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)[axis]
        if table is None:
            return None
        return self._derived(
            ("rows", axis), (table,), lambda: gather_rel_pos(table, num_q, num_k) / self.scale, size=(num_q, num_k)
        )
