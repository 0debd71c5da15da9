"""Person detection: boxes for models that classify what each person does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.download import local_file

DETECTORS = {
    "fasterrcnn_resnet50_fpn_v2": "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"
    "#sha256=dd69338a",
    "fasterrcnn_mobilenet_v3_large_fpn": "https://download.pytorch.org/models/"
    "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth#sha256=fb6a3cc7",
}
"""torchvision's detector -> its weights, trained on COCO: 46.7 box AP in 167 MB; 32.8 in 74 MB, for quick looks."""
_PERSON = 1  # COCO's label


@dataclass(frozen=True)
class People:
    """The persons in a frame, best first.

    Attributes:
        boxes_N4: corners (x1, y1, x2, y2) in pixels of the frame.
        scores_N: 0 to 1.
    """

    boxes_N4: Tensor
    scores_N: Tensor


class PersonDetector(nn.Module):
    """Finds persons in frames.

    Args:
        detector: of torchvision, trained on COCO.
        min_score: detections below are left out.
    """

    def __init__(self, detector: nn.Module, min_score: float = 0.8) -> None:
        super().__init__()
        self.detector = detector.eval()
        self.min_score = min_score

    @torch.inference_mode()
    def forward(self, frames: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> list[People]:
        """Detect persons.

        Args:
            frames: RGB, (H, W, 3).

        Returns:
            The persons of each frame.
        """
        device = next(self.detector.parameters()).device
        images = [torch.from_numpy(np.ascontiguousarray(f)).to(device).permute(2, 0, 1).float() / 255 for f in frames]
        return [self._people(found) for found in self.detector(images)]

    def _people(self, found: dict[str, Tensor]) -> People:
        keep = (found["labels"] == _PERSON) & (found["scores"] >= self.min_score)
        return People(found["boxes"][keep].cpu(), found["scores"][keep].cpu())


def person_detector(
    name: str = "fasterrcnn_resnet50_fpn_v2", *, weights: str = "", min_score: float = 0.8
) -> PersonDetector:
    """torchvision's detector with its weights, which are downloaded when they are first needed.

    Args:
        name: a key of `DETECTORS`.
        weights: another source than `DETECTORS` has: a path or a URL.
        min_score: detections below are left out.

    Raises:
        UserError: unknown name, or the weights can neither be found nor downloaded.
    """
    if name not in DETECTORS:
        raise UserError(
            "person detector", found=name, expected=f"one of {', '.join(DETECTORS)}", near=did_you_mean(name, DETECTORS)
        )
    from torchvision.models import get_model

    path = local_file(weights or DETECTORS[name])
    detector = get_model(name, weights=None, weights_backbone=None)
    detector.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return PersonDetector(detector, min_score)
