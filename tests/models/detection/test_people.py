"""The person detector: weights from a file, persons only, in pixels of the frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from videovit.errors import UserError
from videovit.models.detection.people import DETECTORS, PersonDetector, person_detector

SMALL = "fasterrcnn_mobilenet_v3_large_fpn"


@pytest.mark.parametrize("name", DETECTORS)
def test_urls_are_torchvisions(name: str) -> None:
    (weights,) = get_model_weights(name)
    url, _, sha256 = DETECTORS[name].partition("#sha256=")
    assert url == weights.url and f"-{sha256}.pth" in url


def test_weights_are_read_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = get_model(SMALL, weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "people.pth")
    detector = person_detector(SMALL, weights=str(tmp_path / "people.pth"), min_score=0.0)
    theirs = detector.detector.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    (people,) = detector([np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)])
    assert people.boxes_N4.shape == (len(people.scores_N), 4)


class Fixed(nn.Module):
    """Finds the same things in every image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert all(image.shape == (3, 40, 60) and image.max() <= 1 for image in images)
        boxes = torch.arange(12.0).view(3, 4)
        return [{"boxes": boxes, "labels": torch.tensor([1, 2, 1]), "scores": torch.tensor([0.9, 0.9, 0.3])}] * 2


def test_only_persons_above_the_score_are_kept() -> None:
    frames = [np.full((40, 60, 3), 255, np.uint8)] * 2
    found = PersonDetector(Fixed())(frames)
    assert len(found) == 2
    assert found[0].boxes_N4.tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert found[0].scores_N.tolist() == pytest.approx([0.9])


def test_unknown_detector_is_an_error() -> None:
    with pytest.raises(UserError, match="did you mean fasterrcnn_mobilenet_v3_large_fpn"):
        person_detector("fasterrcnn_mobilenet_v3")
