"""Color jitter: brightness, contrast and saturation changed by random factors, the same for all frames of a clip.

Legend: T frames, H W pixels of the frame, h w pixels of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

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
