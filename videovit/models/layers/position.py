"""Position tables: resizing them, and the rows of a relative table for one axis of queries and keys.

B clips, T H W grid in tokens, N tokens, C channels, D head width, L rows of a relative table (offsets).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.models.contract import Grid


def resize_pos_embed(table_1NC: Tensor, old: Grid, new: Grid) -> Tensor:
    """Stretch an absolute position table from one grid to another: bicubic in space, linear in time.

    Args:
        table_1NC: (1, T * H * W, C), row-major over `old`, without a row for the class token.
        old: (T, H, W) in tokens that the table was made for.
        new: (T', H', W') in tokens.

    Returns:
        (1, T' * H' * W', C); `table_1NC` itself if the grids agree.

    Source: PySlowFast's checkpoint loader (spatial bicubic, temporal linear).
    """
    if old == new:
        return table_1NC
    (t, h, w), (new_t, new_h, new_w) = old, new
    channels = table_1NC.shape[-1]
    table_TCHW = table_1NC.reshape(t, h, w, channels).permute(0, 3, 1, 2)
    if (h, w) != (new_h, new_w):
        table_TCHW = F.interpolate(table_TCHW, size=(new_h, new_w), mode="bicubic", align_corners=False)
    if t != new_t:
        table_TCHW = _stretch(table_TCHW, new_t)
    return table_TCHW.permute(0, 2, 3, 1).reshape(1, -1, channels)


def resize_rel_pos(table_LD: Tensor, length: int) -> Tensor:
    """Stretch a relative position table to another number of offsets, linearly.

    Args:
        table_LD: (L, D), one row per offset.
        length: number of rows to return.

    Returns:
        (length, D); `table_LD` itself if L == length.

    Source: MViTv2 (arXiv 2112.01526), section 4.1.
    """
    if table_LD.shape[0] == length:
        return table_LD
    return _stretch(table_LD, length)


def _stretch(table: Tensor, length: int) -> Tensor:
    """Linear interpolation along the first axis, with the pixel centers of images.

    Equal to `torch.nn.functional.interpolate`, whose gradient on GPUs varies between runs.
    """
    # Interpolation weights in bf16 would round twice.
    last, wide = len(table) - 1, torch.promote_types(table.dtype, torch.float32)
    at = ((torch.arange(length, device=table.device, dtype=wide) + 0.5) * (len(table) / length) - 0.5).clamp(0, last)
    low = at.long()
    share = (at - low).view(-1, *[1] * (table.dim() - 1))
    rows = table.to(wide)
    return (rows[low] * (1 - share) + rows[(low + 1).clamp(max=last)] * share).to(table.dtype)


def gather_rel_pos(table_LD: Tensor, num_q: int, num_k: int) -> Tensor:
    """Rows of a relative table for every (query, key) position along one axis.

    Positions of the coarser axis are counted in those of the finer one, and offset 0 is the middle row:

        offset(i, j) = i * max(K / Q, 1) - j * max(Q / K, 1) + (K - 1) * max(Q / K, 1)

    Args:
        table_LD: (L, D); stretched first if L is not 2 * max(Q, K) - 1.
        num_q: Q, positions of queries.
        num_k: K, positions of keys.

    Returns:
        (Q, K, D).

    Source: MViTv2 (arXiv 2112.01526), eq. 4; fractional offsets are truncated as in PySlowFast.
    """
    table_LD = resize_rel_pos(table_LD, 2 * max(num_q, num_k) - 1)
    q_step, k_step = max(num_k / num_q, 1.0), max(num_q / num_k, 1.0)
    q = torch.arange(num_q, device=table_LD.device)[:, None] * q_step
    k = torch.arange(num_k, device=table_LD.device)[None, :] * k_step
    return table_LD[(q - k + (num_k - 1) * k_step).long()]
