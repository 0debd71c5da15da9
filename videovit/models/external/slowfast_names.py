"""PySlowFast's models on pytorchvideo's builders, PTVResNet to PTVR2plus1D, from the keys that they read there.

The widths, depths, kernels and strides are those of RESNET, SLOWFAST and X3D, not those of a published network.
State-dict names are pytorchvideo's; those of PySlowFast have `model.` in front, which loading removes. PTVMViT is read
as MViT.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from videovit.config import Config
from videovit.config.schema.convolutional import ResNet
from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.contract import VideoModel
from videovit.models.external.pytorchvideo import (
    ARCHS,
    PtvNetwork,
    Triple,
    build_from_config,
    csn,
    r2plus1d,
    resnet,
    slowfast,
    x3d,
)

_SLOW, _FAST = 0, 1
_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_REACH = ((1, 1, 3, 3), (3, 3, 3, 3))  # frames of the first convolution of a block, by pathway and stage


def resnet_from_config(cfg: Config) -> PtvNetwork:
    """PTVResNet: C2D, I3D and Slow (MODEL.ARCH).

    Raises:
        UserError: another ARCH, a depth or a block that pytorchvideo does not have.
    """
    arch, res = cfg.MODEL.ARCH, cfg.RESNET
    if arch not in ARCHS:
        raise UserError(
            "PTVResNet (MODEL.MODEL_NAME)",
            where="MODEL.ARCH",
            found=arch,
            expected=f"one of {', '.join(ARCHS)}",
            near=did_you_mean(arch, ARCHS),
        )
    _check_blocks(res)
    strides = tuple(res.SPATIAL_STRIDES[i][_SLOW] for i in range(4))
    return build_from_config(
        cfg,
        partial(
            resnet,
            arch=arch,
            model_depth=res.DEPTH,
            stem_dim_out=res.WIDTH_PER_GROUP,
            stage_conv_b_num_groups=(res.NUM_GROUPS,) * 4,
            stage_conv_b_dilation=_dilations(res, _SLOW),
            stage_spatial_h_stride=strides,
            stage_spatial_w_stride=strides,
        ),
    )


def slowfast_from_config(cfg: Config) -> PtvNetwork:
    """PTVSlowFast, with SLOWFAST.ALPHA, the depth and the kernels of the config.

    Raises:
        UserError: a depth or a block that pytorchvideo does not have, or frames that ALPHA does not divide.
    """
    own, res = cfg.SLOWFAST, cfg.RESNET
    _check_blocks(res)
    width = res.WIDTH_PER_GROUP
    return build_from_config(
        cfg,
        partial(
            slowfast,
            alpha=own.ALPHA,
            kernel_t=own.FUSION_KERNEL_SZ,
            slowfast_channel_reduction_ratio=(own.BETA_INV,),
            slowfast_conv_channel_fusion_ratio=own.FUSION_CONV_CHANNEL_RATIO,
            model_depth=res.DEPTH,
            stem_dim_outs=(width, width // own.BETA_INV),
            stage_conv_a_kernel_sizes=tuple(_kernels(res, p) for p in (_SLOW, _FAST)),
            stage_conv_b_num_groups=((res.NUM_GROUPS,) * 4,) * 2,
            stage_conv_b_dilations=tuple(_dilations(res, p) for p in (_SLOW, _FAST)),
            stage_spatial_strides=tuple(
                tuple(_of(res.SPATIAL_STRIDES, i, p) for i in range(4)) for p in (_SLOW, _FAST)
            ),
        ),
        alpha=own.ALPHA,
    )


def x3d_from_config(cfg: Config) -> PtvNetwork:
    """PTVX3D, expanded as the config says."""
    own = cfg.X3D
    return build_from_config(
        cfg,
        partial(
            x3d,
            width_factor=own.WIDTH_FACTOR,
            depth_factor=own.DEPTH_FACTOR,
            bottleneck_factor=own.BOTTLENECK_FACTOR,
            stem_dim_in=own.DIM_C1,
            head_dim_out=own.DIM_C5,
            head_bn_lin5_on=own.BN_LIN5,
        ),
    )


def csn_from_config(cfg: Config) -> PtvNetwork:
    """PTVCSN.

    Raises:
        UserError: a depth that pytorchvideo does not have.
    """
    _check_depth(cfg.RESNET)
    return build_from_config(cfg, partial(csn, model_depth=cfg.RESNET.DEPTH, stem_dim_out=cfg.RESNET.WIDTH_PER_GROUP))


def r2plus1d_from_config(cfg: Config) -> PtvNetwork:
    """PTVR2plus1D.

    Raises:
        UserError: a depth that pytorchvideo does not have.
    """
    res = cfg.RESNET
    if res.DEPTH != 50:
        raise UserError("PTVR2plus1D (MODEL.MODEL_NAME)", where="RESNET.DEPTH", found=res.DEPTH, expected="50")
    return build_from_config(cfg, partial(r2plus1d, model_depth=res.DEPTH, stem_dim_out=res.WIDTH_PER_GROUP))


def _check_blocks(res: ResNet) -> None:
    _check_depth(res)
    if res.TRANS_FUNC != "bottleneck_transform" or res.STRIDE_1X1:
        raise UserError(
            "pytorchvideo's networks have bottlenecks whose middle convolution is the strided one",
            where="RESNET",
            found=f"TRANS_FUNC {res.TRANS_FUNC}, STRIDE_1X1 {res.STRIDE_1X1}",
            expected="TRANS_FUNC bottleneck_transform, STRIDE_1X1 False",
        )


def _check_depth(res: ResNet) -> None:
    if res.DEPTH not in _DEPTHS:
        raise UserError(where="RESNET.DEPTH", found=res.DEPTH, expected=f"one of {', '.join(map(str, _DEPTHS))}")


def _kernels(res: ResNet, pathway: int) -> tuple[list[Triple], ...]:
    """Kernel of the first convolution of every block; those after NUM_BLOCK_TEMP_KERNEL blocks span one frame."""
    return tuple(
        [(_REACH[pathway][i] if b < _of(res.NUM_BLOCK_TEMP_KERNEL, i, pathway) else 1, 1, 1) for b in range(repeats)]
        for i, repeats in enumerate(_DEPTHS[res.DEPTH])
    )


def _dilations(res: ResNet, pathway: int) -> tuple[Triple, ...]:
    sizes = (_of(res.SPATIAL_DILATIONS, i, pathway) for i in range(4))
    return tuple((1, size, size) for size in sizes)


def _of(table: tuple[tuple[int, ...], ...], stage: int, pathway: int) -> int:
    """Entry of a stage and a pathway; tables with one entry per stage hold for both pathways."""
    row = table[stage]
    return row[pathway] if pathway < len(row) else row[0]


SLOWFAST_NAMES: dict[str, Callable[[Config], VideoModel]] = {
    "PTVResNet": resnet_from_config,
    "PTVSlowFast": slowfast_from_config,
    "PTVX3D": x3d_from_config,
    "PTVCSN": csn_from_config,
    "PTVR2plus1D": r2plus1d_from_config,
}
