"""Augmentation of images with their boxes and masks together, by torchvision.transforms.v2.

Shape letters: R objects, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from videovit.config import Config
from videovit.data.dataset import Cut
from videovit.data.decode import DecodeError
from videovit.data.masks import draw_masks
from videovit.data.objects import AnnotatedImage, Objects, pack_masks
from videovit.data.records import Sample

LEAST_SIDE = 1.0  # pixels; smaller rests of boxes at the border of a crop are not learned
# Times the longest of COCO.CROP_SHORT_SIDES: the long side of an image that is scaled only to be cut. No image of COCO
# is that long; one of 4000 x 1 pixels, scaled to a short side of 400, would fill gigabytes.
MOST_LENGTH = 16


class RandomSizedCrop(v2.Transform):  # type: ignore[misc]
    """A crop of random height and width, as large as the image if that is smaller.

    Args:
        smallest, largest: side in pixels.

    Source: DETR (arXiv 2005.12872), section 4.
    """

    def __init__(self, smallest: int, largest: int) -> None:
        super().__init__()
        self._smallest, self._largest = smallest, largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        """Draw the window; called by torchvision."""
        height, width = v2.functional.get_size(flat_inputs[0])
        sides = []
        for side in (height, width):
            low, high = min(self._smallest, side), min(self._largest, side)
            sides.append(int(torch.randint(low, high + 1, ())))
        top, left = (
            int(torch.randint(0, full - part + 1, ())) for full, part in zip((height, width), sides, strict=True)
        )
        return {"top": top, "left": left, "height": sides[0], "width": sides[1]}

    def transform(self, inpt: Any, params: dict[str, int]) -> Any:
        """Cut the window out; called by torchvision."""
        return self._call_kernel(v2.functional.crop, inpt, **params)


class AtLeastOnePixel(v2.Transform):  # type: ignore[misc]
    """Beside a transform of torchvision, which would scale a very long image to no pixels on its short side."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the size; called by torchvision."""
        params: dict[str, Any] = super().make_params(flat_inputs)
        return {**params, "size": tuple(max(1, side) for side in params["size"])}


class ShortestSize(AtLeastOnePixel, v2.RandomShortestSize):  # type: ignore[misc]
    """torchvision's RandomShortestSize, see `AtLeastOnePixel`."""


class ScaleJitter(AtLeastOnePixel, v2.ScaleJitter):  # type: ignore[misc]
    """torchvision's ScaleJitter, see `AtLeastOnePixel`."""


