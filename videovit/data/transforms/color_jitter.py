"""Color jitter: brightness, contrast and saturation changed by random factors, the same for all frames of a clip.

`ClipColor` changes hue too, and sometimes makes a clip gray.

Legend: T frames, H W pixels of the frame, h w pixels of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from videovit.data.transforms.pil_operations import Step
from videovit.data.transforms.randaugment import APPLY
from videovit.data.transforms.spatial import Box

NAMES = ("Brightness", "Contrast", "Color")


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness, contrast and saturation in random order, each with its own factor.

    Args:
        strength: factors are uniform in [max(0, 1 - strength), 1 + strength].
        backend: key of `randaugment.APPLY`.

    Source: torchvision, ColorJitter, as timm and PySlowFast use it for images (without hue).
    """

    strength: float
    backend: str = "fast"

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """Draw the three operations of a clip, with their factors, in order."""
        # The operations do not commute, so their order is random, too.
        order = rng.permutation(len(NAMES))
        factors = rng.uniform(max(0.0, 1.0 - self.strength), 1.0 + self.strength, len(NAMES))
        # Blends do not resample; the filter is ignored.
        return [Step(NAMES[i], float(factors[i]), Image.Resampling.NEAREST) for i in order]

    def apply(self, frames_THWC: Tensor, plan: Sequence[Step], window: Box) -> Tensor:
        """Apply drawn operations to a clip.

        Args:
            frames_THWC: uint8 (T, H, W, 3).
            plan: result of `draw`.
            window: part of the frames to return.

        Returns:
            uint8 (T, h, w, 3), the window of the result.
        """
        return APPLY[self.backend](frames_THWC, plan, window)


@dataclass(frozen=True, kw_only=True)
class ClipColor:
    """Gray clips, then brightness, contrast, saturation and hue in random order; contrast is that of the whole clip.

    Args:
        limits: factors of brightness, contrast and saturation are uniform in [max(0, 1 - limit), 1 + limit].
        hue: largest change, of a full turn.
        gray_prob: probability of a gray clip.

    Source: PySlowFast's DATA.SSL_COLOR_JITTER, without DATA.SSL_MOCOV2_AUG.
    """

    limits: tuple[float, float, float]
    hue: float
    gray_prob: float

    def __call__(self, frames_THWC: Tensor, rng: np.random.Generator) -> Tensor:
        """Change a clip.

        Args:
            frames_THWC: uint8 (T, H, W, 3).
            rng: source of all randomness.

        Returns:
            uint8, the same shape.
        """
        is_gray = rng.random() < self.gray_prob
        factors = [float(rng.uniform(max(0.0, 1.0 - limit), 1.0 + limit)) for limit in self.limits]
        turn = float(rng.uniform(-self.hue, self.hue))
        T, H, W, _ = frames_THWC.shape
        # One tall picture, so that contrast is relative to the mean of the clip.
        picture = frames_THWC.permute(3, 0, 1, 2).reshape(3, T * H, W)
        if is_gray:
            picture = functional.rgb_to_grayscale(picture, num_output_channels=3)
        changes: tuple[Callable[[Tensor], Tensor], ...] = (
            lambda x: functional.adjust_brightness(x, factors[0]),
            lambda x: functional.adjust_contrast(x, factors[1]),
            lambda x: functional.adjust_saturation(x, factors[2]),
            lambda x: functional.adjust_hue(x, turn),
        )
        for i in rng.permutation(len(changes)):
            picture = changes[i](picture)
        return picture.reshape(3, T, H, W).permute(1, 2, 3, 0)
