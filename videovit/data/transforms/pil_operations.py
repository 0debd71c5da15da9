"""RandAugment's operations with PIL, frame by frame: the published arithmetic.

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

# timm's default fill.
FILL = (128, 128, 128)

Picture = Image.Image


class Step(NamedTuple):
    """One operation on a clip.

    Attributes:
        name: key of OPERATIONS.
        argument: see `randaugment.level_to_argument`.
        resample: filter of the operations that move pixels.
        fill: color that these operations move into the frame.
    """

    name: str
    argument: float
    resample: Image.Resampling
    fill: tuple[int, int, int] = FILL


Operation = Callable[[Picture, Step], Picture]


def _affine(picture: Picture, step: Step, matrix: tuple[float, ...]) -> Picture:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample=step.resample, fillcolor=step.fill)


def _solarize_add(picture: Picture, step: Step) -> Picture:
    # Levels of 128 and above stay, as in timm.
    table = [min(255, value + int(step.argument)) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


def _posterize(picture: Picture, step: Step) -> Picture:
    # Not ImageOps.posterize: recent Pillow rejects 0 bits, which the highest level produces (all black).
    mask = 256 - 2 ** (8 - int(step.argument))
    return picture.point([value & mask for value in range(256)] * 3)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda picture, step: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, step: ImageOps.equalize(picture),
    "Invert": lambda picture, step: ImageOps.invert(picture),
    "Rotate": lambda picture, step: picture.rotate(step.argument, resample=step.resample, fillcolor=step.fill),
    "Posterize": _posterize,
    "Solarize": lambda picture, step: ImageOps.solarize(picture, int(step.argument)),
    "SolarizeAdd": _solarize_add,
    "Color": lambda picture, step: ImageEnhance.Color(picture).enhance(step.argument),
    "Contrast": lambda picture, step: ImageEnhance.Contrast(picture).enhance(step.argument),
    "Brightness": lambda picture, step: ImageEnhance.Brightness(picture).enhance(step.argument),
    "Sharpness": lambda picture, step: ImageEnhance.Sharpness(picture).enhance(step.argument),
    "ShearX": lambda picture, step: _affine(picture, step, (1, step.argument, 0, 0, 1, 0)),
    "ShearY": lambda picture, step: _affine(picture, step, (1, 0, 0, step.argument, 1, 0)),
    "TranslateXRel": lambda picture, step: _affine(picture, step, (1, 0, step.argument * picture.width, 0, 1, 0)),
    "TranslateYRel": lambda picture, step: _affine(picture, step, (1, 0, 0, 0, 1, step.argument * picture.height)),
}


def apply_steps(frames_THWC: Tensor, plan: Sequence[Step], window: Box) -> Tensor:
    """Apply operations to every frame of a clip and cut a window out of the result.

    Args:
        frames_THWC: uint8 (T, H, W, 3).
        plan: the operations in order.
        window: part of the result to return.

    Returns:
        uint8 (T, h, w, 3); a view of `frames_THWC` if the plan is empty.
    """
    if plan:
        pictures = [Image.fromarray(frame) for frame in frames_THWC.contiguous().numpy()]
        for step in plan:
            operation = OPERATIONS[step.name]
            pictures = [operation(picture, step) for picture in pictures]
        # PIL has no clips, so frames are processed one by one with the same arguments.
        frames_THWC = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return cut(frames_THWC, window)
