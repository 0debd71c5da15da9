"""RoIHead on tokens of known values, and MViT with such a head."""

from __future__ import annotations

import pytest
import torch
import torchvision

from tests.helpers.mvit_variants import mvit_v1_b, v1_blocks
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import build_model, count_params, load_pretrained
from videovit.models.contract import Features
from videovit.models.detection.roi_head import RoIHead, box_head_from_config, roi_align
from videovit.models.mvit.block_specs import expand
from videovit.models.mvit.model import MViT

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


def detector(num_classes=3, **changes) -> MViT:
    model = small_mvit(**changes)
    model.reset_head(RoIHead(16, num_classes))
    return model


def identity_head(dim: int, **changes) -> RoIHead:
    head = RoIHead(dim, dim, **changes)
    torch.nn.init.eye_(head.projection.weight)
    return head.eval()


def test_box_reads_its_own_tokens_and_no_others() -> None:
    # A grid of 7 x 7 on 224 pixels: the scale 1/32 follows.
    tokens = torch.zeros(2, 3 * 49, 1)
    grid = tokens.view(2, 3, 7, 7)
    grid[1, :, 5, 2] = torch.tensor([3.0, 6.0, 0.0])  # mean over time 3
    boxes = torch.tensor([[1, 64, 160, 96, 192], [0, 64, 160, 96, 192], [1, 160, 64, 192, 96.0]])
    class_tokens = torch.full((2, 1, 1), 1e6)  # not read
    scores = identity_head(1)(Features(tokens, (3, 7, 7), class_tokens), boxes, (224, 224))
    assert scores.shape == (3, 1)
    # 7 bins over one token: the middle bin samples its center
    torch.testing.assert_close(scores[:, 0], torch.tensor([3.0, 0.0, 0.0]))


def test_score_is_the_maximum_over_the_bins() -> None:
    tokens = torch.arange(49.0)[None, :, None]
    boxes = torch.tensor([[0.0, 0, 0, 224, 224]])
    score = identity_head(1)(Features(tokens, (1, 7, 7), None), boxes, (224, 224))
    # the last bin covers the last token: the mean of its four samples is the value at its center, 48
    torch.testing.assert_close(score, torch.tensor([[48.0]]))


def test_integer_boxes_equal_floating_point_ones() -> None:
    features = Features(torch.arange(49.0)[None, :, None], (1, 7, 7), None)
    boxes = torch.tensor([[0, 32, 64, 200, 224]])
    head = identity_head(1)
    torch.testing.assert_close(head(features, boxes, (224, 224)), head(features, boxes.float(), (224, 224)))


def test_height_and_width_have_separate_scales() -> None:
    tokens = torch.zeros(1, 2 * 4, 1)
    tokens.view(2, 4)[1, 3] = 1.0
    boxes = torch.tensor([[0.0, 96, 32, 128, 64], [0.0, 0, 32, 32, 64]])
    scores = identity_head(1, resolution=1)(Features(tokens, (1, 2, 4), None), boxes, (64, 128))
    assert scores[0, 0] > 0.5 > scores[1, 0]


@pytest.mark.parametrize("bins", [1, 3, 7])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sides", [(7, 7), (5, 9), (14, 14), (1, 3)])
def test_roi_align_equals_torchvision(sides: tuple[int, int], aligned: bool, bins: int) -> None:
    height, width = sides
    generator = torch.Generator().manual_seed(0)
    map_BCHW = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator).requires_grad_()
    corners = torch.rand(60, 2, 2, dtype=torch.float64, generator=generator) * 1.6 - 0.3  # some extend beyond the map
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


def test_roi_align_computes_in_full_precision() -> None:
    map_BCHW = torch.randn(1, 4, 7, 7).bfloat16()
    boxes = torch.tensor([[0, 10.3, 20.7, 150, 224]])
    with torch.autocast("cpu", torch.bfloat16):
        got = roi_align(map_BCHW, boxes, (1 / 32, 1 / 32), bins=7, aligned=True)
    expected = torchvision.ops.roi_align(map_BCHW.float(), boxes, 7, 1 / 32, 0, True).bfloat16()
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("cls_token", [True, False])
def test_clips_of_a_batch_do_not_mix(cls_token: bool) -> None:
    model = detector(cls_token=cls_token).eval()
    x = torch.randn(2, 3, 4, 32, 32)
    boxes = torch.tensor([[0, 0, 0, 16, 16], [1, 0, 0, 16, 16], [1, 8, 8, 32, 32.0]])
    scores = model(x, boxes)
    assert scores.shape == (3, 3)
    alone = model(x[1:], boxes[1:] - torch.tensor([1.0, 0, 0, 0, 0]))
    torch.testing.assert_close(scores[1:], alone, rtol=1e-4, atol=1e-5)


