"""PS-ViT: the sampler against a direct sum, the iterations against the paper's equations, clips, weights, keys."""

import argparse
import copy

import pytest
import torch
from torch import nn

from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import build_model, export_state_dict, load_pretrained
from videovit.models.convert import CheckpointError
from videovit.models.progressive_sampling import ProgressiveSamplingViT, _sample_by_index, initial_points, sample_map

SMALL = {"dim": 16, "num_heads": 2, "iterations": 3, "depth": 1, "points": (3, 3), "num_classes": 5}
STEM = {"stem_width": 4, "stem_dim": 8}


def small(**changes):
    torch.manual_seed(0)
    return ProgressiveSamplingViT(**{**SMALL, **STEM, **changes}).eval()


def restless(model, seed=1):
    """The same model with moving points, batch norms other than the identity, and positions in time."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in model.blocks:
            if getattr(block, "offset", None) is not None:
                block.offset.weight.normal_(0, 1.0, generator=generator)
                block.offset.bias.normal_(0, 0.5, generator=generator)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.3, generator=generator)
        model.pos_layer.weight.normal_(0, 0.5, generator=generator)
    return model


def clip(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def direct_sum(map_BCTHW, points_BN3):
    """Every element of the map, weighted by the product of max(0, 1 - distance) over the axes."""
    weights = 1.0
    for axis, side in enumerate(map_BCTHW.shape[2:]):
        distance = (points_BN3[..., axis, None] - torch.arange(side, dtype=map_BCTHW.dtype)).abs()
        shape = [*points_BN3.shape[:2], 1, 1, 1]
        shape[2 + axis] = side
        weights = weights * (1 - distance).clamp(min=0).view(shape)
    return torch.einsum("bnthw,bcthw->bnc", weights, map_BCTHW)


@pytest.mark.parametrize("frames", [1, 4])
def test_sampler_equals_a_direct_sum(frames):
    generator = torch.Generator().manual_seed(0)
    map_BCTHW = torch.randn(2, 3, frames, 6, 5, dtype=torch.float64, generator=generator)
    points = torch.rand(2, 300, 3, dtype=torch.float64, generator=generator) * torch.tensor([6.0, 9, 8]) - 1.5
    # On elements, half way, on and beyond the border.
    special = torch.tensor([[0.0, 0, 0], [1, -1, 2], [0.5, -0.5, 4], [3, 5, 4], [3.5, 5.5, 2], [-2, 9, 9], [2, 3, 4.5]])
    points[:, :7] = special.double()
    if frames == 1:
        points[..., 0] = 0.0
    expected = direct_sum(map_BCTHW, points)
    torch.testing.assert_close(sample_map(map_BCTHW, points), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(_sample_by_index(map_BCTHW, points), expected, atol=1e-12, rtol=0)
    assert expected[:, 5].abs().max() == 0


@pytest.mark.parametrize("frames", [1, 3])
def test_sampler_gradients(frames):
    generator = torch.Generator().manual_seed(0)
    map_BCTHW = torch.randn(1, 2, frames, 4, 4, dtype=torch.float64, generator=generator).requires_grad_()
    points = torch.rand(1, 9, 3, dtype=torch.float64, generator=generator) * torch.tensor([3.0, 5, 5]) - 0.7
    points = (points + 0.05 * (points == points.round())).requires_grad_()  # the weights have a kink at elements
    assert torch.autograd.gradcheck(sample_map, (map_BCTHW, points))
    assert torch.autograd.gradcheck(_sample_by_index, (map_BCTHW, points))


def test_samplers_agree_on_a_single_frame_whatever_the_time():
    map_BCTHW, points = clip(2, 3, 1, 6, 5), 5 * clip(2, 40, 3, seed=1)
    expected = sample_map(map_BCTHW, points)
    torch.testing.assert_close(_sample_by_index(map_BCTHW[:, :, 0], points[..., 1:]), expected)


def test_samplers_pass_nan_on():
    """The loss is checked for it; as an index it would abort the process on a GPU."""
    map_BCTHW, points = clip(1, 3, 2, 6, 5), clip(1, 4, 3, seed=1)
    points[0, 2] = float("nan")
    for sample in (sample_map, _sample_by_index):
        assert sample(map_BCTHW, points).isfinite().all(dim=-1).tolist()[0][:2] == [True, True]
    assert not _sample_by_index(map_BCTHW, points)[0, 2].isfinite().any()


def test_initial_points():
    points = initial_points((1, 14, 14), (1, 56, 56))
    assert points[:3].tolist() == [[0, 2, 2], [0, 2, 6], [0, 2, 10]]
    assert points[-1].tolist() == [0, 54, 54]
    assert initial_points((4, 1, 1), (4, 2, 2))[:, 0].tolist() == [0, 1, 2, 3]
    assert initial_points((2, 1, 1), (4, 2, 2))[:, 0].tolist() == [0.5, 2.5]
    assert initial_points((1, 2, 3), (1, 8, 6)).tolist() == [[0, y, x] for y in (2, 6) for x in (1, 3, 5)]


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_iterations_follow_the_equations(gamma):
    """Against an independent implementation."""
    model = restless(small(gamma=gamma))
    x = clip(2, 3, 1, 32, 40)
    feature_map = model.stem(x)
    sides = torch.tensor([8.0, 10.0])
    points, tokens, seen = initial_points((1, 3, 3), (1, 8, 10)).expand(2, -1, -1), 0, []
    for i in range(3):
        seen.append(points)
        position = (points[..., 1:] / sides) @ model.pos_layer.weight.T + model.pos_layer.bias
        tokens = model.blocks[i](direct_sum(feature_map, points) + position + tokens)
        if i < 2:
            layer = model.blocks[i].offset
            moves = tokens @ layer.weight.T + layer.bias
            points = points + gamma * torch.cat([torch.zeros_like(moves[..., :1]), moves], dim=-1)
    cls = model.cls_token.expand(2, -1, -1)
    tokens = model.norm(model.blocks[3](torch.cat([cls, tokens], dim=1)))
    found = model.forward_features(x)
    torch.testing.assert_close(model.sampling_points(x), torch.stack(seen), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(torch.cat([found.cls_BXC, found.tokens_BNC], dim=1), tokens, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(x), model.head(tokens[:, 0]), atol=1e-4, rtol=1e-4)
    assert (seen[1] - seen[0]).abs().max() > 0.5


def test_initial_offsets_are_zero():
    model = small()
    points = model.sampling_points(clip(1, 3, 1, 32, 32))
    assert points.shape == (3, 1, 9, 3)
    assert torch.equal(points[0], points[2])


def test_gradients_reach_offsets_through_the_next_sampling():
    model = restless(small())
    model(clip(2, 3, 1, 32, 32)).square().sum().backward()
    assert all(block.offset.weight.grad.abs().max() > 0 for block in model.blocks[:2])
    assert not model.sampling_points(clip(1, 3, 1, 32, 32)).requires_grad


def test_coordinates_stay_precise_under_autocast():
    model = restless(small())
    x = clip(1, 3, 1, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        points = model.sampling_points(x)
        logits = model(x)
    assert points.dtype == torch.float32
    assert not torch.equal(points, points.bfloat16().float())
    torch.testing.assert_close(logits.float(), model(x), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision(dtype):
    model = restless(small())
    x = clip(1, 3, 1, 32, 32)
    narrow = copy.deepcopy(model).to(dtype)(x.to(dtype))
    assert narrow.dtype == dtype
    torch.testing.assert_close(narrow.float(), model(x), atol=0.1, rtol=0.1)


def test_shared_sampler_is_one_block_for_all_iterations():
    shared, own = restless(small(share_sampler=True)), small()
    assert len(shared.blocks) == 2 and len(own.blocks) == 4
    state = shared.state_dict()
    copied = {n: t for n, t in state.items() if not n.startswith("blocks.")}
    for name, tensor in state.items():
        if name.startswith("blocks.0."):
            copied |= {f"blocks.{i}.{name[9:]}": tensor for i in range(3) if i < 2 or ".offset." not in name}
        elif name.startswith("blocks.1."):
            copied[f"blocks.3.{name[9:]}"] = tensor
    own.load_state_dict(copied)
    x = clip(2, 3, 1, 32, 32)
    torch.testing.assert_close(shared(x), own(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("time", ["points", "planes", "frames"])
def test_clip_of_one_frame_equals_the_image(time):
    picture = restless(small())
    clips = small(num_frames=4, time=time)
    report = load_pretrained(clips, picture.state_dict())
    assert (report.skipped, report.missing) == ([], [])
    assert ("pos_layer.weight" in report.resized) == (time != "frames")
    assert ("blocks.0.offset.bias" in report.resized) == (time == "points")
    if time == "points":  # offsets in time have no effect on one frame
        nn.init.constant_(clips.blocks[0].offset.bias[:1], 0.7)
    x = clip(2, 3, 1, 32, 32)
    torch.testing.assert_close(clips(x), picture(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clips.sampling_points(x), picture.sampling_points(x))
    back = small()
    load_pretrained(back, clips.state_dict())
    torch.testing.assert_close(back(x), picture(x), atol=1e-5, rtol=1e-5)


def test_points_move_in_time_only_with_three_axes():
    x = clip(1, 3, 4, 32, 32)
    moving, flat = restless(small(num_frames=4)), restless(small(num_frames=4, time="planes"))
    frames = initial_points((4, 3, 3), (4, 8, 8))[:, 0]
    assert (moving.sampling_points(x)[1][..., 0] - frames).abs().max() > 0.1
    assert torch.equal(flat.sampling_points(x)[2][0, :, 0], frames)
    tokens, grid, cls = moving.forward_features(x)
    assert grid == (4, 3, 3) and tokens.shape == (1, 36, 16) and cls.shape == (1, 1, 16)
    fewer = small(num_frames=4, time_points=2)
    assert fewer.forward_features(x).grid == (2, 3, 3)


def test_frame_by_frame_ignores_the_order():
    model = restless(small(num_frames=4, time="frames"))
    x = clip(2, 3, 4, 32, 32)
    logits = model(x)
    torch.testing.assert_close(logits, model(x.flip(2)), atol=1e-5, rtol=1e-5)
    single = torch.stack([model(x[:, :, t : t + 1]) for t in range(4)]).mean(dim=0)
    torch.testing.assert_close(logits, single, atol=1e-5, rtol=1e-5)
    tokens, grid, cls = model.forward_features(x)
    assert grid == (4, 3, 3) and tokens.shape == (2, 36, 16) and cls.shape == (2, 1, 16)
    torch.testing.assert_close(model.head(cls[:, 0]), logits)
    assert model.sampling_points(x)[0, 0, ::9, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("time", ["points", "planes", "frames"])
def test_stage_is_the_map_of_the_tokens(time):
    model = restless(small(num_frames=4, time=time, points=(3, 2)))
    x = clip(2, 3, 4, 32, 32)
    (stage,) = model.forward_stages(x)
    assert stage.shape == (2, 16, 4, 3, 2)
    tokens = model.norm(stage.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens, model.forward_features(x).tokens_BNC)


@pytest.mark.parametrize("share_sampler", [True, False])
def test_layers_are_blocks_with_their_offsets(share_sampler):
    model = small(share_sampler=share_sampler)
    layers = model.layers_of_parameters()
    assert model.num_layers == len(model.blocks) == (2 if share_sampler else 4)
    assert layers["blocks.0.offset.weight"] == layers["blocks.0.attn.qkv.weight"] == 1
    assert {layers[name] for name in ("stem.conv.weight", "pos_layer.weight", "cls_token")} == {0}
    assert layers["norm.weight"] == layers["head.projection.weight"] == model.num_layers + 1
    assert model.no_weight_decay() == {"cls_token"}
    assert model.grid is None


def test_units_to_shard_leave_offsets_out():
    model = small()
    inside = {id(p) for unit in model.units_to_shard() for p in unit.parameters()}
    assert not any(id(block.offset.weight) in inside for block in model.blocks[:2])
    assert all(id(block.mlp.fc1.weight) in inside for block in model.blocks[:3])


def theirs_of(model):
    """The model's weights by the authors' names, transcribed from their checkpoints."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("stem."):
            for ours, published in (("conv.", "0."), ("norm.", "1."), ("units.0.", "4."), ("units.1.", "5.")):
                if name.startswith(f"stem.{ours}"):
                    rest = name.removeprefix(f"stem.{ours}").replace("shortcut", "downsample")
                    state[f"stem.{published}{rest.replace('norm', 'bn')}"] = tensor
        elif name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            if int(number) >= 3:
                state[f"trans_layers.{int(number) - 3}.{rest}"] = tensor
            elif rest.startswith("offset."):
                state[f"ps_layers.{number}.offset_layer.{rest[7:]}"] = tensor
            else:
                state[f"ps_layers.{number}.transformer_layer.{rest}"] = tensor
        elif name.startswith("pos_layer."):
            state[name] = tensor
            state |= {f"ps_layers.{i}.position_layer.{name[10:]}": tensor.clone() for i in range(3)}
        else:
            state[name.replace("head.projection", "head")] = tensor
    return state | {"point_coord": torch.zeros(1, 9, 2)}


