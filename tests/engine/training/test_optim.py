"""Learning rate at fractional epochs, parameter groups, freezing, gradient clipping."""

import math
import re
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from tests.helpers.bare_model import BareModel
from tests.helpers.runs import ROOT
from videovit.config import Config, load_config
from videovit.engine.training.optim import (
    build_optimizer,
    build_schedule,
    clip_gradients,
    describe_groups,
    group_parameters,
    set_lr,
)
from videovit.errors import UserError
from videovit.models.build import build_model
from videovit.models.contract import VideoModel
from videovit.models.vit import ViT

KINETICS = (
    "NUM_SHARDS 16 SOLVER.BASE_LR 0.0001 SOLVER.COSINE_END_LR 1e-6 SOLVER.WARMUP_START_LR 1e-6 "
    "SOLVER.WARMUP_EPOCHS 30.0 SOLVER.MAX_EPOCH 200 SOLVER.BASE_LR_SCALE_NUM_SHARDS True "
    "SOLVER.COSINE_AFTER_WARMUP True SOLVER.LR_POLICY cosine"
).split()


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 1.6e-5), (15, 8.08e-4), (30, 1.6e-3), (100, 1.0247e-3), (115, 8.08e-4), (200, 1.6e-5)],
)
def test_kinetics_schedule_equals_the_published_one(epoch: float, rate: float) -> None:
    assert build_schedule(load_config(None, KINETICS))(epoch) == pytest.approx(rate, rel=1e-4)


def test_schedule_moves_within_an_epoch() -> None:
    schedule = build_schedule(load_config(None, KINETICS))
    assert schedule(0.0) < schedule(0.25) < schedule(0.5) < schedule(1.0)
    assert schedule(60.0) > schedule(60.25) > schedule(60.5)


def test_cosine_without_offset_starts_at_epoch_zero() -> None:
    schedule = build_schedule(load_config(None, ["SOLVER.BASE_LR", "1.0", "SOLVER.MAX_EPOCH", "10"]))
    assert schedule(5.0) == pytest.approx(0.5)


