"""Colour jitter: brightness, contrast and saturation changed by random factors, alike in all frames of a clip.

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
    """Three blends in random order, each with a factor of its own.

    Args:
        strength: factors are uniform between 1 - strength (at least 0) and 1 + strength.
        backend: key of `randaugment.APPLY`.

    Source: torchvision, ColorJitter, as timm and PySlowFast call it for images (no change of hue).
    """

    strength: float
    backend: str = "fast"

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """Draw what happens to a clip: the three operations with their factors, in order."""
        order = rng.permutation(len(NAMES))
        factors = rng.uniform(max(0.0, 1.0 - self.strength), 1.0 + self.strength, len(NAMES))
        return [Step(NAMES[i], float(factors[i]), Image.Resampling.NEAREST) for i in order]

    def apply(self, frames_THWC: Tensor, plan: Sequence[Step], window: Box) -> Tensor:
        """Change the colours of a clip as planned.

        Args:
            frames_THWC: uint8 (T, H, W, 3).
            plan: what `draw` gave.
            window: which part of the frames is wanted.

        Returns:
            uint8 (T, h, w, 3), that part.
        """
        return APPLY[self.backend](frames_THWC, plan, window)
