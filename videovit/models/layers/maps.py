"""Attention maps on request: who looks where, in every block, without a word about it in the models.

The usual kernels never hold a map. While `attention_maps` runs a model, `attend` computes it in the open and hands it
to `record`; at any other time all of this is one look at a variable.

B clips, M heads, N query tokens, L key tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Recorder:
    """Maps by attention layer, None while nobody asks."""

    layers: list[list[Tensor]] | None = None


def recording() -> bool:
    """Whether attention layers are to show their maps."""
    return _Recorder.layers is not None


def record(map_BMNL: Tensor) -> None:
    """Hand over the map of some query tokens of the attention layer that is running; ignored unless recording.

    Args:
        map_BMNL: after the softmax; queries that are handed over later follow those before.
    """
    if _Recorder.layers is not None:
        _Recorder.layers[-1].append(map_BMNL.detach())


def attention_maps(model: nn.Module, x_BCTHW: Tensor) -> list[Tensor]:
    """The attention maps of a batch, in the model's present mode (call `eval()` first to have no randomness in it).

    Args:
        model: with `forward_features`, and attention layers by the name `attn` in its blocks.
        x_BCTHW: (B, C, T, H, W), normalised.

    Returns:
        One map (B, M, N, L) per attention layer, in the order in which they ran; every row sums to 1. Class tokens are
        first among queries and keys, where the model has them there; keys of MViT are pooled, so L differs from N.
        It takes memory for all of them at once.
    """
    layers: list[list[Tensor]] = []

    def begin(module: nn.Module, args: Any) -> None:
        layers.append([])

    attention = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "attn"]
    hooks = [module.register_forward_pre_hook(begin) for module in attention]
    features: Callable[[Tensor], Any] = model.forward_features
    _Recorder.layers = layers
    try:
        with torch.no_grad():
            features(x_BCTHW)
    finally:
        _Recorder.layers = None
        for hook in hooks:
            hook.remove()
    return [torch.cat(maps, dim=2) for maps in layers]