@dataclass(frozen=True)
class ObjectCrops:
    """An image with its objects, augmented or scaled; see `Crops`.

    Args:
        geometry: of torchvision; moves image, boxes and masks.
        learned: the objects are learned (training), so the batch carries them.
        masks: with their masks.
        times: augmentations of each image (AUG.NUM_SAMPLE).
    """

    geometry: v2.Transform
    learned: bool
    masks: bool
    times: int = 1

    def cut(
        self, frames_THWC: Tensor, sample: Sample, shown_s: tuple[float, float], rng: np.random.Generator
    ) -> list[Cut]:
        """See `Crops.cut`; T is 1.

        Raises:
            DecodeError: the image has another size than its annotation, or a mask is damaged.
        """
        shown = sample.image
        assert shown is not None
        found, stated = tuple(frames_THWC.shape[1:3]), (shown.height, shown.width)
        if found != stated:
            what = f"an image of {found[1]} x {found[0]} pixels, annotated as {stated[1]} x {stated[0]}"
            raise DecodeError(sample.path, what, "image")
        image = tv_tensors.Image(frames_THWC[0].permute(2, 0, 1))
        boxes_R4, labels_R, masks_RHW = self._truth(sample.path, shown)
        cuts = []
        for _ in range(self.times):
            # torchvision draws from the global generator: give it a seed of this image, and then its state back.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(rng.integers(2**63)))
                moved, boxes, masks = self.geometry(
                    image,
                    tv_tensors.BoundingBoxes(boxes_R4, format="XYXY", canvas_size=stated),
                    tv_tensors.Mask(masks_RHW),
                )
            cuts.append(_cut(sample, shown, moved, boxes, labels_R, masks if self.masks and self.learned else None))
        return cuts

    def _truth(self, path: str, shown: AnnotatedImage) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (R, 4), labels (R,) and masks (R, H, W) of what is learned."""
        # What a crowd consists of is not known, so it is neither learned nor background.
        kept_R = ~shown.crowd_R if self.learned else np.zeros_like(shown.crowd_R)
        masks_RHW = np.zeros((0, shown.height, shown.width), np.uint8)
        if self.masks and kept_R.any():
            shapes = [mask for mask, kept in zip(shown.masks, kept_R, strict=True) if kept]
            try:
                masks_RHW = draw_masks(shapes, shown.height, shown.width)
            except (ValueError, TypeError, RuntimeError) as error:
                raise DecodeError(path, f"a mask cannot be read: {error}", "image") from error
        boxes_R4 = torch.from_numpy(shown.boxes_R4[kept_R]).float()
        return boxes_R4, torch.from_numpy(shown.labels_R[kept_R]), torch.from_numpy(masks_RHW)


def _cut(
    sample: Sample, shown: AnnotatedImage, image: Tensor, boxes: Tensor, labels_R: Tensor, masks: Tensor | None
) -> Cut:
    """The image with the objects that are left of it."""
    height, width = image.shape[-2:]
    boxes_R4 = boxes.as_subclass(Tensor).clone()
    boxes_R4[:, 0::2] = boxes_R4[:, 0::2].clamp(0, width)
    boxes_R4[:, 1::2] = boxes_R4[:, 1::2].clamp(0, height)
    kept_R = ((boxes_R4[:, 2:] - boxes_R4[:, :2]) >= LEAST_SIDE).all(dim=1)
    if masks is not None:
        kept_R &= (masks.as_subclass(Tensor) > 0).flatten(1).any(dim=1)
    objects = Objects(
        shown.image_id,
        (height, width),
        (shown.height, shown.width),
        boxes_R4[kept_R],
        labels_R[kept_R],
        None if masks is None else pack_masks(masks.as_subclass(Tensor)[kept_R]),
    )
    frames_THWC = image.as_subclass(Tensor).permute(1, 2, 0).contiguous()[None]
    return Cut(frames_THWC, sample.label, None, objects)


def build_object_transform(cfg: Config, *, train: bool) -> v2.Transform:
    """The geometry of `COCO.AUGMENTATION`, or of evaluation.

    Args:
        cfg: section COCO; DATA.RANDOM_FLIP.
        train: whether it is random.

    Source: torchvision's and detectron2's recipes (multiscale); DETR (arXiv 2005.12872), section 4 (detr); Simple
    Copy-Paste (arXiv 2012.07177), section 3 (lsj).
    """
    coco = cfg.COCO
    longest = coco.MAX_LONG_SIDE
    if not train:
        return _short_side((coco.TEST_SHORT_SIDE,), longest)
    scaled = _short_side(coco.TRAIN_SHORT_SIDES, longest)
    to_cut = _short_side(coco.CROP_SHORT_SIDES, MOST_LENGTH * max(coco.CROP_SHORT_SIDES))
    kinds: dict[str, v2.Transform] = {
        "multiscale": scaled,
        "detr": v2.RandomChoice(
            [
                scaled,
                v2.Compose([to_cut, RandomSizedCrop(*coco.CROP_SIZES), scaled]),
            ]
        ),
        "lsj": v2.Compose(
            [
                ScaleJitter((coco.LSJ_SIZE, coco.LSJ_SIZE), coco.LSJ_SCALES),
                v2.RandomCrop((coco.LSJ_SIZE, coco.LSJ_SIZE), pad_if_needed=True, fill=_mean_color(cfg.DATA.MEAN)),
            ]
        ),
    }
    flips = [v2.RandomHorizontalFlip(0.5)] if cfg.DATA.RANDOM_FLIP else []
    return v2.Compose([*flips, kinds[coco.AUGMENTATION]])


def _short_side(sides: Sequence[int], longest: int) -> v2.Transform:
    return ShortestSize(list(sides), max_size=longest)


def _mean_color(mean: Sequence[float]) -> dict[type, Any]:
    """What lies beside an image: its mean color, and no object."""
    color = [round(255 * value) for value in np.broadcast_to(mean, 3).tolist()]
    return {tv_tensors.Image: color, tv_tensors.Mask: 0}
