"""softmax(q k^T) v, with or without decomposed relative positions.

B clips, T H W grid in tokens, N query tokens, L key/value tokens (class token first), M heads, D head width,
X positions of the keys along one axis, P extra channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.models.contract import Grid
from videovit.models.layers.maps import record

Terms = Sequence[Tensor | None]
"""One term per axis (t, h, w): (B, T, H, W, M, X), or None for an axis without relative positions."""

_FEW_KEYS = 1024


def attend(q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, scale: float) -> Tensor:
    """softmax(q k^T * scale) v by the faster of two exact routes: PyTorch's fused kernel, or plain products.

    Args:
        q_BNMD: (B, N, M, D).
        k_BLMD: (B, L, M, D).
        v_BLMD: (B, L, M, D'); D' may be smaller than D.
        scale: factor on the scores.

    Returns:
        (B, N, M, D').
    """
    if products_are_faster(q_BNMD, k_BLMD):
        return apply_map(attention_map(q_BNMD, k_BLMD, scale), v_BLMD)
    q, k, v = q_BNMD.transpose(1, 2), k_BLMD.transpose(1, 2), v_BLMD.transpose(1, 2)
    width = v.shape[-1]
    # The fused kernels need equal widths. Zeros cost little; the unfused fallback would hold the scores.
    if width < q.shape[-1]:
        v = F.pad(v, (0, q.shape[-1] - width))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)[..., :width]


def products_are_faster(q_BNMD: Tensor, k_BLMD: Tensor) -> bool:
    """Whether plain products beat PyTorch's fused kernel: bf16 on a CPU.

    The fused bf16 kernel is written for CPUs that multiply in tiles (Intel AMX); even there its backward pass wins only
    over many keys. Measured, see docs/performance.md.
    """
    if q_BNMD.device.type != "cpu" or q_BNMD.dtype != torch.bfloat16:
        return False
    return not torch.cpu._is_amx_tile_supported() or (torch.is_grad_enabled() and k_BLMD.shape[1] <= _FEW_KEYS)


def attention_map(q_BNMD: Tensor, k_BLMD: Tensor, scale: float) -> Tensor:
    """softmax(q k^T * scale), (B, M, N, L).

    Args:
        q_BNMD: (B, N, M, D).
        k_BLMD: (B, L, M, D).
        scale: factor on the scores.
    """
    # Scaling the keys, not the scores: there are far fewer of them.
    return (q_BNMD.transpose(1, 2) @ (k_BLMD * scale).permute(0, 2, 3, 1)).softmax(dim=-1)


def apply_map(map_BMNL: Tensor, v_BLMD: Tensor) -> Tensor:
    """Values (B, L, M, D) weighted by an attention map (B, M, N, L): (B, N, M, D)."""
    record(map_BMNL)
    return (map_BMNL.to(v_BLMD.dtype) @ v_BLMD.transpose(1, 2)).transpose(1, 2)


def relative_terms(q_BTHWMD: Tensor, rows: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Products of every query with the relative rows of its position, one axis at a time.

    Args:
        q_BTHWMD: queries.
        rows: per axis t, h, w (positions of the queries, X, D), or None.

    Returns:
        Per axis (B, T, H, W, M, X), or None.

    Source: MViTv2 (arXiv 2112.01526), eq. 4.
    """
    t, h, w = (None if r is None else r.to(q_BTHWMD.dtype) for r in rows)
    return [
        None if t is None else torch.einsum("bthwmd,txd->bthwmx", q_BTHWMD, t),
        None if h is None else torch.einsum("bthwmd,hxd->bthwmx", q_BTHWMD, h),
        None if w is None else torch.einsum("bthwmd,wxd->bthwmx", q_BTHWMD, w),
    ]


def relative_map(q_BTHWMD: Tensor, k_BLMD: Tensor, scale: float, terms: Terms, kv_grid: Grid) -> Tensor:
    """`attention_map` with relative positions as they are defined: every axis adds its term to the scores.

    Args:
        q_BTHWMD: queries of the grid.
        k_BLMD: keys; if L exceeds the grid by one, the first is the class token, which has no position.
        scale: factor on the scores, terms included.
        terms: from `relative_terms`.
        kv_grid: (T', H', W') of the keys.

    Returns:
        (B, M, N, L), N = T * H * W.

    Source: MViTv2 (arXiv 2112.01526), eq. 4.
    """
    q_BNMD = q_BTHWMD.flatten(1, 3)
    B, N, M, _ = q_BNMD.shape
    num_grid = math.prod(kv_grid)
    bias = q_BNMD.new_zeros(B, M, N, *kv_grid)
    for axis, term in enumerate(terms):
        if term is not None:
            # The term of an axis does not depend on the other two: it is broadcast along them.
            shape = [kv_grid[axis] if a == axis else 1 for a in range(3)]
            bias = bias + term.flatten(1, 3).transpose(1, 2).reshape(B, M, N, *shape)
    bias_BMNL = F.pad(bias.reshape(B, M, N, num_grid), (k_BLMD.shape[1] - num_grid, 0))
    scores_BMNL = (q_BNMD.transpose(1, 2) @ k_BLMD.permute(0, 2, 3, 1) + bias_BMNL) * scale
    return scores_BMNL.softmax(dim=-1)


def key_positions(kv_grid: Grid, axes: Sequence[bool], num_cls: int, like: Tensor) -> Tensor:
    """For every key a one at its position along each of the chosen axes, zeros elsewhere.

    Args:
        kv_grid: (T', H', W').
        axes: which of t, h, w have relative positions.
        num_cls: rows of zeros in front, for a class token.
        like: gives dtype and device.

    Returns:
        (L, P), P the sum of the chosen sides.
    """
    columns = []
    for axis, is_relative in enumerate(axes):
        if is_relative:
            side = kv_grid[axis]
            shape = [side if a == axis else 1 for a in range(3)]
            ones = torch.eye(side, dtype=like.dtype, device=like.device).view(*shape, side)
            columns.append(ones.expand(*kv_grid, side).reshape(-1, side))
    return F.pad(torch.cat(columns, dim=-1), (0, 0, num_cls, 0))


def with_positions(q_BTHWMD: Tensor, k_BLMD: Tensor, terms: Terms, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys whose scalar product includes the relative positions, so that ordinary attention computes them.

    A query carries its terms as extra channels and a key carries ones at its own position:

        q' = [q, q.R_t, q.R_h, q.R_w]      k' = [k, one_t, one_h, one_w]      q'.k' = q.k + R_t + R_h + R_w

    No tensor of the size of the scores is needed, which the definition (`relative_map`) cannot avoid.

    Args:
        q_BTHWMD: queries of the grid.
        k_BLMD: keys.
        terms: from `relative_terms`; further ones belong to further columns of the positions.
        positions: (L, P) from `key_positions`, or (B, L, P).

    Returns:
        (B, N, M, D + P), N = T * H * W, and (B, L, M, D + P); P rounded up.
    """
    B, L, M, D = k_BLMD.shape
    extra = [term for term in terms if term is not None]
    # Widths that are multiples of 8 keep every kernel on its fast path.
    spare = -(D + positions.shape[-1]) % 8
    if spare:
        extra.append(q_BTHWMD.new_zeros(1).expand(*q_BTHWMD.shape[:-1], spare))
    q_BNMD = torch.cat([q_BTHWMD, *extra], dim=-1).flatten(1, 3)
    columns_BLMP = F.pad(positions, (0, spare)).unsqueeze(-2).expand(B, L, M, -1)
    return q_BNMD, torch.cat([k_BLMD, columns_BLMP], dim=-1)
