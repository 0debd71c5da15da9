"""Transforms of clips, built from the config: training geometry, evaluation geometry, and preparation of batches.

Legend: B clips, C channels, T frames, H W pixels, S side of the square crop in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videovit.config import Config
from videovit.data.catalog import DatasetSpec, find_dataset
from videovit.data.transforms import spatial
from videovit.data.transforms.boxes import Placement
from videovit.data.transforms.color_jitter import ClipColor, ColorJitter
from videovit.data.transforms.erasing import Erasing
from videovit.data.transforms.image import ImageEvalTransform, ImageTrainTransform
from videovit.data.transforms.mixup import Mixup
from videovit.data.transforms.randaugment import RESAMPLING, Augment, RandAugment, parse_randaugment
from videovit.errors import UserError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601, as in Pillow and OpenCV)."""


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Random augmentation of one clip: RandAugment or color jitter, then crop, then flip.

    Args:
        crop_size: S in pixels.
        short_side: smallest and largest short side in pixels, for scale jitter (without `area`).
        inverse_uniform: draw the inverse of the short side uniformly.
        area: smallest and largest fraction of the frame for the Inception crop; None for scale jitter and random crop.
        aspect: smallest and largest aspect ratio of the Inception crop.
        flip_prob: probability of mirroring the clip.
        augment: RandAugment, color jitter, or None.
        color: comes before all of this; None leaves colors as they are.
    """

    crop_size: int
    short_side: tuple[int, int]
    inverse_uniform: bool = False
    area: tuple[float, float] | None = None
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    augment: Augment | None = None
    color: ClipColor | None = None

    def __call__(self, frames_THWC: Tensor, rng: np.random.Generator) -> Tensor:
        """Augment a clip, all its frames alike.

        Args:
            frames_THWC: uint8 (T, H, W, 3).
            rng: source of all randomness.

        Returns:
            uint8 (T, S, S, 3), contiguous.
        """
        return self.placed(frames_THWC, rng)[0]

    def placed(self, frames_THWC: Tensor, rng: np.random.Generator) -> tuple[Tensor, Placement]:
        """Like `__call__`, with the placement of the frame in the crop (without what RandAugment moves)."""
        height, width = frames_THWC.shape[1:3]
        side = self.crop_size
        if self.color is not None:
            frames_THWC = self.color(frames_THWC, rng)
        # Drawn first, so that the augmentation does not depend on the crop.
        plan = [] if self.augment is None else self.augment.draw(rng)
        window = spatial.Box(0, 0, height, width)
        if self.area is not None:
            # Drawn before the augmentation is applied, so that only the pixels in the crop have to be augmented.
            window = spatial.inception_box(height, width, rng, area=self.area, aspect=self.aspect)
        if self.augment is not None:
            frames = self.augment.apply(frames_THWC, plan, window)
        else:
            frames = spatial.cut(frames_THWC, window)
        if self.area is not None:
            # The crop is scaled to a square, which changes its aspect ratio.
            frames = spatial.resize(frames, side, side)
            x, y = side / window.width, side / window.height
            placement = Placement(width * x, height * y, -window.left * x, -window.top * y)
        else:
            size = spatial.random_short_side(*self.short_side, rng, inverse_uniform=self.inverse_uniform)
            frames = spatial.resize_short_side(frames, size)
            square = spatial.random_square(frames, side, rng)
            placement = Placement(frames.shape[2], frames.shape[1]).cropped(square.top, square.left)
            frames = spatial.cut(frames, square)
        # No number is drawn if flipping is disabled.
        if self.flip_prob > 0 and rng.random() < self.flip_prob:
            frames, placement = spatial.horizontal_flip(frames), placement.mirrored(side)
        # Clips travel between processes; a view would carry the whole video.
        return frames.contiguous(), placement


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """The fixed crops of one clip, which is scaled once.

    Args:
        short_side: length of the shorter side before the crop, in pixels.
        crop_size: S in pixels.
        num_crops: 1 (center) or 3 (left, center, right; in tall frames top, center, bottom).
    """

    short_side: int
    crop_size: int
    num_crops: int

    def __post_init__(self) -> None:
        if self.num_crops not in (1, 3):
            raise UserError(where="TEST.NUM_SPATIAL_CROPS", found=self.num_crops, expected="1 or 3")
        if self.short_side < self.crop_size:
            raise UserError(
                f"the crop of {self.crop_size} pixels is larger than the short side of {self.short_side} pixels",
                hint="Raise DATA.TRAIN_JITTER_SCALES or DATA.TEST_SHORT_SIDE, or lower DATA.TEST_CROP_SIZE",
            )

    def __call__(self, frames_THWC: Tensor) -> list[Tensor]:
        """Crop a clip.

        Args:
            frames_THWC: uint8 (T, H, W, 3).

        Returns:
            `num_crops` tensors, uint8 (T, S, S, 3), contiguous, in the order of their positions.
        """
        return [frames for frames, _ in self.placed(frames_THWC)]

    def placed(self, frames_THWC: Tensor) -> list[tuple[Tensor, Placement]]:
        """Like `__call__`, with the placement of the frame in each crop."""
        # Scaled once for all crops.
        scaled, side = spatial.resize_short_side(frames_THWC, self.short_side), self.crop_size
        placement = Placement(scaled.shape[2], scaled.shape[1])
        crops = []
        for position in (1,) if self.num_crops == 1 else (0, 1, 2):
            square = spatial.uniform_square(scaled, side, position)
            crops.append((spatial.cut(scaled, square).contiguous(), placement.cropped(square.top, square.left)))
        return crops


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Normalization and random erasing of a batch, on the device of the batch.

    Args:
        mean: mean of each channel, for values in [0, 1] and in the channel order of the model.
        std: standard deviation of each channel.
        reverse_channels: swap RGB and BGR first.
        gray: turn RGB into one channel first (`LUMA`).
        erasing: applied last, or None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverse_channels: bool = False
    gray: bool = False
    erasing: Erasing | None = None

    def __call__(self, frames_BTHWC: Tensor, erase_seeds_B: Tensor | None = None) -> Tensor:
        """Convert stored frames to the input of a model.

        Args:
            frames_BTHWC: uint8 (B, T, H, W, 3).
            erase_seeds_B: int64 (B,), one seed per clip; required for erasing.

        Returns:
            float32 (B, C, T, H, W) on the same device, contiguous; C is 1 for gray, else 3.

        Raises:
            ValueError: erasing is enabled, but there are no seeds.
        """
        frames_BCTHW = frames_BTHWC.permute(0, 4, 1, 2, 3)
        if self.gray:
            red, green, blue = frames_BTHWC.float().unbind(-1)
            frames_BCTHW = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)
        elif self.reverse_channels:
            frames_BCTHW = frames_BCTHW.flip(1)
        # (x / 255 - mean) / std as one multiplication and one addition.
        std = torch.tensor(self.std, dtype=torch.float64)
        scale = (1.0 / (255.0 * std)).float().to(frames_BTHWC.device).view(-1, 1, 1, 1)
        shift = (torch.tensor(self.mean, dtype=torch.float64) / std).float().to(frames_BTHWC.device).view(-1, 1, 1, 1)
        x_BCTHW = frames_BCTHW.to(torch.float32, memory_format=torch.contiguous_format).mul_(scale).sub_(shift)
        if self.erasing is None:
            return x_BCTHW
        if erase_seeds_B is None:
            raise ValueError("random erasing needs one seed per clip (erase_seeds_B), but got none")
        return self.erasing(x_BCTHW, erase_seeds_B)


def _pair(values: Sequence[float], default: tuple[float, float], key: str) -> tuple[float, float]:
    if not values:
        return default
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise UserError(where=key, found=list(values), expected="two numbers above 0 in ascending order")
    return float(values[0]), float(values[1])


def build_augment(cfg: Config) -> Augment | None:
    """Build RandAugment or color jitter from the config.

    Args:
        cfg: section AUG.

    Returns:
        With AUG.ENABLE, RandAugment if AUG.AA_TYPE is set, else color jitter if AUG.COLOR_JITTER is above 0.

    Raises:
        UserError: AUG.AA_TYPE is malformed.

    Source: timm, create_transform, which PySlowFast uses for images: RandAugment replaces color jitter.
    """
    aug = cfg.AUG
    if aug.ENABLE and aug.AA_TYPE:
        return parse_randaugment(aug.AA_TYPE, interpolation=aug.INTERPOLATION, backend=aug.BACKEND)
    if aug.ENABLE and aug.COLOR_JITTER:
        return ColorJitter(strength=aug.COLOR_JITTER, backend=aug.BACKEND)
    return None


def build_train_transform(cfg: Config) -> TrainTransform:
    """Build the training geometry and augmentation from the config.

    The Inception crop is used if DATA.TRAIN_JITTER_SCALES_RELATIVE or DATA.TRAIN_JITTER_ASPECT_RELATIVE is set (the
    other defaults to [0.08, 1] or [3/4, 4/3]), otherwise DATA.TRAIN_JITTER_SCALES and a random crop.

    Args:
        cfg: sections DATA and AUG.

    Returns:
        A TrainTransform.

    Raises:
        UserError: a value is invalid.

    Source: PySlowFast, utils.spatial_sampling and Kinetics._aug_frame (order of the steps).
    """
    scales, aspects = cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE, cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE
    area = None
    if scales or aspects:
        # Either key switches to the Inception crop, as in PySlowFast.
        area = _pair(scales, (0.08, 1.0), "DATA.TRAIN_JITTER_SCALES_RELATIVE")
    return TrainTransform(
        crop_size=cfg.DATA.TRAIN_CROP_SIZE,
        short_side=(cfg.DATA.TRAIN_JITTER_SCALES[0], cfg.DATA.TRAIN_JITTER_SCALES[1]),
        inverse_uniform=cfg.DATA.INV_UNIFORM_SAMPLE,
        area=area,
        aspect=_pair(aspects, (3 / 4, 4 / 3), "DATA.TRAIN_JITTER_ASPECT_RELATIVE"),
        flip_prob=0.5 if cfg.DATA.RANDOM_FLIP else 0.0,
        augment=build_augment(cfg),
        color=build_clip_color(cfg),
    )


def build_clip_color(cfg: Config) -> ClipColor | None:
    """`ClipColor` from the section DATA; None unless DATA.SSL_COLOR_JITTER is set."""
    data = cfg.DATA
    if not data.SSL_COLOR_JITTER:
        return None
    return ClipColor(limits=data.SSL_COLOR_BRI_CON_SAT, hue=data.SSL_COLOR_HUE, gray_prob=data.COLOR_RND_GRAYSCALE)


def build_eval_transform(cfg: Config, num_crops: int, *, crop_size: int = 0) -> EvalTransform:
    """Build the evaluation geometry from the config.

    One crop is the center of a short side of DATA.TRAIN_JITTER_SCALES[0]; three crops use a short side of
    DATA.TEST_CROP_SIZE, so that they cover the longer side. DATA.TEST_SHORT_SIDE above 0 overrides both.

    Args:
        cfg: section DATA.
        num_crops: 1 or 3.
        crop_size: S in pixels; 0 for DATA.TEST_CROP_SIZE.

    Returns:
        An EvalTransform.

    Raises:
        UserError: another number of crops, or a crop larger than the short side.

    Source: PySlowFast, Kinetics.__getitem__ (test). The MViT paper scales to 256 for three crops, too.
    """
    short_side = cfg.DATA.TEST_SHORT_SIDE
    if short_side <= 0:
        short_side = cfg.DATA.TRAIN_JITTER_SCALES[0] if num_crops == 1 else cfg.DATA.TEST_CROP_SIZE
    return EvalTransform(short_side=short_side, crop_size=crop_size or cfg.DATA.TEST_CROP_SIZE, num_crops=num_crops)


def build_preparation(cfg: Config, train: bool, spec: DatasetSpec | None = None) -> Preparation:
    """Build normalization, and random erasing for training, from the config.

    Args:
        cfg: sections DATA, AUG and AVA, and the data set (for its order of channels in PySlowFast).
        train: whether random erasing applies (if AUG.ENABLE is True and AUG.RE_PROB is above 0).
        spec: the row of the data set, if already resolved.

    Returns:
        A Preparation.
    """
    # Erasing is part of the preparation, because its noise has the statistics of normalized clips.
    erasing = None
    if train and cfg.AUG.ENABLE and cfg.AUG.RE_PROB > 0:
        erasing = Erasing(prob=cfg.AUG.RE_PROB, mode=cfg.AUG.RE_MODE, count=cfg.AUG.RE_COUNT)
    spec = find_dataset(cfg.TRAIN.DATASET if train else cfg.TEST.DATASET) if spec is None else spec
    reverse = cfg.DATA.REVERSE_INPUT_CHANNEL and not cfg.DETECTION.ENABLE
    order = slice(None, None, -1 if reverse else 1)  # PySlowFast normalizes first and reverses afterwards
    gray = cfg.DATA.INPUT_CHANNEL_NUM[0] == 1
    # Detectors normalize images themselves, as torchvision's do.
    mean, std = ((0.0,), (1.0,)) if spec.evaluation == "objects" else (cfg.DATA.MEAN, cfg.DATA.STD)
    return Preparation(
        mean=mean[:1] if gray else mean[order],
        std=std[:1] if gray else std[order],
        gray=gray,
        reverse_channels=cfg.AVA.BGR if cfg.DETECTION.ENABLE else reverse and not spec.bgr_in_pyslowfast,
        erasing=erasing,
    )


def build_image_train_transform(cfg: Config) -> ImageTrainTransform:
    """Build the training geometry and augmentation of still images from the config, always with the Inception crop.

    RandAugment fills the outside of an image with the mean color DATA.MEAN, and that of a clip with gray 128.

    Args:
        cfg: sections DATA and AUG, with the keys of `build_train_transform`.

    Raises:
        UserError: a value is invalid.
    """
    clips = build_train_transform(cfg)
    augment = clips.augment
    # Color jitter moves no pixels and needs no fill.
    if isinstance(augment, RandAugment):
        red, green, blue = (min(255, round(255 * value)) for value in np.broadcast_to(cfg.DATA.MEAN, 3).tolist())
        augment = replace(augment, fill=(red, green, blue))
    return ImageTrainTransform(
        crop_size=clips.crop_size,
        area=clips.area or (0.08, 1.0),
        aspect=clips.aspect,
        flip_prob=clips.flip_prob,
        resample=RESAMPLING[cfg.AUG.INTERPOLATION],
        augment=augment,
    )


def build_image_eval_transform(cfg: Config) -> ImageEvalTransform:
    """Build the evaluation geometry of still images from the config.

    Args:
        cfg: DATA.TEST_CROP_SIZE and DATA.IN_VAL_CROP_RATIO.
    """
    return ImageEvalTransform(crop_size=cfg.DATA.TEST_CROP_SIZE, crop_ratio=cfg.DATA.IN_VAL_CROP_RATIO)


def build_mixup(cfg: Config) -> Mixup | None:
    """Build MixUp and CutMix from the config.

    Args:
        cfg: sections MIXUP and MODEL (NUM_CLASSES).

    Returns:
        A Mixup, or None if MIXUP.ENABLE is False.
    """
    if not cfg.MIXUP.ENABLE:
        return None
    return Mixup(
        mixup_alpha=cfg.MIXUP.ALPHA,
        cutmix_alpha=cfg.MIXUP.CUTMIX_ALPHA,
        prob=cfg.MIXUP.PROB,
        switch_prob=cfg.MIXUP.SWITCH_PROB,
        label_smoothing=cfg.MIXUP.LABEL_SMOOTH_VALUE,
        num_classes=cfg.MODEL.NUM_CLASSES,
    )
