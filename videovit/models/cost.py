"""Parameters and multiply-adds of a model, counted on the `meta` device: no memory, no arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Size and work of a model.

    Attributes:
        params: number of parameters.
        gmacs: 1e9 multiply-adds of convolutions, linear layers and attention for one clip. Papers call them GFLOPs;
            fvcore adds 5 per element of a LayerNorm output, which this count leaves out.
    """

    params: int
    gmacs: float


def measure_cost(build: Callable[[], nn.Module], clip_shape: tuple[int, int, int, int]) -> Cost:
    """Count a model without building it for real.

    Args:
        build: makes the model; called with `meta` as the default device.
        clip_shape: (C, T, H, W) of its input.

    Returns:
        The Cost of one clip.
    """
    with torch.device("meta"):
        model = build().eval()
        clip_BCTHW = torch.empty(1, *clip_shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip_BCTHW)
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2e9)