def test_warmup_and_cosine_equal_timm() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.6e-3)
    theirs = CosineLRScheduler(
        optimizer, t_initial=170, lr_min=1.6e-5, warmup_t=30, warmup_lr_init=1.6e-5, warmup_prefix=True
    )
    ours = build_schedule(load_config(None, KINETICS))
    for epoch in range(200):
        theirs.step(epoch)
        assert ours(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch


def test_batch_norms_have_a_decay_of_their_own() -> None:
    class Normed(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm3d(4)

    model = Normed()
    cfg = load_config(None, "BN.WEIGHT_DECAY 0.3 SOLVER.WEIGHT_DECAY 0.1 SOLVER.ZERO_WD_1D_PARAM True".split())
    decay = {id(p): g["weight_decay"] for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    assert decay[id(model.norm.weight)] == decay[id(model.norm.bias)] == 0.3
    assert (decay[id(model.head.weight)], decay[id(model.head.bias)]) == (0.1, 0.0)


class Toy(BareModel):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 2)

    def layers(self) -> list[list[nn.Module]]:
        return [[block] for block in self.blocks]

    def head_modules(self) -> list[nn.Module]:
        return [self.head]


def test_groups_by_dimension_and_name() -> None:
    toy = Toy()
    named, layers = list(toy.named_parameters()), toy.layers_of_parameters()
    groups = group_parameters(
        named, layers=layers, weight_decay=0.1, zero_decay_1d=True, zero_decay_names=["cls_token"]
    )
    plain = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert plain == {id(p) for n, p in named if n.endswith("bias") or n == "cls_token"}
    assert sum(len(g["params"]) for g in groups) == len(named)
    (everything,) = group_parameters(named, layers=layers, weight_decay=0.1)
    assert everything["weight_decay"] == 0.1


def test_layer_decay_lowers_the_rate_of_early_layers() -> None:
    toy = Toy()
    layers = toy.layers_of_parameters()
    groups = group_parameters(list(toy.named_parameters()), layers=layers, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    assert scale[id(toy.head.weight)] == 1.0
    assert scale[id(toy.blocks[1].weight)] == 0.5
    assert scale[id(toy.blocks[0].weight)] == 0.25
    assert scale[id(toy.cls_token)] == 0.125
    assert [toy.layer_of(name) for name in ("cls_token", "blocks.1.weight", "head.bias")] == [0, 2, 3]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_lr(optimizer, 0.2)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == pytest.approx([0.025, 0.05, 0.1, 0.2])


def test_layer_decay_counts_the_layers_of_the_model() -> None:
    """MVIT.DEPTH, 16 unless set, does not apply to other models."""
    optimizer = build_optimizer(load_config(None, ["SOLVER.LAYER_DECAY", "0.5"]), Toy())
    assert {group["lr_scale"] for group in optimizer.param_groups} == {1.0, 0.5, 0.25, 0.125}


def built(name: str, *options: str) -> tuple[Config, VideoModel]:
    """A config and its model, without values."""
    solver = ["SOLVER.OPTIMIZING_METHOD", "adamw", "SOLVER.LAYER_DECAY", "0.5"]
    cfg = load_config(opts=["MODEL.MODEL_NAME", name, *solver, *options])
    with torch.device("meta"):
        return cfg, build_model(cfg)


def layers_by_part(model: VideoModel, optimizer: torch.optim.Optimizer, depth: int) -> dict[int, set[str]]:
    """Layer -> beginnings of the names in it, read back from the learning-rate factors of LAYER_DECAY 0.5.

    Args:
        depth: number of parts of a name that are kept.
    """
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    layers: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters():
        layer = round(model.num_layers + 1 + math.log2(scale[id(parameter)]))
        layers.setdefault(layer, set()).add(".".join(name.split(".")[:depth]))
    return layers


IMAGE = ["DATA.NUM_FRAMES", "1"]
LAYERS = {
    # pools.0 and pools.1 belong to the first layer of stages 2 and 3
    "PSViT": (
        ["PSVIT.PLAN", "BS|B|BSB", *IMAGE],
        2,
        {
            0: {"cls_token", "pos_embed.0", "patch_embed.weight", "patch_embed.bias"},
            1: {"blocks.0"},
            2: {"blocks.1"},
            3: {"blocks.2", "pools.0"},
            4: {"blocks.3", "pools.1"},
            5: {"blocks.4"},
            6: {"blocks.5"},
            7: {"norm.weight", "norm.bias", "head.projection"},
        },
    ),
    # both layers of a cell
    "PSViTSupernet": (
        ["PSVIT.PLAN", "B|B|B", "SUPERNET.NUM_CELLS", "2", *IMAGE],
        3,
        {
            0: {"cls_token", "pos_embed.0", "patch_embed.weight", "patch_embed.bias"},
            1: {"basic.0.0", "sharing.0.0"},
            2: {"basic.0.1", "sharing.0.1"},
            3: {"basic.1.0", "sharing.1.0", "pools.0.conv"},
            4: {"basic.1.1", "sharing.1.1"},
            5: {"basic.2.0", "sharing.2.0", "pools.1.conv"},
            6: {"basic.2.1", "sharing.2.1"},
            7: {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"},
        },
    ),
    # an offset layer belongs to its block
    "PS_ViT": (
        ["PS_VIT.ITERATIONS", "2", "PS_VIT.DEPTH", "2"],
        2,
        {
            0: {"cls_token", "pos_layer.weight", "pos_layer.bias", "stem.conv", "stem.norm", "stem.units"},
            1: {"blocks.0"},
            2: {"blocks.1"},
            3: {"blocks.2"},
            4: {"blocks.3"},
            5: {"norm.weight", "norm.bias", "head.projection"},
        },
    ),
    "ptv_x3d_m": (
        [],
        2,
        {0: {"blocks.0"}, 1: {"blocks.1"}, 2: {"blocks.2"}, 3: {"blocks.3"}, 4: {"blocks.4"}, 5: {"blocks.5"}},
    ),
    # blocks without parameters are no layers: SlowFast's 5 joins the pathways, 2 of I3D pools after its first stage
    "ptv_slowfast_r50": (
        [],
        2,
        {0: {"blocks.0"}, 1: {"blocks.1"}, 2: {"blocks.2"}, 3: {"blocks.3"}, 4: {"blocks.4"}, 5: {"blocks.6"}},
    ),
    "ptv_i3d_r50": (
        [],
        2,
        {0: {"blocks.0"}, 1: {"blocks.1"}, 2: {"blocks.3"}, 3: {"blocks.4"}, 4: {"blocks.5"}, 5: {"blocks.6"}},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_decay_by_family(name: str) -> None:
    options, depth, expected = LAYERS[name]
    cfg, model = built(name, *options)
    assert layers_by_part(model, build_optimizer(cfg, model), depth) == expected


def test_layer_decay_factors_of_a_supernet() -> None:
    cfg, model = built("PSViTSupernet", "PSVIT.PLAN", "B|B|B", "SUPERNET.NUM_CELLS", "2", *IMAGE)
    optimizer = build_optimizer(cfg, model)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    factors = {name: scale[id(p)] for name, p in model.named_parameters()}
    assert factors["head.projection.weight"] == factors["norm.weight"] == 1.0
    assert factors["basic.2.1.norm1.weight"] == factors["sharing.2.1.norm1.weight"] == 0.5
    assert factors["pools.1.conv.weight"] == factors["basic.2.0.attn.qk.weight"] == 0.25
    assert factors["pools.0.conv.weight"] == factors["sharing.1.0.attn.v.weight"] == 0.0625
    assert factors["patch_embed.weight"] == factors["pos_embed.0"] == 0.0078125


SPARED = {
    "MViT": {"cls_token", "pos_embed"},
    "ViT": {"cls_token", "pos_embed"},
    "PiT": {"cls_token", "pos_embed_spatial", "pos_embed_temporal"},
    "PSViT": {"cls_token", "pos_embed.0"},
    "PSViTSupernet": {"cls_token", "pos_embed.0"},
    "PS_ViT": {
        "cls_token",
        *(f"stem.norm.{kind}" for kind in ("weight", "bias")),
        *(f"stem.units.{unit}.norm{i}.{kind}" for unit in (0, 1) for i in (1, 2, 3) for kind in ("weight", "bias")),
        *(f"stem.units.{unit}.shortcut.1.{kind}" for unit in (0, 1) for kind in ("weight", "bias")),
    },
}


@pytest.mark.parametrize("name", SPARED)
def test_tables_and_tokens_are_not_decayed(name: str) -> None:
    cfg, model = built(name, "SOLVER.LAYER_DECAY", "1.0", *(IMAGE if name.startswith("PSViT") else []))
    decay = {id(p): g["weight_decay"] for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    assert {parameter for parameter, p in model.named_parameters() if decay[id(p)] == 0.0} == SPARED[name]
    assert set(decay.values()) == {0.0, 1e-4}


def test_keys_of_mvit_do_not_apply_to_other_models() -> None:
    cfg, model = built("ViT", "MVIT.ZERO_DECAY_POS_CLS", "False")
    decay = {id(p): g["weight_decay"] for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    assert {parameter for parameter, p in model.named_parameters() if decay[id(p)] == 0.0} == SPARED["ViT"]


def test_frozen_layers_are_not_trained() -> None:
    cfg, model = built("PSViT", "PSVIT.PLAN", "BS|B|BSB", "TRAIN.FREEZE", "4", *IMAGE)
    trained = {id(p) for group in build_optimizer(cfg, model).param_groups for p in group["params"]}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name for name, p in model.named_parameters() if id(p) not in trained} == frozen
    starts = ("cls_token", "pos_embed", "patch_embed", "blocks.0.", "blocks.1.", "blocks.2.", "pools.0.")
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(starts)}


def test_freezing_more_layers_than_there_are_is_refused() -> None:
    cfg, model = built("PSViT", "PSVIT.PLAN", "B|B|B", "TRAIN.FREEZE", "5", *IMAGE)
    with pytest.raises(UserError, match="found 5, expected 0 to 4"):
        build_optimizer(cfg, model)


@pytest.mark.parametrize("name", ["PiT", "PS_ViT", "ViT", "MViT"])
def test_layer_decay_and_weight_decay_by_name(name: str) -> None:
    """Embedding, blocks and head have their learning rates; positions, class tokens, batch norms are not decayed."""
    options = ["MODEL.MODEL_NAME", name, "SOLVER.LAYER_DECAY", "0.5", "SOLVER.OPTIMIZING_METHOD", "adamw"]
    cfg = load_config(opts=[*options, "MVIT.DEPTH", "14", "VIT.DEPTH", "14", "PIT.DEPTHS", "[2, 8, 4]"])
    with torch.device("meta"):
        model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    plain = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert set(scale.values()) == {0.5**i for i in range(16)}
    layers: dict[int, set[str]] = {}
    for parameter, tensor in model.named_parameters():
        layer = round(15 + math.log2(scale[id(tensor)]))
        part = parameter.split(".")[0] if not parameter.startswith("blocks.") else parameter.split(".")[1]
        layers.setdefault(layer, set()).add(part)
        is_norm = re.match(r"stem\..*(norm\d?|shortcut\.1)\.", parameter)  # of batches
        assert (id(tensor) in plain) == bool(is_norm or parameter.startswith(("pos_embed", "cls_token")))
    assert layers.pop(15) == {"norm", "head"}
    tables = {"cls_token", "pos_embed", "pos_embed_spatial", "pos_embed_temporal"}
    assert layers.pop(0) <= {"patch_embed", "stem", "pos_layer"} | tables
    assert layers == {i + 1: {str(i)} for i in range(14)}


@pytest.mark.parametrize("spared", [True, False])
def test_relative_positions_are_decayed_as_the_key_says(spared: bool) -> None:
    cfg = load_config(ROOT / "configs/Kinetics/MVITv2_S_16x4.yaml", ["MVIT.ZERO_DECAY_POS_CLS", str(spared)])
    with torch.device("meta"):
        model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    plain = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    tables = [p for name, p in model.named_parameters() if "rel_pos" in name or name == "cls_token"]
    assert len(tables) == 3 * 16 + 1
    assert {id(p) in plain for p in tables} == {spared}


def test_batch_norms_are_not_decayed() -> None:
    network = BareModel()
    network.body = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.LayerNorm(4))
    groups = build_optimizer(load_config(), network).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in network.named_parameters()} == {
        "body.0.weight": 1e-4,
        "body.0.bias": 1e-4,
        "body.1.weight": 0.0,
        "body.1.bias": 0.0,
        "body.2.weight": 1e-4,
        "body.2.bias": 1e-4,
    }


def test_layer_decay_equals_timm() -> None:
    """On the same ViT; except the final norm, which timm counts to the last block, BEiT and PySlowFast do not."""
    with torch.device("meta"):
        peer = timm.create_model("vit_tiny_patch16_224", depth=4, num_classes=5)
        model = ViT(dim=192, depth=4, num_heads=3, num_classes=5)
    named = [(name.replace("head.projection.", "head."), p) for name, p in model.named_parameters()]
    ours = group_parameters(
        named,
        layers={n.replace("head.projection.", "head."): layer for n, layer in model.layers_of_parameters().items()},
        weight_decay=0.05,
        zero_decay_1d=True,
        zero_decay_names=model.no_weight_decay(),
        layer_decay=0.75,
    )
    theirs = param_groups_layer_decay(peer, 0.05, peer.no_weight_decay(), layer_decay=0.75)

    def by_name(groups: list[dict[str, Any]], named: list[tuple[str, nn.Parameter]]) -> dict[str, tuple[float, float]]:
        of = {id(p): (g["weight_decay"], round(g["lr_scale"], 9)) for g in groups for p in g["params"]}
        return {name: of[id(p)] for name, p in named}

    found, expected = by_name(ours, named), by_name(theirs, list(peer.named_parameters()))
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == {"norm.weight", "norm.bias"}
    assert found["norm.weight"] == (0.0, 1.0) and expected["norm.weight"] == (0.0, 0.75)


def published(name: str) -> tuple[Config, VideoModel]:
    """A shipped config and its model, without values."""
    cfg = load_config(ROOT / "configs" / name)
    with torch.device("meta"):
        return cfg, build_model(cfg)


def test_published_weight_decay_groups() -> None:
    cfg, model = published("Kinetics/MVIT_B_16x4_CONV.yaml")
    optimizer = build_optimizer(cfg, model.to_empty(device="cpu"))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(g["weight_decay"], g["betas"], g["eps"]) for g in optimizer.param_groups} == {
        (0.05, (0.9, 0.999), 1e-8),
        (0.0, (0.9, 0.999), 1e-8),
    }
    line = describe_groups(optimizer)
    assert "decayed: 108 tensors, 36,518,784 parameters; not decayed: 205 tensors, 91,888 parameters" in line


@pytest.mark.parametrize(
    ("name", "last", "depth"),
    [("Kinetics/MVIT_B_16x4_CONV.yaml", 0.2, 16), ("Kinetics/MVIT_B_32x3_CONV.yaml", 0.3, 24)],
)
def test_published_drop_path_grows_linearly(name: str, last: float, depth: int) -> None:
    _, model = published(name)
    rates = [block.drop_path.rate for block in model.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx(np.linspace(0, last, depth).tolist())


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_equals_the_written_out_update(nesterov: bool) -> None:
    opts = f"SOLVER.MOMENTUM 0.9 SOLVER.NESTEROV {nesterov} SOLVER.WEIGHT_DECAY 0.1 SOLVER.BASE_LR 0.05"
    model, layer = BareModel(), nn.Linear(3, 2, bias=False)
    model.layer = layer
    weight, momentum = layer.weight.detach().clone(), torch.zeros(2, 3)
    optimizer = build_optimizer(load_config(None, opts.split()), model)
    for step in range(3):
        layer.weight.grad = torch.full((2, 3), step + 1.0)
        optimizer.step()
        grad = step + 1.0 + 0.1 * weight
        momentum = 0.9 * momentum + grad
        weight = weight - 0.05 * (grad + 0.9 * momentum if nesterov else momentum)
    torch.testing.assert_close(layer.weight.detach(), weight)


@pytest.mark.parametrize("method", ["sgd", "adam", "adamw"])
def test_every_method_lowers_the_loss(method: str) -> None:
    toy = Toy()
    optimizer = build_optimizer(load_config(None, ["SOLVER.OPTIMIZING_METHOD", method]), toy)
    set_lr(optimizer, 0.01)
    losses = []
    for _ in range(5):
        loss = toy.head(toy.blocks[0](torch.ones(3, 4))).square().sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert "decayed: " in describe_groups(optimizer)


def test_fused_adamw_equals_the_plain_loop() -> None:
    torch.manual_seed(0)
    ours, plain = Toy(), Toy()
    plain.load_state_dict(ours.state_dict())
    cfg = load_config(
        None, ["SOLVER.OPTIMIZING_METHOD", "adamw", "SOLVER.BASE_LR", "0.01", "SOLVER.WEIGHT_DECAY", "0.05"]
    )
    first = build_optimizer(cfg, ours)
    second = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.05, foreach=False)
    for model, optimizer in ((ours, first), (plain, second)):
        for step in range(3):
            model.head(model.blocks[1](torch.full((2, 4), step + 1.0))).square().sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_clipping_by_norm_and_value() -> None:
    def grads() -> nn.Linear:
        layer = nn.Linear(2, 1, bias=False)
        layer.weight.grad = torch.tensor([[3.0, -4.0]])
        return layer

    layer = grads()
    assert clip_gradients(layer, max_norm=1.0, max_value=None).item() == pytest.approx(5.0)
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[0.6, -0.8]]), atol=1e-5, rtol=0)
    layer = grads()
    assert clip_gradients(layer, max_norm=None, max_value=0.5).item() == pytest.approx(5.0)
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[0.5, -0.5]]))
    layer = grads()
    clip_gradients(layer, max_norm=None, max_value=None)
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[3.0, -4.0]]))
    layer.weight.grad = torch.tensor([[math.nan, 1.0]])
    assert not torch.isfinite(clip_gradients(layer, max_norm=1.0, max_value=None))
