"""Cost of a model: multiply-adds and parameters."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from videovit.models.detection.roi_head import Detector


def count_macs(model: nn.Module, input_size: Sequence[int]) -> int:
    """Multiply-adds of convolutions, linear layers and attention for one forward pass, counted on `meta`.

    Additions, norms, activations and maximum pooling count nothing: the convention of the figures in torchvision's
    documentation. (fvcore's totals add 5 per LayerNorm output.)

    Args:
        model: left as it is; a copy on `meta` is run in evaluation mode. A Detector is given one box, RoIAlign of which
            is two products.
        input_size: shape of the input, batch first.

    Returns:
        Multiply-adds; half of the FLOPs.
    """
    twin = deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        inputs = [torch.empty(*input_size, device="meta")]
        if isinstance(twin, Detector):
            inputs.append(torch.empty(1, 5, device="meta"))
        twin(*inputs)
    return counter.get_total_flops() // 2


def count_params(model: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(p.numel() for p in model.parameters())
