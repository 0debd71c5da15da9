"""Objects in images: as a data set annotates them, and as a batch carries them.

Shape letters: R objects, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Polygons = tuple[NDArray[np.float64], ...]
"""Parts of a mask: corners x, y, x, y, ... in pixels of the image."""


@dataclass(frozen=True, slots=True)
class Runs:
    """A mask as run lengths (COCO's RLE).

    Attributes:
        size: (H, W).
        counts: lengths of runs in column order, beginning with zeros; or COCO's compressed form.
    """

    size: tuple[int, int]
    counts: tuple[int, ...] | str


Segmentation = Polygons | Runs


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """The annotations of an image.

    Attributes:
        image_id: of the data set.
        height, width: in pixels.
        boxes_R4: x1, y1, x2, y2 in pixels.
        labels_R: classes, counted from 1.
        crowd_R: whether a box stands for a group of objects; such boxes are not trained on.
        masks: one per box; empty if masks are not read.
    """

    image_id: int
    height: int
    width: int
    boxes_R4: NDArray[np.float64]
    labels_R: NDArray[np.int64]
    crowd_R: NDArray[np.bool_]
    masks: tuple[Segmentation, ...] = ()

    def __repr__(self) -> str:
        """A digest of everything that training depends on."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.boxes_R4, self.labels_R, self.crowd_R):
            digest.update(array.tobytes())
        for mask in self.masks:
            parts = [repr(mask).encode()] if isinstance(mask, Runs) else [part.tobytes() for part in mask]
            for part in parts:
                digest.update(part)
        return f"AnnotatedImage({self.image_id}, {self.height}, {self.width}, {digest.hexdigest()})"


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of one image of a batch, in pixels of the image as the model gets it.

    Attributes:
        image_id: of the data set.
        size: (H, W) of the image; the frames of a batch are padded to the largest one.
        full_size: (H, W) of the file.
        boxes_R4: float32 x1, y1, x2, y2.
        labels_R: int64, counted from 1.
        bits_RN: masks, eight pixels per uint8 (see `pack_masks`); None if masks are not read.
    """

    image_id: int
    size: tuple[int, int]
    full_size: tuple[int, int]
    boxes_R4: Tensor
    labels_R: Tensor
    bits_RN: Tensor | None = None

    def target(self) -> dict[str, Tensor]:
        """What torchvision's detectors train on: boxes, labels, masks, iscrowd, area, image_id."""
        boxes_R4 = self.boxes_R4
        target = {
            "boxes": boxes_R4,
            "labels": self.labels_R,
            "image_id": torch.tensor(self.image_id),
            "iscrowd": torch.zeros_like(self.labels_R),
            "area": (boxes_R4[:, 2] - boxes_R4[:, 0]) * (boxes_R4[:, 3] - boxes_R4[:, 1]),
        }
        if self.bits_RN is not None:
            target["masks"] = unpack_masks(self.bits_RN, self.size)
            target["area"] = target["masks"].sum(dim=(1, 2)).to(boxes_R4.dtype)
        return target

    def each(self, change: Callable[[Tensor], Tensor]) -> Objects:
        """A copy with every tensor changed."""
        bits_RN = None if self.bits_RN is None else change(self.bits_RN)
        return replace(self, boxes_R4=change(self.boxes_R4), labels_R=change(self.labels_R), bits_RN=bits_RN)

    def __reduce__(self) -> tuple[Any, ...]:
        # As arrays: PyTorch has registered its own way to pickle tensors for queues, which needs /dev/shm.
        bits = None if self.bits_RN is None else self.bits_RN.numpy()
        arrays = (self.boxes_R4.numpy(), self.labels_R.numpy(), bits)
        return _objects, (self.image_id, self.size, self.full_size, arrays)


def _objects(
    image_id: int, size: tuple[int, int], full_size: tuple[int, int], arrays: tuple[NDArray[Any] | None, ...]
) -> Objects:
    boxes_R4, labels_R, bits_RN = (None if array is None else torch.from_numpy(array) for array in arrays)
    assert boxes_R4 is not None and labels_R is not None
    return Objects(image_id, size, full_size, boxes_R4, labels_R, bits_RN)


def images_of(x_BCTHW: Tensor, objects: Sequence[Objects]) -> list[Tensor]:
    """The images (3, H, W) of a batch, without its padding.

    Args:
        x_BCTHW: T = 1.
        objects: of each image.
    """
    return [x_CTHW[:, 0, : one.size[0], : one.size[1]] for x_CTHW, one in zip(x_BCTHW, objects, strict=True)]


def pack_masks(masks_RHW: Tensor) -> Tensor:
    """Eight pixels per byte, so that masks of large images travel fast between processes.

    Args:
        masks_RHW: uint8 of zeros and ones.

    Returns:
        uint8 (R, ceil(H W / 8)).
    """
    return torch.from_numpy(np.packbits(masks_RHW.flatten(1).numpy(), axis=1))


def unpack_masks(bits_RN: Tensor, size: tuple[int, int]) -> Tensor:
    """The reverse of `pack_masks`, on the device of the bits: uint8 (R, H, W).

    Args:
        bits_RN: packed masks.
        size: (H, W).
    """
    height, width = size
    shifts_8 = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits_RN.device)
    pixels = (bits_RN[..., None] >> shifts_8) & 1
    return pixels.flatten(1)[:, : height * width].reshape(-1, height, width)
