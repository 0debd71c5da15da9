"""Random erasing: a rectangle of a clip overwritten with noise, the same rectangle in all frames.

Legend: B clips, C channels, T frames, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videovit.data.transforms.spatial import Box

MODES = ("const", "rand", "pixel")
_MAX_TRIES = 100  # draws of a rectangle until one fits; PySlowFast's number


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
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        rng: source of randomness.
        prob: probability that the clip is erased at all.
        count: largest number of rectangles; the number is uniform in 1..count and each gets its share of the area.
        area: smallest and largest share of the frame that is erased.
        aspect: smallest and largest height / width, log-uniform.

    Returns:
        Between 0 and `count` Boxes inside the frame.

    Source: Zhong et al. (arXiv 1708.04896); ranges as in PySlowFast and timm.
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
            if 0 < h < height and 0 < w < width:
                boxes.append(Box(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w))
                break
    return boxes


def erase(x_BCTHW: Tensor, erase_seeds_B: Tensor, *, prob: float, mode: str = "pixel", count: int = 1) -> Tensor:
    """Overwrite rectangles of normalised clips, in place.

    What happens to a clip depends on its own seed only, not on its neighbours or its place in the batch. Rectangles
    are the same on every device; the noise comes from the generator of the device.

    Args:
        x_BCTHW: normalised float (B, C, T, H, W); overwritten.
        erase_seeds_B: int64 (B,), one seed per clip, at least 0.
        prob: probability per clip.
        mode: "pixel": standard normal noise, fresh for every element; "rand": one such value per channel and frame;
            "const": 0, the mean colour.
        count: largest number of rectangles per clip.

    Returns:
        `x_BCTHW` itself.

    Raises:
        ValueError: unknown mode.

    Source: PySlowFast, RandomErasing (cube). Its `num_splits`, which spares the first frames when AUG.RE_COUNT is
        above 1, is left out: with the published count of 1 it does nothing.
    """
    if mode not in MODES:
        raise ValueError(f"AUG.RE_MODE is {mode!r}: expected one of {', '.join(MODES)}")
    num_channels, num_frames, height, width = x_BCTHW.shape[1:]
    for x_CTHW, seed in zip(x_BCTHW, erase_seeds_B.tolist(), strict=True):
        boxes = erase_boxes(height, width, np.random.default_rng(seed), prob=prob, count=count)
        if not boxes:
            continue
        generator = torch.Generator(device=x_BCTHW.device).manual_seed(seed)
        for top, left, h, w in boxes:
            patch = x_CTHW[:, :, top : top + h, left : left + w]
            if mode == "const":
                patch.zero_()
                continue
            shape = patch.shape if mode == "pixel" else (num_channels, num_frames, 1, 1)
            noise = torch.empty(shape, dtype=torch.float32, device=x_BCTHW.device).normal_(generator=generator)
            patch.copy_(noise.expand_as(patch))
    return x_BCTHW


@dataclass(frozen=True, kw_only=True)
class Erasing:
    """`erase` with its settings held fast.

    Args:
        prob: probability per clip.
        mode: one of MODES.
        count: largest number of rectangles per clip.
    """

    prob: float
    mode: str = "pixel"
    count: int = 1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"AUG.RE_MODE is {self.mode!r}: expected one of {', '.join(MODES)}")
        if self.count < 1:
            raise ValueError(f"AUG.RE_COUNT is {self.count}: expected at least 1")

    def __call__(self, x_BCTHW: Tensor, erase_seeds_B: Tensor) -> Tensor:
        """See `erase`."""
        return erase(x_BCTHW, erase_seeds_B, prob=self.prob, mode=self.mode, count=self.count)
