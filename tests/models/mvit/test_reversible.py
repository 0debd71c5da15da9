"""Reversible MViT: its backward pass against PyTorch's, what it keeps in memory, and weights by PySlowFast's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.mvit_variants import clip, perturb
from videovit.errors import UserError
from videovit.models import count_params, expand, export_state_dict, load_pretrained, optimize_for_inference
from videovit.models.mvit.block_specs import BlockSpec
from videovit.models.mvit.reversible import ReversibleMViT, TransitionBlock

SIZES = {"clip_size": (4, 32, 32), "patch_kernel": (3, 7, 7), "patch_stride": (2, 4, 4), "patch_padding": (1, 3, 3)}


def blocks(depth: int = 5, transitions: Sequence[int] = (1, 3)) -> list[BlockSpec]:
    return expand(
        depth=depth,
        embed_dim=8,
        num_heads=1,
        dim_mul=[[i, 2.0] for i in transitions],
        head_mul=[[i, 2.0] for i in transitions],
        pool_q_stride=[[i, 1, 2, 2] for i in transitions],
        pool_kv_stride_adaptive=[1, 4, 4] if transitions else None,
        pool_kvq_kernel=[3, 3, 3] if transitions else None,
        dim_mul_in_attention=True,
    )


def build(transitions: Sequence[int] = (1, 3), depth: int = 5, **changes: Any) -> ReversibleMViT:
    torch.manual_seed(0)
    arguments = {**SIZES, "num_classes": 4, "blocks": blocks(depth, transitions), "transitions": transitions, **changes}
    model = ReversibleMViT(**arguments)
    perturb(model)
    return model


def gradients(model: ReversibleMViT, x: Tensor, *, keeps: bool) -> tuple[Tensor, list[Tensor]]:
    """Logits, and gradients of the input and all parameters."""
    model.keeps_activations = keeps
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    logits = model(x)
    loss = (logits * torch.arange(logits.numel()).view_as(logits)).sum()
    return logits, list(torch.autograd.grad(loss, [x, *model.parameters()]))


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "concat_linear_2", "separate_qkv": True},
        {"fusion": "avg", "shortcut_pooling": "max", "rel_pos_spatial": True, "rel_pos_temporal": True},
        {"fusion": "concat", "drop_path": 0.4, "dropout": 0.3},
        {"fusion": "max", "mean_pooling": True, "residual_pooling": True},
        {"transitions": (), "sep_pos_embed": False, "dropout": 0.2},
    ],
)
def test_gradients_equal_those_of_the_plain_backward_pass(changes: dict[str, Any]) -> None:
    model = build(**changes).double().train()
    x = clip(3, 3, 4, 32, 32).double()
    logits, expected = gradients(model, x, keeps=True)
    same, found = gradients(model, x, keeps=False)
    torch.testing.assert_close(same, logits, rtol=0, atol=1e-12)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()) + 1e-12)
    if not any(changes.get(name) for name in ("drop_path", "dropout")):
        torch.testing.assert_close(model.eval()(x), logits, rtol=0, atol=1e-12)
        torch.testing.assert_close(optimize_for_inference(model)(x), logits, rtol=0, atol=1e-10)


def test_autocast_is_that_of_the_forward_pass() -> None:
    model, x = build().train(), clip(2, 3, 4, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    logits.float().square().sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.keeps_activations = True
    with torch.autocast("cpu", torch.bfloat16):
        model(x).float().square().sum().backward()
    for name, parameter in model.named_parameters():
        one, other = found[name], parameter.grad
        assert one is not None and other is not None and one.dtype == other.dtype
        if name.endswith("norm_k.bias"):  # softmax does not see a shift of all keys, so only rounding is left
            assert max(one.norm(), other.norm()) < 1e-4, name
            continue
        assert (one - other).norm() <= 0.1 * other.norm() + 1e-5, name


def test_streams_follow_the_equations() -> None:
    model, x = build(fusion="avg").eval(), clip(2, 3, 4, 32, 32)
    with torch.no_grad():
        tokens, _ = model._embed(x)
        first = second = tokens
        for block in model.blocks:
            if isinstance(block, TransitionBlock):
                joined = (first + second) / 2
                pooled = block.attention.attn.pool_as_queries(block.proj(joined)).flatten(-2)
                tokens = pooled + block.attention(joined)
                tokens = first = second = tokens + block.mlp(tokens)
            else:
                first = first + block.attention(second)
                second = second + block.mlp(first)
        expected = model.head(model.norm(torch.cat([first, second], dim=-1)).mean((1, 2, 3)))
        torch.testing.assert_close(model(x), expected)
        maps = [tuple(map_.shape[2:]) for map_ in model.attention_maps(x)]
        keys = [(layer.queries_BN3.shape[1], layer.keys_BL3.shape[1]) for layer in model.attention_tokens(x)]
    assert maps == keys and len(maps) == 5
    assert [tuple(stage.shape[1:]) for stage in model.forward_stages(x)] == [
        (16, 2, 8, 8),
        (32, 2, 4, 4),
        (64, 2, 2, 2),
    ]


def kept_bytes(model: ReversibleMViT, x: Tensor) -> int:
    """Of activations for the backward pass."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(x).sum()
    return sum(kept.values())


def test_memory_does_not_grow_with_depth() -> None:
    x = clip(2, 3, 4, 32, 32)
    shallow, deep = (build((), depth=depth).train() for depth in (4, 12))
    assert kept_bytes(deep, x) <= 1.01 * kept_bytes(shallow, x)
    shallow.keeps_activations = deep.keeps_activations = True
    assert kept_bytes(deep, x) > 2 * kept_bytes(shallow, x)


def test_weights_by_the_names_of_pyslowfast() -> None:
    model = build(fusion="concat_linear_2")
    state = export_state_dict(model)
    assert {name.split(".")[0] for name in state} == {
        *("patch_embed", "pos_embed_spatial", "pos_embed_temporal", "rev_backbone", "norm", "head")
    }
    for name in ("F.attn.pool_q.weight", "G.mlp.fc1.weight", "pre_q_fuse.fuse_fn.fc2.bias", "F.norm.weight"):
        assert f"rev_backbone.layers.1.{name}" in state
    other = build(fusion="concat_linear_2", num_classes=4)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    load_pretrained(other, {"model_state": state})
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
    with pytest.raises(UserError, match="pytorchvideo has no reversible blocks"):
        export_state_dict(model, "pytorchvideo")
    assert count_params(model) == sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize(
    ("transitions", "message"),
    [
        (
            (1,),
            r"BUFFER_LAYERS: block 3 pools queries or widens the tokens.*expected these blocks among them: \[1, 3\]",
        ),
        ((0, 1, 3), "block 0 is the first or the last of 5"),
        ((1, 2, 3), "between the blocks 1 and 2 there is none"),
    ],
)
def test_impossible_transitions_are_named(transitions: Sequence[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReversibleMViT(**SIZES, num_classes=4, blocks=blocks(), transitions=transitions)
