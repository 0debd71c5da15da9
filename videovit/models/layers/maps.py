"""Observation of attention maps.

Fused kernels never hold a map. `observe_attention` runs a copy of the model in its plain form, in which every attention
layer computes its map and passes it to `record`, which hands it on to an observer.

B clips, M heads, N query tokens, L key tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from videovit.models.contract import AttentionModel

Observer = Callable[[int, int, Tensor], None]
"""Receives parts of maps: the layer, from 0; the number of the first query token in the part; the part (B, M, N', L).

A part is the model's own tensor: it must not be changed, and need not be kept.
"""


class _Recorder:
    """Where maps go.

    Args:
        observer: receives them.
    """

    running: _Recorder | None = None
    """None while no forward pass is observed."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.layer, self.query = -1, 0

    def begin(self, module: nn.Module, args: object) -> None:
        """Advance to the next layer."""
        self.layer, self.query = self.layer + 1, 0

    def add(self, map_BMNL: Tensor) -> None:
        self.observer(self.layer, self.query, map_BMNL.detach())
        self.query += map_BMNL.shape[2]


def record(map_BMNL: Tensor) -> None:
    """Show the map of some query tokens of the attention layer that is running; does nothing unless it is observed.

    Args:
        map_BMNL: after the softmax. A layer may show its queries in several calls, in their order.
    """
    if _Recorder.running is not None:
        _Recorder.running.add(map_BMNL)


def observe_attention(model: AttentionModel, x: Tensor, observer: Observer) -> None:
    """Show the attention maps of a batch to an observer one by one, so that no two layers' are in memory together.

    Args:
        model: its mode stays; call `eval()` first to exclude randomness.
        x: clips (B, C, T, H, W) or images (B, C, H, W), normalized.
        observer: called with every part of every map, in the order in which layers run.
    """
    recorder = _Recorder(observer)
    # A copy, so that the model is neither switched nor hooked while another thread may be using it.
    twin = model.twin().plain_()
    for module in twin.attention_layers():
        module.register_forward_pre_hook(recorder.begin)
    _Recorder.running = recorder
    try:
        with torch.no_grad():
            twin.forward_features(x)
    finally:
        _Recorder.running = None


def attention_maps(model: AttentionModel, x: Tensor) -> list[Tensor]:
    """The attention maps of a batch, all in memory at once; `observe_attention` holds one at a time.

    Args:
        model, x: see `observe_attention`.

    Returns:
        One map (B, M, N, L) per attention layer, in the order in which they run; every row sums to 1. Class tokens come
        first among queries and keys. Keys of MViT are pooled, so L differs from N.
    """
    layers: list[list[Tensor]] = []

    def keep(layer: int, query: int, map_BMNL: Tensor) -> None:
        if query == 0:
            layers.append([])
        layers[layer].append(map_BMNL)

    observe_attention(model, x, keep)
    return [torch.cat(maps, dim=2) for maps in layers]
