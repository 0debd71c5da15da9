"""PySlowFast's PTV models: the network that the keys describe, not the nearest published one."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.mvit_variants import clip, perturb
from videovit.config import ConfigWarning, load_config
from videovit.errors import UserError
from videovit.models import build_model, load_pretrained
from videovit.models.external.pytorchvideo import PtvNetwork
from videovit.models.mvit.model import MViT

COMMON = (
    "MODEL.NUM_CLASSES 5 MODEL.DROPOUT_RATE 0.0 DATA.NUM_FRAMES 16 DATA.TRAIN_CROP_SIZE 32 RESNET.WIDTH_PER_GROUP 16 "
)
# Each with keys that no published network has.
KEYS = {
    ("PTVSlowFast", "SlowFast"): "MODEL.ARCH slowfast SLOWFAST.ALPHA 8 SLOWFAST.BETA_INV 4 SLOWFAST.FUSION_KERNEL_SZ 5 "
    "SLOWFAST.FUSION_CONV_CHANNEL_RATIO 3 RESNET.NUM_BLOCK_TEMP_KERNEL [[3,3],[4,4],[2,6],[1,3]]",
    ("PTVResNet", "ResNet"): "MODEL.ARCH i3d RESNET.SPATIAL_STRIDES [[1],[2],[2],[1]] "
    "RESNET.SPATIAL_DILATIONS [[1],[1],[1],[2]]",
    ("PTVX3D", "X3D"): "MODEL.ARCH x3d RESNET.TRANS_FUNC x3d_transform X3D.WIDTH_FACTOR 2.0 X3D.DEPTH_FACTOR 1.5 "
    "X3D.BOTTLENECK_FACTOR 2.25 X3D.DIM_C5 64 X3D.DIM_C1 8",
}


@pytest.mark.parametrize("names", KEYS)
def test_network_equals_the_native_one_of_the_same_keys(names: tuple[str, str]) -> None:
    torch.manual_seed(0)
    peer, native = (
        build_model(load_config(opts=f"{COMMON} MODEL.MODEL_NAME {n} {KEYS[names]}".split())) for n in names
    )
    assert isinstance(peer, PtvNetwork)
    perturb(peer)
    # PySlowFast's files have these names with `model.` in front.
    report = load_pretrained(native, {f"model.{name}": tensor for name, tensor in peer.state_dict().items()})
    assert report.source == "pytorchvideo_cnn" and not (report.missing or report.skipped or report.resized)
    x = clip(1, 3, 16, 32, 32)
    with torch.inference_mode():
        expected = native.eval()(x)
        torch.testing.assert_close(peer.eval()(x), expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-4)


def test_others_reach_their_builders() -> None:
    with torch.device("meta"):
        csn = build_model(load_config(opts=f"{COMMON} MODEL.MODEL_NAME PTVCSN MODEL.ARCH csn".split()))
        r2plus1d = build_model(load_config(opts=f"{COMMON} MODEL.MODEL_NAME PTVR2plus1D MODEL.ARCH r2plus1d".split()))
    assert csn.state_dict()["blocks.0.conv.weight"].shape[0] == 16
    assert sum(name.endswith("branch2.conv_b.weight") for name in csn.state_dict()) == 16  # R50
    assert r2plus1d.state_dict()["blocks.0.conv.weight"].shape[0] == 16
    with pytest.warns(ConfigWarning, match="PTVMViT is taken as MViT"):
        cfg = load_config(opts="MODEL.MODEL_NAME PTVMViT MVIT.DEPTH 1".split())
    with torch.device("meta"):
        assert isinstance(build_model(cfg), MViT)


def test_what_pytorchvideo_cannot_build_is_refused() -> None:
    for options, message in (
        ("PTVResNet MODEL.ARCH slowfast", r"MODEL\.ARCH.*expected one of slow, c2d, i3d"),
        ("PTVSlowFast MODEL.ARCH slowfast RESNET.DEPTH 18", r"RESNET\.DEPTH.*found 18, expected one of 50, 101"),
        (
            "PTVResNet MODEL.ARCH slow RESNET.STRIDE_1X1 True",
            "expected TRANS_FUNC bottleneck_transform, STRIDE_1X1 False",
        ),
        ("PTVSlowFast MODEL.ARCH slowfast SLOWFAST.ALPHA 5", r"PTVSlowFast: 16 frames .* are not a multiple of 5"),
        ("PTVR2plus1D MODEL.ARCH r2plus1d RESNET.DEPTH 101", r"RESNET\.DEPTH.*found 101, expected .?50"),
        ("PTVX3D MODEL.ARCH x3d MODEL.ACT_CHECKPOINT True", "ACT_CHECKPOINT would update the batch statistics twice"),
    ):
        with torch.device("meta"), pytest.raises(UserError, match=message):
            build_model(load_config(opts=f"{COMMON} MODEL.MODEL_NAME {options}".split()))
