"""Parameters and multiply-adds of published models and of the papers' ablations, counted on `meta`.

Figures: parameters exactly; multiply-adds in G to the third decimal, by the convention of `count_macs`.
"""

import pytest
import torch

from tests.helpers.mvit_variants import mvit_v1_b, mvit_v2_s, q_strides_everywhere, v1_blocks, v2_s_blocks
from videovit.models import count_macs, count_params, expand
from videovit.models.mvit.model import MViT


def stages(*depths, first=0):
    """Blocks that open stages 2, 3, ... of the given depths."""
    starts, block = [], first
    for depth in depths[:-1]:
        block += depth
        starts.append(block)
    return starts


def doubling(starts):
    """DIM_MUL, HEAD_MUL and POOL_Q_STRIDE for a model whose stages start at the given blocks."""
    factors = [[i, 2.0] for i in starts]
    return {"dim_mul": factors, "head_mul": factors, "pool_q_stride": [[i, 1, 2, 2] for i in starts]}


def adaptive_rows(first, starts, depth):
    """POOL_KV_STRIDE that pools as the adaptive form does, but nothing in the last stage (as the paper's models)."""
    t, side, rows = first[0], first[1], []
    for i in range(starts[-1]):
        side = side // 2 if i in starts else side
        rows.append([i, t, side, side])
    return rows


def b16(**changes):
    """MViT-B 16x4 with changes to its lists."""
    return mvit_v1_b(blocks=v1_blocks(**changes))


def max_pooled(*depths, first=(1, 8, 8), last_stage=True, **changes):
    """The ablations' base model: maximum pooling, kernel stride + 1."""
    depths = depths or (1, 2, 11, 2)
    starts, depth = stages(*depths), sum(depths)
    kv = {"pool_kv_stride_adaptive": list(first)}
    if not last_stage:
        kv = {"pool_kv_stride_adaptive": None, "pool_kv_stride": adaptive_rows(first, starts, depth)}
    blocks = v1_blocks(depth=depth, pool_kvq_kernel=None, **doubling(starts), **kv)
    return mvit_v1_b(**{"blocks": blocks, "pool_mode": "max", **changes})


def fixed_kv(stride):
    """K/V stride the same from the first block to the end of the third stage, as one row per block."""
    rows = [[i, *stride] for i in range(16)]
    return mvit_v1_b(
        blocks=v1_blocks(pool_kvq_kernel=None, pool_kv_stride_adaptive=None, pool_kv_stride=rows), pool_mode="max"
    )


def vit_b(**lists):
    """ViT-B on 8 frames: patches 1 x 16 x 16, joint positions."""
    blocks = expand(depth=12, embed_dim=768, num_heads=12, **lists)
    patch = {"patch_kernel": (1, 16, 16), "patch_stride": (1, 16, 16), "patch_padding": (0, 0, 0)}
    return MViT(blocks=blocks, clip_size=(8, 224, 224), sep_pos_embed=False, pool_mode="max", **patch)


def small(depths, mode, kernel):
    """MViT-S: a coarser first stage of 128 channels; its depths are read off third-party code."""
    starts = stages(*depths)
    kv = {"pool_kv_stride_adaptive": [1, 4, 4], "pool_kvq_kernel": kernel}
    blocks = v1_blocks(depth=sum(depths), embed_dim=128, **doubling(starts), **kv)
    patch = {"patch_kernel": (3, 8, 8), "patch_stride": (2, 8, 8), "patch_padding": (1, 0, 0)}
    return mvit_v1_b(blocks=blocks, pool_mode=mode, **patch)


