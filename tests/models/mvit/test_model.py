"""The whole MViT: variants against a plain implementation, shortcuts, other sizes, compilers, checkpointing, DDP."""

import copy

import pytest
import torch

from tests.helpers.mvit_variants import TINY, TINY_V2, clip, perturb, q_strides_everywhere, tiny, tiny_v2
from tests.helpers.plain_mvit import plain_logits
from tests.helpers.runs import run_group
from videovit.models import expand, optimize_for_inference
from videovit.models.cpu import mvit as fast_mvit
from videovit.models.cpu.optimize import COUNTERPARTS
from videovit.models.mvit import attention as attention_module
from videovit.models.mvit import model as mvit_module
from videovit.models.mvit.block import MultiscaleBlock

IMAGE = {
    "clip_size": (1, 32, 32),
    "patch_kernel": (1, 7, 7),
    "patch_stride": (1, 4, 4),
    "patch_padding": (0, 3, 3),
}
# Blocks without and with expansion and halving: compilers take their time for every block.
TINY_V2_OF_TWO = {
    **TINY_V2,
    "depth": 2,
    "dim_mul": [[1, 2.0]],
    "head_mul": [[1, 2.0]],
    "pool_q_stride": q_strides_everywhere(2, (1,)),
}
VARIANTS = {
    "v1": tiny,
    "v1 max": lambda: tiny(pool_mode="max", blocks=expand(**{**TINY, "pool_kvq_kernel": None})),
    "v1 average": lambda: tiny(pool_mode="avg"),
    "v1 conv, kernel stride + 1": lambda: tiny(blocks=expand(**{**TINY, "pool_kvq_kernel": None})),
    "v1 joint positions": lambda: tiny(sep_pos_embed=False),
    "v1 no positions": lambda: tiny(use_abs_pos=False),
    "v1 no class token": lambda: tiny(cls_token=False),
    "v1 mean pooling": lambda: tiny(mean_pooling=True),
    "v1 norm of the stem": lambda: tiny(norm_stem=True),
    "v1 separate q, k, v": lambda: tiny(separate_qkv=True),
    "v1 no biases": lambda: tiny(qkv_bias=False),
    "v1 other eps": lambda: tiny(pool_norm_eps=1e-2),
    "v1 listed strides": lambda: tiny(
        blocks=expand(**{**TINY, "pool_kv_stride_adaptive": None, "pool_kv_stride": [[0, 2, 4, 4], [2, 1, 2, 2]]})
    ),
    "v1 long key stride": lambda: tiny(blocks=expand(**{**TINY, "pool_kv_stride_adaptive": [1, 8, 8]})),
    "v1 odd strides": lambda: tiny(
        blocks=expand(**{**TINY, "pool_q_stride": [[1, 1, 3, 3], [3, 3, 1, 1]], "pool_kv_stride_adaptive": [1, 5, 3]}),
        clip_size=(8, 40, 40),
    ),
    "v1 odd strides, kernel stride + 1": lambda: tiny(
        blocks=expand(
            **{**TINY, "pool_q_stride": [[1, 1, 3, 3]], "pool_kv_stride_adaptive": [1, 3, 7], "pool_kvq_kernel": None}
        )
    ),
    "v1 expansion in the attention": lambda: tiny(blocks=expand(**{**TINY, "dim_mul_in_attention": True})),
    "v1 image": lambda: tiny(**IMAGE, sep_pos_embed=False),
    "v2": tiny_v2,
    "v2 no class token": lambda: tiny_v2(cls_token=False),
    "v2 spatial only": lambda: tiny_v2(rel_pos_temporal=False),
    "v2 temporal only": lambda: tiny_v2(rel_pos_spatial=False),
    "v2 expansion in the MLP": lambda: tiny_v2(blocks=expand(**{**TINY_V2, "dim_mul_in_attention": False})),
    "v2 image": lambda: tiny_v2(**IMAGE, cls_token=False, rel_pos_temporal=False),
    "v2 odd size": lambda: tiny_v2(clip_size=(8, 36, 36)),
    "v2 of two blocks": lambda: tiny_v2(blocks=expand(**TINY_V2_OF_TWO)),
    "ViT": lambda: tiny(blocks=expand(depth=3, embed_dim=24, num_heads=2), sep_pos_embed=False),
}


def small_clip(model, batch=2, seed=0):
    """A batch of the size that a tiny model was built for."""
    stride = model.patch_embed.proj.stride
    return clip(batch, 3, *(g * s for g, s in zip(model.grid, stride, strict=True)), seed=seed)


