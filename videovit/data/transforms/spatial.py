"""Geometry on uint8 clips: scale, crop, flip.

Legend: T frames, H W pixels, S side of the square crop in pixels, C channels (3).

Scaling is bilinear without antialiasing and with `align_corners=False`, as in PySlowFast
(`torch.nn.functional.interpolate`), but on uint8 in channels-last order: torch's integer kernel then computes all three
channels of a pixel at once. That is three to twelve times faster than converting to float32 first. Because its weights
are fixed-point, it differs by at most one level of 255 after rounding: 0.3 on average on white noise, where rounding
alone gives 0.25.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor


class Box(NamedTuple):
    """A rectangle of whole pixels; `top` and `left` are inside it."""

    top: int
    left: int
    height: int
    width: int


def cut(frames_THWC: Tensor, box: Box) -> Tensor:
    """Crop a rectangle from every frame: a view (T, box.height, box.width, 3) of `frames_THWC`."""
    return frames_THWC[:, box.top : box.top + box.height, box.left : box.left + box.width]


def resize(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """Scale every frame to a given size, bilinearly.

    Args:
        frames_THWC: uint8 (T, H, W, 3); may be a view into a larger clip.
        height: in pixels.
        width: in pixels.

    Returns:
        uint8 (T, height, width, 3); `frames_THWC` itself if it has that size.

    Source: PySlowFast, transform.random_short_side_scale_jitter (the interpolation).
    """
    if frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    # The permuted view is in channels-last memory format, which selects the fast integer kernel.
    frames_TCHW = frames_THWC.permute(0, 3, 1, 2)
    resized = F.interpolate(frames_TCHW, size=(height, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def resize_short_side(frames_THWC: Tensor, size: int) -> Tensor:
    """Scale a clip to a shorter side of `size` pixels; the longer side is rounded down.

    Args:
        frames_THWC: uint8 (T, H, W, 3).
        size: in pixels.

    Returns:
        uint8 (T, H', W', 3) with min(H', W') == size.

    Source: PySlowFast, transform.random_short_side_scale_jitter.
    """
    height, width = frames_THWC.shape[1:3]
    if min(height, width) == size:
        return frames_THWC
    if width < height:
        return resize(frames_THWC, math.floor(height / width * size), size)
    return resize(frames_THWC, size, math.floor(width / height * size))


def random_short_side(shortest: int, longest: int, rng: np.random.Generator, *, inverse_uniform: bool = False) -> int:
    """Draw the length of the shorter side for scale jitter.

    Args:
        shortest: smallest length in pixels.
        longest: largest length in pixels.
        rng: source of randomness.
        inverse_uniform: draw 1 / length uniformly instead of the length, which favors small lengths.

    Returns:
        A length in pixels, shortest <= length <= longest.

    Source: PySlowFast, DATA.TRAIN_JITTER_SCALES and DATA.INV_UNIFORM_SAMPLE.
    """
    if inverse_uniform:
        # As published for Kinetics.
        return round(1.0 / rng.uniform(1.0 / longest, 1.0 / shortest))
    return round(rng.uniform(shortest, longest))


def _check_fits(frames_THWC: Tensor, size: int) -> None:
    height, width = frames_THWC.shape[1:3]
    if min(height, width) < size:
        raise ValueError(f"a crop of {size}x{size} pixels does not fit into frames of {width}x{height} pixels (WxH)")


def random_square(frames_THWC: Tensor, size: int, rng: np.random.Generator) -> Box:
    """Draw the place of a square crop, uniformly among all that fit.

    Args:
        frames_THWC: (T, H, W, 3).
        size: S in pixels.
        rng: source of randomness.

    Raises:
        ValueError: the frames are smaller than the crop.

    Source: PySlowFast, transform.random_crop, whose code never reaches the last row and column.
    """
    _check_fits(frames_THWC, size)
    height, width = frames_THWC.shape[1:3]
    return Box(int(rng.integers(0, height - size + 1)), int(rng.integers(0, width - size + 1)), size, size)


def uniform_square(frames_THWC: Tensor, size: int, position: int) -> Box:
    """The square crop at one of three places along the longer side, centered along the shorter side.

        wide   [0 . 1 . 2]       tall   0 top
                                        1 center
                                        2 bottom

    Args:
        frames_THWC: (T, H, W, 3).
        size: S in pixels.
        position: 0 left or top, 1 center, 2 right or bottom.

    Raises:
        ValueError: the frames are smaller than the crop, or there is no such position.

    Source: PySlowFast, transform.uniform_crop (an odd margin leaves the larger half on the left and top).
    """
    if position not in (0, 1, 2):
        raise ValueError(f"crop position {position}: expected 0 (left, top), 1 (center) or 2 (right, bottom)")
    _check_fits(frames_THWC, size)
    height, width = frames_THWC.shape[1:3]
    # Rounded up, as in PySlowFast.
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if position != 1 and height > width:
        top = 0 if position == 0 else height - size
    elif position != 1:
        left = 0 if position == 0 else width - size
    return Box(top, left, size, size)


def inception_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draw a rectangle by its fraction of the area and its aspect ratio.

    At most ten draws; if none fits, the largest centered rectangle with an allowed aspect ratio.

    Args:
        height: height of the frame in pixels.
        width: width of the frame in pixels.
        rng: source of randomness.
        area: smallest and largest fraction of the frame, uniform.
        aspect: smallest and largest width / height, log-uniform.

    Returns:
        A Box inside the frame.

    Source: Szegedy et al. (arXiv 1409.4842), section 6; PySlowFast, transform.random_resized_crop.
    """
    # Ten draws, as published.
    for _ in range(10):
        # Area and aspect ratio are independent.
        pixels = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
    # The largest rectangle of an allowed shape, like a center crop.
    w, h = width, height
    if width / height < aspect[0]:
        h = round(width / aspect[0])
    elif width / height > aspect[1]:
        w = round(height * aspect[1])
    return Box((height - h) // 2, (width - w) // 2, h, w)


def horizontal_flip(frames_THWC: Tensor) -> Tensor:
    """Mirror every frame, left to right.

    Args:
        frames_THWC: (T, H, W, 3).

    Returns:
        A copy, same shape and dtype.
    """
    return frames_THWC.flip(2)
