"""MixUp and CutMix: each clip is mixed with its counterpart in the flipped batch (first with last, and so on).

Applied to whole batches by the objective of classification (`engine/objectives/classification.py`).

Legend: B clips, C channels, T frames, H W pixels, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videovit.data.transforms.spatial import Box
from videovit.errors import UserError


def smooth_one_hot(labels_B: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Turn class numbers into target distributions.

    Args:
        labels_B: int64 (B,), in 0..K-1.
        num_classes: K.
        smoothing: s; every class gets s / K, and the true class 1 - s in addition.

    Returns:
        float32 (B, K), rows sum to 1.
    """
    off = smoothing / num_classes
    targets_BK = torch.full((len(labels_B), num_classes), off, device=labels_B.device)
    return targets_BK.scatter_(1, labels_B.view(-1, 1), 1.0 - smoothing + off)


def mix_targets(labels_B: Tensor, num_classes: int, lam: float, smoothing: float = 0.0) -> Tensor:
    """Mix the targets of a batch with those of the flipped batch.

    Args:
        labels_B: int64 (B,).
        num_classes: K.
        lam: weight of the clip's own label.
        smoothing: see `smooth_one_hot`.

    Returns:
        float32 (B, K), rows sum to 1.
    """
    own_BK = smooth_one_hot(labels_B, num_classes, smoothing)
    return own_BK * lam + own_BK.flip(0) * (1.0 - lam)


def cutmix_box(height: int, width: int, lam: float, rng: np.random.Generator) -> tuple[Box, float]:
    """Draw the rectangle that CutMix exchanges.

    Its sides are sqrt(1 - lam) of the frame's, its center is uniform, and it is clipped to the frame.

    Args:
        height: height of the frames in pixels.
        width: width of the frames in pixels.
        lam: fraction of the frame to keep, before clipping.
        rng: source of randomness.

    Returns:
        The Box, which may be empty, and the fraction of the frame that is kept.

    Source: CutMix (arXiv 1905.04899), eq. 2; PySlowFast (half sides rounded down) and its corrected lambda.
    """
    half_h = int(height * math.sqrt(1.0 - lam)) // 2
    half_w = int(width * math.sqrt(1.0 - lam)) // 2
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    top, bottom = max(y - half_h, 0), min(y + half_h, height)
    left, right = max(x - half_w, 0), min(x + half_w, width)
    box = Box(top, left, bottom - top, right - left)
    # Clipping makes the rectangle smaller, so the labels need the actual area.
    return box, 1.0 - box.height * box.width / (height * width)


def mix_clips(x_BCTHW: Tensor, lam: float) -> Tensor:
    """MixUp: average each clip with its counterpart, in place.

    Args:
        x_BCTHW: float (B, C, T, H, W); overwritten.
        lam: weight of the clip itself.

    Returns:
        `x_BCTHW` itself.

    Source: MixUp (arXiv 1710.09412).
    """
    # flip copies, so clips that are already mixed are not used again.
    counterparts = x_BCTHW.flip(0).mul_(1.0 - lam)
    return x_BCTHW.mul_(lam).add_(counterparts)


def paste_clips(x_BCTHW: Tensor, box: Box) -> Tensor:
    """CutMix: replace a rectangle of each clip by its counterpart's, in all frames, in place.

    Args:
        x_BCTHW: (B, C, T, H, W); overwritten.
        box: inside the frame.

    Returns:
        `x_BCTHW` itself.
    """
    patch = x_BCTHW[..., box.top : box.top + box.height, box.left : box.left + box.width]
    # flip copies before the patch is overwritten.
    patch.copy_(patch.flip(0))
    return x_BCTHW


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """MixUp or CutMix, with one choice and one lambda per batch.

    Args:
        mixup_alpha: lambda of MixUp is drawn from Beta(alpha, alpha); 0 disables MixUp.
        cutmix_alpha: the same for CutMix.
        prob: probability that a batch is mixed at all.
        switch_prob: probability of CutMix if both are enabled.
        label_smoothing: s; every class gets s / K.
        num_classes: K.

    Source: PySlowFast, MixUp. (The paper mixes half of the clips; the published code draws once per batch.)
    """

    mixup_alpha: float
    cutmix_alpha: float
    num_classes: int
    prob: float = 1.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if max(self.mixup_alpha, self.cutmix_alpha) <= 0 or min(self.mixup_alpha, self.cutmix_alpha) < 0:
            raise UserError(
                f"found MIXUP.ALPHA {self.mixup_alpha} and MIXUP.CUTMIX_ALPHA {self.cutmix_alpha}",
                expected="numbers >= 0, at least one of them > 0",
                hint="MIXUP.ENABLE False disables both",
            )

    def draw(self, rng: np.random.Generator) -> tuple[float, bool]:
        """Draw the mixing of a batch.

        Args:
            rng: source of randomness.

        Returns:
            lambda (1 for no mixing), and whether to use CutMix.
        """
        if rng.random() >= self.prob:
            return 1.0, False
        # Without a choice, no random number is drawn.
        cut = self.mixup_alpha == 0 or (self.cutmix_alpha > 0 and bool(rng.random() < self.switch_prob))
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        return float(rng.beta(alpha, alpha)), cut

    def __call__(self, x_BCTHW: Tensor, labels_B: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mix a batch with the flipped batch.

        If B is odd, the clip in the middle is its own counterpart and does not change.

        Args:
            x_BCTHW: normalized float (B, C, T, H, W); overwritten.
            labels_B: int64 (B,).
            rng: source of randomness.

        Returns:
            `x_BCTHW` itself, and the targets, float32 (B, K).
        """
        lam, cut = self.draw(rng)
        if cut and lam < 1.0:
            box, lam = cutmix_box(x_BCTHW.shape[-2], x_BCTHW.shape[-1], lam, rng)
            paste_clips(x_BCTHW, box)
        elif lam < 1.0:
            mix_clips(x_BCTHW, lam)
        return x_BCTHW, mix_targets(labels_B, self.num_classes, lam, self.label_smoothing)