def made(name, seed=0):
    """A variant with perturbed weights, in evaluation mode."""
    torch.manual_seed(seed)
    return perturb(VARIANTS[name]()).eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_equals_plain_implementation(name):
    model = made(name)
    x = small_clip(model)
    expected, logits = plain_logits(model, x), model(x)
    assert expected.std() > 0.02
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)
    optimized = optimize_for_inference(model)
    with torch.inference_mode():
        for kind in (model, optimized, optimized, model.twin().plain_(), optimized.twin().plain_()):
            torch.testing.assert_close(kind(x), expected, atol=2e-5, rtol=1e-5)
    dy = torch.linspace(-1, 1, 5)
    names = [n for n, _ in model.named_parameters()]
    grads = torch.autograd.grad(logits @ dy, list(model.parameters()), torch.ones(2))
    optimized_grads = torch.autograd.grad(optimized(x) @ dy, list(model.parameters()), torch.ones(2))
    assert all(map(torch.equal, grads, optimized_grads))  # with gradients on, an optimized model is an ordinary one
    plain_grads = torch.autograd.grad(expected @ dy, list(model.parameters()), torch.ones(2), allow_unused=True)
    for n, grad, plain in zip(names, grads, plain_grads, strict=True):
        if "norm_k.bias" not in n:  # moving all keys does not move a softmax
            plain = torch.zeros_like(grad) if plain is None else plain
            torch.testing.assert_close(grad, plain, atol=2e-5, rtol=2e-3, msg=lambda m, n=n: f"{n}: {m}")


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_inference_in_chunks_of_rows_is_the_same(name, monkeypatch):
    model, rows = optimize_for_inference(made(name)), []
    x = small_clip(model)
    plain = MultiscaleBlock._add_mlp

    def watched(block, tokens, factors_B):
        rows.append(tokens.numel() // tokens.shape[-1])
        return plain(block, tokens, factors_B)

    monkeypatch.setattr(MultiscaleBlock, "_add_mlp", watched)
    with torch.no_grad():
        expected = model(x)
        assert max(rows) == 512  # 2 clips of 4 x 8 x 8 tokens
        rows.clear()
        monkeypatch.setattr(fast_mvit, "_CHUNK_BYTES", 48_000)
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
        assert max(rows) < 512 and rows[1:4] == [171, 171, 170]  # equal parts


@pytest.mark.parametrize("name", ["v1", "v2", "v2 no class token"])
@pytest.mark.parametrize("num_bytes", [1, 50_000])
def test_inference_in_groups_of_clips_is_the_same(name, num_bytes, monkeypatch):
    model = optimize_for_inference(made(name))
    x = small_clip(model).repeat(3, 1, 1, 1, 1)[:5] * torch.arange(1, 6).view(5, 1, 1, 1, 1)
    with torch.no_grad():
        expected = model(x)
        sizes = []
        for block in model.blocks:
            block.attn.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
        monkeypatch.setattr(fast_mvit, "_GROUP_BYTES", num_bytes)
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
        assert sizes[:2] == ([1, 1] if num_bytes == 1 else [3, 2])


@pytest.mark.parametrize("name", ["v1", "v2", "v1 mean pooling", "v2 no class token"])
def test_features_give_the_logits(name):
    model = made(name)
    x = small_clip(model)
    tokens, grid, cls = model.forward_features(x)
    assert grid == (4, 2, 2)
    assert tokens.shape == (2, grid[0] * grid[1] * grid[2], 64)
    assert (cls is None) == (model.cls_token is None)
    if not model.mean_pooling:
        features = tokens.mean(1) if cls is None else cls[:, 0]
        torch.testing.assert_close(model.head(features), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["v1", "v2", "v1 expansion in the attention"])
def test_stages_end_where_queries_are_strided(name):
    model = made(name)
    x = small_clip(model)
    stages = model.forward_stages(x)
    # TINY strides queries in blocks 1 and 3; in a v1 model the MLP before them already widens the tokens.
    channels = [32, 64, 64] if name == "v1" else [16, 32, 64]
    assert [tuple(m.shape) for m in stages] == [(2, c, 4, s, s) for c, s in zip(channels, (8, 4, 2), strict=True)]
    tokens = model.forward_features(x).tokens_BNC
    torch.testing.assert_close(model.norm(stages[-1].flatten(2).transpose(1, 2)), tokens)


def test_every_parameter_gets_a_gradient_also_unread_ones():
    model = made("v2").train()
    model(small_clip(model)).sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []
    last = model.blocks[-1].attn
    assert all(not p.grad.any() for p in last.unused_by_cls())
    assert len(last.unused_by_cls()) == 4
    assert model.blocks[-2].attn.rel_pos_t.grad.any()


@pytest.mark.parametrize("name", ["v1", "v2", "v2 image"])
def test_autocast_and_bf16_are_near_fp32(name):
    model = made(name)
    x = small_clip(model)
    expected = model(x)
    scale = expected.abs().max().item()
    optimized = optimize_for_inference(model)
    for kind, context in ((optimized, torch.no_grad), (model, torch.no_grad), (model, torch.enable_grad)):
        with context(), torch.autocast("cpu", torch.bfloat16):
            logits = kind(x)
        torch.testing.assert_close(logits.float(), expected, atol=0.05 * scale, rtol=0)
    logits.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    narrow = copy.deepcopy(model).bfloat16()
    with torch.no_grad():
        for kind in (narrow, optimize_for_inference(narrow)):
            torch.testing.assert_close(kind(x.bfloat16()).float(), expected, atol=0.08 * scale, rtol=0)


@pytest.mark.parametrize("optimized", [False, True])
def test_compile(optimized):
    model = made("v2 of two blocks")
    model = optimize_for_inference(model) if optimized else model
    x = small_clip(model)
    with torch.no_grad():
        expected = model(x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-5)
    grads = torch.autograd.grad(compiled(x).sum(), list(model.parameters()))
    plain = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    torch.testing.assert_close(grads, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("optimized", [False, True])
def test_export(optimized):
    model = made("v2 of two blocks")
    model = optimize_for_inference(model) if optimized else model
    x = small_clip(model)
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize("name", ["v1", "v2"])
@pytest.mark.parametrize("optimized", [False, True])
def test_trace_passes_its_own_check(name, optimized):
    model = optimize_for_inference(made(name)) if optimized else made(name)
    with torch.no_grad():
        model(small_clip(model))  # what is kept from other passes must not become part of the graph
        traced = torch.jit.trace(model, small_clip(model))
        x = small_clip(model, batch=3, seed=1)
        torch.testing.assert_close(traced(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_an_empty_batch_has_no_logits(name):
    model = made(name)
    assert model(small_clip(model)[:0]).shape == (0, 5)
    with torch.inference_mode():
        assert model(small_clip(model)[:0]).shape == (0, 5)
        assert optimize_for_inference(model)(small_clip(model)[:0]).shape == (0, 5)


def test_activation_checkpointing_changes_nothing():
    for name in ("v1", "v2"):
        model = made(name).train()
        for i, block in enumerate(model.blocks):
            block.drop_path.rate = 0.1 * i
        x, results = small_clip(model), []
        for act_checkpoint in (False, True):
            model.act_checkpoint = act_checkpoint
            torch.manual_seed(3)
            loss = model(x).square().sum()
            results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
        torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("name", ["v1", "v1 joint positions", "v2", "v2 image"])
def test_other_input_sizes(name, monkeypatch):
    model, resized = made(name), []
    optimized = optimize_for_inference(model)
    for module, function in ((mvit_module, "resize_pos_embed"), (attention_module, "gather_rel_pos")):
        original = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *a, f=original: resized.append(1) or f(*a))
    x = clip(1, 3, 1 if model.grid[0] == 1 else 12, 48, 40)
    with torch.no_grad():
        logits, once = optimized(x), len(resized)
        assert once > 0
        torch.testing.assert_close(optimized(x), logits)
        assert len(resized) == once  # tables are stretched once, not at every forward
        torch.testing.assert_close(model(x), logits, atol=1e-5, rtol=1e-5)
    grid = tuple(model.patch_embed(x).shape[1:4])
    if model.pos_embed is not None:  # a model made for the new size, with the stretched table, gives the same
        stretched, state = tiny(clip_size=x.shape[2:], sep_pos_embed=False).eval(), model.state_dict()
        positions = model.positions(grid).flatten(1, 3)
        state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], positions], dim=1)
        stretched.load_state_dict(state)
        torch.testing.assert_close(stretched(x), logits, atol=1e-5, rtol=1e-5)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def kept_tensors(model):
    """How many tensors an optimized model keeps."""
    return sum(len(m.kept) for m in model.modules() if type(m) in COUNTERPARTS.values())


