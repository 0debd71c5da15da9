"""The eps of the norms after pooling convolutions: two values exist, and weights need the one they were trained with.

PySlowFast's code before June 2022 and pytorchvideo 0.1.5 use 1e-5 there (every other norm, and all later code: 1e-6).
At initialization the difference moves logits by about a hundredth of their size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from videovit.models.convert.layouts import POOL_NORM_EPS
from videovit.models.convert.read import Weights
from videovit.models.mvit.attention import MultiscaleAttention

_OURS = re.compile(r"POOL_NORM_EPS['\"]?\s*:\s*([0-9.eE+-]+)")
_OLD = 1e-5
_NEW = 1e-6


def pool_norm_eps(model: nn.Module) -> float | None:
    """The eps of a model's pooling norms; None for a model without them (it pools by maximum, or is not an MViT)."""
    return next((norm.eps for norm in _pool_norms(model)), None)


def set_pool_norm_eps(model: nn.Module, eps: float) -> None:
    """Give every pooling norm of a model this eps."""
    for norm in _pool_norms(model):
        norm.eps = eps


def _pool_norms(model: nn.Module) -> Iterator[nn.LayerNorm]:
    for attention in model.modules():
        if isinstance(attention, MultiscaleAttention):
            yield from (child for child in attention.children() if isinstance(child, nn.LayerNorm))


def source_eps(weights: Weights, layout: str, *, is_explicit: bool) -> tuple[float | None, str]:
    """The eps that weights were trained with.

    Args:
        weights: the file, by names of this project.
        layout: of the file.
        is_explicit: the caller named the layout; otherwise it was detected.

    Returns:
        The eps, None if nothing determines it; and the reason, for the report.
    """
    if weights.pool_norm_eps is not None:
        return weights.pool_norm_eps, "as saved beside the weights"
    if match := _OURS.search(weights.cfg):
        return float(match[1]), "as its config says"
    if layout in POOL_NORM_EPS:
        return POOL_NORM_EPS[layout], f"the value of {layout}"
    if is_explicit:
        return _NEW, "the value of PySlowFast since June 2022"
    if "MVIT" in weights.cfg:
        # A key of the code since June 2022.
        old = "RESIDUAL_POOLING" not in weights.cfg
        return (_OLD if old else _NEW), f"its config is from {'before' if old else 'after'} June 2022"
    if any(".attn.rel_pos_" in name for name in weights.state):
        return _NEW, "the value of every MViTv2"
    pooled = {name.split(".")[1] for name in weights.state if name.endswith(".attn.pool_k.weight")}
    blocks = {name.split(".")[1] for name in weights.state if name.endswith(".attn.proj.weight")}
    if pooled and pooled != blocks:
        return _OLD, "its last stage is that of the code of 2021; source='pyslowfast' keeps 1e-6"
    if any(name.endswith(".attn.q.weight") for name in weights.state):
        return _OLD, "separate q, k, v are those of the code of 2021; source='pyslowfast' keeps 1e-6"
    return None, ""
