"""FGSM and PGD: equal to the same attacks computed on pixels, in range, and possible amid inference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.models.test_contract import built
from videovit.analysis.attacks import PixelSpace, fgsm, pgd
from videovit.analysis.covering import cover_center
from videovit.models.contract import VideoModel

MEAN, STD = (0.45, 0.4, 0.5), (0.225, 0.2, 0.3)
PIXELS = PixelSpace(MEAN, STD)
EPS = 8 / 255


def normalized(pixels_BCTHW: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    return (pixels_BCTHW - mean) / std


def sum_of_losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum")


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return built("PiT", "DATA.NUM_FRAMES 2")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Two clips with black and white pixels, which cannot change further."""
    generator = torch.Generator().manual_seed(0)
    return (1.4 * torch.rand(2, 3, 2, 32, 32, generator=generator) - 0.2).clamp(0, 1)


LABELS = torch.tensor([3, 5])


def in_pixels(model: VideoModel, pixels: Tensor, step: float, start: Tensor, num_steps: int) -> Tensor:
    """The attack as its papers write it: on pixels, one clip at a time, with the mean loss."""
    found = []
    for p, s, label in zip(pixels, start, LABELS, strict=True):
        q = (p + EPS * s).clamp(0, 1)
        for _ in range(num_steps):
            q = q.detach().requires_grad_()
            F.cross_entropy(model(normalized(q[None])), label[None]).backward()
            assert q.grad is not None
            q = (q + step * q.grad.sign()).clamp(p - EPS, p + EPS).clamp(0, 1)
        found.append(q.detach())
    return torch.stack(found)


def test_fgsm_equals_one_on_pixels(model: VideoModel, pixels: Tensor) -> None:
    expected = normalized(in_pixels(model, pixels, EPS, torch.zeros_like(pixels), 1))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):  # as in an evaluation in mixed precision
        x = normalized(pixels)
        found = fgsm(model, x, LABELS + 0, eps=EPS, pixels=PIXELS, loss=sum_of_losses)
    different = (found - expected).abs() > 1e-5
    assert different.float().mean() < 1e-3  # a gradient may be zero to rounding
    assert all(parameter.grad is None or not parameter.grad.isnan().any() for parameter in model.parameters())
    loss, before = (sum_of_losses(model(y.clone()), LABELS) for y in (found, x))
    assert loss > before
    change = (found - x) * torch.tensor(STD).view(3, 1, 1, 1)
    assert change.abs().max() == pytest.approx(EPS, rel=1e-4)


def test_pgd_equals_one_on_pixels(model: VideoModel, pixels: Tensor) -> None:
    start = 2 * torch.rand(pixels.shape, generator=torch.Generator().manual_seed(1)) - 1
    expected = normalized(in_pixels(model, pixels, EPS / 2, start, 3))
    x = normalized(pixels)
    arguments = {"eps": EPS, "step": EPS / 2, "num_steps": 3, "start_BCTHW": start, "pixels": PIXELS}
    found = pgd(model, x, LABELS, loss=sum_of_losses, **arguments)  # type: ignore[arg-type]
    assert ((found - expected).abs() > 1e-4).float().mean() < 2e-3
    with torch.no_grad():
        assert sum_of_losses(model(found), LABELS) > sum_of_losses(model(x), LABELS)
    back = found * torch.tensor(STD).view(3, 1, 1, 1) + torch.tensor(MEAN).view(3, 1, 1, 1)
    assert back.min() >= -1e-6 and back.max() <= 1 + 1e-6


def test_center_is_covered() -> None:
    x = torch.ones(1, 3, 2, 8, 6)
    found = cover_center(x, 0.5, PIXELS.black(x))
    inside = torch.zeros(8, 6, dtype=torch.bool)
    inside[2:6, 1:4] = True
    assert (found[..., ~inside] == 1).all() and (x == 1).all()
    torch.testing.assert_close(found[0, :, 1, 3, 2], normalized(torch.zeros(1, 3, 1, 1, 1)).flatten())
    assert cover_center(x, 1.0).abs().sum() == 0 and (cover_center(x, 0.0) == 1).all()
