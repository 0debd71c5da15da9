"""Attention maps: what the models compute with, one per block, and the model itself untouched."""

import pytest
import torch

from tests.helpers.mvit_variants import clip, perturb, tiny, tiny_v2
from videovit.models import attention_maps, optimize_for_inference
from videovit.models.cpu import mvit as fast_mvit
from videovit.models.pit import PiT
from videovit.models.progressive_sampling import ProgressiveSamplingViT
from videovit.models.vit import ViT

SMALL_PIT = {
    "dims": (8, 16),
    "num_heads": (1, 2),
    "depths": (1, 2),
    "patch_kernel": (3, 8, 8),
    "patch_stride": (2, 4, 4),
}
SMALL_PS_VIT = {"dim": 16, "num_heads": 2, "iterations": 2, "depth": 1, "points": (3, 3), "num_frames": 8}

# name: (model, (heads, queries, keys) of each map)
MODELS = {
    "ViT": (
        lambda: ViT(dim=16, depth=2, num_heads=2, clip_size=(8, 32, 32), patch_size=(4, 16, 16), distilled=True),
        [(2, 10, 10)] * 2,
    ),
    "PiT": (lambda: PiT(**SMALL_PIT, clip_size=(8, 32, 32)), [(1, 197, 197), (2, 65, 65), (2, 65, 65)]),
    "PS-ViT": (lambda: ProgressiveSamplingViT(**SMALL_PS_VIT), [(2, 72, 72)] * 2 + [(2, 73, 73)]),
    "PS-ViT, one sampler": (
        lambda: ProgressiveSamplingViT(**SMALL_PS_VIT, share_sampler=True), [(2, 72, 72)] * 2 + [(2, 73, 73)]
    ),
    "MViT": (tiny, None),
    "MViTv2": (tiny_v2, None),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimized", [False, True])
def test_maps_are_those_that_the_model_uses(name, optimized):
    build, sizes = MODELS[name]
    model = perturb(build()).eval()
    model = optimize_for_inference(model) if optimized else model
    x = clip(2, 3, 8, 32, 32)
    with torch.no_grad():
        features = model.forward_features(x)
    tokens = features.tokens_BNC if features.cls_BXC is None else torch.cat([features.cls_BXC, features.tokens_BNC], 1)
    used = []
    handle = model.norm.register_forward_hook(lambda module, args, out: used.append(out))
    maps = model.attention_maps(x)
    handle.remove()
    if sizes is not None:
        assert [tuple(m.shape[1:]) for m in maps] == sizes
    for m in maps:
        assert m.shape[0] == 2 and not m.requires_grad
        torch.testing.assert_close(m.sum(dim=-1), torch.ones(m.shape[:-1]))
    assert maps[-1].shape[2] == tokens.shape[1]
    # Tokens computed with the maps are the usual ones. (MViT normalizes grid and class token in two calls.)
    torch.testing.assert_close(torch.cat(used[::-1], 1), tokens, atol=1e-4, rtol=1e-4)
    assert not any(module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(x)[0], features[0], atol=0, rtol=0)


@pytest.mark.parametrize("build", [tiny, tiny_v2])
def test_maps_of_a_batch_that_inference_takes_apart(build, monkeypatch):
    model = optimize_for_inference(perturb(build()).eval())
    x = clip(3, 3, 8, 32, 32)
    whole = attention_maps(model, x)
    monkeypatch.setattr(fast_mvit, "_GROUP_BYTES", 1)
    torch.testing.assert_close(attention_maps(model, x), whole)


def test_a_map_by_hand():
    model = perturb(ViT(dim=16, depth=1, num_heads=2, clip_size=(1, 32, 32))).eval()
    x = clip(1, 3, 1, 32, 32)
    layer = model.blocks[0].attn
    inputs = []
    handle = layer.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    (found,) = attention_maps(model, x)
    handle.remove()
    q, k, _ = layer.qkv(inputs[0]).unflatten(-1, (3, 2, 8)).unbind(2)
    scores = torch.einsum("bnmd,blmd->bmnl", q, k) / 8**0.5
    torch.testing.assert_close(found, scores.softmax(dim=-1), atol=1e-5, rtol=1e-5)
