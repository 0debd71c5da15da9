"""pytorchvideo's networks: published sizes, logits in both modes, two pathways from one clip, files, the contract."""

import copy
import functools
import subprocess
import sys

import pytest
import torch
from pytorchvideo.models import hub

from tests.helpers.mvit_variants import clip
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import CheckpointError, build_model, count_params, load_pretrained
from videovit.models.detection.roi_head import RoIHead
from videovit.models.external.pytorchvideo import NETWORKS, build_ptv
from videovit.models.layers.pathways import slow_pathway

PUBLISHED = {  # clip size, parameters in millions
    "ptv_x3d_m": ((16, 224, 224), 3.79),
    "ptv_slowfast_r50": ((32, 224, 224), 34.57),
    "ptv_csn_r101": ((32, 224, 224), 22.21),
    "ptv_r2plus1d_r50": ((16, 224, 224), 28.11),
    "ptv_i3d_r50": ((8, 224, 224), 28.04),
    "ptv_c2d_r50": ((8, 224, 224), 24.33),
    "ptv_slow_r50": ((8, 224, 224), 32.45),
}
TINY = (8, 32, 32)
# In the scope of the module, all tests of one network run one after the other, and it is built once.
every_network = pytest.mark.parametrize("name", PUBLISHED, scope="module")


def tiny(name, num_classes=5):
    """The network on clips of 8 x 32 x 32, with the same weights in every call."""
    return copy.deepcopy(_tiny(name, num_classes))


@functools.lru_cache(maxsize=1)
def _tiny(name, num_classes):
    return build_ptv(name, clip_size=TINY, num_classes=num_classes, dropout=0.0)


def pooling_windows(network):
    """Windows of the average pools in the last two blocks (the head, and SlowFast's meeting of pathways)."""
    modules = [m for block in list(network.blocks)[-2:] for m in block.modules()]
    return [m.kernel_size for m in modules if isinstance(m, torch.nn.AvgPool3d)]


def test_every_network_is_listed():
    assert sorted(PUBLISHED) == sorted(NETWORKS)


@every_network
def test_sizes_names_and_windows_equal_the_hub(name):
    clip_size, millions = PUBLISHED[name]
    with torch.device("meta"):
        model = build_ptv(name, clip_size=clip_size)
        published = getattr(hub, name.removeprefix("ptv_"))(pretrained=False)
    assert round(count_params(model) / 1e6, 2) == millions
    shapes = {n: t.shape for n, t in model.state_dict().items()}
    assert shapes == {n: t.shape for n, t in published.state_dict().items()}
    assert pooling_windows(model) == pooling_windows(published)
    assert model(torch.empty(1, 3, *clip_size, device="meta")).shape == (1, 400)


@every_network
def test_logits_in_both_modes_and_gradients(name):
    model, x = tiny(name), clip(2, 3, *TINY)
    with torch.no_grad():
        model.blocks[-1].proj.bias.copy_(torch.tensor([-4.0, 3.0, 0.0, 5.0, -6.0]))
    logits = model.train()(x)
    assert logits.shape == (2, 5)
    assert logits.min() < 0 < 1 < logits.max()  # no softmax
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.inference_mode():
        logits = model.eval()(x)
        assert logits.min() < 0 < 1 < logits.max()
        tokens, grid, cls = model.forward_features(x)
    assert tokens.shape[:2] == (2, grid[0] * grid[1] * grid[2]) and cls is None


@every_network
def test_layers_are_the_stages(name):
    model = tiny(name)
    layers = model.layers_of_parameters()
    last = len(model.blocks) - 1
    assert model.num_layers == 4
    assert {layer for n, layer in layers.items() if n.startswith("blocks.0.")} == {0}
    assert {layer for n, layer in layers.items() if n.startswith(f"blocks.{last}.")} == {5}
    numbers = {int(n.split(".")[1]): layer for n, layer in layers.items()}
    assert sorted(numbers.values()) == list(range(6)) and list(numbers.values()) == sorted(numbers.values())


