"""Convolutional networks: published sizes, logits equal to pytorchvideo's, PySlowFast's names, two pathways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from tests.helpers.mvit_variants import clip, perturb
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import build_model, count_params, load_pretrained
from videovit.models.contract import VideoModel
from videovit.models.convolutional.blocks import NonLocal, round_width
from videovit.models.convolutional.network import ConvolutionalNetwork
from videovit.models.detection.roi_head import box_head_from_config
from videovit.models.external.pytorchvideo import build_ptv
from videovit.models.macs import count_macs

TWO = "RESNET.SPATIAL_STRIDES [[1,1],[2,2],[2,2],[2,2]] RESNET.NUM_BLOCK_TEMP_KERNEL [[3,3],[4,4],[6,6],[3,3]] "
TWO += "RESNET.SPATIAL_DILATIONS [[1,1],[1,1],[1,1],[1,1]] "
X3D = "RESNET.TRANS_FUNC x3d_transform X3D.WIDTH_FACTOR 2.0 X3D.DEPTH_FACTOR 2.2 X3D.BOTTLENECK_FACTOR 2.25 "
NLN = "NONLOCAL.LOCATION [[[]],[[1,3]],[[1,3,5]],[[]]] NONLOCAL.INSTANTIATION softmax "
ARCHS = {
    "c2d": "MODEL.MODEL_NAME ResNet",
    "i3d": "MODEL.MODEL_NAME ResNet",
    "slow": "MODEL.MODEL_NAME ResNet",
    "slowfast": "MODEL.MODEL_NAME SlowFast " + TWO,
    "x3d": "MODEL.MODEL_NAME X3D " + X3D,
}
PUBLISHED = {  # frames, side of training, side of the count: parameters (M), GMACs as published
    "c2d": ("c2d", "", 8, 224, 256, 24.33, 25.46),
    "i3d": ("i3d", "", 8, 224, 224, 28.04, 28.41),
    "slow 8x8": ("slow", "", 8, 224, 256, 32.45, 54.52),
    "slow 4x16": ("slow", "", 4, 224, 256, 32.45, 27.26),
    "slowfast 8x8": ("slowfast", "SLOWFAST.ALPHA 4 SLOWFAST.FUSION_KERNEL_SZ 7", 32, 224, 256, 34.57, 65.71),
    "slowfast 4x16": ("slowfast", "SLOWFAST.ALPHA 8 SLOWFAST.FUSION_KERNEL_SZ 5", 32, 224, 256, 34.48, 36.1),
    "x3d xs": ("x3d", "", 4, 160, 160, 3.79, 0.61),
    "x3d s": ("x3d", "", 13, 160, 160, 3.79, 1.96),
    "x3d m": ("x3d", "", 16, 224, 224, 3.79, 4.73),
    "x3d l": ("x3d", "X3D.DEPTH_FACTOR 5.0 DATA.TRAIN_JITTER_SCALES [356,446]", 16, 312, 312, 6.15, 18.37),
}


def built(arch: str, options: str = "", *, frames: int = 8, side: int = 32, classes: int = 5) -> VideoModel:
    common = f"MODEL.ARCH {arch} MODEL.NUM_CLASSES {classes} DATA.NUM_FRAMES {frames} DATA.TRAIN_CROP_SIZE {side} "
    return build_model(load_config(opts=(common + ARCHS[arch] + " " + options).split()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters_and_macs(name: str) -> None:
    arch, options, frames, side, counted, millions, gmacs = PUBLISHED[name]
    with torch.device("meta"):
        model = built(arch, options, frames=frames, side=side, classes=400)
    assert round(count_params(model) / 1e6, 2) == millions
    assert round(count_macs(model, (1, 3, frames, counted, counted)) / 1e9, 2) == gmacs


PEERS = {
    "c2d": "ptv_c2d_r50",
    "i3d": "ptv_i3d_r50",
    "slow": "ptv_slow_r50",
    "slowfast": "ptv_slowfast_r50",
    "x3d": "ptv_x3d_m",
}


@pytest.mark.parametrize("arch", PEERS)
def test_logits_equal_those_of_pytorchvideo(arch: str) -> None:
    torch.manual_seed(0)
    peer = build_ptv(PEERS[arch], clip_size=(8, 64, 64), num_classes=5, dropout=0.0)
    perturb(peer)
    model = built(arch, "SLOWFAST.ALPHA 4 SLOWFAST.FUSION_KERNEL_SZ 7" if arch == "slowfast" else "", side=64)
    report = load_pretrained(model, peer.state_dict())
    assert report.source == "pytorchvideo_cnn" and not (report.missing or report.skipped or report.resized)
    x = clip(2, 3, 8, 96, 96)  # several windows of the head
    with torch.inference_mode():
        expected = peer.eval()(x)
        torch.testing.assert_close(model.eval()(x), expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-4)
    assert expected.std() > 0


def test_names_are_those_of_pyslowfast() -> None:
    with torch.device("meta"):
        slowfast = {n for n in built("slowfast").state_dict() if not n.endswith("num_batches_tracked")}
        x3d = built("x3d").state_dict().keys()
        non_local = built("slow", NLN).state_dict().keys()
    assert {
        "s1.pathway0_stem.conv.weight",
        "s1.pathway1_stem.bn.running_var",
        "s1_fuse.conv_f2s.weight",
        "s4_fuse.bn.bias",
        "s2.pathway0_res0.branch1.weight",
        "s2.pathway0_res0.branch1_bn.weight",
        "s5.pathway1_res2.branch2.c_bn.running_mean",
        "s3.pathway1_res1.branch2.a.weight",
        "head.projection.bias",
    } <= slowfast
    assert {
        "s1.pathway0_stem.conv_xy.weight",
        "s2.pathway0_res0.branch2.se.fc1.bias",
        "head.conv_5_bn.weight",
        "head.lin_5.weight",
    } <= x3d
    assert {
        f"s3.pathway0_nonlocal1.{part}.weight" for part in ("conv_theta", "conv_phi", "conv_g", "conv_out", "bn")
    } <= (non_local)
    assert sum("nonlocal" in n and n.endswith("conv_g.weight") for n in non_local) == 5


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_non_local_blocks_follow_the_paper(softmax: bool, groups: int) -> None:
    torch.manual_seed(0)
    block = NonLocal(8, pool=(1, 2, 2), softmax=softmax, groups=groups).eval()
    nn.init.normal_(block.bn.weight)
    x = torch.randn(2, 8, 4, 6, 6)
    with torch.inference_mode():
        parts = [_non_local(block, part) for part in x.chunk(groups, dim=2)]
        torch.testing.assert_close(block(x), x + torch.cat(parts, dim=2), atol=1e-5, rtol=1e-5)


def _non_local(block: NonLocal, x: Tensor) -> Tensor:
    """Equation 1 of the paper, position by position."""
    pooled = nn.functional.max_pool3d(x, (1, 2, 2))
    theta, phi, g = block.conv_theta(x).flatten(2), block.conv_phi(pooled).flatten(2), block.conv_g(pooled).flatten(2)
    y = torch.zeros_like(theta)
    for b in range(theta.shape[0]):
        for i in range(theta.shape[2]):
            f = (theta[b, :, i, None] * phi[b]).sum(dim=0)
            weights = (f * theta.shape[1] ** -0.5).softmax(dim=0) if block.softmax else f / phi.shape[2]
            y[b, :, i] = (weights * g[b]).sum(dim=1)
    out: Tensor = block.bn(block.conv_out(y.unflatten(2, x.shape[2:])))
    return out


def test_new_blocks_begin_as_their_shortcut() -> None:
    x = clip(2, 3, 8, 32, 32)
    torch.manual_seed(0)
    with_attention = built("slow", NLN, classes=3)
    plain = built("slow", classes=3)
    plain.load_state_dict(with_attention.state_dict(), strict=False)
    torch.testing.assert_close(with_attention.eval()(x), plain.eval()(x))
    zero = built("slow", "RESNET.ZERO_INIT_FINAL_BN True")
    assert all((p == 0).all() for n, p in zero.named_parameters() if n.endswith("c_bn.weight"))


def test_detection_keeps_a_stride_of_16() -> None:
    """PySlowFast's AVA networks dilate the last stage in the place of its stride."""
    options = "RESNET.SPATIAL_DILATIONS [[1,1],[1,1],[1,1],[2,2]] RESNET.SPATIAL_STRIDES [[1,1],[2,2],[2,2],[1,1]] "
    options += "DETECTION.ENABLE True TEST.DATASET ava TRAIN.DATASET ava "
    options += "MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid SLOWFAST.ALPHA 4 MODEL.DROPOUT_RATE 0.0"
    model = built("slowfast", options, classes=6).eval()
    assert model.takes_boxes and "head.projection.weight" in model.state_dict()
    x = clip(2, 3, 8, 64, 64)
    features = model.forward_features(x)
    assert features.grid == (1, 4, 4) and features.tokens_BNC.shape[2] == 2048 + 256
    boxes = torch.tensor([[0.0, 0, 0, 32, 32], [1.0, 16, 16, 64, 64]])
    assert model(x, boxes).shape == (2, 6)


