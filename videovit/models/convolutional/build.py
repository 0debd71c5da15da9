"""Convolutional networks from a config: the sections RESNET, SLOWFAST, X3D, NONLOCAL, and MODEL.ARCH.

MODEL.ARCH says over how many frames convolutions reach, and whether time is pooled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from videovit.config import Config
from videovit.config.schema.models import Model
from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.convolutional.blocks import BlockShape, round_width
from videovit.models.convolutional.network import (
    ConvolutionalNetwork,
    ExpandedHead,
    Fusion,
    NonLocalPlan,
    Pathway,
    PathwayStage,
    PooledHead,
)
from videovit.models.layers.basic import triple

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""RESNET.DEPTH -> blocks per stage."""


class Reach(NamedTuple):
    """Frames of temporal convolutions.

    Attributes:
        stem: of the stem.
        stages: of the blocks of each stage; a list shorter than the stage is repeated.
    """

    stem: int
    stages: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


_FLAT = Reach(1, ((1,), (1,), (1,), (1,)))
_INFLATED = Reach(5, ((3,), (3, 1), (3, 1), (1, 3)))
_SLOW = Reach(1, ((1,), (1,), (3,), (3,)))
_FAST = Reach(5, ((3,), (3,), (3,), (3,)))

REACHES: dict[str, tuple[Reach, ...]] = {
    "2d": (_FLAT,),
    "c2d": (_FLAT,),
    "slow_c2d": (_FLAT,),
    "i3d": (_INFLATED,),
    "slow_i3d": (_INFLATED,),
    "slow": (_SLOW,),
    "slowfast": (_SLOW, _FAST),
    "x3d": (_FAST,),
}
"""MODEL.ARCH -> reach of every pathway."""

POOLS_T = {"c2d": 2, "i3d": 2}
"""MODEL.ARCH -> frames per frame of the maximum after the first stage, if there is one."""

_STRIDE = 32

Entry = TypeVar("Entry")


def resnet_from_config(cfg: Config, *, pools_t: bool = True) -> ConvolutionalNetwork:
    """C2D, I3D or Slow, as MODEL.ARCH says.

    Args:
        cfg: the config.
        pools_t: whether C2D and I3D pool time after the first stage; those of PySlowFast's ResNet_nopool do not.

    Raises:
        UserError: an ARCH of another model, or a depth that does not exist.
    """
    _check_arch(cfg.MODEL, [arch for arch, reaches in REACHES.items() if len(reaches) == 1 and arch != "x3d"])
    pool_t = POOLS_T.get(cfg.MODEL.ARCH, 1) if pools_t else 1
    return _residual_from_config(cfg, widths=[cfg.RESNET.WIDTH_PER_GROUP], pool_t=pool_t)


