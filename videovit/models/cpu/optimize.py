"""The one way from a model to its faster copy."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from videovit.models.contract import LayeredModel
from videovit.models.cpu.cache import Cache
from videovit.models.cpu.linear import FastLinear, FastMlp
from videovit.models.cpu.mvit import FastMultiscaleAttention, FastMultiscaleBlock, FastMViT
from videovit.models.cpu.transformer import FastAttention, FastPiT, FastViT
from videovit.models.layers.basic import Mlp
from videovit.models.layers.transformer import Attention
from videovit.models.mvit.attention import MultiscaleAttention
from videovit.models.mvit.block import MultiscaleBlock
from videovit.models.mvit.model import MViT
from videovit.models.pit import PiT
from videovit.models.vit import ViT

FastModule = (
    FastLinear | FastMlp | FastAttention | FastMultiscaleAttention | FastMultiscaleBlock | FastMViT | FastViT | FastPiT
)
COUNTERPARTS: dict[type[nn.Module], type[FastModule]] = {
    nn.Linear: FastLinear,
    Mlp: FastMlp,
    Attention: FastAttention,
    MultiscaleAttention: FastMultiscaleAttention,
    MultiscaleBlock: FastMultiscaleBlock,
    MViT: FastMViT,
    ViT: FastViT,
    PiT: FastPiT,
}
"""Class of a module -> its fast subclass. Classes that are not listed, subclasses included, stay as they are."""

Model = TypeVar("Model", bound=LayeredModel)


def optimize_for_inference(model: Model) -> Model:
    """A faster copy of a model in evaluation mode; logits are equal to rounding.

    On a CPU weights are packed, GELU is fused, and batches are computed in parts that stay in its cache. On every
    device position tables are kept between calls. The copy shares parameters and buffers with the model, which is not
    changed, and has the same state dict. It can be copied, pickled, compiled, exported, traced, and shared by threads.

    **Weights must not change while the copy is in use** (nor move to another device or dtype): what was computed from
    them is not computed again. Make a new copy after every change; it takes milliseconds.

    Args:
        model: any model, but not one whose parameters are sharded.
    """
    optimized = model.twin().eval()
    for module in optimized.modules():
        counterpart = COUNTERPARTS.get(type(module))
        if counterpart is not None:
            # The subclass adds methods only. Names, hooks and attributes of the copied module stay as they are.
            module.__class__ = counterpart
            module.kept = Cache()  # type: ignore[assignment]
    return optimized