def test_box_is_pooled_from_each_pathway_as_in_pyslowfast() -> None:
    """Mean over time, RoIAlign at a scale of 1/16 and maximum, pathway by pathway; then one linear layer."""
    options = "RESNET.SPATIAL_DILATIONS [[1,1],[1,1],[1,1],[2,2]] RESNET.SPATIAL_STRIDES [[1,1],[2,2],[2,2],[1,1]] "
    options += "DETECTION.ENABLE True TEST.DATASET ava TRAIN.DATASET ava RESNET.WIDTH_PER_GROUP 16 MODEL.LOSS_FUNC bce "
    options += "MODEL.HEAD_ACT sigmoid SLOWFAST.ALPHA 4 MODEL.DROPOUT_RATE 0.5"
    torch.manual_seed(0)
    model = built("slowfast", options, classes=6).eval()
    assert isinstance(model, ConvolutionalNetwork)
    perturb(model)
    x, boxes = clip(2, 3, 8, 64, 96), torch.tensor([[0.0, 3, 5, 40, 61], [1.0, 16, 16, 96, 64], [1.0, 0, 0, 9, 9]])
    with torch.inference_mode():
        pooled = [
            roi_align(pathway.mean(dim=2), boxes, 7, 1 / 16, 0, True).amax(dim=(2, 3)) for pathway in model._run(x)[-1]
        ]
        projection = model.get_submodule("head.projection")
        torch.testing.assert_close(model(x, boxes), projection(torch.cat(pooled, dim=1)), atol=1e-4, rtol=1e-4)


