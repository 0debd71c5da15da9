"""Random erasing: a rectangle of a clip is overwritten with noise, the same in all frames.

Legend: B clips, C channels, T frames, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videovit.data.transforms.spatial import Box
from videovit.errors import UserError

# Shape of the noise for a patch (C, T, h, w); None for zeros.
NOISE_SHAPES: dict[str, Callable[[Sequence[int]], Sequence[int]] | None] = {
    "const": None,
    "rand": lambda shape: (*shape[:2], 1, 1),
    "pixel": lambda shape: shape,
}
_MAX_TRIES = 100  # draws of a rectangle until one fits, as in PySlowFast


def erase_boxes(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    prob: float,
    count: int = 1,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> list[Box]:
    """Draw the rectangles to erase in one clip.

    Args:
        height: height of the frames in pixels.
        width: width of the frames in pixels.
        rng: source of randomness.
        prob: probability that the clip is erased at all.
        count: maximum number of rectangles. The number is uniform in 1..count, and they share the area.
        area: smallest and largest fraction of the frame to erase.
        aspect: smallest and largest height / width, log-uniform.

    Returns:
        Between 0 and `count` Boxes inside the frame.

    Source: Zhong et al. (arXiv 1708.04896), with the ranges of PySlowFast and timm.
    """
    if rng.random() >= prob:
        return []
    boxes = []
    num_boxes = int(rng.integers(1, count + 1))
    for _ in range(num_boxes):
        for _ in range(_MAX_TRIES):
            pixels = rng.uniform(*area) * height * width / num_boxes
            ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
            h, w = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            # Rectangles that do not fit are drawn again, not clipped, to keep the distribution of areas.
            if 0 < h < height and 0 < w < width:
                boxes.append(Box(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w))
                break
    return boxes


def erase(x_BCTHW: Tensor, erase_seeds_B: Tensor, *, prob: float, mode: str = "pixel", count: int = 1) -> Tensor:
    """Overwrite rectangles of normalized clips, in place.

    The result for a clip depends only on its own seed, not on the rest of the batch. Rectangles are the same on every
    device; noise differs between CPU and GPU generators.

    Args:
        x_BCTHW: normalized float (B, C, T, H, W); overwritten.
        erase_seeds_B: int64 (B,), one non-negative seed per clip.
        prob: probability per clip.
        mode: "pixel": standard normal noise, fresh for every element; "rand": one such value per channel and frame;
            "const": 0, the mean color.
        count: maximum number of rectangles per clip.

    Returns:
        `x_BCTHW` itself.

    Raises:
        UserError: unknown mode.

    Source: PySlowFast, RandomErasing (cube), without `num_splits`, which exempts the first frames if AUG.RE_COUNT is
        above 1 and has no effect at the published count of 1.
    """
    if mode not in NOISE_SHAPES:
        raise UserError(where="AUG.RE_MODE", found=mode, expected=f"one of {', '.join(NOISE_SHAPES)}")
    noise_shape = NOISE_SHAPES[mode]
    height, width = x_BCTHW.shape[3:]
    for x_CTHW, seed in zip(x_BCTHW, erase_seeds_B.tolist(), strict=True):
        boxes = erase_boxes(height, width, np.random.default_rng(seed), prob=prob, count=count)
        if not boxes:
            continue
        # On the device of the batch, so noise is not copied.
        generator = torch.Generator(device=x_BCTHW.device).manual_seed(seed)
        for top, left, h, w in boxes:
            patch = x_CTHW[:, :, top : top + h, left : left + w]
            if noise_shape is None:
                patch.zero_()
                continue
            # In float32 also for half-precision clips, so that the noise is the same.
            noise = torch.empty(noise_shape(patch.shape), dtype=torch.float32, device=x_BCTHW.device).normal_(
                generator=generator
            )
            patch.copy_(noise.expand_as(patch))
    return x_BCTHW


@dataclass(frozen=True, kw_only=True)
class Erasing:
    """`erase` with fixed settings.

    Args:
        prob: probability per clip.
        mode: key of NOISE_SHAPES.
        count: maximum number of rectangles per clip.
    """

    prob: float
    mode: str = "pixel"
    count: int = 1

    def __post_init__(self) -> None:
        if self.mode not in NOISE_SHAPES:
            raise UserError(where="AUG.RE_MODE", found=self.mode, expected=f"one of {', '.join(NOISE_SHAPES)}")
        if self.count < 1:
            raise UserError(where="AUG.RE_COUNT", found=self.count, expected="at least 1")

    def __call__(self, x_BCTHW: Tensor, erase_seeds_B: Tensor) -> Tensor:
        """See `erase`."""
        return erase(x_BCTHW, erase_seeds_B, prob=self.prob, mode=self.mode, count=self.count)
