"""Each piece of MViT that saves work against the same thing written plainly."""

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.mvit_variants import clip
from videovit.models.layers import scaled_dot_product as attention
from videovit.models.layers.basic import DropPath, Mlp, add_branch
from videovit.models.layers.pooling import (
    avg_pool,
    depthwise_conv,
    max_pool,
    padding_of,
    pooled_size,
    touched,
    touched_index,
)
from videovit.models.layers.position import gather_rel_pos, resize_pos_embed, resize_rel_pos

CONVOLUTIONS = [
    # grid, kernel, stride
    ((3, 6, 6), (3, 3, 3), (1, 1, 1)),
    ((3, 7, 6), (3, 3, 3), (1, 2, 2)),
    ((4, 5, 5), (3, 3, 3), (2, 2, 2)),
    ((1, 8, 8), (1, 3, 3), (1, 2, 2)),
    ((2, 9, 9), (1, 9, 9), (1, 8, 8)),
    ((2, 9, 9), (1, 3, 3), (1, 4, 4)),
    ((1, 4, 4), (3, 3, 3), (1, 1, 1)),
    ((1, 4, 4), (5, 3, 3), (1, 1, 1)),
    ((2, 9, 10), (1, 4, 4), (1, 3, 3)),
    ((3, 8, 9), (2, 2, 2), (1, 2, 3)),
]


def noise(*size, seed=0, dtype=torch.float32):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("grid", "kernel", "stride"), CONVOLUTIONS)
def test_depthwise_conv_equals_conv3d_with_gradients(grid, kernel, stride):
    x = noise(2, *grid, 8, dtype=torch.float64).requires_grad_()
    weight = noise(8, 1, *kernel, seed=1, dtype=torch.float64).requires_grad_()
    plain = F.conv3d(x.permute(0, 4, 1, 2, 3), weight, None, stride, padding_of(kernel, stride), 1, 8).permute(
        0, 2, 3, 4, 1
    )
    quick = depthwise_conv(x, weight, stride)
    torch.testing.assert_close(quick, plain)
    dy = noise(*plain.shape, seed=2, dtype=torch.float64)
    expected = torch.autograd.grad(plain, (x, weight), dy)
    torch.testing.assert_close(torch.autograd.grad(quick, (x, weight), dy), expected)
    with torch.no_grad():
        torch.testing.assert_close(depthwise_conv(x, weight, stride), plain)


def test_depthwise_conv_gradcheck():
    x = noise(1, 2, 5, 4, 3, dtype=torch.float64).requires_grad_()
    weight = noise(3, 1, 3, 3, 3, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: depthwise_conv(a, b, (1, 2, 2)), (x, weight))


def test_depthwise_conv_in_bf16_is_near_fp32():
    x, weight = noise(1, 2, 8, 8, 16), noise(16, 1, 3, 3, 3, seed=1)
    narrow = [t.bfloat16().requires_grad_() for t in (x, weight)]
    wide = [t.detach().float().requires_grad_() for t in narrow]
    got, expected = depthwise_conv(*narrow, (1, 2, 2)), depthwise_conv(*wide, (1, 2, 2))
    torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.02)
    for a, b in zip(
        torch.autograd.grad(got.float().square().sum(), narrow),
        torch.autograd.grad(expected.square().sum(), wide),
        strict=True,
    ):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, atol=0.02 * b.abs().max().item(), rtol=0.05)


@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        ((1, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (2, 2, 2)),
        ((1, 2, 2), (1, 2, 2)),
        ((3, 1, 1), (2, 1, 1)),
        ((3, 3, 5), (1, 2, 1)),
    ],
)
def test_pools_equal_pytorchs(kernel, stride):
    x = noise(2, 4, 6, 6, 8).round(decimals=1).requires_grad_()  # many equal values: the first of them wins
    x_BCTHW = x.permute(0, 4, 1, 2, 3).contiguous()
    padding = padding_of(kernel, stride)
    expected = F.max_pool3d(x_BCTHW, kernel, stride, padding).permute(0, 2, 3, 4, 1)
    got, dy = max_pool(x, kernel, stride), noise(*expected.shape, seed=1)
    assert torch.equal(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, x, dy), torch.autograd.grad(expected, x, dy, retain_graph=True))
    expected = F.avg_pool3d(x_BCTHW, kernel, stride, padding).permute(0, 2, 3, 4, 1)
    got = avg_pool(x, kernel, stride)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, x, dy), torch.autograd.grad(expected, x, dy))


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_touched_positions_pool_to_the_same(kernel, stride):
    for size in range(max(kernel, 3), 30):
        x = noise(1, 1, size, size + 1, 2, seed=size)
        weight = noise(2, 1, 1, kernel, kernel, seed=1)
        expected = depthwise_conv(x, weight, (1, stride, stride))
        full = (1, kernel, kernel), (1, stride, stride)
        index, rows, columns, compact = touched_index(size, size + 1, *full, x.device)
        assert rows == len(touched(size, kernel, stride)) <= size
        read = x.flatten(2, 3).index_select(2, index).unflatten(2, (rows, columns))
        torch.testing.assert_close(depthwise_conv(read, weight, compact), expected)
        assert expected.shape[2] == pooled_size(size, kernel, stride)


