"""PSViT: published counts, closed form of the cost, attention sharing, every open choice, the contract, errors."""

import pytest
import torch

from tests.helpers.project import CONFIGS
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models.macs import count_macs, count_params
from videovit.models.pooling_sharing.blocks import SharingAttention, SharingBlock
from videovit.models.pooling_sharing.model import POOLING_SHARING_PRESETS, PSViT, shape_from_config
from videovit.models.pooling_sharing.plan import (
    PoolingSharingShape,
    legal_stages,
    parse_plan,
    plan_cost,
    sharing_pattern,
)

IMAGENET = CONFIGS / "ImageNet"
TINY_16, TINY_8 = (POOLING_SHARING_PRESETS[name]["shape"] for name in ("psvit_1d_tiny", "psvit_tiny_8"))
FLAT = PoolingSharingShape((192,), (3,))


def preset(name):
    return POOLING_SHARING_PRESETS[name]["shape"], POOLING_SHARING_PRESETS[name]["plan"]


# shape, plan, params, GMACs
PUBLISHED = [
    (*preset("psvit_1d_tiny"), 15_589_288, "1.355"),
    (*preset("psvit_1d_small"), 13_893_048, "4.889"),
    (*preset("psvit_tiny_8"), 3_785_720, "1.540"),
    (*preset("psvit_small_16"), 53_816_680, "3.976"),
    (*preset("psvit_1d_base"), 61.6e6, "18.99"),
    (*preset("psvit_2d_tiny"), 11.8e6, "1.301"),
    (*preset("psvit_2d_small"), 26.9e6, "4.403"),
    (*preset("psvit_2d_base"), 126.7e6, "15.455"),
    (PoolingSharingShape((192, 192, 192), (3, 3, 3)), "BBBB|BBBBBBBB|BBBBBBBBBBBBBBBBBBBB", None, "1.296"),
    (PoolingSharingShape((192, 256, 384), (3, 4, 6)), "BBBB|BBBB|BBBB", None, "1.160"),
    (FLAT, sharing_pattern(12, 2), None, "1.122"),
    (FLAT, sharing_pattern(14, 2), None, "1.304"),
    (FLAT, sharing_pattern(12, 3), None, "1.078"),
    (FLAT, sharing_pattern(14, 3), None, "1.260"),
    (FLAT, sharing_pattern(15, 3), None, "1.340"),
    (FLAT, "B" * 12, 5_717_416, "1.254"),  # DeiT-Ti; 1.258 with norms counted too
]


@pytest.mark.parametrize(("shape", "plan", "params", "giga_macs"), PUBLISHED)
def test_counts_equal_the_published_ones(shape, plan, params, giga_macs):
    cost = plan_cost(shape, plan)
    assert f"{cost.macs / 1e9:.{len(giga_macs.partition('.')[2])}f}" == giga_macs
    if isinstance(params, int):
        assert cost.params == params
    elif params:
        assert cost.params == pytest.approx(params, abs=0.05e6)
    with torch.device("meta"):
        model = PSViT(shape=shape, plan=plan)
    assert count_params(model) == cost.params
    assert count_macs(model, (1, 3, 1, 224, 224)) == cost.macs


CHOICES = [
    {"pooling": "1d", "cls": "joint"},
    {"pooling": "1d", "cls": "apart", "head_input": "cls", "pos_embed": "all"},
    {"pooling": "1d", "cls": "none", "pool_kernel": 2, "pool_conv": "depthwise"},
    {"pooling": "2d", "cls": "apart", "pool_conv": "depthwise", "pos_embed": "all"},
    {"pooling": "2d", "cls": "none", "pool_kernel": 5, "qkv_bias": False, "mlp_ratio": 3.0},
    {"pooling": "1d", "cls": "joint", "pos_embed": "all", "shared_heads": ("11", "0110", "0000")},
]


def small(**choices):
    return PoolingSharingShape((16, 32, 48), (2, 4, 4), image_size=36, patch_size=4, num_classes=5, **choices)


@pytest.mark.parametrize("choices", CHOICES)
def test_open_choices_cost_what_the_formula_says(choices):
    shape, plan = small(**choices), "BSB|BS|BSSB"
    torch.manual_seed(0)
    model = PSViT(shape=shape, plan=plan, drop_path=0.1)
    images = torch.randn(2, 3, 1, 36, 36)
    logits = model(images)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    cost = plan_cost(shape, plan)
    assert (count_params(model), count_macs(model, images[:1].shape)) == (cost.params, cost.macs)
    assert model.eval()(torch.randn(1, 3, 1, 48, 48)).shape == (1, 5)


