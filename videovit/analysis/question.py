"""What a heat map explains: the scores of some classes for some clips, or for some boxes in them.

B clips (of a detector: boxes, each with a clip of its own), C channels, T frames, H W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from videovit.errors import UserError
from videovit.models.contract import DistilledLogits, VideoModel


@dataclass(frozen=True)
class Question:
    """The scores to explain.

    Attributes:
        model: in evaluation mode; with modules of its own, so that it may be hooked.
        x_BCTHW: one clip per score.
        classes_B: the class of each score.
        boxes_B5: of a detector the box of each score, box i in clip i; else None.
    """

    model: VideoModel
    x_BCTHW: Tensor
    classes_B: Tensor
    boxes_B5: Tensor | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """(T, H, W) of the clips."""
        T, H, W = self.x_BCTHW.shape[2:]
        return T, H, W

    def scores(self, x_BCTHW: Tensor) -> Tensor:
        """Logits (B,) of the classes, for changed clips in the same order.

        Raises:
            UserError: the model has no such class, or its logits are not finite.
        """
        logits_BK: Tensor | DistilledLogits = self.model(x_BCTHW, self.boxes_B5)
        assert not isinstance(logits_BK, DistilledLogits)  # only in training
        num_classes = logits_BK.shape[1]
        if not 0 <= int(self.classes_B.min()) <= int(self.classes_B.max()) < num_classes:
            raise UserError("classes", found=self.classes_B.tolist(), expected=f"0 to {num_classes - 1}")
        if not torch.isfinite(logits_BK).all():
            raise UserError("the model's scores are not finite: are the weights broken?")
        return logits_BK.gather(1, self.classes_B[:, None])[:, 0]


def ask(model: VideoModel, x: Tensor, classes: Tensor, boxes_R5: Tensor | None = None) -> Question:
    """A question about a model, which is left as it is.

    Args:
        model: any.
        x: clips (B, C, T, H, W) or images (B, C, H, W), normalized.
        classes: number of the class to explain, one per clip, or for a detector one per box.
        boxes_R5: as in `VideoModel.forward`.

    Raises:
        UserError: clips, classes and boxes do not fit together, or there are none.
    """
    x_BCTHW = model.as_clips(x).detach()
    if model.takes_boxes != (boxes_R5 is not None):
        what = "this model classifies boxes: which one?" if model.takes_boxes else "this model takes no boxes"
        raise UserError(what, where="boxes")
    if boxes_R5 is not None:
        clips_R = boxes_R5[:, 0].long()
        if len(clips_R) and not 0 <= int(clips_R.min()) <= int(clips_R.max()) < len(x_BCTHW):
            raise UserError("clips of boxes", found=clips_R.tolist(), expected=f"0 to {len(x_BCTHW) - 1}")
        # A clip per box, so that the map of one box says nothing about another.
        x_BCTHW = x_BCTHW[clips_R]
        own_R1 = torch.arange(len(boxes_R5), device=boxes_R5.device, dtype=boxes_R5.dtype)[:, None]
        boxes_R5 = torch.cat([own_R1, boxes_R5[:, 1:]], dim=1)
    classes_B = torch.as_tensor(classes, device=x_BCTHW.device, dtype=torch.long)
    if classes_B.shape != x_BCTHW.shape[:1]:
        noun = "clip" if boxes_R5 is None else "box"
        raise UserError("classes", found=tuple(classes_B.shape), expected=f"one per {noun}, ({len(x_BCTHW)},)")
    if not len(classes_B):
        raise UserError("nothing to explain: there are no clips" if boxes_R5 is None else "no boxes to explain")
    return Question(model.twin().eval(), x_BCTHW, classes_B, boxes_R5)


def scaled(heat_BTHW: Tensor) -> Tensor:
    """Heat from 0 to 1: negative values become 0, and the highest value of each clip 1, unless it is 0."""
    heat_BTHW = heat_BTHW.clamp(min=0)
    highest_B = heat_BTHW.flatten(1).amax(dim=1).clamp_min(torch.finfo(heat_BTHW.dtype).tiny)
    return heat_BTHW / highest_B[:, None, None, None]
