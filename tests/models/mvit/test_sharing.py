"""Attention sharing inside MViT: where it is legal, what it computes, what it saves."""

import pytest
import torch

from tests.helpers.mvit_variants import TINY, TINY_V2, clip, mvit_v1_b, mvit_v2_s, perturb, tiny, v1_blocks, v2_s_blocks
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import attention_maps, build_model, count_macs, count_params
from videovit.models.convert import CheckpointError
from videovit.models.convert.export import export_state_dict
from videovit.models.mvit.block import MultiscaleBlock
from videovit.models.mvit.block_specs import expand, share_maps

# From the second block after the start of a stage on, queries and keys have the same grids as one block earlier.
LONG = {"depth": 6, "pool_q_stride": [[1, 1, 2, 2], [5, 1, 2, 2]], "dim_mul": [[1, 2.0]], "head_mul": [[1, 2.0]]}


def legal(blocks):
    shareable = []
    for i in range(len(blocks)):
        try:
            share_maps(blocks, [i])
            shareable.append(i)
        except UserError:
            continue
    return shareable


def test_the_places_of_published_models_where_maps_fit():
    assert legal(v1_blocks()) == legal(v2_s_blocks()) == list(range(5, 14))
    q_strides = [[i, 1, 2, 2] if i in (1, 3, 8) else [i, 1, 1, 1] for i in range(10)]
    muls = [[1, 2.0], [3, 2.0], [8, 2.0]]
    tiny_2 = v2_s_blocks(depth=10, pool_q_stride=q_strides, dim_mul=muls, head_mul=muls)
    assert legal(tiny_2) == [5, 6, 7]
    assert legal(v1_blocks(depth=3, pool_q_stride=[], pool_kv_stride_adaptive=None, dim_mul=[], head_mul=[])) == [1, 2]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (0, "no block before it"),
        (16, "no block before it"),
        (2, "other keys than the block before it: pooled by .1, 8, 8."),
        (14, "starts a stage"),
        (15, "blocks that can share: .5, 6, 7, 8, 9, 10, 11, 12, 13."),
    ],
)
def test_other_places_are_refused_with_the_reason(block, reason):
    with pytest.raises(UserError, match=reason):
        share_maps(v1_blocks(), [block])
    with pytest.raises(UserError, match="2 heads, the block before it 1"):
        share_maps(v1_blocks(pool_q_stride=[], pool_kv_stride_adaptive=None), [1])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("cls_token", [True, False])
def test_sharing_block_equals_block_given_same_maps(version, cls_token):
    changes = {**(TINY if version == 1 else TINY_V2), **LONG}
    if version == 2:
        changes["pool_q_stride"] = [[i, 1, 2, 2] if i in (1, 5) else [i, 1, 1, 1] for i in range(6)]
    spec = expand(**changes)[3]
    shared_spec = share_maps(expand(**changes), [3])[3]
    options = {"residual_pooling": version == 2, "rel_pos_spatial": version == 2}
    torch.manual_seed(0)
    plain = perturb(MultiscaleBlock(spec, (4, 4, 4), **options)).eval()
    sharing = MultiscaleBlock(shared_spec, (4, 4, 4), **options).eval()
    state = {
        n.replace("attn.qkv", "attn.v"): p[-spec.dim_attention :] if "qkv" in n else p
        for n, p in plain.state_dict().items()
    }
    sharing.load_state_dict({n: state[n] for n in sharing.state_dict()})
    lost = {n.split(".")[1] for n in state} - {n.split(".")[1] for n in sharing.state_dict()}
    assert lost == {"norm_k", "pool_k"} | ({"pool_q", "norm_q", "rel_pos_h", "rel_pos_w"} if version == 2 else set())
    x_BTHWC, cls_B1C = torch.randn(2, 4, 4, 4, 32), torch.randn(2, 1, 32) if cls_token else None
    grid, cls, nothing = plain(x_BTHWC, cls_B1C)
    kept_grid, kept_cls, maps = plain(x_BTHWC, cls_B1C, keep_maps=True)
    assert nothing is None
    torch.testing.assert_close((kept_grid, kept_cls), (grid, cls))
    torch.testing.assert_close(sharing(x_BTHWC, cls_B1C, maps=maps), plain(x_BTHWC, cls_B1C, maps=maps))
    if version == 1:  # nothing else needs queries: with its own maps the block is itself
        torch.testing.assert_close(sharing(x_BTHWC, cls_B1C, maps=maps)[:2], (grid, cls))


