"""RandAugment's operations with PIL, picture by picture: the published arithmetic.

Legend: T frames, H W pixels of the frame, h w pixels of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from videovit.data.transforms.spatial import Box, cut

FILL = (128, 128, 128)  # colour of what moves into the frame from outside

Picture = Image.Image
Operation = Callable[[Picture, float, Image.Resampling], Picture]


class Step(NamedTuple):
    """One operation on a clip.

    Attributes:
        name: key of OPERATIONS.
        argument: see `randaugment.level_to_argument`.
        resample: for the operations that move pixels.
    """

    name: str
    argument: float
    resample: Image.Resampling


def _affine(picture: Picture, matrix: tuple[float, ...], resample: Image.Resampling) -> Picture:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=FILL)


def _solarize_add(picture: Picture, amount: float, _: Image.Resampling) -> Picture:
    table = [min(255, value + int(amount)) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


def _posterize(picture: Picture, num_bits: float, _: Image.Resampling) -> Picture:
    # Not ImageOps.posterize: recent Pillow refuses 0 bits, which the highest level asks for; 0 bits are black.
    mask = 256 - 2 ** (8 - int(num_bits))
    return picture.point([value & mask for value in range(256)] * 3)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda picture, _, __: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, _, __: ImageOps.equalize(picture),
    "Invert": lambda picture, _, __: ImageOps.invert(picture),
    "Rotate": lambda picture, degrees, how: picture.rotate(degrees, resample=how, fillcolor=FILL),
    "Posterize": _posterize,
    "Solarize": lambda picture, threshold, _: ImageOps.solarize(picture, int(threshold)),
    "SolarizeAdd": _solarize_add,
    "Color": lambda picture, factor, _: ImageEnhance.Color(picture).enhance(factor),
    "Contrast": lambda picture, factor, _: ImageEnhance.Contrast(picture).enhance(factor),
    "Brightness": lambda picture, factor, _: ImageEnhance.Brightness(picture).enhance(factor),
    "Sharpness": lambda picture, factor, _: ImageEnhance.Sharpness(picture).enhance(factor),
    "ShearX": lambda picture, factor, how: _affine(picture, (1, factor, 0, 0, 1, 0), how),
    "ShearY": lambda picture, factor, how: _affine(picture, (1, 0, 0, factor, 1, 0), how),
    "TranslateXRel": lambda picture, share, how: _affine(picture, (1, 0, share * picture.width, 0, 1, 0), how),
    "TranslateYRel": lambda picture, share, how: _affine(picture, (1, 0, 0, 0, 1, share * picture.height), how),
}


def apply_steps(frames_THWC: Tensor, plan: Sequence[Step], window: Box) -> Tensor:
    """Apply operations to every frame of a clip and cut a window out of the result.

    Args:
        frames_THWC: uint8 (T, H, W, 3).
        plan: in order.
        window: which part of the result is wanted.

    Returns:
        uint8 (T, h, w, 3); a view of `frames_THWC` when the plan is empty.
    """
    if plan:
        pictures = [Image.fromarray(frame) for frame in frames_THWC.contiguous().numpy()]
        for step in plan:
            operation = OPERATIONS[step.name]
            pictures = [operation(picture, step.argument, step.resample) for picture in pictures]
        frames_THWC = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return cut(frames_THWC, window)
