"""The eps of the norms behind pooling convolutions: two values are about, and weights work with their own.

PySlowFast's code before June 2022 and pytorchvideo 0.1.5 have 1e-5 there (every other norm, and all later code: 1e-6).
At initialisation the difference moves logits by about a hundredth of their size.
"""

from __future__ import annotations

import re

from torch import nn

from videovit.models.convert.layouts import POOL_NORM_EPS
from videovit.models.convert.read import Weights

_OURS = re.compile(r"POOL_NORM_EPS['\"]?\s*:\s*([0-9.eE+-]+)")
_OLD = 1e-5
_NEW = 1e-6


def pool_norm_eps(model: nn.Module) -> float | None:
    """The eps of a model's pooling norms; None for a model without them (it pools by maximum, or is no MViT)."""
    return next((norm.eps for norm in _pool_norms(model)), None)


def set_pool_norm_eps(model: nn.Module, eps: float) -> None:
    """Give every pooling norm of a model this eps."""
    for norm in _pool_norms(model):
        norm.eps = eps


def _pool_norms(model: nn.Module) -> list[nn.LayerNorm]:
    found = [m for name, m in model.named_modules() if re.search(r"\.attn\.norm_[qkv]$", name)]
    return [m for m in found if isinstance(m, nn.LayerNorm)]


def source_eps(weights: Weights, layout: str, *, asked: bool) -> tuple[float | None, str]:
    """The eps that weights were made with.

    Args:
        weights: the file, names of this project.
        layout: of the file.
        asked: the layout was named by the caller rather than recognised.

    Returns:
        The eps, None when nothing tells; and the reason, for the report.
    """
    if weights.pool_norm_eps is not None:
        return weights.pool_norm_eps, "as saved beside the weights"
    if match := _OURS.search(weights.cfg):
        return float(match[1]), "as its config says"
    if layout in POOL_NORM_EPS:
        return POOL_NORM_EPS[layout], f"as {layout} has it"
    if asked:
        return _NEW, "as PySlowFast has it since June 2022"
    if "MVIT" in weights.cfg:
        old = "RESIDUAL_POOLING" not in weights.cfg
        return (_OLD if old else _NEW), f"as the age of its config ({'before' if old else 'since'} June 2022) says"
    if any(".attn.rel_pos_" in name for name in weights.state):
        return _NEW, "as every MViTv2 has it"
    pooled = {name.split(".")[1] for name in weights.state if name.endswith(".attn.pool_k.weight")}
    blocks = {name.split(".")[1] for name in weights.state if name.endswith(".attn.proj.weight")}
    if pooled and pooled != blocks:
        return _OLD, "as the code of its last stage (2021) had it; source='pyslowfast' keeps 1e-6"
    if any(name.endswith(".attn.q.weight") for name in weights.state):
        return _OLD, "as the code with separate q, k, v (2021) had it; source='pyslowfast' keeps 1e-6"
    return None, ""
