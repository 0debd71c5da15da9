"""Boxes against their pixels, through crops, scaling and flips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videovit.data.transforms.boxes import Placement, has_area
from videovit.data.transforms.pipeline import EvalTransform, TrainTransform

WIDTH, HEIGHT = 90, 60


def test_placement_known_values() -> None:
    # 400 x 200, short side scaled to 256 (512 x 256), crop of 224 at left 100, top 16
    place = Placement(512, 256).cropped(16, 100)
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.75], [0.0, 0.0, 0.1, 0.1], [0.0, 0.0, 1.0, 1.0]])
    moved = place.boxes(boxes, 224)
    assert moved.tolist() == [[28, 48, 156, 176], [0, 0, 0, pytest.approx(9.6)], [0, 0, 224, 224]]
    assert place.mirrored(224).boxes(boxes, 224)[0].tolist() == [68, 48, 196, 176]
    assert place.mirrored(224).mirrored(224) == place
    assert has_area(moved).tolist() == [True, False, True]


def frame_with(box: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    frames = torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    frames[:, y1:y2, x1:x2] = 255
    return frames, torch.tensor([[x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT]])


def assert_around(frames_TSSC: torch.Tensor, box: torch.Tensor) -> None:
    """Check that the white pixels of a crop fill the box, except for the pixel blurred by scaling."""
    white = frames_TSSC[0, :, :, 0] > 127
    if not white.any():
        assert not has_area(box[None], least=2.0).item()
        return
    rows, columns = white.any(dim=1).nonzero(), white.any(dim=0).nonzero()
    found = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
    np.testing.assert_allclose(box.numpy(), found, atol=1.01)


@pytest.mark.parametrize(
    "transform",
    [
        TrainTransform(crop_size=40, short_side=(40, 80)),
        TrainTransform(crop_size=40, short_side=(40, 80), inverse_uniform=True, flip_prob=1.0),
        TrainTransform(crop_size=40, short_side=(40, 80), area=(0.2, 1.0)),
    ],
    ids=["jitter", "always mirrored", "inception"],
)
def test_training_boxes_follow_pixels(transform: TrainTransform) -> None:
    frames, corners = frame_with((20, 12, 70, 45))
    seen = set()
    for seed in range(25):
        clip, place = transform.placed(frames, np.random.default_rng(seed))
        box = place.boxes(corners, 40)[0]
        assert_around(clip, box)
        assert torch.equal(clip, transform(frames, np.random.default_rng(seed)))
        seen.add((place.scale_x < 0, tuple(box.tolist())))
    assert len(seen) > 20
    assert {mirrored for mirrored, _ in seen} == ({True} if transform.flip_prob == 1.0 else {True, False})


@pytest.mark.parametrize("num_crops", [1, 3])
def test_evaluation_boxes_follow_pixels(num_crops: int) -> None:
    frames, corners = frame_with((30, 15, 60, 50))
    transform = EvalTransform(short_side=48, crop_size=40, num_crops=num_crops)
    crops = transform.placed(frames)
    assert len(crops) == num_crops
    for clip, place in crops:
        assert_around(clip, place.boxes(corners, 40)[0])