def with_norms_named(state):
    """The first norm of the stem has a number, not a name."""
    return {name.replace("stem.1.bn", "stem.1."): tensor for name, tensor in state.items()}


def test_weights_round_trip_through_the_names_of_the_authors():
    model = restless(small())
    published = with_norms_named(theirs_of(model))
    del published["point_coord"]
    written = export_state_dict(model, "ps_vit")
    assert written.keys() == published.keys()
    assert all(torch.equal(tensor, published[name]) for name, tensor in written.items())
    twin = small()
    report = load_pretrained(twin, {"state_dict_ema": written})
    assert (report.source, report.resized, report.skipped, report.missing) == ("ps_vit", [], [], [])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name])


@pytest.mark.parametrize(
    ("changes", "layout", "reason"),
    [
        ({"num_frames": 4}, "ps_vit", "for images"),
        ({"share_sampler": True}, "ps_vit", "a block for every iteration"),
        ({"gamma": 0.5}, "ps_vit", "gamma 1.0"),
        ({}, "pyslowfast", "cannot be written as pyslowfast"),
    ],
)
def test_exports_without_a_place_are_refused(changes, layout, reason):
    with pytest.raises(CheckpointError, match=reason):
        export_state_dict(small(**changes), layout)


def test_without_a_class_token_the_mean_is_classified():
    with_cls, without = restless(small()), small(cls_token=False)
    assert "cls_token" not in without.state_dict()
    without.load_state_dict({n: t for n, t in with_cls.state_dict().items() if n != "cls_token"})
    x = clip(2, 3, 1, 32, 32)
    tokens, grid, cls = without.forward_features(x)
    assert grid == (1, 3, 3) and tokens.shape == (2, 9, 16) and cls is None
    torch.testing.assert_close(without(x), without.head(tokens.mean(dim=1)))
    alone = small(cls_token=False)
    report = load_pretrained(alone, export_state_dict(without, "ps_vit"))
    assert (report.skipped, report.missing) == ([], [])
    torch.testing.assert_close(alone(x), without(x), atol=0, rtol=0)
    frames = small(num_frames=4, time="frames", cls_token=False)
    assert frames.forward_features(clip(2, 3, 4, 32, 32)).tokens_BNC.shape == (2, 36, 16)