@pytest.mark.parametrize("choices", CHOICES)
def test_features_and_stages_hold_the_tokens_of_the_grid(choices):
    shape = small(**choices)
    torch.manual_seed(0)
    model = PSViT(shape=shape, plan="BSB|BS|BSSB").eval()
    images = torch.randn(2, 3, 36, 36)
    tokens, grid, cls = model.forward_features(images)
    assert tokens.shape == (2, grid[0] * grid[1] * grid[2], 48)
    assert (cls is not None) == (shape.cls == "apart")
    if cls is not None and shape.head_input == "cls":
        torch.testing.assert_close(model(images), model.head(cls[:, 0]))
    else:
        everything = tokens if cls is None else torch.cat([cls, tokens], dim=1)
        torch.testing.assert_close(model(images), model.head(everything.mean(dim=1)))
    maps = model.forward_stages(images.unsqueeze(2))
    assert [tuple(m.shape) for m in maps] == [(2, d, 1, *shape.grid(s)) for s, d in enumerate(shape.dims)]
    torch.testing.assert_close(model.norm(maps[-1].flatten(2).transpose(1, 2)), tokens)


def test_layers_hold_every_block_and_pool():
    model = PSViT(shape=small(), plan="BSB|BS|BSSB")
    assert model.grid == (1, 9, 9)
    assert model.num_layers == 9
    layers = model.layers_of_parameters()
    assert {layers[f"pools.{i}.conv.weight"] for i in (0, 1)} == {4, 6}
    assert [layers[f"blocks.{i}.norm1.weight"] for i in range(9)] == list(range(1, 10))
    assert (layers["cls_token"], layers["pos_embed.0"], layers["norm.weight"]) == (0, 0, 10)
    assert model.no_weight_decay() == {"cls_token", "pos_embed.0"}
    everywhere = PSViT(shape=small(cls="none", pos_embed="all"), plan="B|B|B")
    assert everywhere.no_weight_decay() == {"pos_embed.0", "pos_embed.1", "pos_embed.2"}


def test_positions_stretch_to_an_oblong_of_as_many_tokens():
    shape = small(pooling="2d", cls="none")  # positions for 9 x 9 patches
    model = PSViT(shape=shape, plan="B|B|B").eval()
    with torch.no_grad():
        model.pos_embed[0][:] = torch.linspace(-1, 1, 9).repeat_interleave(9)[None, :, None]  # top to bottom
        model.patch_embed.weight.zero_()
        inputs = []
        model.blocks[0].register_forward_pre_hook(lambda block, args: inputs.append(args[0]))
        model(torch.zeros(1, 3, 1, 12, 108))
    (x_BNC,) = inputs
    rows = x_BNC[0, :, 0].view(3, 27)
    torch.testing.assert_close(rows, rows[:, :1].expand(3, 27))
    assert rows[0, 0] < rows[1, 0] < rows[2, 0]


def test_export_for_any_batch_size():
    model = PSViT(shape=small(), plan="BSB|BS|BSSB").eval()
    with torch.no_grad():
        batch = {0: torch.export.Dim("batch", max=8)}
        exported = torch.export.export(model, (torch.randn(2, 3, 1, 36, 36),), dynamic_shapes=(batch,)).module()
        images = torch.randn(3, 3, 1, 36, 36)
        torch.testing.assert_close(exported(images), model(images), atol=1e-5, rtol=1e-5)


def test_numbers_of_tokens_equal_the_paper():
    assert [TINY_16.num_tokens(s) for s in range(3)] == [197, 99, 50]
    assert [TINY_8.num_tokens(s) for s in range(3)] == [785, 393, 197]
    assert [preset("psvit_2d_tiny")[0].num_tokens(s) for s in range(3)] == [784, 196, 49]


