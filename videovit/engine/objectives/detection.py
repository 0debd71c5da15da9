"""Detection of objects in images: the detector has its own losses, which are added up.

B images, H W pixels.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from videovit.data.objects import Objects, images_of
from videovit.data.records import Batch
from videovit.engine.objectives.objective import Example, Losses, Objective


@dataclass(frozen=True)
class ObjectExample(Example):
    """Images and the objects in them; `targets` has one entry per image, which says nothing.

    Attributes:
        objects: those of each image.
    """

    objects: tuple[Objects, ...] = ()

    def described(self) -> object:
        return [
            {
                "image_id": shown.image_id,
                "boxes": shown.boxes_R4.tolist(),
                "labels": shown.labels_R.tolist(),
                "masks": None if shown.bits_RN is None else zlib.crc32(shown.bits_RN.cpu().numpy().tobytes()),
            }
            for shown in self.objects
        ]

    def split(self, number: int) -> list[Self]:
        pieces, start = [], 0
        for piece in super().split(number):
            end = start + piece.num_targets
            pieces.append(replace(piece, objects=self.objects[start:end]))
            start = end
        return pieces


class Detection(Objective):
    """The sum of the losses of a detector of torchvision's contract: `model(images, targets)` -> losses by name."""

    def example(self, x_BCTHW: Tensor, batch: Batch) -> Example:
        return ObjectExample(x_BCTHW, batch.labels, objects=batch.objects)

    def __call__(self, model: nn.Module, example: Example) -> Losses:
        assert isinstance(example, ObjectExample)
        images = images_of(example.x_BCTHW, example.objects)
        losses: dict[str, Tensor] = model(images, [shown.target() for shown in example.objects])
        terms = {name.removeprefix("loss_"): term.float() for name, term in losses.items()}
        return Losses(torch.stack(list(terms.values())).sum(), terms)