def test_weights_of_the_authors_load():
    model = restless(small())
    published = with_norms_named(theirs_of(model))
    assert {"stem.4.downsample.1.running_var", "stem.5.bn3.weight", "stem.1.num_batches_tracked"} < published.keys()
    worse = {f"module.{n}": torch.zeros_like(t) for n, t in published.items()}
    averaged = {f"module.{n}": t for n, t in published.items()}
    twin = small()
    report = load_pretrained(twin, {"arch": "ps_vit_b_14", "state_dict": worse, "state_dict_ema": averaged})
    assert (report.source, report.resized, report.skipped, report.missing) == ("ps_vit", [], [], [])
    x = clip(2, 3, 1, 32, 32)
    torch.testing.assert_close(twin(x), model(x))
    published["ps_layers.1.position_layer.bias"][0] += 1
    with pytest.raises(CheckpointError, match=r"ps_layers.1.position_layer.bias should be a copy"):
        load_pretrained(twin, published)


def test_file_with_a_namespace_loads_only_plain_values(tmp_path):
    """As timm saves it."""
    model = restless(small())
    state = with_norms_named(theirs_of(model))
    content = {"epoch": 309, "arch": "ps_vit_b_14", "state_dict": {n: torch.zeros_like(t) for n, t in state.items()}}
    content |= {"state_dict_ema": state, "version": 2, "metric": 81.7}
    torch.save(
        content | {"args": argparse.Namespace(lr=5e-4, data="imagenet", aug_splits=0)}, tmp_path / "good.pth.tar"
    )
    twin = small()
    load_pretrained(twin, tmp_path / "good.pth.tar")
    assert torch.equal(twin.pos_layer.weight, model.pos_layer.weight)
    torch.save(content | {"args": argparse.Namespace(folder=tmp_path)}, tmp_path / "odd.pth.tar")
    with pytest.raises(CheckpointError, match="objects other than tensors and plain values"):
        load_pretrained(twin, tmp_path / "odd.pth.tar")


