"""Random weights of other projects' networks, converted: logits and gradients are equal."""

import pytest
import timm
import torch
from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers
from torch import nn
from torchvision.models import video as torchvision_video

from tests.helpers.mvit_variants import (
    TINY,
    TINY_V2,
    clip,
    mvit_v1_b,
    mvit_v2_s,
    perturb,
    q_strides_everywhere,
    tiny,
    tiny_v2,
)
from tests.helpers.tiny_peers import PTV_TINY, timm_tiny, torchvision_tiny
from videovit.models import expand, load_pretrained
from videovit.models.mvit.model import MViT


def image_v2(depths, dim, side, num_classes, cls_token=False):
    """The MViTv2 for images that timm builds."""
    starts, depth = [sum(depths[:i]) for i in range(1, len(depths))], sum(depths)
    factors = [[i, 2.0] for i in starts]
    blocks = expand(
        depth=depth,
        embed_dim=dim,
        num_heads=1,
        dim_mul=factors,
        head_mul=factors,
        pool_q_stride=q_strides_everywhere(depth, starts),
        pool_kv_stride_adaptive=[1, 4, 4],
        pool_kvq_kernel=[1, 3, 3],
        dim_mul_in_attention=True,
    )
    patch = {"patch_kernel": (1, 7, 7), "patch_stride": (1, 4, 4), "patch_padding": (0, 3, 3)}
    extras = {"cls_token": cls_token, "use_abs_pos": False, "rel_pos_spatial": True, "residual_pooling": True}
    return MViT(blocks=blocks, num_classes=num_classes, clip_size=(1, side, side), **patch, **extras)


def check_equal(reference, model, x, theirs=None):
    """Assert that logits and the gradient of the patch embedding agree; `theirs`: the input of the reference."""
    reference.eval(), model.eval()
    expected, logits = reference(x if theirs is None else theirs), model(x)
    assert expected.std() > 0.05
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    expected.square().sum().backward()
    logits.square().sum().backward()
    stem = next(m for m in reference.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    grad = model.patch_embed.proj.weight.grad
    expected_grad = stem.weight.grad.view_as(grad)
    assert (grad - expected_grad).norm() < 1e-3 * expected_grad.norm()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_torchvision_is_equal(version):
    reference = perturb(torchvision_tiny(TINY, False) if version == "v1" else torchvision_tiny(TINY_V2, True))
    model = tiny() if version == "v1" else tiny_v2()
    report = load_pretrained(model, reference.state_dict())
    assert report.source == "torchvision"
    assert sorted(report.loaded) == sorted(model.state_dict())
    check_equal(reference, model, clip(2, 3, 8, 32, 32))


@pytest.mark.parametrize(("name", "build"), [("mvit_v1_b", mvit_v1_b), ("mvit_v2_s", mvit_v2_s)])
def test_torchvision_is_equal_at_full_size(name, build):
    reference = perturb(getattr(torchvision_video, name)(weights=None)).eval()
    model = build().eval()
    load_pretrained(model, reference.state_dict())
    x = clip(1, 3, 16, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), reference(x), atol=1e-5, rtol=0)


def test_pytorchvideo_is_equal():
    reference = perturb(create_multiscale_vision_transformers(**PTV_TINY))
    model = tiny()
    report = load_pretrained(model, {"model_state": reference.state_dict()})
    assert (report.source, report.pool_norm_eps) == ("pytorchvideo", 1e-5)
    assert model.blocks[0].attn.norm_k.eps == 1e-5
    assert model.blocks[0].norm1.eps == 1e-6
    check_equal(reference, model, clip(2, 3, 8, 32, 32))


def test_pytorchvideo_with_another_eps_differs():
    reference = perturb(create_multiscale_vision_transformers(**PTV_TINY)).eval()
    model = tiny().eval()
    load_pretrained(model, reference.state_dict(), "pytorchvideo_repo")
    x = clip(2, 3, 8, 32, 32)
    assert model.blocks[0].attn.norm_k.eps == 1e-6
    assert (model(x) - reference(x)).abs().max() > 1e-5


def test_aliases_of_the_pytorchvideo_repository_are_ignored():
    state = create_multiscale_vision_transformers(**PTV_TINY).state_dict()
    for name in list(state):
        base, found, rest = name.partition(".attn.pool_")
        if found:
            state[f"{base}.attn._attention_pool_{rest[0]}.pool.weight"] = state[name]
        base, found, rest = name.partition(".attn.norm_")
        if found:
            state[f"{base}.attn._attention_pool_{rest[0]}.norm.{rest[2:]}"] = state[name]
    model = tiny()
    report = load_pretrained(model, state)
    assert (report.source, report.pool_norm_eps) == ("pytorchvideo_repo", 1e-6)
    assert sorted(report.loaded) == sorted(model.state_dict())


def test_pytorchvideo_joint_positions_unpooled_last_stage_equal():
    rows = [[0, 1, 4, 4], [1, 1, 2, 2], [2, 1, 2, 2]]
    lists = {"pool_kv_stride_adaptive": None, "sep_pos_embed": False}
    reference = perturb(create_multiscale_vision_transformers(**{**PTV_TINY, **lists, "pool_kv_stride_size": rows}))
    schedule = {**TINY, "pool_kv_stride_adaptive": None, "pool_kv_stride": rows}
    model = tiny(blocks=expand(**schedule), sep_pos_embed=False)
    load_pretrained(model, reference.state_dict())
    check_equal(reference, model, clip(2, 3, 8, 32, 32))


def test_timm_is_equal():
    reference, model = perturb(timm_tiny()), image_v2((1, 2, 1), 16, 32, 5)
    report = load_pretrained(model, reference.state_dict())
    assert report.source == "timm" and not report.notes
    assert sorted(report.loaded) == sorted(model.state_dict())
    images = clip(2, 3, 32, 32)
    check_equal(reference, model, images.unsqueeze(2), images)


def test_timm_with_a_class_token_differs_with_a_note():
    """There residual pooling adds queries to it too; without residual pooling both are equal."""
    reference, model = perturb(timm_tiny(cls_token=True)), image_v2((1, 2, 1), 16, 32, 5, cls_token=True)
    assert "class token" in load_pretrained(model, reference.state_dict()).notes[0]
    for module in (*reference.modules(), *model.modules()):
        if hasattr(module, "residual_pooling"):
            module.residual_pooling = False
    assert not load_pretrained(model, reference.state_dict()).notes
    images = clip(2, 3, 32, 32)
    check_equal(reference, model, images.unsqueeze(2), images)


@pytest.mark.parametrize(("name", "depths"), [("mvitv2_tiny", (1, 2, 5, 2)), ("mvitv2_small", (1, 2, 11, 2))])
def test_timm_is_equal_at_full_size(name, depths):
    torch.manual_seed(0)  # with some weights rounding moves a maximum, and with it a gradient
    reference, model = perturb(timm.create_model(name)), image_v2(depths, 96, 224, 1000)
    load_pretrained(model, {"model": reference.state_dict()})
    images = clip(1, 3, 224, 224)
    check_equal(reference, model, images.unsqueeze(2), images)
