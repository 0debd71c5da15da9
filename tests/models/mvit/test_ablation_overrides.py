"""The ablations of MViT's Tables 10-15 and A.3 as KEY VALUE pairs on shipped configs, counted."""

import pytest
import torch

from tests.helpers.project import CONFIGS
from tests.models.mvit.test_counts import ABLATIONS, decimals
from videovit.config import load_config
from videovit.models import build_model, count_macs, count_params

MAX, CONV = "Kinetics/MVIT_B_16x4_MAX.yaml", "Kinetics/MVIT_B_16x4_CONV.yaml"
VIT, IMAGE = "Kinetics/VIT_B_8x8.yaml", "ImageNet/MVIT_B_16_MAX.yaml"
LISTED = "MVIT.POOL_KV_STRIDE_ADAPTIVE None MVIT.POOL_KV_STRIDE "


def rows(strides: dict[int, tuple[int, int, int]]) -> str:
    """As a user writes them: [[block,t,h,w],...] without spaces."""
    return "[" + ",".join(f"[{i},{t},{h},{w}]" for i, (t, h, w) in strides.items()) + "]"


def constant(blocks: range, stride: tuple[int, int, int]) -> str:
    return LISTED + rows({i: stride for i in blocks})


def adaptive(t: int, side: int, starts: tuple[int, ...] = (1, 3, 14), depth: int = 16) -> str:
    """K/V strides that halve in space with every stage, none in the last stage (the papers' form of it)."""
    strides = {}
    for i in range(starts[-1]):
        side = max(1, side // 2) if i in starts else side
        strides[i] = (t, side, side)
    return LISTED + rows(strides)


def depths(n2: int, n3: int, n4: int, n5: int) -> str:
    """Table 13: blocks per stage, K/V stride (2, 4, 4) adaptive, an unpooled last stage."""
    starts, depth = (n2, n2 + n3, n2 + n3 + n4), n2 + n3 + n4 + n5
    factors = "[" + ",".join(f"[{i},2.0]" for i in starts) + "]"
    q = rows({i: (1, 2, 2) for i in starts})
    lists = f"MVIT.DEPTH {depth} MVIT.DIM_MUL {factors} MVIT.HEAD_MUL {factors} MVIT.POOL_Q_STRIDE {q} "
    return lists + adaptive(2, 4, starts, depth)


def sampling(frames: int, rate: int, kernel: str, stride: str, padding: str) -> str:
    """Table 12."""
    patch = f"MVIT.PATCH_KERNEL [{kernel}] MVIT.PATCH_STRIDE [{stride}] MVIT.PATCH_PADDING [{padding}]"
    return f"DATA.NUM_FRAMES {frames} DATA.SAMPLING_RATE {rate} {patch}"


OVERRIDES = {
    "T10 two scales": (VIT, "MVIT.MODE max MVIT.POOL_Q_STRIDE [[6,1,2,2]]"),
    "T10 K/V pooled but in the first block": (VIT, "MVIT.MODE max " + constant(range(1, 12), (1, 2, 2))),
    "T10 K/V pooled everywhere": (VIT, "MVIT.MODE max " + constant(range(12), (1, 2, 2))),
    "T11 no positions": (MAX, "MVIT.USE_ABS_POS False"),
    "T11 joint": (MAX, "MVIT.SEP_POS_EMBED False"),
    "T11 separate": (MAX, ""),
    "T12 8x8, 1x4x4": (MAX, sampling(8, 8, "1,4,4", "1,4,4", "0,0,0")),
    "T12 8x8, 1x7x7": (MAX, sampling(8, 8, "1,7,7", "1,4,4", "0,3,3")),
    "T12 8x8, 3x7x7": (MAX, sampling(8, 8, "3,7,7", "1,4,4", "1,3,3")),
    "T12 16x4, 3x7x7": (MAX, sampling(16, 4, "3,7,7", "2,4,4", "1,3,3")),
    "T12 32x2, 3x7x7": (MAX, sampling(32, 2, "3,7,7", "4,4,4", "1,3,3")),
    "T12 32x2, 7x7x7": (MAX, sampling(32, 2, "7,7,7", "4,4,4", "3,3,3")),
    "T13 V1": (MAX, depths(2, 6, 6, 2)),
    "T13 V2": (MAX, depths(2, 4, 6, 4)),
    "T13 V3": (MAX, depths(2, 4, 8, 2)),
    "T13 V4": (MAX, depths(2, 2, 8, 4)),
    "T13 V5": (MAX, depths(1, 2, 11, 2)),
    "T13 V6": (MAX, depths(2, 2, 10, 2)),
    "T14 none": (MAX, "MVIT.POOL_KV_STRIDE_ADAPTIVE None"),
    "T14 1x4x4 fixed": (MAX, constant(range(14), (1, 4, 4))),
    "T14 2x4x4 fixed": (MAX, constant(range(14), (2, 4, 4))),
    "T14 2x4x4 adaptive": (MAX, adaptive(2, 4)),
    "T14 1x8x8 adaptive": (MAX, "MVIT.POOL_KV_STRIDE_ADAPTIVE [1,8,8]"),
    "T14 2x8x8 adaptive": (MAX, adaptive(2, 8)),
    "T15 max, kernel s": (MAX, "MVIT.POOL_KERNEL_RULE stride"),
    "T15 max, kernel 2s+1": (MAX, "MVIT.POOL_KERNEL_RULE 2*stride+1"),
    "T15 average": (MAX, "MVIT.MODE avg"),
    "T15 conv s+1": (MAX, "MVIT.MODE conv"),
    "T15 conv 3x3x3": (CONV, ""),
    "A.3 8x8": (IMAGE, "MVIT.POOL_KV_STRIDE_ADAPTIVE [1,8,8]"),
    "A.3 4x4": (IMAGE, ""),
    "A.3 2x2": (IMAGE, "MVIT.POOL_KV_STRIDE_ADAPTIVE [1,2,2]"),
    "A.3 none": (IMAGE, "MVIT.POOL_KV_STRIDE_ADAPTIVE None"),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_an_ablation_is_an_override(name: str) -> None:
    config, text = OVERRIDES[name]
    _, params, giga_macs = ABLATIONS[name]
    cfg = load_config(CONFIGS / config, text.split())
    with torch.device("meta"):
        model = build_model(cfg)
    if params is not None:
        counted = count_params(model)
        assert (counted if isinstance(params, int) else round(counted / 1e6, decimals(params))) == params
    size = cfg.DATA.TRAIN_CROP_SIZE
    macs = count_macs(model, (1, 3, cfg.DATA.NUM_FRAMES, size, size)) / 1e9
    assert round(macs, decimals(giga_macs)) == giga_macs


def test_no_ablation_is_left_out() -> None:
    assert {name for name in ABLATIONS if "last stage pooled" not in name} == OVERRIDES.keys()
