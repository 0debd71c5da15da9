"""Sparse lists become the block tables that torchvision wrote by hand; bad lists are named."""

import pytest
from torchvision.models.video import mvit as torchvision_mvit

from tests.helpers.mvit_variants import TINY, v1_blocks, v2_s_blocks
from videovit.errors import UserError
from videovit.models import expand
from videovit.models.mvit.block_specs import BlockSpec, round_width

NONE = (1, 1, 1)


def torchvision_blocks(builder, monkeypatch):
    """The block settings that a torchvision builder passes on."""
    found = {}
    monkeypatch.setattr(torchvision_mvit, "MViT", lambda **arguments: found.update(arguments))
    builder(weights=None)
    return found["block_setting"]


@pytest.mark.parametrize(
    ("builder", "specs"),
    [(torchvision_mvit.mvit_v1_b, v1_blocks), (torchvision_mvit.mvit_v2_s, v2_s_blocks)],
    ids=["v1_b", "v2_s"],
)
def test_published_lists_give_torchvisions_tables(builder, specs, monkeypatch):
    theirs = torchvision_blocks(builder, monkeypatch)
    assert len(theirs) == 16
    for block, spec in zip(theirs, specs(), strict=True):
        assert (block.input_channels, block.output_channels, block.num_heads) == (
            spec.dim,
            spec.dim_out,
            spec.num_heads,
        )
        assert (tuple(block.kernel_q) or NONE) == spec.kernel_q
        assert (tuple(block.stride_q) or NONE) == spec.stride_q
        assert (tuple(block.kernel_kv) or NONE) == spec.kernel_kv
        assert (tuple(block.stride_kv) or NONE) == spec.stride_kv


def test_adaptive_stride_shrinks_before_the_block_uses_it():
    strides = [spec.stride_kv for spec in v1_blocks()]
    assert strides == [(1, 8, 8), *[(1, 4, 4)] * 2, *[(1, 2, 2)] * 11, *[(1, 1, 1)] * 2]
    assert all(spec.pools_kv for spec in v1_blocks())


def test_listed_strides_leave_other_blocks_unpooled():
    specs = expand(**{**TINY, "pool_kv_stride_adaptive": None, "pool_kv_stride": [[0, 1, 4, 4]]})
    assert [spec.pools_kv for spec in specs] == [True, False, False, False]
    assert specs[1].kernel_kv == (1, 1, 1)


@pytest.mark.parametrize(
    ("rule", "kernel"), [("stride+1", (1, 9, 9)), ("stride", (1, 8, 8)), ("2*stride+1", (1, 17, 17))]
)
def test_kernel_rules(rule, kernel):
    assert v1_blocks(pool_kvq_kernel=None, kernel_rule=rule)[0].kernel_kv == kernel
    assert v1_blocks(pool_kvq_kernel=None, kernel_rule=rule)[15].kernel_kv == (1, 1, 1)


def test_where_channels_grow():
    assert [s.dim_out for s in expand(**TINY)] == [32, 32, 64, 64]
    assert [s.dim_attention for s in expand(**TINY)] == [16, 32, 32, 64]
    inside = expand(**{**TINY, "dim_mul_in_attention": True})
    assert [s.dim_attention for s in inside] == [16, 32, 32, 64]
    assert [s.dim_out for s in inside] == [16, 32, 32, 64]
    assert inside[0] == BlockSpec(16, 16, 16, 1, kernel_kv=(3, 3, 3), stride_kv=(1, 4, 4))


def test_widths_are_rounded_to_the_heads():
    assert [round_width(*a) for a in ((96, 2.0), (96, 1.5, 8), (10, 1.0, 8), (11, 1.0, 8), (1, 0.1))] == [
        192,
        144,
        16,
        16,
        1,
    ]


def test_two_numbers_are_height_and_width():
    assert expand(**{**TINY, "pool_kvq_kernel": [3, 3]})[0].kernel_kv == (1, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool_q_stride": [[1, 2, 2]]}, r"POOL_Q_STRIDE: a row is \[block, t, h, w\], found \[1, 2, 2\]"),
        ({"pool_q_stride": [[4, 1, 2, 2]]}, r"POOL_Q_STRIDE: block 4 is outside 0\.\.3"),
        ({"pool_q_stride": [[1, 1, 0, 2]]}, "POOL_Q_STRIDE: expected"),
        ({"dim_mul": [[1]]}, r"DIM_MUL: a row is \[block, factor\]"),
        ({"head_mul": [[1.5, 2.0]]}, "HEAD_MUL: block 1.5"),
        ({"pool_kv_stride_adaptive": [8]}, "POOL_KV_STRIDE_ADAPTIVE: expected"),
        ({"num_heads": 3, "head_mul": []}, "3 heads do not divide 16 channels"),
    ],
)
def test_bad_lists_are_named(change, message):
    with pytest.raises(UserError, match=message):
        expand(**{**TINY, **change})
