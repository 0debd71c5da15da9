"""Cost of a model: multiply-adds and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from videovit.models.contract import VideoModel


def count_macs(model: VideoModel, input_size: Sequence[int]) -> int:
    """Multiply-adds of convolutions, linear layers and attention for one forward pass in the model's plain form.

    Additions, norms, activations and maximum pooling count nothing, by the convention of the figures in torchvision's
    documentation. (fvcore's totals include 5 per LayerNorm output.)

    Args:
        model: not changed; a copy is run on `meta`, in evaluation mode. A detector gets one box, RoIAlign of which is
            two products.
        input_size: shape of the input, batch first.

    Returns:
        Multiply-adds; half of the FLOPs.
    """
    twin = deepcopy(model).to("meta").eval().plain_()
    inputs = [torch.empty(*input_size, device="meta")]
    if twin.takes_boxes:
        inputs.append(torch.empty(1, 5, device="meta"))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(*inputs)
    flops: int = counter.get_total_flops()
    return flops // 2


def count_params(model: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(p.numel() for p in model.parameters())
