"""The models: MODEL, and one section per architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from videovit.config.limits import (
    AboveZero,
    Aliases,
    AtLeastZero,
    Depth,
    DropRate,
    Natural,
    Positive,
    Size,
    SpaceTime,
    Times,
    Width,
)

Loss = Literal["cross_entropy", "soft_cross_entropy", "bce", "bce_logit", "multi_mse"]
ClassWeighting = Literal["none", "auto"]
HeadActivation = Literal["softmax", "sigmoid", "none"]
PoolingMode = Literal["conv", "conv_unshared", "avg", "max"]
StreamFusion = Literal["avg", "add", "max", "min", "concat", "concat_linear_2"]
KernelRule = Literal["stride+1", "stride", "2*stride+1"]
SamplingTime = Literal["points", "planes", "frames"]
TokenPooling = Literal["1d", "2d"]
PoolConv = Literal["dense", "depthwise"]
ClassToken = Literal["joint", "apart", "none"]
HeadInput = Literal["mean", "cls"]
PositionTables = Literal["first", "all"]

Patch = Annotated[tuple[Positive, ...], Size((2, 3))]
HfSetting = int | float | bool | tuple[int, ...] | str
BlockFactor = tuple[Natural, Times]
BlockStride = tuple[Natural, Positive, Positive, Positive]


@dataclass(frozen=True)
class Model:
    """MODEL: which model, its head and its loss.

    SlowFast's defaults of ARCH and MODEL_NAME name a convolutional network; here they name MViT.
    """

    ARCH: str = "mvit"
    MODEL_NAME: Annotated[str, Aliases({"PTVMViT": "MViT", "MaskMViT": "MViT"})] = "MViT"  # MASK.ENABLE pre-trains it
    NUM_CLASSES: Positive = 400
    LOSS_FUNC: Loss = "cross_entropy"
    LABEL_SMOOTHING: DropRate = 0.0  # ours; without MIXUP
    CLASS_WEIGHTS: ClassWeighting | tuple[AboveZero, ...] = "none"  # ours; in the training loss; auto: by frequency
    DROPOUT_RATE: DropRate = 0.5
    FC_INIT_STD: AtLeastZero = 0.01  # initial weights of the classifier of convolutional networks
    HEAD_ACT: HeadActivation = "softmax"
    ACT_CHECKPOINT: bool = False
    DETACH_FINAL_FC: bool = False  # linear probe: train the last linear layer alone


@dataclass(frozen=True)
class Reversible:
    """MVIT.REV: blocks that keep no activations for the backward pass."""

    ENABLE: bool = False
    BUFFER_LAYERS: tuple[Natural, ...] = ()  # blocks that are not reversible: those that pool queries or widen
    PRE_Q_FUSION: StreamFusion = "avg"  # how they join the two streams
    RES_PATH: Literal["conv", "max"] = "conv"  # how they pool their shortcut
    RESPATH_FUSE: Literal["concat"] = "concat"  # how the last two streams are joined


@dataclass(frozen=True)
class Mvit:
    """MVIT: MViT and MViTv2. Each entry of a list names a block, from 0, and then what changes there."""

    MODE: PoolingMode = "conv"
    POOL_FIRST: bool = False
    CLS_EMBED_ON: bool = True
    PATCH_KERNEL: Patch = (3, 7, 7)  # frames and pixels
    PATCH_STRIDE: Patch = (2, 4, 4)
    PATCH_PADDING: Annotated[tuple[Natural, ...], Size((2, 3))] = (2, 4, 4)
    PATCH_2D: bool = False
    EMBED_DIM: Width = 96
    NUM_HEADS: Positive = 1
    MLP_RATIO: Times = 4.0
    QKV_BIAS: bool = True
    DROPPATH_RATE: DropRate = 0.1
    LAYER_SCALE_INIT_VALUE: AtLeastZero = 0.0
    DEPTH: Depth = 16
    NORM: Literal["layernorm"] = "layernorm"
    DIM_MUL: tuple[BlockFactor, ...] = ()
    HEAD_MUL: tuple[BlockFactor, ...] = ()
    POOL_KV_STRIDE: tuple[BlockStride, ...] = ()
    POOL_KV_STRIDE_ADAPTIVE: SpaceTime | None = None
    POOL_Q_STRIDE: tuple[BlockStride, ...] = ()
    POOL_KVQ_KERNEL: SpaceTime | None = None
    POOL_KERNEL_RULE: KernelRule = "stride+1"  # ours; used when POOL_KVQ_KERNEL is None
    POOL_NORM_EPS: AboveZero = 1e-6  # ours; 1e-5 for weights that SlowFast trained before June 2022
    ZERO_DECAY_POS_CLS: bool = True
    NORM_STEM: bool = False
    SEP_POS_EMBED: bool = False
    DROPOUT_RATE: DropRate = 0.0
    USE_ABS_POS: bool = True
    REL_POS_SPATIAL: bool = False
    REL_POS_TEMPORAL: bool = False
    REL_POS_ZERO_INIT: bool = False
    RESIDUAL_POOLING: bool = False
    DIM_MUL_IN_ATT: bool = False
    SEPARATE_QKV: bool = False
    HEAD_INIT_SCALE: AtLeastZero = 1.0
    USE_MEAN_POOLING: bool = False
    USE_FIXED_SINCOS_POS: bool = False
    SHARE_ATTENTION: tuple[Natural, ...] = ()  # ours; blocks that reuse the attention map of the block before them
    WINDOW: Natural = 0  # tokens of the first block; ours; side of attention windows in large images; 0 has none
    GLOBAL_BLOCKS: tuple[Natural, ...] = ()  # ours; with WINDOW, blocks that attend to the whole image
    REV: Reversible = Reversible()


@dataclass(frozen=True)
class Vit:
    """VIT (ours): a plain vision transformer with joint position embedding, for images (ViT, DeiT) and clips."""

    PATCH_SIZE: SpaceTime = (1, 16, 16)  # frames and pixels; also the stride
    EMBED_DIM: Width = 768
    DEPTH: Depth = 12
    NUM_HEADS: Positive = 12
    MLP_RATIO: Times = 4.0
    QKV_BIAS: bool = True
    DISTILLED: bool = False  # add a second token and head, which learn the teacher's decision
    DROPOUT_RATE: DropRate = 0.0
    DROPPATH_RATE: DropRate = 0.0
    STAGES: tuple[Positive, ...] = ()  # blocks, from 1, whose maps a detector reads; empty: the last


@dataclass(frozen=True)
class ImageResnet:
    """IMAGE_RESNET (ours): torchvision's residual networks of images, as controls."""

    DEPTH: Literal[18, 34, 50, 101] = 50  # layers with weights
    DIMENSIONS: Literal["resnet", "vit"] = "resnet"  # vit: one grid of patches and one width, from first to last
    WIDTH: Width = 64  # channels inside the first block
    PATCH_SIZE: Positive = 16  # pixels, with the dimensions of a ViT
    FROZEN_NORMS: bool = False  # batch norms keep their statistics and factors, as detectors are trained


