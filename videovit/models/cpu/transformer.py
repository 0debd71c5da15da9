"""Fast counterparts of plain vision transformers.

B clips, N query tokens, L key/value tokens, M heads, D head width, C channels, X class tokens.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from videovit.models.contract import Grid
from videovit.models.cpu.cache import Cache, in_eager_inference, uses_kept
from videovit.models.cpu.linear import onednn_beats_mkl, product
from videovit.models.layers.basic import matmul_dtype
from videovit.models.layers.scaled_dot_product import attend, products_are_faster
from videovit.models.layers.transformer import Attention
from videovit.models.pit import PiT
from videovit.models.vit import ViT

# Both were measured (docs/performance.md).
_CHUNK_SCORES = 850_000  # of one head at once: few enough to stay in the cache of the CPU between the two products
_FEW_SCORES = 100_000  # of one head: with fewer, starting the products of every head takes longer than computing them


def fast_attend(q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, scale: float) -> Tensor:
    """`attend`, one head after the other if that is faster."""
    if in_eager_inference() and _heads_apart_are_faster(q_BNMD, k_BLMD):
        return attend_by_head(q_BNMD, k_BLMD, v_BLMD, scale)
    return attend(q_BNMD, k_BLMD, v_BLMD, scale)


def _heads_apart_are_faster(q_BNMD: Tensor, k_BLMD: Tensor) -> bool:
    if q_BNMD.shape[1] * k_BLMD.shape[1] < _FEW_SCORES or matmul_dtype(q_BNMD) != q_BNMD.dtype:
        return False
    if q_BNMD.dtype == torch.float32:
        return q_BNMD.device.type == "cpu" and onednn_beats_mkl()
    return products_are_faster(q_BNMD, k_BLMD)


def attend_by_head(q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, scale: float) -> Tensor:
    """Attention as two products and a softmax, for one head and a chunk of queries at a time.

    Products of two matrices run at the full speed of oneDNN; batches of them, one per head, are a third slower and copy
    the keys of every chunk. Arguments and result as in `attend`.
    """
    B, N, M, _ = q_BNMD.shape
    keys_BMLD = (k_BLMD * scale).transpose(1, 2).contiguous()
    values_BMDL = v_BLMD.permute(0, 2, 3, 1).contiguous()
    out_BNMD = q_BNMD.new_empty(B, N, M, v_BLMD.shape[-1])
    rows = math.ceil(N / max(1, round(N * k_BLMD.shape[1] / _CHUNK_SCORES)))
    for clip, head, start in itertools.product(range(B), range(M), range(0, N, rows)):
        chunk = clip, slice(start, start + rows), head
        weights = product(q_BNMD[chunk].contiguous(), keys_BMLD[clip, head]).softmax(dim=-1)
        out_BNMD[chunk] = product(weights, values_BMDL[clip, head])
    return out_BNMD


class FastAttention(Attention):
    """`Attention` by `fast_attend`."""

    kept: Cache

    def _attend(self, q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor) -> Tensor:
        return fast_attend(q_BNMD, k_BLMD, v_BLMD, self.scale)


class FastViT(ViT):
    """`ViT` that keeps its stretched position table."""

    kept: Cache

    def positions(self, grid: Grid) -> Tensor:
        """(1, X + N, C), see `ViT.positions`."""
        plain = super().positions
        return self.kept("positions", lambda: plain(grid), size=grid) if uses_kept() else plain(grid)


class FastPiT(PiT):
    """`PiT` that keeps its stretched position tables."""

    kept: Cache

    def positions(self, grid: Grid) -> Tensor:
        """(1, N, C), see `PiT.positions`."""
        plain = super().positions
        return self.kept("positions", lambda: plain(grid), size=grid) if uses_kept() else plain(grid)