def test_only_what_a_pooling_reads_is_touched():
    assert touched(16, 3, 8) == [0, 1, 7, 8, 9]
    assert touched(5, 3, 2) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_cls", [0, 1])
@pytest.mark.parametrize("axes", [(True, True, True), (False, True, True), (True, False, False)])
def test_relative_positions_as_channels_equal_their_definition(num_cls, axes):
    q_grid, kv_grid = (2, 4, 6), (2, 2, 3)
    q = noise(2, *q_grid, 3, 8).requires_grad_()
    k, v = (noise(2, num_cls + 12, 3, 8, seed=s).requires_grad_() for s in (1, 2))
    tables = [noise(2 * q_grid[a] - 1, 8, seed=a).requires_grad_() if axes[a] else None for a in range(3)]
    rows = [None if t is None else gather_rel_pos(t, q_grid[a], kv_grid[a]) for a, t in enumerate(tables)]
    terms = attention.relative_terms(q, rows)
    plain = attention.apply_map(attention.relative_map(q, k, 0.4, terms, kv_grid), v)
    positions = attention.key_positions(kv_grid, axes, num_cls, k)
    quick = attention.attend(*attention.with_positions(q, k, terms, positions), v, 0.4)
    torch.testing.assert_close(quick, plain, atol=1e-5, rtol=1e-5)
    wanted = [q, k, v, *[t for t in tables if t is not None]]
    dy = noise(*plain.shape)
    expected = torch.autograd.grad(plain, wanted, dy, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(quick, wanted, dy), expected, atol=2e-5, rtol=1e-4)
    without = attention.attend(q.flatten(1, 3), k, v, 0.4)
    assert (quick - without).abs().max() > 0.1


def test_relative_rows_by_hand():
    table = torch.arange(7.0)[:, None]
    # 4 queries, 2 keys: keys stand at queries 0 and 2; offset 0 is row (K - 1) * 2 = 2.
    assert gather_rel_pos(table, 4, 2)[..., 0].tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]
    assert gather_rel_pos(table, 4, 4)[..., 0].tolist() == [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]
    assert gather_rel_pos(table, 3, 3).shape == (3, 3, 1)  # 5 offsets wanted, 7 given: stretched


def test_position_tables_stretch():
    table = noise(1, 2 * 4 * 4, 5)
    assert resize_pos_embed(table, (2, 4, 4), (2, 4, 4)) is table
    larger = resize_pos_embed(table, (2, 4, 4), (4, 6, 8))
    assert larger.shape == (1, 4 * 6 * 8, 5)
    constant = torch.ones(1, 32, 5)
    torch.testing.assert_close(resize_pos_embed(constant, (2, 4, 4), (3, 7, 5)), torch.ones(1, 105, 5))
    space = F.interpolate(table.view(2, 4, 4, 5).permute(0, 3, 1, 2), size=(6, 8), mode="bicubic")
    torch.testing.assert_close(
        resize_pos_embed(table, (2, 4, 4), (2, 6, 8)), space.permute(0, 2, 3, 1).reshape(1, -1, 5)
    )
    assert resize_rel_pos(torch.arange(3.0)[:, None], 3)[1] == 1
    assert resize_rel_pos(torch.arange(3.0)[:, None], 5)[2] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("old", "new"), [(39, 77), (77, 39), (5, 9), (8, 3), (1, 4), (4, 1)])
def test_tables_are_stretched_as_pytorch_does(old, new, dtype):
    table = noise(old, 6, dtype=dtype).requires_grad_()
    wide = table.t()[None].to(torch.promote_types(dtype, torch.float32))  # its own sums in bf16 round more than once
    expected = F.interpolate(wide, size=new, mode="linear", align_corners=False)[0].t().to(dtype)
    got, dy = resize_rel_pos(table, new), noise(new, 6, seed=1, dtype=dtype)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, table, dy), torch.autograd.grad(expected, table, dy))
    frames = resize_pos_embed(table[None].repeat_interleave(4, dim=1), (old, 2, 2), (new, 2, 2))
    torch.testing.assert_close(frames[0].unflatten(0, (new, 4))[:, 3], expected)


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    drop, shortcut, branch = DropPath(0.25), torch.zeros(4000, 2, 3), torch.ones(4000, 2, 3)
    assert drop.eval().draw(branch) is None
    torch.manual_seed(0)
    out = add_branch(shortcut, branch, drop.train().draw(branch))
    per_sample = out.flatten(1)
    assert torch.equal(per_sample.min(1).values, per_sample.max(1).values)
    assert per_sample.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    mixed = add_branch(shortcut[:2], branch[:2].bfloat16(), torch.tensor([0.0, 2.0]))
    assert mixed.dtype == torch.float32 and mixed[1, 0, 0] == 2


def test_mlp_dropout_only_in_training():
    mlp, x = Mlp(8, 16, 8, dropout=0.5), clip(1, 1, 1, 4, 8)
    assert not torch.equal(mlp.train()(x), mlp(x))
    torch.testing.assert_close(mlp.eval()(x), mlp.fc2(F.gelu(mlp.fc1(x))))
