"""Two pathways from one clip."""

from __future__ import annotations

import torch
from torch import Tensor

from videovit.errors import UserError
from videovit.messages import plural


def slow_pathway(x_BCTHW: Tensor, alpha: int) -> Tensor:
    """T / alpha frames, evenly spaced from the first to the last and rounded down.

    For 32 frames and alpha 4: 0, 4, 8, 13, 17, 22, 26, 31.

    Raises:
        UserError: T is not a multiple of alpha.

    Source: PySlowFast's and pytorchvideo's SlowFast input.
    """
    num_frames = x_BCTHW.shape[2]
    if num_frames % alpha:
        raise UserError(
            f"the clip has {plural(num_frames, 'frame')}; two pathways need a multiple of {alpha} (DATA.NUM_FRAMES)"
        )
    # In double precision and on the CPU: the same frames on every device.
    frames = torch.linspace(0, num_frames - 1, num_frames // alpha, dtype=torch.float64, device="cpu").long()
    return x_BCTHW.index_select(2, frames.to(x_BCTHW.device))