def slowfast_from_config(cfg: Config) -> ConvolutionalNetwork:
    """SlowFast.

    Raises:
        UserError: an ARCH of another model, a depth that does not exist, or frames that ALPHA does not divide.
    """
    _check_arch(cfg.MODEL, ["slowfast"])
    own, width = cfg.SLOWFAST, cfg.RESNET.WIDTH_PER_GROUP
    if cfg.DATA.NUM_FRAMES % own.ALPHA:
        raise UserError(
            where="DATA.NUM_FRAMES", found=cfg.DATA.NUM_FRAMES, expected=f"a multiple of SLOWFAST.ALPHA {own.ALPHA}"
        )
    if width % own.BETA_INV:
        raise UserError(
            where="RESNET.WIDTH_PER_GROUP", found=width, expected=f"a multiple of SLOWFAST.BETA_INV {own.BETA_INV}"
        )
    fusion = Fusion(own.ALPHA, own.FUSION_CONV_CHANNEL_RATIO, own.FUSION_KERNEL_SZ)
    return _residual_from_config(cfg, widths=[width, width // own.BETA_INV], fusion=fusion)


def x3d_from_config(cfg: Config) -> ConvolutionalNetwork:
    """X3D.

    Raises:
        UserError: an ARCH of another model.
    """
    _check_arch(cfg.MODEL, ["x3d"])
    own, res = cfg.X3D, cfg.RESNET
    reach = REACHES["x3d"][0]
    dims = [round_width(own.DIM_C1, 2.0) if own.SCALE_RES2 else own.DIM_C1]
    for _ in range(3):
        dims.append(round_width(dims[-1], 2.0))
    stem_dim = dim_in = round_width(own.DIM_C1, own.WIDTH_FACTOR)
    stages = []
    inner = 0
    for i, (repeats, dim) in enumerate(zip((1, 2, 5, 3), dims, strict=True)):
        out = round_width(dim, own.WIDTH_FACTOR)
        inner = int(own.BOTTLENECK_FACTOR * out)
        blocks = []
        for b in range(math.ceil(own.DEPTH_FACTOR * repeats)):
            shape = BlockShape(
                dim_in, inner, out,
                kernel_t=reach.stages[i][0],
                stride=2 if b == 0 else 1,
                groups=inner if own.CHANNELWISE_3x3x3 else res.NUM_GROUPS,
                squeezes=b % 2 == 0,
            )  # fmt: skip
            blocks.append(shape)
            dim_in = out
        stages.append(PathwayStage(tuple(blocks)))
    side = math.ceil(cfg.DATA.TRAIN_CROP_SIZE / _STRIDE)
    head = ExpandedHead(
        dim_in,
        inner,
        own.DIM_C5,
        cfg.MODEL.NUM_CLASSES,
        windows=[(cfg.DATA.NUM_FRAMES, side, side)],
        dropout=cfg.MODEL.DROPOUT_RATE,
        init_std=cfg.MODEL.FC_INIT_STD,
        norm=own.BN_LIN5,
    )
    return ConvolutionalNetwork(
        [Pathway(stem_dim, reach.stem, tuple(stages))],
        head,
        transform="x3d_transform",
        separable_stem=True,
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        zero_init_norm=res.ZERO_INIT_FINAL_BN,
        zero_init_conv=res.ZERO_INIT_FINAL_CONV,
    )


def _residual_from_config(
    cfg: Config, *, widths: Sequence[int], fusion: Fusion | None = None, pool_t: int = 1
) -> ConvolutionalNetwork:
    """ResNet or SlowFast with `widths` channels per group of each pathway; `pool_t` frames are pooled to one."""
    arch, res = cfg.MODEL.ARCH, cfg.RESNET
    if res.DEPTH not in DEPTHS:
        raise UserError(where="RESNET.DEPTH", found=res.DEPTH, expected=f"one of {', '.join(map(str, DEPTHS))}")
    pathways = []
    for p, (width, reach) in enumerate(zip(widths, REACHES[arch], strict=True)):
        # What the fast pathway adds to the channels of the slow one.
        joined = 1 + fusion.ratio / cfg.SLOWFAST.BETA_INV if fusion and p == 0 else 1
        pathways.append(_pathway_from_config(cfg, p, width, reach, joined, pool_t))
    frames, side = cfg.DATA.NUM_FRAMES, max(cfg.DATA.TRAIN_CROP_SIZE // _STRIDE, 1)
    if res.SPATIAL_STRIDES[3][0] == 1:
        side *= 2
    lengths = [frames // pool_t] if fusion is None else [frames // fusion.alpha, frames]
    head = PooledHead(
        [path.stages[-1].blocks[-1].dim_out for path in pathways],
        cfg.MODEL.NUM_CLASSES,
        windows=[(length, side, side) for length in lengths],
        dropout=cfg.MODEL.DROPOUT_RATE,
        init_std=cfg.MODEL.FC_INIT_STD,
    )
    return ConvolutionalNetwork(
        pathways,
        head,
        transform=res.TRANS_FUNC,
        fusion=fusion,
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        zero_init_norm=res.ZERO_INIT_FINAL_BN,
        zero_init_conv=res.ZERO_INIT_FINAL_CONV,
    )


def _pathway_from_config(cfg: Config, p: int, width: int, reach: Reach, joined: float, pool_t: int) -> Pathway:
    """Pathway number `p`; `joined` is the factor on its channels after each lateral connection."""
    res, nln = cfg.RESNET, cfg.NONLOCAL
    expansion = 1 if res.TRANS_FUNC == "basic_transform" else 4
    dim_in, stages = int(width * joined), []
    for i, repeats in enumerate(DEPTHS[res.DEPTH]):
        inner, out = width * res.NUM_GROUPS << i, width * expansion << i
        with_time = _of(res.NUM_BLOCK_TEMP_KERNEL, i, p)
        kernels = reach.stages[i]
        after = tuple(_of(nln.LOCATION, i, p))
        if after and max(after) >= repeats:
            expected = f"blocks of stage {i + 2} of ResNet-{res.DEPTH}, 0 to {repeats - 1}"
            raise UserError(where="NONLOCAL.LOCATION", found=max(after), expected=expected)
        blocks = []
        for b in range(repeats):
            shape = BlockShape(
                dim_in, inner, out,
                kernel_t=kernels[b % len(kernels)] if b < with_time else 1,
                stride=_of(res.SPATIAL_STRIDES, i, p) if b == 0 else 1,
                groups=res.NUM_GROUPS,
                dilation=_of(res.SPATIAL_DILATIONS, i, p),
                stride_first=res.STRIDE_1X1,
            )  # fmt: skip
            blocks.append(shape)
            dim_in = out
        non_local = NonLocalPlan(
            after=after,
            groups=_of(nln.GROUP, i, p),
            pool=triple(_of(nln.POOL, i, p)),
            softmax=nln.INSTANTIATION == "softmax",
        )
        stages.append(PathwayStage(tuple(blocks), non_local, pool_t if i == 0 else 1))
        dim_in = int(out * joined)
    return Pathway(width, reach.stem, tuple(stages))


def _of(table: Sequence[Sequence[Entry]], stage: int, p: int) -> Entry:
    """Entry of a stage and a pathway; tables with one entry per stage hold for both pathways."""
    row = table[stage]
    return row[p] if p < len(row) else row[0]


def _check_arch(section: Model, known: list[str]) -> None:
    if section.ARCH not in known:
        raise UserError(
            f"{section.MODEL_NAME} (MODEL.MODEL_NAME)",
            where="MODEL.ARCH",
            found=section.ARCH,
            expected=f"one of {', '.join(known)}",
            near=did_you_mean(section.ARCH, known),
        )
