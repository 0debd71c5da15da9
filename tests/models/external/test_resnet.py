"""Residual networks of images: torchvision's, and those with the dimensions of a ViT."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet

from videovit.models import count_macs, count_params
from videovit.models.external.resnet import ImageResNet


@pytest.mark.parametrize("depth", [18, 50])
def test_names_and_logits_equal_torchvision(depth: int) -> None:
    torch.manual_seed(0)
    theirs = getattr(resnet, f"resnet{depth}")(num_classes=5).eval()
    ours = ImageResNet(depth, num_classes=5).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_initial_weights_have_the_spread_of_torchvision() -> None:
    torch.manual_seed(0)
    theirs, ours = resnet.resnet18(), ImageResNet(18)
    for name, weight in theirs.state_dict().items():
        if weight.dim() > 1:
            torch.testing.assert_close(ours.state_dict()[name].std(), weight.std(), rtol=0.1, atol=0)


def test_dimensions_of_a_vit_cost_what_a_resnet_50_costs() -> None:
    with torch.device("meta"):
        plain, flat = ImageResNet(50), ImageResNet(50, dimensions="vit", width=272)
    size = (1, 3, 1, 224, 224)
    assert (count_params(plain), round(count_macs(plain, size) / 1e9, 3)) == (25_557_032, 4.089)
    # 16 x 17 x 272 ** 2 weights of convolutions; 4 x 272 x (16 ** 2 x 3) of the stem; batch norms; the classifier.
    convolutions, stem, classifier = 16 * 17 * 272**2, 1088 * 768, 1088 * 1000 + 1000
    norms = 2 * (1088 + 16 * (272 + 272 + 1088))
    assert count_params(flat) == convolutions + stem + norms + classifier
    assert count_macs(flat, size) == 14**2 * (convolutions + stem) + 1088 * 1000
    assert count_macs(flat, size) / count_macs(plain, size) == pytest.approx(1.0, abs=0.01)
    with torch.device("meta"):
        maps = flat.forward_stages(torch.empty(1, 3, 224, 224))
    assert {tuple(one.shape) for one in maps} == {(1, 1088, 1, 14, 14)}
