"""Losses on logits. Soft targets (mixup, label smoothing) are (B, K) rows that sum to 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(name: str, *, label_smoothing: float = 0.0) -> Loss:
    """The loss that `MODEL.LOSS_FUNC` names.

    Args:
        name: "cross_entropy", "soft_cross_entropy", "bce" or "bce_logit".
        label_smoothing: share of the target spread evenly over all classes, in [0, 1); for class-index targets.

    Raises:
        ValueError: unknown name.
    """
    if name in ("cross_entropy", "soft_cross_entropy"):

        def cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
            smoothing = label_smoothing if targets.ndim == 1 else 0.0  # mixed targets are smoothed already
            return F.cross_entropy(logits_BK.float(), targets, label_smoothing=smoothing)

        return cross_entropy
    if name in ("bce", "bce_logit"):

        def binary_cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
            if targets.ndim == 1:
                targets = F.one_hot(targets, logits_BK.shape[1])
            # Not the mean of torch: a batch without a single box has the loss 0, and gradients of zeros.
            total = F.binary_cross_entropy_with_logits(logits_BK.float(), targets.to(torch.float32), reduction="sum")
            return total / max(1, logits_BK.numel())

        return binary_cross_entropy
    raise ValueError(
        f"MODEL.LOSS_FUNC: found {name!r}, expected one of cross_entropy, soft_cross_entropy, bce, bce_logit"
    )
