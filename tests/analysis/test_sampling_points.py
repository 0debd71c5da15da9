"""Sampling points: their scale, where they gather, how far they move, and whether they are on an object."""

from __future__ import annotations

import pytest
import torch

from tests.models.test_contract import built, inputs
from videovit.analysis import sampling_points
from videovit.analysis.sampling_points import PointStatistics, as_fractions, density, moved, share_inside


def test_points_of_a_model_begin_as_a_regular_grid_of_fractions() -> None:
    model, x = built("PS_ViT"), inputs("PS_ViT")
    points = as_fractions(model.sampling_points(x), (8, 32, 32))
    assert points.shape == (2, 2, 8 * 9, 3)
    cells = torch.tensor([1 / 6, 3 / 6, 5 / 6])
    for frame in range(8):
        first = points[0, 0, 9 * frame : 9 * frame + 9]
        assert (first[:, 0] == (frame + 0.5) / 8).all()
        torch.testing.assert_close(first[:, 1].view(3, 3), cells[:, None].expand(3, 3))
        torch.testing.assert_close(first[:, 2].view(3, 3), cells[None].expand(3, 3))


def test_density_and_movement_of_known_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_points, "CELLS", 2)
    first = torch.tensor([[[0, 0.1, 0.1], [0.5, 0.9, 0.9]]])
    second = torch.tensor([[[0, 0.1, 0.6], [0.5, 1.3, 0.9]]])  # to the right; out of the frame
    late = torch.tensor([[[1.5, 0.1, 0.1], [0.5, 0.9, 0.9]]])  # out of time
    assert density(late[None]).tolist() == [[[0, 0], [0, 0.5]]]
    points = torch.stack([first, second])
    assert density(points).tolist() == [[[0.5, 0], [0, 0.5]], [[0, 0.5], [0, 0]]]
    assert moved(points).tolist() == pytest.approx([(0.5 + 0.4) / 2])
    ranks = [PointStatistics(), PointStatistics()]
    ranks[0].update(points.expand(2, 3, -1, -1))
    ranks[1].update(first.expand(2, 1, -1, -1))  # one clip whose points stay
    joined = PointStatistics().merge(ranks)
    assert joined.moved().tolist() == pytest.approx([0.75 * 0.45])
    assert joined.density()[1].tolist() == [[0.125, 0.375], [0, 0.125]]


def test_share_of_points_on_an_object() -> None:
    masks = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    masks[0, 1, :2] = True  # clip 0, second frame: upper half
    masks[1, 0, :, 3] = True  # clip 1, first frame: right column
    on, beside = [0.6, 0.3, 0.5], [0.2, 0.3, 0.5]
    right, middle = [0.2, 0.5, 0.8], [0.2, 0.5, 0.7]
    late, above, outside, left = [1.1, 0.3, 0.5], [0.6, -0.1, 0.5], [0.2, 0.5, 1.0], [0.2, 0.5, 0.0]
    points = torch.tensor([[[on, beside], [right, middle]], [[late, above], [outside, left]], [[on, on], [right, on]]])
    assert share_inside(points, masks).tolist() == [0.5, 0, 0.75]
