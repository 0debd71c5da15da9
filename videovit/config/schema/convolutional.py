"""Convolutional networks: BN, RESNET, SLOWFAST, X3D, NONLOCAL.

Lists have one entry per stage, and within it one per pathway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from videovit.config.limits import AboveZero, Aliases, AtLeastZero, Natural, Positive, Size, SpaceTime, Width

Transform = Literal["bottleneck_transform", "basic_transform", "x3d_transform"]
NormType = Literal["batchnorm", "sub_batchnorm", "sync_batchnorm"]
NonLocalWeights = Literal["dot_product", "softmax"]

PerPathway = tuple[Positive, ...]
FourStages = Size((4,))


@dataclass(frozen=True)
class BatchNorm:
    """BN: batch norms of clips, of all models that have them."""

    USE_PRECISE_STATS: bool = False  # measure statistics anew with fixed weights, before checkpoints and validation
    NUM_BATCHES_PRECISE: Natural = 200  # training batches that they are measured on
    WEIGHT_DECAY: AtLeastZero = 0.0
    NORM_TYPE: Annotated[NormType, Aliases({"sync_batchnorm_apex": "batchnorm"})] = "batchnorm"
    NUM_SPLITS: Positive = 1  # parts of a batch, each with statistics of its own; sub_batchnorm
    NUM_SYNC_DEVICES: Positive = 1  # processes of a machine that share statistics; sync_batchnorm
    GLOBAL_SYNC: bool = False  # all processes of all machines share statistics; sync_batchnorm


@dataclass(frozen=True)
class ResNet:
    """RESNET: residual blocks of ResNet, SlowFast and X3D."""

    TRANS_FUNC: Transform = "bottleneck_transform"
    NUM_GROUPS: Positive = 1
    WIDTH_PER_GROUP: Width = 64
    STRIDE_1X1: bool = False
    ZERO_INIT_FINAL_BN: bool = False
    ZERO_INIT_FINAL_CONV: bool = False
    DEPTH: Positive = 50  # 18, 34, 50, 101
    NUM_BLOCK_TEMP_KERNEL: Annotated[tuple[tuple[Natural, ...], ...], FourStages] = ((3,), (4,), (6,), (3,))
    SPATIAL_STRIDES: Annotated[tuple[PerPathway, ...], FourStages] = ((1,), (2,), (2,), (2,))
    SPATIAL_DILATIONS: Annotated[tuple[PerPathway, ...], FourStages] = ((1,), (1,), (1,), (1,))


@dataclass(frozen=True)
class SlowFast:
    """SLOWFAST: the fast pathway, and how it joins the slow one."""

    BETA_INV: Positive = 8  # channels of the slow pathway per channel of the fast one
    ALPHA: Positive = 8  # frames of the fast pathway per frame of the slow one
    FUSION_CONV_CHANNEL_RATIO: Positive = 2
    FUSION_KERNEL_SZ: Positive = 5  # frames


@dataclass(frozen=True)
class X3d:
    """X3D: how far the smallest network is expanded along each axis."""

    WIDTH_FACTOR: AboveZero = 1.0
    DEPTH_FACTOR: AboveZero = 1.0
    BOTTLENECK_FACTOR: AboveZero = 1.0
    DIM_C5: Width = 2048
    DIM_C1: Width = 12
    SCALE_RES2: bool = False
    BN_LIN5: bool = False
    CHANNELWISE_3x3x3: bool = True


@dataclass(frozen=True)
class NonLocal:
    """NONLOCAL: non-local blocks of ResNet and SlowFast."""

    LOCATION: Annotated[tuple[tuple[tuple[Natural, ...], ...], ...], FourStages] = (((),), ((),), ((),), ((),))
    GROUP: Annotated[tuple[PerPathway, ...], FourStages] = ((1,), (1,), (1,), (1,))
    INSTANTIATION: NonLocalWeights = "dot_product"
    POOL: Annotated[tuple[tuple[SpaceTime, ...], ...], FourStages] = (((1, 2, 2), (1, 2, 2)),) * 4