def test_image_weights_are_inflated() -> None:
    """PySlowFast's TRAIN.CHECKPOINT_INFLATE, from its ResNet of images to I3D; non-local blocks begin as nothing."""
    image = built("c2d", "RESNET.WIDTH_PER_GROUP 8").state_dict()
    model = built("i3d", f"RESNET.WIDTH_PER_GROUP 8 {NLN}")
    report = load_pretrained(model, image)
    assert report.missing and all("_nonlocal" in name for name in report.missing)
    inflated = model.state_dict()["s1.pathway0_stem.conv.weight"]
    assert inflated.shape[2] == 5 and torch.equal(inflated.sum(dim=2), image["s1.pathway0_stem.conv.weight"][:, :, 0])


def test_two_pathways_need_frames_that_alpha_divides() -> None:
    with pytest.raises(UserError, match=r"DATA\.NUM_FRAMES.*found 6, expected a multiple of SLOWFAST\.ALPHA 4"):
        built("slowfast", "SLOWFAST.ALPHA 4", frames=6)


def test_unknown_depths_and_archs_are_refused() -> None:
    with pytest.raises(UserError, match=r"RESNET\.DEPTH.*found 49, expected one of 18, 34, 50, 101"):
        built("slow", "RESNET.DEPTH 49")
    with pytest.raises(UserError, match=r"MODEL\.ARCH.*found .slofast.*did you mean slowfast"):
        build_model(load_config(opts="MODEL.MODEL_NAME SlowFast MODEL.ARCH slofast".split()))


def test_non_local_blocks_after_blocks_that_do_not_exist_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"NONLOCAL\.LOCATION: found 4, expected blocks of stage 3 of ResNet-50, 0 to 3"
    ):
        built("slow", "RESNET.DEPTH 50 NONLOCAL.LOCATION [[[]],[[1,4]],[[]],[[]]]")


def test_x3d_has_no_detection_head() -> None:
    cfg = load_config(opts=("MODEL.ARCH x3d DATA.NUM_FRAMES 4 DATA.TRAIN_CROP_SIZE 32 " + ARCHS["x3d"]).split())
    model = build_model(cfg)
    with pytest.raises(UserError, match="X3D cannot have a detection head"):
        model.reset_head(box_head_from_config(cfg, model))


@pytest.mark.parametrize(
    ("width", "factor", "expected"), [(12, 2.0, 24), (54, 0.0625, 8), (108, 0.0625, 8), (12, 0, 12)]
)
def test_widths_are_multiples_of_8(width: int, factor: float, expected: int) -> None:
    assert round_width(width, factor) == expected
