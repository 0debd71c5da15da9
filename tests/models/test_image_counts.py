"""Parameters and multiply-adds of PiT, PS-ViT, DeiT and their ablations, counted on `meta`.

The figures are those of the published code under fvcore, whose total adds 5 per element of a LayerNorm's output, 2 of a
BatchNorm's and 4 of a bilinear reading to the multiply-adds of `count_macs`. The code of DeiT and PS-ViT normalizes all
tokens of the last block, though it reads the class token alone; it is counted here in the same way.
"""

import pytest
import torch
from torch import nn

from videovit.models import count_macs, count_params
from videovit.models.pit import PIT_PRESETS, PiT
from videovit.models.progressive_sampling import PROGRESSIVE_SAMPLING_PRESETS, ProgressiveSamplingViT
from videovit.models.vit import VIT_PRESETS, ViT


def vit(name, **changes):
    return lambda: ViT(**{**VIT_PRESETS[name], **changes})


def pit(name, side=224, **changes):
    return lambda: PiT(**PIT_PRESETS[f"pit_{name}"], clip_size=(1, side, side), **changes)


def ps_vit(name, **changes):
    return lambda: ProgressiveSamplingViT(**{**PROGRESSIVE_SAMPLING_PRESETS[f"ps_vit_{name}"], **changes})


def rounds(iterations):
    """The ablation of the number of iterations, at 14 blocks in all."""
    return ps_vit("b_14", iterations=iterations, depth=14 - iterations)


# name: (build, parameters, G of fvcore, G of `count_macs` or None)
FIGURES = {
    "DeiT-Ti": (vit("deit_ti"), 5_717_416, 1.258, 1.254),
    "DeiT-S": (vit("deit_s"), 22_050_664, 4.608, 4.599),
    "DeiT-B": (vit("deit_b"), 86_567_656, 17.583, 17.564),
    "ViT as deep and wide as PS-ViT-B": (vit("vit_as_ps_vit_b"), 21_449_320, 4.553, 4.542),
    "ViT-B on 8 frames": (vit("vit_b_8x8"), 87_159_952, None, 179.563),
    "PiT-Ti": (pit("ti"), 4_847_272, 0.7020, 0.699),
    "PiT-Ti distilled": (pit("ti", distilled=True), 5_104_336, 0.7079, 0.705),
    "PiT-XS": (pit("xs"), 10_618_888, 1.3991, 1.395),
    "PiT-XS distilled": (pit("xs", distilled=True), 11_003_984, 1.4114, 1.407),
    "PiT-S": (pit("s"), 23_461_912, 2.8775, 2.871),
    "PiT-S distilled": (pit("s", distilled=True), 24_039_056, 2.9034, 2.897),
    "PiT-B": (pit("b"), 73_764_840, 12.4199, 12.402),
    "PiT-B distilled": (pit("b", distilled=True), 74_790_096, 12.5004, 12.482),
    "PiT-B at 384": (pit("b", 384), 74_237_928, 46.53, 46.473),
    "PS-ViT-Ti/14": (ps_vit("ti_14"), 4_777_902, 1.577, 1.565),
    "PS-ViT-Ti/14 shared": (ps_vit("ti_14", share_sampler=True), 3_666_026, 1.577, 1.565),
    "PS-ViT-B/10": (ps_vit("b_10"), 21_344_302, 3.108, 3.091),
    "PS-ViT-B/12": (ps_vit("b_12"), 21_344_302, 4.136, 4.115),
    "PS-ViT-B/14": (ps_vit("b_14"), 21_344_302, 5.403, 5.380),
    "PS-ViT-B/14 shared": (ps_vit("b_14", share_sampler=True), 16_908_714, 5.403, 5.380),
    "PS-ViT-B/16": (ps_vit("b_16"), 21_344_302, 6.939, 6.911),
    "PS-ViT-B/18": (ps_vit("b_18"), 21_344_302, 8.772, 8.741),
    "PS-ViT-B/20": (ps_vit("b_14", points=(20, 20)), 21_344_302, 10.94, 10.903),
    "PS-ViT-B/14 at 384": (ps_vit("b_14"), 21_344_302, 7.17, 7.128),
    "PS-ViT-B/14, 1 iteration": (rounds(1), 21_341_992, 5.4069, None),
    "PS-ViT-B/14, 2 iterations": (rounds(2), None, 5.4058, None),
    "PS-ViT-B/14, 6 iterations": (rounds(6), None, 5.4010, None),
    "PS-ViT-B/14, 8 iterations": (rounds(8), None, 5.3987, None),
    "PS-ViT-B/14, 10 iterations": (rounds(10), None, 5.3963, None),
}


def input_size(name, model):
    side = 384 if name.endswith("384") else 224
    return (1, 3, model.grid[0] if isinstance(model, ViT) else 1, side, side)


def beside_macs(model, size):
    """Operations that fvcore counts besides the multiply-adds."""
    added = []

    def count(module, args, out):
        added.append((5 if isinstance(module, nn.LayerNorm) else 2) * out.numel())

    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    handles = [norm.register_forward_hook(count) for norm in norms]
    x = torch.empty(*size, device="meta")
    model(x) if isinstance(model, PiT) else model.forward_features(x)
    for handle in handles:
        handle.remove()
    if isinstance(model, ProgressiveSamplingViT):
        added.append(4 * model.iterations * model.points[0] * model.points[1] * model.pos_layer.out_features)
    return sum(added)


@pytest.mark.parametrize("name", FIGURES)
def test_params_and_macs(name):
    build, params, total, plain = FIGURES[name]
    with torch.device("meta"):
        model = build().eval()
    if params is not None:
        assert count_params(model) == params
    size = input_size(name, model)
    macs = count_macs(model, size)
    if plain is not None:
        assert f"{macs / 1e9:.3f}" == f"{plain:.3f}"
    if total is not None:
        places = len(repr(total).split(".")[1])
        assert round((macs + beside_macs(model, size)) / 1e9, places) == total


def test_sharing_saves_what_the_paper_says():
    for name, saved in (("ti_14", 0.233), ("b_14", 0.208)):
        with torch.device("meta"):
            own, shared = (count_params(ps_vit(name, share_sampler=share)()) for share in (False, True))
        assert round(1 - shared / own, 3) == saved
