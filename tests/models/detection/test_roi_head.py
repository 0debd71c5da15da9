"""RoIHead on tokens whose values are known, and a detector made of MViT."""

from __future__ import annotations

import pytest
import torch
import torchvision

from tests.helpers.mvit_variants import mvit_v1_b, v1_blocks
from videovit.models import count_params, load_pretrained
from videovit.models.detection.roi_head import Detector, RoIHead, roi_align
from videovit.models.mvit.model import MViT
from videovit.models.mvit.schedule import expand

SMALL = {
    "depth": 2,
    "embed_dim": 8,
    "num_heads": 1,
    "dim_mul": [[1, 2.0]],
    "head_mul": [[1, 2.0]],
    "pool_q_stride": [[1, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 2, 2],
    "pool_kvq_kernel": [3, 3, 3],
}


def small_mvit(num_classes=5, **changes) -> MViT:
    torch.manual_seed(0)
    return MViT(blocks=expand(**SMALL), num_classes=num_classes, clip_size=(4, 32, 32), **changes)


def identity_head(dim: int, **changes) -> RoIHead:
    head = RoIHead(dim, dim, **changes)
    torch.nn.init.eye_(head.projection.weight)
    return head.eval()


def test_a_box_sees_its_own_tokens_and_no_others() -> None:
    # A grid of 7 x 7 on 224 pixels: the scale is 1/32, and nothing has to be told so.
    tokens = torch.zeros(2, 1 + 3 * 49, 1)
    tokens[:, 0] = 1e6  # the class token is not read
    grid = tokens[:, 1:].view(2, 3, 7, 7)
    grid[1, :, 5, 2] = torch.tensor([3.0, 6.0, 0.0])  # mean over time 3
    boxes = torch.tensor([[1, 64, 160, 96, 192], [0, 64, 160, 96, 192], [1, 160, 64, 192, 96.0]])
    scores = identity_head(1)(tokens, (3, 7, 7), boxes, (224, 224))
    assert scores.shape == (3, 1)
    # 7 bins over one token: the middle bin samples its very centre
    torch.testing.assert_close(scores[:, 0], torch.tensor([3.0, 0.0, 0.0]))


def test_the_maximum_is_taken_over_the_bins_of_a_box() -> None:
    tokens = torch.arange(49.0)[None, :, None]
    boxes = torch.tensor([[0.0, 0, 0, 224, 224]])
    score = identity_head(1)(tokens, (1, 7, 7), boxes, (224, 224))
    # the last bin covers the last token: the four samples' mean is that of its centre, 48
    torch.testing.assert_close(score, torch.tensor([[48.0]]))


def test_boxes_may_be_whole_numbers() -> None:
    tokens = torch.arange(49.0)[None, :, None]
    boxes = torch.tensor([[0, 32, 64, 200, 224]])
    head = identity_head(1)
    torch.testing.assert_close(
        head(tokens, (1, 7, 7), boxes, (224, 224)), head(tokens, (1, 7, 7), boxes.float(), (224, 224))
    )


def test_scales_of_either_side_are_their_own() -> None:
    tokens = torch.zeros(1, 2 * 4, 1)
    tokens.view(2, 4)[1, 3] = 1.0
    boxes = torch.tensor([[0.0, 96, 32, 128, 64], [0.0, 0, 32, 32, 64]])
    scores = identity_head(1, resolution=1)(tokens, (1, 2, 4), boxes, (64, 128))
    assert scores[0, 0] > 0.5 > scores[1, 0]


@pytest.mark.parametrize("bins", [1, 3, 7])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sides", [(7, 7), (5, 9), (14, 14), (1, 3)])
def test_roi_align_equals_torchvisions(sides: tuple[int, int], aligned: bool, bins: int) -> None:
    height, width = sides
    generator = torch.Generator().manual_seed(0)
    map_BCHW = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator).requires_grad_()
    corners = torch.rand(60, 2, 2, dtype=torch.float64, generator=generator) * 1.6 - 0.3  # some reach out of the map
    corners *= 32 * corners.new_tensor([width, height])
    boxes = torch.cat([torch.arange(60)[:, None] % 2, corners.amin(1), corners.amax(1)], dim=1)
    far = [[0, -3000, -3000, 5000, 4000], [1, 9000, 9000, 9100, 9100], [1, -900, -900, -800, -800]]
    special = [[0, 0, 0, 32 * width, 32 * height], [1, 32, 32, 32, 32], [1, -16, -16, 32, 32], [0, -32, -32, 0, 0]]
    boxes = torch.cat([boxes, boxes.new_tensor(far + special)])
    expected = torchvision.ops.roi_align(map_BCHW, boxes, bins, 1 / 32, 0, aligned)
    got = roi_align(map_BCHW, boxes, (1 / 32, 1 / 32), bins=bins, aligned=aligned)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    dy = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    expected_grad, grad = (torch.autograd.grad(y, map_BCHW, dy)[0] for y in (expected, got))
    torch.testing.assert_close(grad, expected_grad, atol=1e-11, rtol=0)


