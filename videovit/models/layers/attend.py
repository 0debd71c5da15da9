"""softmax(q k^T) v, with or without decomposed relative positions.

B clips, T H W grid in tokens, N query tokens, L key/value tokens (class token first), M heads, D head width,
X positions of the keys along one axis.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.models.layers.maps import record, recording

Grid = tuple[int, int, int]
# One term per axis (t, h, w): (B, T, H, W, M, X), or None where the axis has no relative positions.
Terms = Sequence[Tensor | None]

# Scores of one chunk of queries: few enough to stay in the cache between the two products.
_CHUNK_SCORES = 850_000
_FEW_KEYS = 1024


def attend(q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, scale: float) -> Tensor:
    """softmax(q k^T * scale) v by the quickest exact route of the device.

    `scaled_dot_product_attention`, but where plain products are quicker (bf16 on CPUs), those; and on `meta`, so that
    counters see them.

    Args:
        q_BNMD: (B, N, M, D).
        k_BLMD: (B, L, M, D).
        v_BLMD: (B, L, M, D'); D' may be smaller than D.
        scale: factor on the scores.

    Returns:
        (B, N, M, D').
    """
    if recording():
        return apply_map(attention_map(q_BNMD, k_BLMD, scale), v_BLMD)
    if q_BNMD.is_meta or _products_are_quicker(q_BNMD, k_BLMD):
        return attend_in_chunks(q_BNMD, k_BLMD, v_BLMD, scale)
    q, k, v = q_BNMD.transpose(1, 2), k_BLMD.transpose(1, 2), v_BLMD.transpose(1, 2)
    width = v.shape[-1]
    if width < q.shape[-1]:
        v = F.pad(v, (0, q.shape[-1] - width))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)[..., :width]


def _products_are_quicker(q_BNMD: Tensor, k_BLMD: Tensor) -> bool:
    """Whether plain products beat PyTorch's kernel: bf16 on a CPU.

    Its bf16 kernel is written for CPUs that multiply in tiles (Intel AMX); even there its backward only wins over many
    keys. Measured, see docs/performance.md.
    """
    if q_BNMD.device.type != "cpu" or q_BNMD.dtype != torch.bfloat16:
        return False
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    has_tiles = bool(probe and probe())
    return not has_tiles or (torch.is_grad_enabled() and k_BLMD.shape[1] <= _FEW_KEYS)


def attend_in_chunks(q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, scale: float) -> Tensor:
    """`attend` as two products and a softmax, over chunks of queries; in one piece where gradients are wanted."""
    q_BMND, v_BMLD = q_BNMD.transpose(1, 2), v_BLMD.transpose(1, 2)
    keys_BMDL = (k_BLMD * scale).permute(0, 2, 3, 1)
    B, N, M, _ = q_BNMD.shape
    rows = max(64, _CHUNK_SCORES // (B * M * k_BLMD.shape[1]))
    if torch.is_grad_enabled() or q_BNMD.is_meta or rows >= N:
        return ((q_BMND @ keys_BMDL).softmax(dim=-1) @ v_BMLD).transpose(1, 2)
    out_BNMD = q_BNMD.new_empty(B, N, M, v_BLMD.shape[-1])
    for start in range(0, N, rows):
        chunk = slice(start, start + rows)
        out_BNMD[:, chunk] = ((q_BMND[:, :, chunk] @ keys_BMDL).softmax(dim=-1) @ v_BMLD).transpose(1, 2)
    return out_BNMD


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


def attend_relative_plain(
    q_BTHWMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, scale: float, terms: Terms, kv_grid: Grid
) -> Tensor:
    """Attention with relative positions as it is defined, with a tensor of the size of the scores.

    Counted on `meta`; elsewhere it only serves to test `attend_relative`, which gives the same without that tensor.
    Arguments and result as there, but for the keys' grid.
    """
    return apply_map(relative_map(q_BTHWMD, k_BLMD, scale, terms, kv_grid), v_BLMD)


def attention_map(q_BNMD: Tensor, k_BLMD: Tensor, scale: float) -> Tensor:
    """softmax(q k^T * scale), (B, M, N, L)."""
    return (q_BNMD.transpose(1, 2) @ (k_BLMD * scale).permute(0, 2, 3, 1)).softmax(dim=-1)


def apply_map(map_BMNL: Tensor, v_BLMD: Tensor) -> Tensor:
    """Values (B, L, M, D) weighted by an attention map (B, M, N, L): (B, N, M, D)."""
    record(map_BMNL)
    return (map_BMNL.to(v_BLMD.dtype) @ v_BLMD.transpose(1, 2)).transpose(1, 2)


def relative_map(q_BTHWMD: Tensor, k_BLMD: Tensor, scale: float, terms: Terms, kv_grid: Grid) -> Tensor:
    """`attention_map` with relative positions: every axis adds its term to the scores.

    Args:
        q_BTHWMD: queries of the grid.
        k_BLMD: keys; where L exceeds the grid by one, the first is the class token, which has no position.
        scale: factor on the scores, terms included.
        terms: from `relative_terms`.
        kv_grid: (T', H', W') of the keys.

    Returns:
        (B, M, N, L), N = T * H * W.
    """
    q_BNMD = q_BTHWMD.flatten(1, 3)
    B, N, M, _ = q_BNMD.shape
    num_grid = math.prod(kv_grid)
    bias = q_BNMD.new_zeros(B, M, N, *kv_grid)
    for axis, term in enumerate(terms):
        if term is not None:
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
        (L, sum of the chosen sides).
    """
    columns = []
    for axis, wanted in enumerate(axes):
        if wanted:
            side = kv_grid[axis]
            shape = [side if a == axis else 1 for a in range(3)]
            ones = torch.eye(side, dtype=like.dtype, device=like.device).view(*shape, side)
            columns.append(ones.expand(*kv_grid, side).reshape(-1, side))
    return F.pad(torch.cat(columns, dim=-1), (0, 0, num_cls, 0))


def attend_relative(
    q_BTHWMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor, scale: float, terms: Terms, positions_LX: Tensor
) -> Tensor:
    """Attention with relative positions through the ordinary kernel: positions become extra channels.

    A query carries its terms behind its channels and a key carries ones at its own position, so that one scalar
    product sums both:

        q' = [q, q.R_t, q.R_h, q.R_w]      k' = [k, one_t, one_h, one_w]      q'.k' = q.k + R_t + R_h + R_w

    Args:
        q_BTHWMD: queries of the grid.
        k_BLMD, v_BLMD: keys and values.
        scale: factor on the scores, terms included.
        terms: from `relative_terms`.
        positions_LX: from `key_positions`.

    Returns:
        (B, N, M, D), N = T * H * W.
    """
    B, L, M, D = k_BLMD.shape
    extra = [term for term in terms if term is not None]
    # Widths that are multiples of 8 keep every kernel on its quick path.
    spare = -(D + positions_LX.shape[-1]) % 8
    if spare:
        extra.append(q_BTHWMD.new_zeros(1).expand(*q_BTHWMD.shape[:-1], spare))
    q_BNMD = torch.cat([q_BTHWMD, *extra], dim=-1).flatten(1, 3)
    positions = F.pad(positions_LX, (0, spare))[None, :, None].expand(B, L, M, -1)
    return attend(q_BNMD, torch.cat([k_BLMD, positions], dim=-1), v_BLMD, scale)