def test_no_iteration_is_refused():
    with pytest.raises(UserError, match="at least one iteration"):
        small(iterations=0)


def test_keys_reach_the_model():
    options = ["MODEL.MODEL_NAME", "PS_ViT", "MODEL.NUM_CLASSES", "7", "DATA.NUM_FRAMES", "4", "PS_VIT.EMBED_DIM", "16"]
    options += ["PS_VIT.NUM_HEADS", "2", "PS_VIT.ITERATIONS", "2", "PS_VIT.DEPTH", "1", "PS_VIT.POINTS", "[3, 4]"]
    options += ["PS_VIT.TIME_POINTS", "2", "PS_VIT.TIME", "planes", "PS_VIT.GAMMA", "0.5", "PS_VIT.MLP_RATIO", "2"]
    options += ["PS_VIT.STEM_WIDTH", "4", "PS_VIT.STEM_DIM", "8", "PS_VIT.DROPOUT_RATE", "0.1"]
    options += ["PS_VIT.DROPPATH_RATE", "0.2", "MODEL.ACT_CHECKPOINT", "True"]
    model = build_model(load_config(opts=options))
    assert isinstance(model, ProgressiveSamplingViT)
    assert model.forward_features(clip(1, 3, 4, 32, 32)).grid == (2, 3, 4)
    assert (model.gamma, model.time) == (0.5, "planes")
    assert model.stem.units[1].conv1.weight.shape == (4, 8, 1, 1)
    assert model.blocks[0].offset.out_features == 2 and model.blocks[1].offset is None
    assert model.blocks[0].mlp.fc1.out_features == 32 and model.blocks[0].attn.dropout.p == 0.1
    assert [round(block.drop_path.rate, 3) for block in model.blocks] == [0.0, 0.1, 0.2]
    shared = build_model(load_config(opts=[*options, "PS_VIT.SHARE_SAMPLER", "True", "PS_VIT.CLS_TOKEN", "False"]))
    assert shared.cls_token is None
    assert len(shared.blocks) == 2 and round(shared.blocks[0].drop_path.rate, 3) == 0.05