def test_sharing_layer_equals_a_basic_layer_with_the_same_map():
    torch.manual_seed(0)
    basic, sharing = SharingBlock(24, 3), SharingBlock(24, 3, own_heads=())
    sharing.load_state_dict({n: p for n, p in basic.state_dict().items() if ".qk." not in n})
    assert not any("qk" in name for name, _ in sharing.named_parameters())
    x_BNC = torch.randn(2, 7, 24)
    plain, nothing = basic(x_BNC)
    with_map, own_map = basic(x_BNC, keep_map=True)
    shared, passed_on = sharing(x_BNC, own_map)
    assert nothing is None and passed_on is own_map
    torch.testing.assert_close(with_map, plain)
    torch.testing.assert_close(shared, plain)
    uniform = torch.full((2, 3, 7, 7), 1 / 7)
    torch.testing.assert_close(basic(x_BNC, uniform)[0], sharing(x_BNC, uniform)[0])
    mean = sharing.attn.v(sharing.norm1(x_BNC)).mean(dim=1, keepdim=True).expand(-1, 7, -1)
    torch.testing.assert_close(sharing.attn(sharing.norm1(x_BNC), uniform)[0], sharing.attn.proj(mean))


def test_masked_heads_use_their_own_map():
    torch.manual_seed(0)
    basic, mixed = SharingAttention(24, 3), SharingAttention(24, 3, own_heads=(1,))
    own_rows = [*range(8, 16), *range(32, 40)]  # head 1 of queries, head 1 of keys
    state = {n: p for n, p in basic.state_dict().items() if not n.startswith("qk.")}
    state |= {f"qk.{n}": getattr(basic.qk, n)[own_rows] for n in ("weight", "bias")}
    mixed.load_state_dict(state)
    x_BNC = torch.randn(2, 7, 24)
    _, wanted = basic(x_BNC, keep_map=True)
    given = torch.rand(2, 3, 7, 7).softmax(dim=-1)
    _, used = mixed(x_BNC, given)
    torch.testing.assert_close(used[:, 1], wanted[:, 1])
    assert torch.equal(used[:, ::2], given[:, ::2])


def test_maps_and_checkpointing_keep_results():
    torch.manual_seed(0)
    model = PSViT(shape=small(), plan="BSB|BS|BSSB")
    images = torch.randn(2, 3, 1, 36, 36)
    logits = model(images)
    logits.sum().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    maps = model.attention_maps(images)
    assert [m.shape[-1] for m in maps] == [82] * 3 + [41] * 2 + [21] * 4
    assert torch.equal(maps[1], maps[0]) and not torch.equal(maps[2], maps[0])
    torch.testing.assert_close(maps[-1].sum(-1), torch.ones(2, 4, 21))
    model.zero_grad()
    model.act_checkpoint = True
    torch.testing.assert_close(model(images), logits)
    model(images).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_presets_equal_the_shipped_configs():
    for name, arguments in POOLING_SHARING_PRESETS.items():
        cfg = load_config(IMAGENET / f"{name.upper()}.yaml")
        assert (shape_from_config(cfg), cfg.PSVIT.PLAN) == (arguments["shape"], arguments["plan"])


def test_plans_and_legal_stages():
    assert parse_plan("B S - B | -B---S | B", 3) == ("BSB", "BS", "B")
    assert sharing_pattern(7, 3) == "BSSBSSB"
    assert len(legal_stages(6)) == 364 and len(set(legal_stages(6))) == 364
    assert len({stage.replace("-", "") for stage in legal_stages(6)}) == 63
    assert all(stage.replace("-", "").startswith("B") for stage in legal_stages(6))
    assert len({(s.count("B"), s.count("S")) for s in legal_stages(6)}) == 21


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("BB|B", "2 stages, expected 3"),
        ("B|SB|B", "stage 2 must start with B"),
        ("B|--|B", "stage 2"),
        ("B|X|B", "'X'"),
    ],
)
def test_illegal_plans_are_refused(plan, message):
    with pytest.raises(UserError, match=message):
        parse_plan(plan, 3)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"heads": (2, 5, 4)}, "5 heads do not divide 32"),
        ({"heads": (2, 4)}, "3 widths and 2"),
        ({"pooling": "2d"}, "joint"),
        ({"cls": "none", "head_input": "cls"}, "class token"),
        ({"shared_heads": ("1", "1", "1")}, "one 0 or 1 per head"),
        ({"shared_heads": ("1x", "1111", "1111")}, "0 and 1"),
        ({"image_size": 2}, "below patch_size"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(choices, message):
    arguments = {"dims": (16, 32, 48), "heads": (2, 4, 4), "image_size": 36, "patch_size": 4, **choices}
    with pytest.raises(UserError, match=message):
        PoolingSharingShape(**arguments)


def test_clips_are_refused():
    with pytest.raises(UserError, match="found 4"):
        PSViT(shape=small(), plan="B|B|B")(torch.zeros(1, 3, 4, 36, 36))
