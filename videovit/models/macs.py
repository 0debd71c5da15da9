"""Cost of a model: multiply-adds and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from videovit.models.contract import LayeredModel


def count_macs(model: LayeredModel, input_size: Sequence[int]) -> int:
    """Multiply-adds of convolutions, linear layers and attention for one forward pass in the model's plain form.

    Additions, norms, activations and maximum pooling count nothing, by the convention of the figures in torchvision's
    documentation. (fvcore's totals include 5 per LayerNorm output.)

    Args:
        model: not changed; a copy is run on `meta`, in evaluation mode. What depends on the content of an image counts
            with a fixed number of boxes, see `run_for_cost`.
        input_size: shape of the input, batch first.

    Returns:
        Multiply-adds; half of the FLOPs.
    """
    twin = deepcopy(model).to("meta").eval().plain_()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin.run_for_cost(torch.empty(*input_size, device="meta"))
    flops: int = counter.get_total_flops()
    return flops // 2


def count_params(model: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(p.numel() for p in model.parameters())