@every_network
def test_stages_halve_the_sides(name):
    model = tiny(name).eval()
    with torch.inference_mode():
        maps = model.forward_stages(clip(2, 3, 8, 64, 64))
    assert [tuple(m.shape[3:]) for m in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert all(m.shape[0] == 2 for m in maps)


@pytest.mark.parametrize("name", ["ptv_x3d_m", "ptv_slowfast_r50"])
def test_head_is_replaced_in_its_place(name):
    model = tiny(name).eval()
    head = torch.nn.Linear(model.head.in_features, 3)
    names = list(model.state_dict())
    model.reset_head(head)
    assert model.head is head and list(model.state_dict()) == names
    classifier = {n for n in names if n.startswith(tuple(f"{h}." for h in model.head_names))}
    assert {p for p, q in model.named_parameters() if any(q is r for r in head.parameters())} == classifier
    assert model(clip(1, 3, *TINY)).shape == (1, 3)
    with pytest.raises(UserError, match="cannot have a detection head"):
        model.reset_head(RoIHead(8, 3))


@every_network
def test_weights_round_trip_through_a_file(tmp_path, name):
    source, path = tiny(name), tmp_path / "published.pyth"
    model = build_ptv(name, clip_size=TINY, num_classes=5, dropout=0.0)  # with other weights
    torch.save({"model_state": source.state_dict()}, path)
    report = load_pretrained(model, path)
    assert len(report.loaded) == len(model.state_dict())
    assert not report.notes
    x = clip(1, 3, *TINY)
    with torch.inference_mode():
        assert torch.equal(model.eval()(x), source.eval()(x))


@pytest.mark.parametrize("name", ["ptv_x3d_m", "ptv_slowfast_r50"])
def test_forward_equals_pytorchvideo(name):
    from pytorchvideo.models.slowfast import create_slowfast
    from pytorchvideo.models.x3d import create_x3d

    model = tiny(name).eval()
    if name == "ptv_x3d_m":
        peer = create_x3d(input_clip_length=8, input_crop_size=32, model_num_class=5)  # ends in a softmax
    else:
        peer = create_slowfast(model_num_class=5, head_pool_kernel_sizes=((2, 1, 1), (8, 1, 1)))
    load_pretrained(model, peer.state_dict())
    x = clip(2, 3, *TINY)
    with torch.inference_mode():
        if name == "ptv_x3d_m":
            torch.testing.assert_close(model(x).softmax(-1), peer.eval()(x))
        else:
            torch.testing.assert_close(model(x), peer.eval()([x[:, :, [0, 7]], x]))


def test_larger_clips_in_evaluation():
    model = tiny("ptv_slowfast_r50").eval()
    with torch.inference_mode():
        assert model(clip(1, 3, 8, 64, 64)).shape == (1, 5)


def test_slow_pathway_takes_the_published_frames():
    frames = torch.arange(32.0).view(1, 1, 32, 1, 1)
    assert slow_pathway(frames, 4).flatten().tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    with pytest.raises(UserError, match="6 frames; two pathways need a multiple of 4"):
        slow_pathway(torch.zeros(1, 3, 6, 4, 4), 4)


def test_head_of_other_classes_dropped_other_network_refused():
    source = tiny("ptv_x3d_m", num_classes=7).state_dict()
    report = load_pretrained(tiny("ptv_x3d_m"), source)
    assert report.source == "own"
    assert report.missing == report.skipped == ["blocks.5.proj.weight", "blocks.5.proj.bias"]
    assert report.how["blocks.5.proj.bias"] == "classifier for other classes: file 7, model 5"
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_pretrained(tiny("ptv_slow_r50"), source)


def test_from_config():
    opts = ["DATA.NUM_FRAMES", "8", "DATA.TRAIN_CROP_SIZE", "64", "MODEL.NUM_CLASSES", "6"]
    for name in ("ptv_x3d_m", "ptv_i3d_r50"):
        with torch.device("meta"):
            model = build_model(load_config(None, ["MODEL.MODEL_NAME", name, *opts]))
        assert model(torch.empty(1, 3, 8, 64, 64, device="meta")).shape == (1, 6)
        with pytest.raises(UserError, match="ACT_CHECKPOINT"):
            build_model(load_config(None, ["MODEL.MODEL_NAME", name, *opts, "MODEL.ACT_CHECKPOINT", "True"]))


def test_impossible_clips_and_names():
    with pytest.raises(UserError, match=r"ptv_slowfast_r50: 10 frames \(DATA\.NUM_FRAMES\) are not a multiple of 4"):
        build_ptv("ptv_slowfast_r50", clip_size=(10, 32, 32))
    with pytest.raises(UserError, match="a clip of 1 frame is too short; the network needs 2 or more"):
        build_ptv("ptv_i3d_r50", clip_size=(1, 32, 32))
    with pytest.raises(UserError, match="expected one of ptv_x3d_m"):
        build_ptv("ptv_x3d_xl", clip_size=TINY)


def test_pytorchvideo_is_imported_lazily():
    code = "import sys, videovit.models; sys.exit(any(m.split('.')[0] == 'pytorchvideo' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
