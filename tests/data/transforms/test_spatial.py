"""Geometry on uint8 clips against float32 references and known values."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from videovit.data.transforms import spatial
from videovit.data.transforms.spatial import Box


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def noise(num_frames, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, height, width, 3), dtype=torch.uint8, generator=generator)


def coordinates(height, width):
    """One frame whose channels are (row, column, 0)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)], dim=-1).to(torch.uint8)[None]


@pytest.mark.parametrize("size", [(224, 224), (64, 85), (130, 100), (33, 47), (96, 300)])
def test_resize_close_to_float(size):
    clip = noise(3, 96, 128)
    reference = F.interpolate(clip.permute(0, 3, 1, 2).float(), size=size, mode="bilinear", align_corners=False)
    resized = spatial.resize(clip, *size)
    assert resized.dtype == torch.uint8 and resized.shape == (3, *size, 3)
    reference = reference.permute(0, 2, 3, 1)
    assert (resized.float() - reference.round()).abs().max() <= 1.0
    assert (resized.float() - reference).abs().mean() < 0.35  # rounding alone gives 0.25


def test_resize_no_antialiasing():
    stripes = torch.zeros(1, 8, 64, 3, dtype=torch.uint8)
    stripes[:, :, ::4] = 255
    columns = spatial.resize(stripes, 8, 16)[0, 0, :, 0]  # samples lie between columns 1 and 2 of every four
    assert columns.max() == 0


@pytest.mark.parametrize(
    ("shape", "size", "expected"), [((90, 160), 45, (45, 80)), ((160, 90), 30, (53, 30)), ((70, 70), 64, (64, 64))]
)
def test_resize_short_side_shape(shape, size, expected):
    assert spatial.resize_short_side(noise(2, *shape), size).shape == (2, *expected, 3)


def test_resize_short_side_no_op():
    clip = noise(2, 40, 60)
    assert spatial.resize_short_side(clip, 40) is clip


def test_random_short_side_distribution():
    rng = np.random.default_rng(0)
    uniform = np.array([spatial.random_short_side(256, 320, rng) for _ in range(4000)])
    inverse = np.array([spatial.random_short_side(256, 320, rng, inverse_uniform=True) for _ in range(4000)])
    for sides in (uniform, inverse):
        assert sides.min() == 256 and sides.max() == 320
    assert abs(uniform.mean() - 288) < 1.5
    # E[1/u] of u uniform in [1/320, 1/256]
    assert abs(inverse.mean() - np.log(320 / 256) / (1 / 256 - 1 / 320)) < 1.5


def test_random_square_reaches_every_place():
    rng = np.random.default_rng(0)
    clip = coordinates(7, 9)
    corners = {tuple(spatial.cut(clip, spatial.random_square(clip, 5, rng))[0, 0, 0, :2].tolist()) for _ in range(500)}
    assert corners == {(row, column) for row in range(3) for column in range(5)}


@pytest.mark.parametrize(
    ("shape", "position", "corner"),
    [
        ((10, 21), 0, (1, 0)),
        ((10, 21), 1, (1, 7)),
        ((10, 21), 2, (1, 13)),
        ((21, 10), 0, (0, 1)),
        ((21, 10), 1, (7, 1)),
        ((21, 10), 2, (13, 1)),
    ],
)
def test_uniform_square_positions(shape, position, corner):
    clip = coordinates(*shape)
    crop = spatial.cut(clip, spatial.uniform_square(clip, 8, position))
    assert crop.shape == (1, 8, 8, 3)
    assert tuple(crop[0, 0, 0, :2].tolist()) == corner


def test_square_too_large_raises():
    clip = noise(1, 20, 30)
    with pytest.raises(ValueError, match="24x24 pixels does not fit into frames of 30x20"):
        spatial.uniform_square(clip, 24, 1)
    with pytest.raises(ValueError, match="does not fit"):
        spatial.random_square(clip, 24, np.random.default_rng(0))
    with pytest.raises(ValueError, match="crop position 3"):
        spatial.uniform_square(clip, 8, 3)


def test_inception_box_ranges():
    rng = np.random.default_rng(0)
    boxes = [spatial.inception_box(240, 320, rng) for _ in range(3000)]
    areas = np.array([box.height * box.width / (240 * 320) for box in boxes])
    aspects = np.array([box.width / box.height for box in boxes])
    assert all(0 <= box.top <= 240 - box.height and 0 <= box.left <= 320 - box.width for box in boxes)
    assert 0.078 < areas.min() < 0.1 and 0.9 < areas.max() <= 1.0
    assert 0.73 < aspects.min() < 0.77 and 1.3 < aspects.max() < 1.36
    assert abs(np.log(aspects[areas < 0.5]).mean()) < 0.02  # log-uniform: as many tall as wide boxes


def test_inception_box_fallback_centered():
    rng = np.random.default_rng(0)
    assert spatial.inception_box(10, 1000, rng, area=(1.0, 1.0)) == Box(0, 493, 10, 13)
    assert spatial.inception_box(1000, 9, rng, area=(1.0, 1.0)) == Box(494, 0, 12, 9)


def test_resize_cut_view_close_to_float():
    clip = noise(2, 60, 80)
    crop = spatial.resize(spatial.cut(clip, Box(11, 7, 33, 41)), 48, 48)
    cut = clip[:, 11:44, 7:48].permute(0, 3, 1, 2).float()
    reference = F.interpolate(cut, size=(48, 48), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    assert (crop.float() - reference.round()).abs().max() <= 1.0


def test_horizontal_flip():
    flipped = spatial.horizontal_flip(coordinates(3, 5))
    assert flipped[0, 1, :, 1].tolist() == [4, 3, 2, 1, 0]
    assert flipped[0, :, 2, 0].tolist() == [0, 1, 2]
