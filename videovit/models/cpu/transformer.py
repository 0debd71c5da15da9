"""Fast counterparts of plain vision transformers.

B clips, N query tokens, L key/value tokens, M heads, D head width, C channels, X class tokens.
"""

from __future__ import annotations

from torch import Tensor

from videovit.models.contract import Grid
from videovit.models.cpu.cache import Cache, in_eager_inference, uses_kept
from videovit.models.layers.scaled_dot_product import attend, products_are_faster
from videovit.models.layers.transformer import Attention
from videovit.models.pit import PiT
from videovit.models.vit import ViT

# Scores of one chunk of queries: few enough to stay in the cache of the CPU between the two products.
_CHUNK_SCORES = 850_000


def fast_attend(q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, scale: float) -> Tensor:
    """`attend` whose plain products are computed for chunks of queries."""
    if in_eager_inference() and products_are_faster(q_BNMD, k_BLMD):
        return attend_in_chunks(q_BNMD, k_BLMD, v_BLMD, scale)
    return attend(q_BNMD, k_BLMD, v_BLMD, scale)


def attend_in_chunks(q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, scale: float) -> Tensor:
    """Attention as two products and a softmax, a chunk of queries at a time; arguments and result as in `attend`."""
    q_BMND, v_BMLD = q_BNMD.transpose(1, 2), v_BLMD.transpose(1, 2)
    keys_BMDL = (k_BLMD * scale).permute(0, 2, 3, 1)
    B, N, M, _ = q_BNMD.shape
    rows = max(64, _CHUNK_SCORES // max(1, B * M * k_BLMD.shape[1]))
    if rows >= N:
        return ((q_BMND @ keys_BMDL).softmax(dim=-1) @ v_BMLD).transpose(1, 2)
    out_BNMD = q_BNMD.new_empty(B, N, M, v_BLMD.shape[-1])
    for start in range(0, N, rows):
        chunk = slice(start, start + rows)
        out_BNMD[:, chunk] = ((q_BMND[:, :, chunk] @ keys_BMDL).softmax(dim=-1) @ v_BMLD).transpose(1, 2)
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
