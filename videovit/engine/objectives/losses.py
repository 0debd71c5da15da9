"""Losses on logits. Soft targets (mixup, label smoothing) are (B, K) rows that sum to 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.errors import UserError
from videovit.messages import did_you_mean

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets -> scalar."""


def cross_entropy(label_smoothing: float, weights: Sequence[float] | None) -> Loss:
    """Cross entropy with class numbers (B,), which it smooths, or with rows of class probabilities (B, K).

    Weights are those of torch's loss, which divides by the batch in the second case. Here it does in both: the loss
    of a batch is then that of its micro-batches and ranks together, whatever classes each of them has.
    """
    weight_K = None if weights is None else torch.tensor(weights, dtype=torch.float32)

    def loss(logits_BK: Tensor, targets: Tensor) -> Tensor:
        smoothing = label_smoothing if targets.ndim == 1 else 0.0  # mixed targets are smoothed already
        if weight_K is None:
            return F.cross_entropy(logits_BK.float(), targets, label_smoothing=smoothing)
        total = F.cross_entropy(
            logits_BK.float(),
            targets,
            weight=weight_K.to(logits_BK.device),
            label_smoothing=smoothing,
            reduction="sum",
        )
        return total / len(logits_BK)

    return loss


def binary_cross_entropy(label_smoothing: float, weights: Sequence[float] | None) -> Loss:
    """Binary cross entropy of every class, with class numbers (B,) or zeros and ones (B, K); never smoothed.

    Weights multiply the terms of classes that are shown, as `pos_weight` of torch's loss.
    """
    weight_K = None if weights is None else torch.tensor(weights, dtype=torch.float32)

    def loss(logits_BK: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits_BK.shape[1])
        # Not the mean of torch, which is NaN for a batch without a box: such a batch has a loss of 0 and gradients of
        # 0, so that its rank can take part in averaging.
        total = F.binary_cross_entropy_with_logits(
            logits_BK.float(),
            targets.to(torch.float32),
            pos_weight=None if weight_K is None else weight_K.to(logits_BK.device),
            reduction="sum",
        )
        return total / max(1, logits_BK.numel())

    return loss


LOSSES: dict[str, Callable[[float, Sequence[float] | None], Loss]] = {
    "cross_entropy": cross_entropy,
    "soft_cross_entropy": cross_entropy,
    "bce": binary_cross_entropy,
    "bce_logit": binary_cross_entropy,
}
"""`MODEL.LOSS_FUNC` -> what makes the loss, given the label smoothing and the weights of classes."""


def build_loss(name: str, *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> Loss:
    """The loss that `MODEL.LOSS_FUNC` names.

    Args:
        name: a key of `LOSSES`.
        label_smoothing: share of the target spread evenly over all classes, in [0, 1); for class numbers only.
        class_weights: of the K classes; None: all are 1.

    Raises:
        UserError: the name is unknown.
    """
    if name not in LOSSES:
        expected = f"one of {', '.join(LOSSES)}"
        raise UserError(where="MODEL.LOSS_FUNC", found=name, expected=expected, near=did_you_mean(name, LOSSES))
    return LOSSES[name](label_smoothing, class_weights)