def test_roi_align_is_in_full_precision() -> None:
    map_BCHW = torch.randn(1, 4, 7, 7).bfloat16()
    boxes = torch.tensor([[0, 10.3, 20.7, 150, 224]])
    with torch.autocast("cpu", torch.bfloat16):
        got = roi_align(map_BCHW, boxes, (1 / 32, 1 / 32), bins=7, aligned=True)
    expected = torchvision.ops.roi_align(map_BCHW.float(), boxes, 7, 1 / 32, 0, True).bfloat16()
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("cls_token", [True, False])
def test_detector_scores_boxes_of_each_clip_alone(cls_token: bool) -> None:
    model = Detector(small_mvit(cls_token=cls_token), RoIHead(16, 3)).eval()
    x = torch.randn(2, 3, 4, 32, 32)
    boxes = torch.tensor([[0, 0, 0, 16, 16], [1, 0, 0, 16, 16], [1, 8, 8, 32, 32.0]])
    scores = model(x, boxes)
    assert scores.shape == (3, 3)
    alone = model(x[1:], boxes[1:] - torch.tensor([1.0, 0, 0, 0, 0]))
    torch.testing.assert_close(scores[1:], alone, rtol=1e-4, atol=1e-5)


def test_no_box_gives_no_scores_and_zero_gradients() -> None:
    model = Detector(small_mvit(), RoIHead(16, 3))
    scores = model(torch.randn(1, 3, 4, 32, 32), torch.zeros(0, 5))
    assert scores.shape == (0, 3)
    scores.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_every_parameter_learns_from_a_box() -> None:
    model = Detector(small_mvit(), RoIHead(16, 3))
    model(torch.randn(1, 3, 4, 32, 32), torch.tensor([[0.0, 0, 0, 32, 32]])).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_names_are_those_of_the_classifier_and_its_weights_load_but_for_the_head() -> None:
    classifier = small_mvit(num_classes=5)
    torch.nn.init.normal_(classifier.norm.weight)
    detector = Detector(small_mvit(), RoIHead(16, 3))
    assert set(detector.state_dict()) == set(classifier.state_dict())
    assert [n for n, _ in detector.named_parameters()] == [n for n, _ in classifier.named_parameters()]
    report = load_pretrained(detector, classifier.state_dict())
    assert sorted(report.missing) == sorted(report.skipped) == ["head.projection.bias", "head.projection.weight"]
    for name, value in classifier.state_dict().items():
        if not name.startswith("head."):
            torch.testing.assert_close(detector.state_dict()[name], value, rtol=0, atol=0)
    again = Detector(small_mvit(), RoIHead(16, 3))
    assert load_pretrained(again, detector.state_dict()).missing == []


def test_published_sizes() -> None:
    # MViT, Table 8: 36.4 and 52.9 M with 80 outputs (the B-24 with pooling kernels of stride + 1)
    doubling = [[i, 2.0] for i in (2, 5, 21)]
    q_strides = [[i, 1, 2, 2] for i in (2, 5, 21)]
    deep = v1_blocks(depth=24, dim_mul=doubling, head_mul=doubling, pool_q_stride=q_strides, pool_kvq_kernel=None)
    with torch.device("meta"):
        b16 = Detector(mvit_v1_b(blocks=v1_blocks()), RoIHead(768, 80))
        b24 = Detector(mvit_v1_b(blocks=deep), RoIHead(768, 80))
    assert count_params(b16) == 36_364_592
    assert f"{count_params(b24) / 1e6:.2f}" == "52.87"
