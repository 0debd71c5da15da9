"""Learning rate at fractional epochs, parameter groups, gradient clipping."""

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

from tests.helpers.runs import ROOT
from videovit.config import Config, load_config
from videovit.engine.training.optim import (
    build_optimizer,
    build_schedule,
    clip_gradients,
    describe_groups,
    group_parameters,
    layer_of,
    set_lr,
)
from videovit.models.build import build_model

KINETICS = (
    "NUM_SHARDS 16 SOLVER.BASE_LR 0.0001 SOLVER.COSINE_END_LR 1e-6 SOLVER.WARMUP_START_LR 1e-6 "
    "SOLVER.WARMUP_EPOCHS 30.0 SOLVER.MAX_EPOCH 200 SOLVER.BASE_LR_SCALE_NUM_SHARDS True "
    "SOLVER.COSINE_AFTER_WARMUP True SOLVER.LR_POLICY cosine"
).split()


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 1.6e-5), (15, 8.08e-4), (30, 1.6e-3), (100, 1.0247e-3), (115, 8.08e-4), (200, 1.6e-5)],
)
def test_published_kinetics_schedule(epoch: float, rate: float) -> None:
    assert build_schedule(load_config(None, KINETICS))(epoch) == pytest.approx(rate, rel=1e-4)


def test_schedule_moves_within_an_epoch() -> None:
    schedule = build_schedule(load_config(None, KINETICS))
    assert schedule(0.0) < schedule(0.25) < schedule(0.5) < schedule(1.0)
    assert schedule(60.0) > schedule(60.25) > schedule(60.5)


def test_cosine_without_offset_starts_at_epoch_zero() -> None:
    schedule = build_schedule(load_config(None, ["SOLVER.BASE_LR", "1.0", "SOLVER.MAX_EPOCH", "10"]))
    assert schedule(5.0) == pytest.approx(0.5)


def test_warmup_and_cosine_are_timms() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.6e-3)
    theirs = CosineLRScheduler(
        optimizer, t_initial=170, lr_min=1.6e-5, warmup_t=30, warmup_lr_init=1.6e-5, warmup_prefix=True
    )
    ours = build_schedule(load_config(None, KINETICS))
    for epoch in range(200):
        theirs.step(epoch)
        assert ours(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch


def test_relative_steps() -> None:
    opts = "SOLVER.LR_POLICY steps_with_relative_lrs SOLVER.BASE_LR 2.0 SOLVER.STEPS [0,4,8] SOLVER.LRS [1,0.1,0.01]"
    schedule = build_schedule(load_config(None, opts.split()))
    assert [schedule(e) for e in (0, 3.9, 4, 7.9, 8, 20)] == pytest.approx([2.0, 2.0, 0.2, 0.2, 0.02, 0.02])


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 2)


def test_groups_by_dimension_and_name() -> None:
    toy = Toy()
    named = list(toy.named_parameters())
    groups = group_parameters(named, weight_decay=0.1, zero_decay_1d=True, zero_decay_names=["cls_token"])
    plain = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert plain == {id(p) for n, p in named if n.endswith("bias") or n == "cls_token"}
    assert sum(len(g["params"]) for g in groups) == len(named)
    (everything,) = group_parameters(named, weight_decay=0.1)
    assert everything["weight_decay"] == 0.1