def test_no_boxes_give_no_scores_and_zero_gradients() -> None:
    model = detector()
    scores = model(torch.randn(1, 3, 4, 32, 32), torch.zeros(0, 5))
    assert scores.shape == (0, 3)
    scores.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_every_parameter_gets_a_gradient_from_a_box() -> None:
    model = detector()
    model(torch.randn(1, 3, 4, 32, 32), torch.tensor([[0.0, 0, 0, 32, 32]])).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_weights_of_a_classifier_load_except_the_head() -> None:
    classifier = small_mvit(num_classes=5)
    torch.nn.init.normal_(classifier.norm.weight)
    model = detector()
    assert set(model.state_dict()) == set(classifier.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in classifier.named_parameters()]
    report = load_pretrained(model, classifier.state_dict())
    assert sorted(report.missing) == sorted(report.skipped) == ["head.projection.bias", "head.projection.weight"]
    for name, value in classifier.state_dict().items():
        if not name.startswith("head."):
            torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert load_pretrained(detector(), model.state_dict()).missing == []


OPTIONS = [
    *("DETECTION.ENABLE", "True", "MODEL.LOSS_FUNC", "bce", "MODEL.HEAD_ACT", "sigmoid"),
    *("TRAIN.DATASET", "ava", "TEST.DATASET", "ava"),
    *("MODEL.NUM_CLASSES", "7", "MODEL.DROPOUT_RATE", "0.25", "DATA.NUM_FRAMES", "4"),
    *("DETECTION.ROI_XFORM_RESOLUTION", "5", "DETECTION.ALIGNED", "False", "MVIT.EMBED_DIM", "16", "MVIT.DEPTH", "1"),
]


def test_keys_reach_the_head() -> None:
    with torch.device("meta"):
        model = build_model(load_config(opts=OPTIONS))
    head = model.head
    assert isinstance(head, RoIHead) and model.takes_boxes
    assert (head.resolution, head.aligned, head.dropout.p) == (5, False, 0.25)
    assert head.projection.weight.shape == (7, 16) and head.projection.weight.is_meta
    assert model.layer_of("head.projection.weight") == model.num_layers + 1


def test_initial_weights_are_scaled() -> None:
    cfg = load_config(opts=[*OPTIONS, "MVIT.HEAD_INIT_SCALE", "0.0"])
    model = small_mvit(head_init_scale=0.0)
    assert box_head_from_config(cfg, model).projection.weight.abs().max() == 0


def test_model_without_a_classifier_of_features_is_refused() -> None:
    options = ["MODEL.MODEL_NAME", "ptv_x3d_m", "DATA.TRAIN_CROP_SIZE", "64"]
    with torch.device("meta"), pytest.raises(UserError, match=r"ptv_x3d_m .* cannot have a detection head; MViT can"):
        build_model(load_config(opts=[*OPTIONS, *options]))


def test_published_sizes() -> None:
    # MViT, Table 8: 36.4 and 52.9 M with 80 outputs (the B-24 with pooling kernels of stride + 1)
    doubling = [[i, 2.0] for i in (2, 5, 21)]
    q_strides = [[i, 1, 2, 2] for i in (2, 5, 21)]
    deep = v1_blocks(depth=24, dim_mul=doubling, head_mul=doubling, pool_q_stride=q_strides, pool_kvq_kernel=None)
    with torch.device("meta"):
        b16, b24 = mvit_v1_b(blocks=v1_blocks()), mvit_v1_b(blocks=deep)
        for model in (b16, b24):
            model.reset_head(RoIHead(768, 80))
    assert count_params(b16) == 36_364_592
    assert f"{count_params(b24) / 1e6:.2f}" == "52.87"