@dataclass(frozen=True)
class HuggingFace:
    """HF (ours): settings of a model of transformers, by the names of its config.json: [[hidden_size, 384], ...].

    What is not here has transformers' default. Classes and channels are MODEL.NUM_CLASSES and DATA.INPUT_CHANNEL_NUM;
    frames and side, for which position tables are made, are those of DATA unless they are here.
    """

    CONFIG: tuple[tuple[str, HfSetting], ...] = ()


@dataclass(frozen=True)
class Pit:
    """PIT (ours): a transformer that pools its tokens between stages. Lists have one entry per stage."""

    PATCH_KERNEL: SpaceTime = (1, 16, 16)  # frames and pixels
    PATCH_STRIDE: SpaceTime = (1, 8, 8)
    EMBED_DIMS: tuple[Width, ...] = (144, 288, 576)
    NUM_HEADS: tuple[Positive, ...] = (3, 6, 12)
    DEPTHS: tuple[Depth, ...] = (2, 6, 4)
    POOL_KERNEL: SpaceTime = (1, 3, 3)
    POOL_STRIDE: SpaceTime = (1, 2, 2)
    MLP_RATIO: Times = 4.0
    DISTILLED: bool = False  # add a second token and head, which learn the teacher's decision
    DROPOUT_RATE: DropRate = 0.0
    DROPPATH_RATE: DropRate = 0.0


@dataclass(frozen=True)
class ProgressiveSampling:
    """PS_VIT (ours): progressive sampling. ITERATIONS blocks move the sampling points; DEPTH blocks follow."""

    EMBED_DIM: Width = 384
    NUM_HEADS: Positive = 6
    ITERATIONS: Positive = 4
    DEPTH: Depth = 10
    POINTS: tuple[Positive, Positive] = (14, 14)  # over the height and the width of a frame
    TIME_POINTS: Natural = 0  # over time; 0 takes one per frame
    TIME: SamplingTime = "points"  # what moves, or is attended to, in time
    SHARE_SAMPLER: bool = False  # one block for all iterations
    GAMMA: AboveZero = 1.0  # factor on the offsets
    CLS_TOKEN: bool = True  # classify a class token; False classifies the mean of all tokens
    STEM_WIDTH: Positive = 64
    STEM_DIM: Positive = 256
    MLP_RATIO: Times = 3.0
    DROPOUT_RATE: DropRate = 0.0
    DROPPATH_RATE: DropRate = 0.0


@dataclass(frozen=True)
class PoolingSharing:
    """PSVIT (ours): token pooling and attention sharing. *Open* marks what the paper does not specify."""

    PLAN: str = "BSBB|BSBBB|BSSBS"  # B: basic layer, S: sharing layer, |: between stages
    DIMS: tuple[Positive, ...] = (192, 288, 384)  # one per stage
    HEADS: tuple[Positive, ...] = (3, 6, 6)
    PATCH_SIZE: Positive = 16  # pixels
    POOLING: TokenPooling = "1d"
    POOL_KERNEL: Positive = 3  # open
    POOL_CONV: PoolConv = "dense"  # open
    CLS: ClassToken = "joint"  # open; joint: pooled and processed like any other token
    HEAD_INPUT: HeadInput = "mean"
    POS_EMBED: PositionTables = "first"  # open; stages with position tables
    SHARED_HEADS: tuple[str, ...] = ()  # open; one string of 0 and 1 per stage, a digit per head; 1 shares the map
    MLP_RATIO: Times = 4.0
    QKV_BIAS: bool = True
    DROPOUT_RATE: DropRate = 0.0
    DROPPATH_RATE: DropRate = 0.1  # open


@dataclass(frozen=True)
class Supernet:
    """SUPERNET (ours): the model PSViTSupernet, whose stages are rows of cells."""

    NUM_CELLS: Positive = 6  # per stage: the most layers that a plan can have there
    SHARING_OWNS: bool = True  # sharing cells have weights of their own; False: they use those of their basic layer
