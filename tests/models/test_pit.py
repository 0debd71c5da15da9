"""PiT: equal to timm's, by its weights; clips, sizes, keys."""

import pytest
import timm
import torch

from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import build_model, export_state_dict, load_pretrained, optimize_for_inference
from videovit.models.contract import DistilledLogits
from videovit.models.convert import CheckpointError
from videovit.models.pit import PIT_PRESETS, PiT

SMALL = {"dims": (8, 16, 32), "num_heads": (1, 2, 4), "depths": (1, 2, 1), "num_classes": 5}
SMALL_PATCH = {"patch_kernel": (1, 8, 8), "patch_stride": (1, 4, 4)}
OVER_TIME = {"patch_kernel": (3, 8, 8), "pool_kernel": (3, 3, 3), "pool_stride": (2, 2, 2)}


def image(side, batch=1, frames=1, seed=0):
    return torch.randn(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [f"{name}{tail}" for name in PIT_PRESETS for tail in ("", "_distilled")])
def test_equals_timm(name):
    torch.manual_seed(0)
    preset = name.removesuffix("_distilled")
    theirs = timm.create_model(f"{preset}{'_distilled' if name != preset else ''}_224", num_classes=10).eval()
    with torch.device("meta"):
        ours = PiT(**PIT_PRESETS[preset], distilled=name != preset, num_classes=10)
    report = load_pretrained(ours.to_empty(device="cpu"), theirs.state_dict())
    assert (report.source, report.skipped, report.missing, report.resized) == ("pit", [], [], [])
    x = image(224)
    with torch.inference_mode():
        expected = theirs(x[:, :, 0])
        for kind in (ours.eval(), optimize_for_inference(ours), ours.twin().plain_()):
            torch.testing.assert_close(kind(x), expected, atol=1e-5, rtol=1e-5)
    written = export_state_dict(ours, "timm_pit")
    assert written.keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, written[key]) for key, tensor in theirs.state_dict().items())


def test_gradients_equal_timms():
    torch.manual_seed(0)
    theirs = timm.create_model("pit_ti_224", num_classes=10).eval()
    ours = PiT(**PIT_PRESETS["pit_ti"], num_classes=10).eval()
    load_pretrained(ours, theirs.state_dict())
    x = image(224)
    theirs(x[:, :, 0]).square().sum().backward()
    ours(x).square().sum().backward()
    grads = {"pos_embed": ours.pos_embed_spatial.grad.transpose(1, 2).unflatten(2, (27, 27))}
    grads["transformers.1.pool.conv.weight"] = ours.blocks[2].pool.conv.weight.grad.squeeze(2)
    grads["transformers.2.blocks.3.attn.qkv.weight"] = ours.blocks[11].attn.qkv.weight.grad
    for name, grad in grads.items():
        torch.testing.assert_close(grad, theirs.get_parameter(name).grad, atol=1e-5, rtol=1e-4)


def test_names_of_the_authors_round_trip():
    model = PiT(**SMALL, **SMALL_PATCH, clip_size=(1, 32, 32), distilled=True)
    written = export_state_dict(model, "pit")
    assert written["pos_embed"].shape == (1, 8, 7, 7)
    assert written["pools.1.conv.weight"].shape == (32, 1, 3, 3)
    assert written["transformers.1.blocks.1.attn.qkv.weight"].shape == (48, 16)
    twin = PiT(**SMALL, **SMALL_PATCH, clip_size=(1, 32, 32), distilled=True)
    assert not load_pretrained(twin, {"state_dict": written}).resized
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name])


def test_a_clip_of_one_frame_is_an_image():
    """Weights of an image model in a model of clips, whose patches and pooling reach over time."""
    picture = PiT(**SMALL, **SMALL_PATCH, clip_size=(1, 32, 32)).eval()
    clips = PiT(**SMALL, **{**SMALL_PATCH, **OVER_TIME}, clip_size=(8, 32, 32)).eval()
    report = load_pretrained(clips, picture.state_dict())
    assert {"patch_embed.proj.weight", "blocks.1.pool.conv.weight", "pos_embed_temporal"} < set(report.resized)
    x = image(32, batch=2)
    torch.testing.assert_close(clips(x), picture(x), atol=1e-5, rtol=1e-5)
    # The mean over time instead would leave a third of everything.
    load_pretrained(clips, picture.state_dict(), inflate="mean")
    assert (clips(x) - picture(x)).abs().max() > 1e-3


def test_time_shrinks_with_the_grid():
    clips = PiT(**SMALL, **{**SMALL_PATCH, **OVER_TIME}, clip_size=(8, 32, 32)).eval()
    for frames, left in ((8, 2), (4, 1), (1, 1)):
        tokens, grid, cls = clips.forward_features(image(36, frames=frames))
        assert grid == (left, 2, 2)
        assert tokens.shape == (1, 4 * left, 32) and cls.shape == (1, 1, 32)