def test_layer_decay_lowers_the_rate_of_early_layers() -> None:
    toy = Toy()
    groups = group_parameters(list(toy.named_parameters()), weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    assert scale[id(toy.head.weight)] == 1.0
    assert scale[id(toy.blocks[1].weight)] == 0.5
    assert scale[id(toy.blocks[0].weight)] == 0.25
    assert scale[id(toy.cls_token)] == 0.125
    assert [layer_of(n, 2) for n in ("patch_embed.proj.weight", "blocks.1.norm.weight", "norm.weight")] == [0, 2, 3]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_lr(optimizer, 0.2)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == pytest.approx([0.025, 0.05, 0.1, 0.2])


def test_layer_decay_counts_the_blocks_of_the_model() -> None:
    """MVIT.DEPTH, 16 unless set, says nothing about other models."""
    optimizer = build_optimizer(load_config(None, ["SOLVER.LAYER_DECAY", "0.5"]), Toy())
    assert {group["lr_scale"] for group in optimizer.param_groups} == {1.0, 0.5, 0.25, 0.125}


@pytest.mark.parametrize("name", ["PiT", "PS_ViT", "ViT", "MViT"])
def test_every_model_has_its_layers(name: str) -> None:
    """Layer decay knows the embedding, the blocks and the head of each; positions and class tokens are not decayed."""
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
def test_relative_positions_are_spared_with_the_absolute_ones(spared: bool) -> None:
    cfg = load_config(ROOT / "configs/Kinetics/MVITv2_S_16x4.yaml", ["MVIT.ZERO_DECAY_POS_CLS", str(spared)])
    with torch.device("meta"):
        model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    plain = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    tables = [p for name, p in model.named_parameters() if "rel_pos" in name or name == "cls_token"]
    assert len(tables) == 3 * 16 + 1
    assert {id(p) in plain for p in tables} == {spared}


def test_batch_norms_are_not_decayed() -> None:
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.LayerNorm(4))
    groups = build_optimizer(load_config(), network).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in network.named_parameters()} == {
        "0.weight": 1e-4,
        "0.bias": 1e-4,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 1e-4,
        "2.bias": 1e-4,
    }


def test_layer_decay_equals_timms() -> None:
    """On timm's own ViT; but for the final norm, which timm counts to the last block, BEiT and PySlowFast do not."""
    with torch.device("meta"):
        vit = timm.create_model("vit_tiny_patch16_224", depth=4, num_classes=5)
    named = list(vit.named_parameters())
    ours = group_parameters(
        named,
        weight_decay=0.05,
        zero_decay_1d=True,
        zero_decay_names=vit.no_weight_decay(),
        layer_decay=0.75,
    )
    theirs = param_groups_layer_decay(vit, 0.05, vit.no_weight_decay(), layer_decay=0.75)

    def by_name(groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
        of = {id(p): (g["weight_decay"], round(g["lr_scale"], 9)) for g in groups for p in g["params"]}
        return {name: of[id(p)] for name, p in named}

    found, wanted = by_name(ours), by_name(theirs)
    assert {name for name in found if found[name] != wanted[name]} == {"norm.weight", "norm.bias"}
    assert found["norm.weight"] == (0.0, 1.0) and wanted["norm.weight"] == (0.0, 0.75)


def published(name: str) -> tuple[Config, nn.Module]:
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
def test_sgd_is_torchs_rule_with_momentum(nesterov: bool) -> None:
    """Against the update written out, with decay."""
    opts = f"SOLVER.MOMENTUM 0.9 SOLVER.NESTEROV {nesterov} SOLVER.WEIGHT_DECAY 0.1 SOLVER.BASE_LR 0.05"
    layer = nn.Linear(3, 2, bias=False)
    weight, momentum = layer.weight.detach().clone(), torch.zeros(2, 3)
    optimizer = build_optimizer(load_config(None, opts.split()), layer)
    for step in range(3):
        layer.weight.grad = torch.full((2, 3), step + 1.0)
        optimizer.step()
        grad = step + 1.0 + 0.1 * weight
        momentum = 0.9 * momentum + grad
        weight = weight - 0.05 * (grad + 0.9 * momentum if nesterov else momentum)
    torch.testing.assert_close(layer.weight.detach(), weight)


@pytest.mark.parametrize("method", ["sgd", "adam", "adamw"])
def test_every_method_takes_a_step_towards_less_loss(method: str) -> None:
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


def test_fused_adamw_is_the_published_rule() -> None:
    """Against the plain for-loop implementation, with decay, over a few steps."""
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