def shared_model(**changes):
    blocks = share_maps(expand(**{**TINY, **LONG}), [3, 4])
    torch.manual_seed(0)
    return perturb(tiny(blocks=blocks, **changes))


def test_a_run_of_blocks_uses_one_map():
    model = shared_model().eval()
    maps = attention_maps(model, clip(2, 3, 8, 32, 32))
    assert len(maps) == 6
    assert torch.equal(maps[3], maps[2]) and torch.equal(maps[4], maps[2]) and maps[1].shape != maps[2].shape
    for map_BMNL in maps:
        torch.testing.assert_close(map_BMNL.sum(-1), torch.ones(map_BMNL.shape[:-1]))


def test_other_projects_have_no_place_for_it():
    with pytest.raises(CheckpointError, match=r"blocks\.3\b"):
        export_state_dict(shared_model(), "torchvision")


def test_checkpointing_passes_the_map_and_its_gradient():
    gradients = []
    for act_checkpoint in (False, True):
        model = shared_model(act_checkpoint=act_checkpoint).train()
        model(clip(2, 3, 8, 32, 32)).square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize(("build", "blocks"), [(mvit_v1_b, v1_blocks), (mvit_v2_s, v2_s_blocks)])
def test_sharing_saves_what_queries_and_keys_cost(build, blocks):
    every_other = [5, 7, 9, 11, 13]
    with torch.device("meta"):
        plain, sharing = build(), build(blocks=share_maps(blocks(), every_other))
    saved_params = count_params(plain) - count_params(sharing)
    size = (1, 3, 16, 224, 224)
    saved_macs = count_macs(plain, size) - count_macs(sharing, size)
    dim, tokens, keys = 384, 8 * 14 * 14 + 1, 8 * 7 * 7 + 1
    is_v2 = build is mvit_v2_s
    tokens, keys = (tokens - 1, keys - 1) if plain.cls_token is None else (tokens, keys)
    projections = 2 * dim * (dim + 1)
    if not is_v2:
        assert saved_params == 5 * (projections + 96 * 27 + 2 * 96)
        assert saved_macs == 5 * (2 * tokens * dim * dim + dim * 27 * 8 * 49 + tokens * keys * dim)
    else:
        tables = 96 * (27 + 27 + 15)
        assert saved_params == 5 * (projections + 2 * (96 * 27 + 2 * 96) + tables)
        assert saved_macs > 5 * (2 * tokens * dim * dim + tokens * keys * dim)


def test_the_key_reaches_the_model():
    cfg = load_config(
        opts=[
            *("DATA.NUM_FRAMES", "4", "DATA.TRAIN_CROP_SIZE", "32", "DATA.INPUT_CHANNEL_NUM", "[3]", "MVIT.DEPTH", "4"),
            *("MVIT.EMBED_DIM", "16", "MVIT.PATCH_PADDING", "[1,3,3]", "MVIT.POOL_KV_STRIDE_ADAPTIVE", "[1,4,4]"),
            *("MVIT.SHARE_ATTENTION", "[1, 3]"),
        ]
    )
    model = build_model(cfg)
    assert [spec.shares_map for spec in model.specs] == [False, True, False, True]
    assert model.eval()(clip(1, 3, 4, 32, 32)).shape == (1, 400)
