"""Attention in windows: the tokens of a grid attend to those of their own window alone.

A grid is cut into equal windows, the last of a row or column filled up with tokens that no one attends to. All frames
are in one window. The cost of a block then grows with the number of windows, not with its square.

B clips, T H W grid in tokens, N windows per clip, S side of a window in tokens, L keys of a window, X any channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.models.contract import Grid

_HIDDEN = -1e4  # in scores: far below all others, and within fp16


def cut(x_BTHWX: Tensor, side: int) -> Tensor:
    """Windows of a grid, row by row: (B * N, T, S, S, ...) of (B, T, H, W, ...)."""
    B, T, H, W = x_BTHWX.shape[:4]
    rows, columns = -(-H // side), -(-W // side)
    trailing = x_BTHWX.shape[4:]
    padding = (0, 0) * len(trailing) + (0, columns * side - W, 0, rows * side - H)
    cells = F.pad(x_BTHWX, padding).view(B, T, rows, side, columns, side, *trailing)
    return cells.movedim((2, 4), (1, 2)).reshape(B * rows * columns, T, side, side, *trailing)


def join(windows: Tensor, grid: Grid) -> Tensor:
    """The reverse of `cut`: (B, T, H, W, ...), without what filled up the last windows."""
    _, H, W = grid
    side = windows.shape[2]
    rows, columns = -(-H // side), -(-W // side)
    cells = windows.view(-1, rows, columns, *windows.shape[1:])
    x_BTHWX = cells.movedim((1, 2), (2, 4)).flatten(4, 5).flatten(2, 3)
    return x_BTHWX[:, :, :H, :W]


def hidden_keys(grid: Grid, side: int, like: Tensor) -> Tensor | None:
    """What is added to the scores of the keys of every window: (N, L), 0, or a large negative number for a filling.

    Args:
        grid: (T, H, W) of the keys.
        side: S.
        like: gives dtype and device.

    Returns:
        None if the windows fit.
    """
    T, H, W = grid
    if H % side == W % side == 0:
        return None
    is_token = cut(torch.ones(1, T, H, W, dtype=like.dtype, device=like.device), side).flatten(1)
    return (1 - is_token) * _HIDDEN