def test_stages_end_before_the_pools():
    model = PiT(**SMALL, **SMALL_PATCH, clip_size=(1, 32, 32)).eval()
    x = image(32, batch=2)
    stages = model.forward_stages(x)
    assert [tuple(m.shape) for m in stages] == [(2, 8, 1, 7, 7), (2, 16, 1, 4, 4), (2, 32, 1, 2, 2)]
    tokens = model.forward_features(x).tokens_BNC
    torch.testing.assert_close(model.norm(stages[-1].flatten(2).transpose(1, 2)), tokens)


def test_pools_are_sharded_apart_from_their_blocks():
    """They run outside of the block's forward pass, so their weights must be gathered for themselves."""
    model = PiT(**SMALL, **SMALL_PATCH, clip_size=(1, 32, 32))
    first, second, third, _ = model.blocks
    assert [*model.units_to_shard()] == [first, second.pool, second, third]


def test_compile():
    model = PiT(**SMALL, **SMALL_PATCH, clip_size=(1, 32, 32)).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image(32)), model(image(32)), atol=1e-5, rtol=1e-5)


def test_frames_and_their_order_matter():
    torch.manual_seed(0)
    clips = PiT(**SMALL, **{**SMALL_PATCH, **OVER_TIME}, clip_size=(4, 32, 32)).eval()
    x = image(32, frames=4)
    assert not torch.allclose(clips(x), clips(x.flip(2)), atol=1e-4)


def test_other_sizes_stretch_the_positions_as_torch_does():
    picture = PiT(**SMALL, **SMALL_PATCH, clip_size=(1, 32, 32)).eval()
    larger = PiT(**SMALL, **SMALL_PATCH, clip_size=(1, 48, 48)).eval()
    load_pretrained(larger, picture.state_dict())
    table = picture.pos_embed_spatial.transpose(1, 2).unflatten(2, (7, 7))
    wanted = torch.nn.functional.interpolate(table, size=(11, 11), mode="bicubic", align_corners=False)
    torch.testing.assert_close(larger.pos_embed_spatial, wanted.flatten(2).transpose(1, 2))
    torch.testing.assert_close(larger(image(48)), picture(image(48)), atol=1e-6, rtol=1e-5)


def test_a_distilled_model_in_training_returns_both_logits():
    model = PiT(**SMALL, **SMALL_PATCH, clip_size=(1, 32, 32), distilled=True)
    pair = model(image(32, batch=3))
    assert isinstance(pair, DistilledLogits)
    assert not torch.equal(pair.logits, pair.distillation)
    torch.testing.assert_close(model.eval()(image(32, batch=3)), (pair.logits + pair.distillation) / 2)


def test_initial_values_are_torchs_own():
    torch.manual_seed(0)
    model = PiT(**PIT_PRESETS["pit_s"])
    assert abs(model.blocks[0].attn.qkv.weight.std().item() - (3 * 144) ** -0.5) < 1e-3
    assert abs(model.pos_embed_spatial.std().item() - 0.02) < 1e-3


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"as many stages"):
        PiT(**{**SMALL, "depths": (1, 1)})
    with pytest.raises(UserError, match="20, must be a multiple of those before, 8"):
        PiT(**{**SMALL, "dims": (8, 20, 40), "num_heads": (1, 1, 1)})
    with pytest.raises(UserError, match="smaller than a patch"):
        PiT(**SMALL, clip_size=(1, 8, 8))


def test_exports_that_make_no_sense_are_refused():
    clips = PiT(**SMALL, **{**SMALL_PATCH, **OVER_TIME}, clip_size=(4, 32, 32))
    with pytest.raises(CheckpointError, match="for images"):
        export_state_dict(clips, "pit")
    with pytest.raises(CheckpointError, match="PiT cannot be written as torchvision"):
        export_state_dict(clips, "torchvision")


def test_keys_reach_the_model():
    options = ["MODEL.MODEL_NAME", "PiT", "MODEL.NUM_CLASSES", "7", "DATA.NUM_FRAMES", "4"]
    options += ["DATA.TRAIN_CROP_SIZE", "32", "PIT.EMBED_DIMS", "[8, 16]", "PIT.NUM_HEADS", "[1, 2]"]
    options += ["PIT.DEPTHS", "[1, 2]", "PIT.PATCH_KERNEL", "[3, 8, 8]", "PIT.PATCH_STRIDE", "[2, 4, 4]"]
    options += ["PIT.POOL_KERNEL", "[3, 3, 3]", "PIT.POOL_STRIDE", "[1, 2, 2]", "PIT.MLP_RATIO", "2"]
    options += ["PIT.DISTILLED", "True", "PIT.DROPPATH_RATE", "0.2", "PIT.DROPOUT_RATE", "0.1"]
    model = build_model(load_config(opts=[*options, "MODEL.ACT_CHECKPOINT", "True"]))
    assert isinstance(model, PiT)
    assert model.grid == (2, 7, 7)
    assert model.blocks[1].pool.conv.kernel_size == (3, 3, 3) and model.blocks[1].pool.conv.stride == (1, 2, 2)
    assert model.blocks[2].mlp.fc1.out_features == 32
    assert model.head_dist.projection.out_features == 7
    assert [round(block.drop_path.rate, 3) for block in model.blocks] == [0.0, 0.1, 0.2]
    assert model.pos_dropout.p == 0.1 and model.act_checkpoint
