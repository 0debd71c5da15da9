"""`build_model`: from the config's keys to typed arguments, with clear refusals."""

import pytest
import torch

from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import build_model
from videovit.models.mvit.model import MViT

SMALL = [
    *("MODEL.MODEL_NAME", "MViT", "MODEL.ARCH", "mvit", "MODEL.NUM_CLASSES", "7", "MODEL.DROPOUT_RATE", "0.25"),
    *("MODEL.ACT_CHECKPOINT", "True", "DATA.NUM_FRAMES", "4", "DATA.TRAIN_CROP_SIZE", "32", "MVIT.DEPTH", "2"),
    *("DATA.INPUT_CHANNEL_NUM", "[3]", "MVIT.EMBED_DIM", "16", "MVIT.PATCH_PADDING", "[1,3,3]"),
    *("MVIT.DROPPATH_RATE", "0.3", "MVIT.POOL_NORM_EPS", "1e-5", "MVIT.POOL_KV_STRIDE_ADAPTIVE", "[1,4,4]"),
]


def built(*options):
    return build_model(load_config(opts=[*SMALL, *options]))


def test_keys_reach_the_model():
    model = built("MVIT.SEP_POS_EMBED", "True", "MVIT.HEAD_INIT_SCALE", "0.5", "MVIT.MODE", "conv")
    assert isinstance(model, MViT)
    assert model.grid == (2, 8, 8)
    assert model.head.projection.out_features == 7
    assert model.head.dropout.p == 0.25
    assert model.act_checkpoint
    assert [round(b.drop_path.rate, 3) for b in model.blocks] == [0.0, 0.3]
    assert model.blocks[0].attn.norm_k.eps == 1e-5
    assert model.norm.eps == 1e-6
    assert model.pos_embed is None and model.pos_embed_temporal.shape == (1, 2, 16)
    assert model(torch.zeros(2, 3, 4, 32, 32)).shape == (2, 7)


def test_image_patches_are_clips_of_one_frame():
    patch = ["MVIT.PATCH_2D", "True", "MVIT.PATCH_KERNEL", "[7,7]", "MVIT.PATCH_STRIDE", "[4,4]"]
    model = built(*patch, "MVIT.PATCH_PADDING", "[3,3]", "DATA.NUM_FRAMES", "1", "MVIT.CLS_EMBED_ON", "False")
    assert model.patch_embed.proj.weight.shape == (16, 3, 1, 7, 7)
    assert model(torch.zeros(1, 3, 1, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize(
    "options",
    [("MVIT.POOL_FIRST", "True"), ("MVIT.LAYER_SCALE_INIT_VALUE", "0.1"), ("MVIT.USE_FIXED_SINCOS_POS", "True")],
)
def test_unavailable_variants_are_named(options):
    with pytest.raises(UserError, match=rf"{options[0]}\b"):
        built(*options)


@pytest.mark.parametrize(("name", "meant"), [("mvit", "MViT"), ("pit", "PiT"), ("ptv_x3d", "PTVX3D")])
def test_unknown_model_is_named_with_the_nearest(name, meant):
    with pytest.raises(
        UserError, match=rf"MODEL\.MODEL_NAME: found '{name}', expected one of .*; did you mean {meant}\?"
    ):
        build_model(load_config(opts=["MODEL.MODEL_NAME", name]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MViT", ["DATA.NUM_FRAMES", "1"]),
        ("MViT", ["DATA.NUM_FRAMES", "1", "MVIT.USE_ABS_POS", "False", "MVIT.REL_POS_TEMPORAL", "True"]),
        ("MViT", ["DATA.TRAIN_CROP_SIZE", "3"]),
        ("ViT", ["DATA.NUM_FRAMES", "1", "VIT.PATCH_SIZE", "[2, 16, 16]"]),
        ("ViT", ["DATA.TRAIN_CROP_SIZE", "15"]),
        ("PiT", ["DATA.TRAIN_CROP_SIZE", "15"]),
    ],
)
def test_clips_smaller_than_a_patch_are_refused_by_their_keys(name, options):
    """One frame and a patch stride of two used to end in PyTorch's error about the position table."""
    with pytest.raises(UserError, match=r"DATA\.NUM_FRAMES.*DATA\.TRAIN_CROP_SIZE"):
        built("MODEL.MODEL_NAME", name, *options)


@pytest.mark.parametrize("name", ["MViT", "ViT", "PiT"])
def test_a_clip_too_small_for_a_built_model_is_refused(name):
    model = built("MODEL.MODEL_NAME", name).eval()
    with pytest.raises(UserError, match=r"\(4, 0, 5\) \(T, H, W\) are smaller than a patch"):
        model(torch.zeros(1, 3, 4, 0, 5))


def test_a_grid_that_pooling_uses_up_has_one_token_left():
    relative = ["MVIT.REL_POS_SPATIAL", "True", "MVIT.USE_ABS_POS", "False", "DATA.TRAIN_CROP_SIZE", "8"]
    model = built(*relative, "MVIT.POOL_Q_STRIDE", "[[0,1,2,2],[1,1,2,2]]", "MVIT.POOL_KV_STRIDE_ADAPTIVE", "None")
    assert model(torch.zeros(1, 3, 4, 8, 8)).shape == (1, 7)
