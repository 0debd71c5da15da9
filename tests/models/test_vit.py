"""ViT: equal to timm's and to an MViT that pools nothing, two classifiers with distillation, any size of clip."""

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from tests.helpers.project import CONFIGS
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import build_model, expand, load_pretrained, optimize_for_inference
from videovit.models.contract import DistilledLogits
from videovit.models.convert import CheckpointError
from videovit.models.mvit.model import MViT
from videovit.models.pit import PiT
from videovit.models.vit import ViT

VIT_B = CONFIGS / "Kinetics/VIT_B_8x8.yaml"
SMALL = {"dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5, "patch_size": (2, 4, 4)}


def clip(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_equals_an_mvit_that_pools_nothing():
    vit = ViT(**SMALL, clip_size=(4, 16, 16)).eval()
    patch = {"patch_kernel": (2, 4, 4), "patch_stride": (2, 4, 4), "patch_padding": (0, 0, 0)}
    blocks = expand(depth=2, embed_dim=24, num_heads=3)
    mvit = MViT(blocks=blocks, num_classes=5, clip_size=(4, 16, 16), sep_pos_embed=False, **patch).eval()
    mvit.load_state_dict(vit.state_dict())
    x = clip(2, 3, 4, 16, 16)
    torch.testing.assert_close(vit(x), mvit(x), atol=1e-6, rtol=1e-5)
    for found, wanted in zip(vit.forward_features(x), mvit.forward_features(x), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_papers_baseline_is_the_same_by_both_classes():
    """Names and shapes of all weights, from one file."""
    states = []
    for options in ([], ["MODEL.MODEL_NAME", "ViT"]):
        with torch.device("meta"):
            model = build_model(load_config(VIT_B, options))
        states.append({name: tensor.shape for name, tensor in model.state_dict().items()})
        assert round(model.blocks[-1].drop_path.rate, 6) == 0.2
        assert model.head.dropout.p == 0.5
    assert isinstance(model, ViT)
    assert states[0] == states[1]


@pytest.mark.parametrize("distilled", [False, True])
def test_equals_timm(distilled):
    torch.manual_seed(0)
    kind = VisionTransformerDistilled if distilled else VisionTransformer
    theirs = kind(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5).eval()
    image = {**SMALL, "patch_size": (1, 8, 8)}
    ours = ViT(**image, clip_size=(1, 32, 32), distilled=distilled).eval()
    report = load_pretrained(ours, {"model": theirs.state_dict()})
    assert (report.source, report.resized, report.skipped, report.missing) == ("deit", [], [], [])
    x = clip(2, 3, 1, 32, 32)
    with torch.no_grad():
        for kind in (ours, optimize_for_inference(ours), ours.twin().plain_()):
            torch.testing.assert_close(kind(x), theirs(x[:, :, 0]), atol=1e-5, rtol=1e-5)
    # The same weights for clips: positions of every frame are those of the image.
    clips = ViT(**image, clip_size=(3, 16, 16), distilled=distilled).eval()
    report = load_pretrained(clips, theirs.state_dict())
    assert "pos_embed" in report.resized
    table = clips.pos_embed[0, -12:].view(3, 4, 24)
    assert torch.equal(table[0], table[2]) and clips(clip(1, 3, 3, 16, 16)).shape == (1, 5)


def test_a_wrong_model_is_named_with_the_right_one():
    theirs = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    with pytest.raises(CheckpointError, match="MODEL_NAME ViT"):
        load_pretrained(PiT(dims=(8,), num_heads=(1,), depths=(1,)), theirs.state_dict())


def test_other_sizes_stretch_the_positions():
    vit = ViT(**SMALL, clip_size=(4, 16, 16)).eval()
    x = clip(1, 3, 6, 20, 24)
    tokens, grid, cls = vit.forward_features(x)
    assert grid == (3, 5, 6)
    assert tokens.shape == (1, 90, 24) and cls.shape == (1, 1, 24)
    optimized = optimize_for_inference(vit)
    with torch.no_grad():
        for size in (x, clip(1, 3, 4, 16, 16), x):  # a kept table must not outlive its size
            torch.testing.assert_close(optimized(size), vit(size), atol=1e-6, rtol=1e-5)


def test_frame_order_without_time_positions_changes_nothing():
    torch.manual_seed(0)
    vit = ViT(**{**SMALL, "patch_size": (1, 4, 4)}, clip_size=(4, 16, 16)).eval()
    x, order = clip(2, 3, 4, 16, 16), [2, 0, 3, 1]
    assert not torch.allclose(vit(x[:, :, order]), vit(x), atol=1e-4)
    with torch.no_grad():
        table = vit.pos_embed[:, 1:].view(1, 4, 16, 24)
        table.copy_(table.mean(dim=1, keepdim=True).expand_as(table))
    torch.testing.assert_close(vit(x[:, :, order]), vit(x), atol=1e-5, rtol=1e-5)


def test_a_distilled_model_in_training_returns_both_logits():
    vit = ViT(**SMALL, clip_size=(2, 8, 8), distilled=True)
    x = clip(3, 3, 2, 8, 8)
    pair = vit(x)
    assert isinstance(pair, DistilledLogits)
    assert not torch.equal(pair.logits, pair.distillation)
    torch.testing.assert_close(vit.eval()(x), (pair.logits + pair.distillation) / 2)


def test_recomputing_activations_changes_no_gradient():
    grads = []
    for act_checkpoint in (False, True):
        torch.manual_seed(0)
        vit = ViT(**SMALL, clip_size=(2, 8, 8), act_checkpoint=act_checkpoint)
        vit(clip(2, 3, 2, 8, 8)).square().sum().backward()
        grads.append([p.grad for p in vit.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_a_new_head_drops_the_classifier_of_the_distillation_token():
    vit = ViT(**SMALL, clip_size=(2, 8, 8), distilled=True)
    vit.reset_head(torch.nn.Linear(24, 9))
    assert vit(clip(3, 3, 2, 8, 8)).shape == (3, 9)
    assert not any("head_dist" in name for name in vit.state_dict())


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="24 channels .* 5 heads"):
        ViT(**{**SMALL, "num_heads": 5}, clip_size=(2, 8, 8))
    with pytest.raises(UserError, match="smaller than a patch"):
        ViT(**SMALL, clip_size=(1, 8, 8))


def test_keys_reach_the_model():
    options = [
        "MODEL.MODEL_NAME",
        "ViT",
        "MODEL.NUM_CLASSES",
        "7",
        "DATA.NUM_FRAMES",
        "4",
        "DATA.TRAIN_CROP_SIZE",
        "32",
    ]
    options += ["VIT.EMBED_DIM", "24", "VIT.DEPTH", "3", "VIT.NUM_HEADS", "2", "VIT.PATCH_SIZE", "[2, 8, 8]"]
    options += ["VIT.QKV_BIAS", "False", "VIT.DISTILLED", "True", "VIT.MLP_RATIO", "2", "VIT.DROPPATH_RATE", "0.2"]
    vit = build_model(load_config(opts=[*options, "VIT.DROPOUT_RATE", "0.1", "MODEL.ACT_CHECKPOINT", "True"]))
    assert isinstance(vit, ViT)
    assert vit.grid == (2, 4, 4)
    assert vit.head_dist.projection.weight.shape == (7, 24)
    assert vit.blocks[0].attn.qkv.bias is None
    assert vit.blocks[0].mlp.fc1.out_features == 48
    assert [round(block.drop_path.rate, 3) for block in vit.blocks] == [0.0, 0.1, 0.2]
    assert (vit.pos_dropout.p, vit.blocks[1].attn.dropout.p, vit.blocks[1].mlp.dropout) == (0.1, 0.1, 0.1)
    assert vit.act_checkpoint
