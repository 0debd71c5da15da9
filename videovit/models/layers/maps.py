"""Recording of attention maps.

Fused kernels never hold a map. `attention_maps` runs a copy of the model in its plain form, in which every attention
layer computes its map and passes it to `record`.

B clips, M heads, N query tokens, L key tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videovit.models.contract import VideoModel


class _Recorder:
    """Maps by attention layer; None while nothing is recorded."""

    layers: list[list[Tensor]] | None = None


def record(map_BMNL: Tensor) -> None:
    """Keep the map of some query tokens of the attention layer that is running; does nothing unless recording.

    Args:
        map_BMNL: after the softmax. A layer may record its queries in several calls, which are joined in their order.
    """
    if _Recorder.layers is not None:
        _Recorder.layers[-1].append(map_BMNL.detach())


def attention_maps(model: VideoModel, x: Tensor) -> list[Tensor]:
    """The attention maps of a batch, in the model's present mode: call `eval()` first to exclude randomness.

    Args:
        model: its attention layers are the modules named `attn`.
        x: clips (B, C, T, H, W) or images (B, C, H, W), normalized.

    Returns:
        One map (B, M, N, L) per attention layer, in the order in which they run; every row sums to 1. Class tokens come
        first among queries and keys. Keys of MViT are pooled, so L differs from N. All maps are in memory at once.
    """
    layers: list[list[Tensor]] = []

    def begin(module: nn.Module, args: object) -> None:
        layers.append([])

    # A copy, so that the model is neither switched nor hooked while another thread may be using it.
    twin = model.twin().plain_()
    for name, module in twin.named_modules():
        if name.rpartition(".")[2] == "attn":
            module.register_forward_pre_hook(begin)
    _Recorder.layers = layers
    try:
        with torch.no_grad():
            twin.forward_features(x)
    finally:
        _Recorder.layers = None
    return [torch.cat(maps, dim=2) for maps in layers]