def test_a_plain_model_keeps_nothing_and_follows_its_weights():
    model, twice = made("v2"), made("v2")
    x = small_clip(model)
    with torch.no_grad():
        before = model(x)
        for parameter, changed in zip(model.parameters(), twice.parameters(), strict=True):
            parameter.data = 1.5 * parameter.data  # moves no version counter
            changed.mul_(1.5)
        assert (model(x) - before).abs().max() > 0.1
        assert torch.equal(model(x), twice(x))


@pytest.mark.parametrize("name", ["v1 long key stride", "v2"])
def test_sizes_that_come_and_go_leave_nothing_behind(name):
    model = optimize_for_inference(made(name))
    x, held = small_clip(model), []
    with torch.no_grad():
        expected = model(x)
        for side in (32, 40, 48, 32):
            logits = model(clip(2, 3, 8, 32, side) if side > 32 else x)
            held.append(kept_tensors(model))
    assert held[0] > 20 and len(set(held)) == 1
    assert torch.equal(logits, expected)


def test_training_only_randomness():
    model = tiny(drop_path=0.5, head_dropout=0.5, dropout=0.1)
    x = small_clip(model)
    assert not torch.equal(model.train()(x), model(x))
    torch.testing.assert_close(model.eval()(x), model(x))
    rates = [b.drop_path.rate for b in model.blocks]
    assert rates == pytest.approx([0.0, 0.5 / 3, 1.0 / 3, 0.5])


