"""Still images (T = 1): the geometry of the ImageNet recipe, with Pillow's resampling as published.

Unlike a clip, an image is cropped first and augmented afterwards, and it is scaled with antialiasing (bicubic).

Legend: H W pixels, S side of the square crop in pixels, C channels (3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from videovit.data.transforms import spatial
from videovit.data.transforms.randaugment import Augment


def resize_box(
    image_1HWC: Tensor, box: spatial.Box, height: int, width: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Tensor:
    """Crop a rectangle of an image and scale it, with antialiasing.

    Args:
        image_1HWC: uint8 (1, H, W, 3).
        box: inside the image; pixels around it have no influence.
        height, width: size of the result in pixels.
        resample: filter of Pillow.

    Returns:
        uint8 (1, height, width, 3).
    """
    # Cropped before scaling, so pixels outside the box have no influence.
    picture = Image.fromarray(np.ascontiguousarray(spatial.cut(image_1HWC, box)[0].numpy())).resize(
        (width, height), resample
    )
    return torch.from_numpy(np.array(picture))[None]


@dataclass(frozen=True, kw_only=True)
class ImageTrainTransform:
    """Random augmentation of one image: Inception crop, flip, then RandAugment.

    Args:
        crop_size: S in pixels.
        area: smallest and largest fraction of the image for the Inception crop.
        aspect: smallest and largest aspect ratio of the crop.
        flip_prob: probability of mirroring.
        resample: filters of Pillow; one is drawn for each image.
        augment: RandAugment, color jitter, or None.

    Source: PySlowFast's ImageNet recipe, which follows timm (order of the steps).
    """

    crop_size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    resample: tuple[Image.Resampling, ...] = (Image.Resampling.BICUBIC,)
    augment: Augment | None = None

    def __call__(self, image_1HWC: Tensor, rng: np.random.Generator) -> Tensor:
        """Augment an image.

        Args:
            image_1HWC: uint8 (1, H, W, 3).
            rng: source of all randomness.

        Returns:
            uint8 (1, S, S, 3), contiguous.
        """
        height, width = image_1HWC.shape[1:3]
        box = spatial.inception_box(height, width, rng, area=self.area, aspect=self.aspect)
        resample = self.resample[int(rng.integers(len(self.resample)))]
        image = resize_box(image_1HWC, box, self.crop_size, self.crop_size, resample)
        if self.flip_prob > 0 and rng.random() < self.flip_prob:
            image = spatial.horizontal_flip(image)
        if self.augment is not None:
            # Images are cropped first, so RandAugment sees the whole crop.
            whole = spatial.Box(0, 0, self.crop_size, self.crop_size)
            image = self.augment.apply(image.contiguous(), self.augment.draw(rng), whole)
        return image.contiguous()


@dataclass(frozen=True, kw_only=True)
class ImageEvalTransform:
    """Center crop of an image, scaled so that the crop is `crop_ratio` of its shorter side.

    Args:
        crop_size: S in pixels.
        crop_ratio: S / shorter side, in (0, 1].

    Source: PySlowFast, DATA.IN_VAL_CROP_RATIO (0.875: 224 of 256), with torchvision's rounding.
    """

    crop_size: int
    crop_ratio: float = 0.875

    def __call__(self, image_1HWC: Tensor) -> list[Tensor]:
        """Crop an image.

        Args:
            image_1HWC: uint8 (1, H, W, 3).

        Returns:
            One tensor, uint8 (1, S, S, 3), contiguous.
        """
        height, width = image_1HWC.shape[1:3]
        # torchvision truncates sizes and rounds offsets.
        short_side = int(self.crop_size / self.crop_ratio)
        if height < width:
            size = short_side, int(short_side * width / height)
        else:
            size = int(short_side * height / width), short_side
        scaled = resize_box(image_1HWC, spatial.Box(0, 0, height, width), *size)
        top, left = (round((side - self.crop_size) / 2) for side in size)
        return [scaled[:, top : top + self.crop_size, left : left + self.crop_size].contiguous()]