def sampled(frames, kernel, stride):
    """The base model with another patch embedding (Table 12)."""
    padding = tuple(k // 2 if k != s else 0 for k, s in zip(kernel, stride, strict=True))
    return max_pooled(clip_size=(frames, 224, 224), patch_kernel=kernel, patch_stride=stride, patch_padding=padding)


def image(mode="conv", kernel=(1, 3, 3), depths=(1, 2, 11, 2), dim=96, side=224, kv=4, **changes):
    """An MViT for ImageNet: joint positions, class token, 1000 classes."""
    starts = stages(*depths)
    kv_stride = {"pool_kv_stride_adaptive": [1, kv, kv]} if kv > 1 else {"pool_kv_stride_adaptive": None}
    blocks = v1_blocks(depth=sum(depths), embed_dim=dim, pool_kvq_kernel=kernel, **doubling(starts), **kv_stride)
    patch = {"patch_kernel": (1, 7, 7), "patch_stride": (1, 4, 4), "patch_padding": (0, 3, 3)}
    arguments = {"num_classes": 1000, "sep_pos_embed": False, "clip_size": (1, side, side), "pool_mode": mode}
    return MViT(blocks=blocks, **patch, **arguments, **changes)


def image_v2(depths, dim=96, heads=1, in_attention=True):
    """An MViTv2 for ImageNet: no class token, no absolute positions."""
    starts, depth = stages(*depths), sum(depths)
    lists = {**doubling(starts), "pool_q_stride": q_strides_everywhere(depth, starts)}
    blocks = v1_blocks(
        depth=depth,
        embed_dim=dim,
        num_heads=heads,
        pool_kv_stride_adaptive=[1, 4, 4],
        pool_kvq_kernel=[1, 3, 3],
        dim_mul_in_attention=in_attention,
        **lists,
    )
    return mvit_v2_s(
        blocks=blocks,
        num_classes=1000,
        clip_size=(1, 224, 224),
        patch_kernel=(1, 7, 7),
        patch_stride=(1, 4, 4),
        patch_padding=(0, 3, 3),
        cls_token=False,
        rel_pos_temporal=False,
    )


def video_v2(depths, clip_size, dim=96, heads=1, num_classes=400, in_attention=True):
    """An MViTv2 for Kinetics."""
    starts, depth = stages(*depths), sum(depths)
    lists = {**doubling(starts), "pool_q_stride": q_strides_everywhere(depth, starts)}
    blocks = v2_s_blocks(depth=depth, embed_dim=dim, num_heads=heads, **{**lists, "dim_mul_in_attention": in_attention})
    return mvit_v2_s(blocks=blocks, clip_size=clip_size, num_classes=num_classes)


def clip_size(model):
    """The (1, 3, T, H, W) a model was made for."""
    return (1, 3, *(g * s for g, s in zip(model.grid, model.patch_embed.proj.stride, strict=True)))


PAPER_ERA = adaptive_rows((1, 8, 8), (1, 3, 14), 16)
V24 = doubling((2, 5, 21))
V24_PAPER_ERA = {
    "depth": 24, **V24, "pool_kv_stride_adaptive": None, "pool_kv_stride": adaptive_rows((1, 8, 8), (2, 5, 21), 24)
}  # fmt: skip

# name: (build, parameters or None, G multiply-adds or None)
PUBLISHED = {
    "B 16x4": (b16, 36_610_672, 70.599),
    "B 16x4, paper era": (lambda: b16(pool_kv_stride_adaptive=None, pool_kv_stride=PAPER_ERA), 36_599_536, 70.518),
    "B 16x4, max": (max_pooled, 36_513_232, 70.325),
    "B 16x4, kernel s+1": (lambda: b16(pool_kvq_kernel=None), 36_565_936, 70.407),
    "B 32x3": (lambda: mvit_v1_b(clip_size=(32, 224, 224)), 36_611_440, 169.958),
    "B 64x3": (lambda: mvit_v1_b(clip_size=(64, 224, 224)), 36_612_976, 455.062),
    "B 64x3, paper era": (
        lambda: mvit_v1_b(
            blocks=v1_blocks(pool_kv_stride_adaptive=None, pool_kv_stride=PAPER_ERA), clip_size=(64, 224, 224)
        ),
        None,
        454.737,
    ),
    "zoo's 24 layers 32x3": (
        lambda: mvit_v1_b(blocks=v1_blocks(depth=24, pool_kvq_kernel=None, **V24), clip_size=(32, 224, 224)),
        53_115_280,
        235.776,
    ),
    "B-24 32x3, paper era": (
        lambda: mvit_v1_b(blocks=v1_blocks(**V24_PAPER_ERA), clip_size=(32, 224, 224)),
        53_156_176,
        236.045,
    ),
    "B-24 32x3": (
        lambda: mvit_v1_b(blocks=v1_blocks(depth=24, **V24), clip_size=(32, 224, 224), num_classes=600),
        None,
        236.24,
    ),
    "S, max": (lambda: small((3, 7, 6), "max", None), 25.91, 29.77),
    "S, conv": (lambda: small((3, 7, 6), "conv", [3, 3, 3]), 26.04, 29.95),
    "S, four blocks first": (lambda: small((4, 7, 6), "max", None), 26.11, 31.64),
    "ViT-B": (vit_b, 87_159_952, 179.563),
    "ImageNet B-16, conv": (image, 36_982_600, 7.809),
    "ImageNet B-16, max": (lambda: image("max", None), 36.946, 7.781),
    "ImageNet B-24, max": (lambda: image("max", None, (2, 3, 16, 3)), 53.46, 10.903),
    "ImageNet B-24-wide-320, max": (lambda: image("max", None, (2, 3, 16, 3), 112, 320), 72.899, 32.630),
    "ImageNet B-24-wide-320, conv": (lambda: image("conv", [1, 3, 3], (2, 3, 16, 3), 112, 320), 72_961_832, 32.718),
    "ImageNet B-32, conv": (lambda: image("conv", [1, 3, 3], (2, 4, 22, 4)), 71.7, 13.98),
    "v2-S": (mvit_v2_s, 34_537_744, 64.224),
    "v2-S, SSv2": (lambda: mvit_v2_s(num_classes=174), 34.36, 64.224),
    "v2-S, no relative positions": (
        lambda: mvit_v2_s(rel_pos_spatial=False, rel_pos_temporal=False), 34.41, None
    ),
    "v2-S, absolute positions": (
        lambda: mvit_v2_s(rel_pos_spatial=False, rel_pos_temporal=False, use_abs_pos=True), 34.71, None
    ),
    "v2-B": (lambda: video_v2((2, 3, 16, 3), (32, 224, 224)), 51_230_128, 224.473),
    "v2-B, K600": (lambda: video_v2((2, 3, 16, 3), (32, 224, 224), num_classes=600), 51.38, 224.473),
    "v2-B, SSv2": (lambda: video_v2((2, 3, 16, 3), (32, 224, 224), num_classes=174), 51.06, 224.473),
    "v2-L": (lambda: video_v2((2, 6, 36, 4), (40, 312, 312), 144, 2), 213_390_112, 2823.404),
    "v2-L, SSv2": (lambda: video_v2((2, 6, 36, 4), (40, 312, 312), 144, 2, 174), 213.13, None),
    "v2-L, expansion in the MLP": (
        lambda: video_v2((2, 6, 36, 4), (40, 312, 312), 144, 2, in_attention=False), 217.75, 2900.4
    ),
    "ImageNet v2-T": (lambda: image_v2((1, 2, 5, 2)), 24.17, 4.677),
    "ImageNet v2-S": (lambda: image_v2((1, 2, 11, 2)), 34.87, 6.960),
    "ImageNet v2-B": (lambda: image_v2((2, 3, 16, 3)), 51.47, 10.102),
    "ImageNet v2-L": (lambda: image_v2((2, 6, 36, 4), 144, 2), 213.6, 41.8),
    "ImageNet v2-L, expansion in the MLP": (lambda: image_v2((2, 6, 36, 4), 144, 2, False), 217.99, 43.7),
}  # fmt: skip

TWO_SCALES = {"pool_q_stride": [[6, 1, 2, 2]], "kernel_rule": "stride+1"}
KV_IN_ELEVEN = {"pool_kv_stride": [[i, 1, 2, 2] for i in range(1, 12)]}
KV_IN_TWELVE = {"pool_kv_stride": [[i, 1, 2, 2] for i in range(12)]}


def depths_v(*depths):
    """Table 13: stage depths with K/V stride (2, 4, 4) adaptive and an unpooled last stage."""
    return max_pooled(*depths, first=(2, 4, 4), last_stage=False)


def fixed_until_last_stage(stride):
    """Table 14: the same K/V stride in the first three stages, none in the last."""
    rows = [[i, *stride] for i in range(14)]
    blocks = v1_blocks(pool_kvq_kernel=None, pool_kv_stride_adaptive=None, pool_kv_stride=rows)
    return mvit_v1_b(blocks=blocks, pool_mode="max")


def kernel_by(rule):
    """Table 15: maximum pooling with another kernel."""
    return max_pooled(blocks=v1_blocks(pool_kvq_kernel=None, kernel_rule=rule))


ABLATIONS = {
    "T10 two scales": (lambda: vit_b(**TWO_SCALES), None, 111.148),
    "T10 K/V pooled but in the first block": (lambda: vit_b(**KV_IN_ELEVEN), None, 148.387),
    "T10 K/V pooled everywhere": (lambda: vit_b(**KV_IN_TWELVE), None, 145.55),
    "T11 no positions": (lambda: max_pooled(use_abs_pos=False), 36.211, 70.325),
    "T11 joint": (lambda: max_pooled(sep_pos_embed=False), 38.620, 70.325),
    "T11 separate": (max_pooled, 36.513, 70.325),
    "T12 8x8, 1x4x4": (lambda: sampled(8, (1, 4, 4), (1, 4, 4)), None, 69.379),
    "T12 8x8, 1x7x7": (lambda: sampled(8, (1, 7, 7), (1, 4, 4)), None, 69.617),
    "T12 8x8, 3x7x7": (lambda: sampled(8, (3, 7, 7), (1, 4, 4)), None, 70.325),
    "T12 16x4, 3x7x7": (lambda: sampled(16, (3, 7, 7), (2, 4, 4)), None, 70.325),
    "T12 32x2, 3x7x7": (lambda: sampled(32, (3, 7, 7), (4, 4, 4)), None, 70.325),
    "T12 32x2, 7x7x7": (lambda: sampled(32, (7, 7, 7), (4, 4, 4)), None, 71.741),
    "T13 V1": (lambda: depths_v(2, 6, 6, 2), 29.5, 90.156),
    "T13 V2": (lambda: depths_v(2, 4, 6, 4), 42.8, 86.862),
    "T13 V3": (lambda: depths_v(2, 4, 8, 2), 32.2, 88.269),
    "T13 V4": (lambda: depths_v(2, 2, 8, 4), 45.5, 84.975),
    "T13 V5": (lambda: depths_v(1, 2, 11, 2), 36.5, 83.548),
    "T13 V6": (lambda: depths_v(2, 2, 10, 2), 34.9, 86.382),
    "T13 V1, last stage pooled": (lambda: max_pooled(2, 6, 6, 2, first=(2, 4, 4)), None, 89.56),
    "T13 V2, last stage pooled": (lambda: max_pooled(2, 4, 6, 4, first=(2, 4, 4)), None, 86.03),
    "T13 V3, last stage pooled": (lambda: max_pooled(2, 4, 8, 2, first=(2, 4, 4)), None, 87.68),
    "T13 V4, last stage pooled": (lambda: max_pooled(2, 2, 8, 4, first=(2, 4, 4)), None, 84.15),
    "T13 V5, last stage pooled": (lambda: max_pooled(1, 2, 11, 2, first=(2, 4, 4)), None, 82.96),
    "T13 V6, last stage pooled": (lambda: max_pooled(2, 2, 10, 2, first=(2, 4, 4)), None, 85.79),
    "T14 none": (lambda: mvit_v1_b(blocks=v1_blocks(pool_kv_stride_adaptive=None), pool_mode="max"), None, 279.9),
    "T14 1x4x4 fixed": (lambda: fixed_until_last_stage((1, 4, 4)), None, 71.392),
    "T14 2x4x4 fixed": (lambda: fixed_until_last_stage((2, 4, 4)), None, 64.247),
    "T14 2x4x4 adaptive": (lambda: max_pooled(first=(2, 4, 4), last_stage=False), None, 83.548),
    "T14 1x8x8 adaptive": (lambda: max_pooled(last_stage=False), None, 70.325),
    "T14 2x8x8 adaptive": (lambda: max_pooled(first=(2, 8, 8), last_stage=False), None, 63.714),
    "T14 1x4x4 fixed, last stage pooled": (lambda: fixed_kv((1, 4, 4)), None, 70.31),
    "T14 2x4x4 fixed, last stage pooled": (lambda: fixed_kv((2, 4, 4)), None, 63.11),
    "T14 2x8x8 adaptive, last stage pooled": (lambda: max_pooled(first=(2, 8, 8)), None, 63.12),
    "T15 max, kernel s": (lambda: kernel_by("stride"), 36_513_232, 70.325),
    "T15 max, kernel 2s+1": (lambda: kernel_by("2*stride+1"), 36_513_232, 70.325),
    "T15 average": (lambda: max_pooled(pool_mode="avg"), 36_513_232, 70.325),
    "T15 conv s+1": (lambda: b16(pool_kvq_kernel=None), 36.6, 70.407),
    "T15 conv 3x3x3": (b16, 36.6, 70.599),
    "A.3 8x8": (lambda: image("max", None, kv=8), None, 7.159),
    "A.3 4x4": (lambda: image("max", None, kv=4), None, 7.781),
    "A.3 2x2": (lambda: image("max", None, kv=2), None, 9.021),
    "A.3 none": (lambda: image("max", None, kv=1), None, 10.438),
}  # fmt: skip


# Parameters in millions after fine-tuning, that is, with another number of classes: K600, SSv2, Charades, AVA.
CLASSES = {"K600": 600, "SSv2": 174, "Charades": 157, "AVA": 80}
B24 = {"depth": 24, **V24}
FINE_TUNED = {
    "B 16x4": (v1_blocks(), (36.76, 36.44, 36.42, 36.36)),
    "B-24, paper era": (v1_blocks(**V24_PAPER_ERA), (53.31, 52.98, 52.97, 52.91)),
    "B-24": (v1_blocks(**B24), (53.33, None, 52.99, None)),
    "B-24, kernel s+1": (v1_blocks(**B24, pool_kvq_kernel=None), (53.27, 52.94, 52.93, 52.87)),
}


@pytest.mark.parametrize("name", FINE_TUNED)
def test_params_after_fine_tuning(name):
    blocks, millions = FINE_TUNED[name]
    frames = 16 if name == "B 16x4" else 32
    for (dataset, num_classes), wanted in zip(CLASSES.items(), millions, strict=True):
        with torch.device("meta"):
            model = mvit_v1_b(blocks=blocks, clip_size=(frames, 224, 224), num_classes=num_classes)
        assert wanted in (None, round(count_params(model) / 1e6, 2)), dataset


def decimals(value):
    """Decimal places of a figure as it is written."""
    return len(repr(value).split(".")[1])


@pytest.mark.parametrize("name", [*PUBLISHED, *ABLATIONS])
def test_params_and_macs(name):
    build, params, giga_macs = {**PUBLISHED, **ABLATIONS}[name]
    with torch.device("meta"):
        model = build()
    counted = count_params(model)
    if isinstance(params, int):
        assert counted == params
    elif params is not None:
        assert round(counted / 1e6, decimals(params)) == params
    if giga_macs is not None:
        assert round(count_macs(model, clip_size(model)) / 1e9, decimals(giga_macs)) == giga_macs