def test_initial_weights_are_the_published_ones():
    model = tiny_v2(blocks=expand(**{**TINY_V2, "embed_dim": 64}), head_init_scale=0.001, num_classes=500)
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith("bias") and "patch_embed" not in name:
            assert not value.any(), name
        elif "qkv.weight" in name or "fc1.weight" in name or "rel_pos" in name:
            assert 0.015 < value.std().item() < 0.025, name
        elif "norm" in name:
            assert torch.equal(value, torch.ones_like(value)), name
    assert state["head.projection.weight"].std().item() == pytest.approx(2e-5, rel=0.1)
    zeros = tiny_v2(rel_pos_zero_init=True)
    assert not zeros.blocks[0].attn.rel_pos_h.any()


def test_frame_order_changes_mvit_but_not_vit_without_time():
    vit = perturb(
        tiny(
            blocks=expand(depth=3, embed_dim=24, num_heads=2),
            patch_kernel=(1, 8, 8),
            patch_stride=(1, 8, 8),
            patch_padding=(0, 0, 0),
        )
    ).eval()
    model = made("v1")
    for m in (vit, model):
        torch.nn.init.zeros_(m.pos_embed_temporal)
    x, order = clip(1, 3, 8, 32, 32), torch.tensor([3, 7, 0, 5, 1, 6, 2, 4])
    with torch.no_grad():
        assert (vit(x) - vit(x[:, :, order])).abs().max() < 1e-6
        assert (model(x) - model(x[:, :, order])).abs().max() > 1e-4


def test_state_dict_names_are_pyslowfasts():
    v1, v2 = tiny().state_dict(), tiny_v2().state_dict()
    for name in (
        "cls_token", "pos_embed_spatial", "pos_embed_temporal", "pos_embed_class", "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight", "blocks.0.attn.proj.bias", "blocks.0.attn.pool_k.weight",
        "blocks.1.attn.pool_q.weight",
        "blocks.0.attn.norm_v.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.bias", "blocks.0.proj.weight",
        "blocks.0.norm1.weight", "norm.weight", "head.projection.weight",
    ):  # fmt: skip
        assert name in v1
    assert {"blocks.0.attn.rel_pos_h", "blocks.0.attn.rel_pos_w", "blocks.0.attn.rel_pos_t"} <= set(v2)
    assert "blocks.0.attn.q.weight" in tiny(separate_qkv=True).state_dict()
    assert "pos_embed" in tiny(sep_pos_embed=False).state_dict()


def _ddp_worker(rank, folder):
    torch.manual_seed(0)
    model = perturb(tiny_v2())
    alone = copy.deepcopy(model)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    for step in range(2):  # a parameter without gradient fails at the second step
        wrapped(clip(2, 3, 8, 32, 32, seed=10 * step + rank)).square().sum().backward()
    for step in range(2):
        both = [alone(clip(2, 3, 8, 32, 32, seed=10 * step + r)).square().sum() for r in range(2)]
        (sum(both) / 2).backward()
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-4, rtol=1e-3)


def test_ddp_needs_no_search_for_unused_parameters(tmp_path):
    run_group(_ddp_worker, 2, tmp_path)


def test_v2_lists_reach_every_block():
    assert all(s.pools_q for s in expand(**{**TINY_V2, "pool_q_stride": q_strides_everywhere(4, (1, 3))}))
