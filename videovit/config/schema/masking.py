"""Masked pre-training: MASK. What is hidden is in AUG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from videovit.config.limits import Natural, Range, Width

MaskHead = Literal["separate", "separate_xformer"]


@dataclass(frozen=True)
class Mask:
    """MASK: predict what is hidden of a clip, without labels."""

    ENABLE: bool = False
    MAE_ON: bool = False  # masked autoencoder; False: mask tokens go through the whole model, as in MaskFeat
    MAE_RND_MASK: bool = False  # hide single patches at random; False: blocks of cells (AUG.GEN_MASK_LOADER there)
    PER_FRAME_MASKING: bool = False  # with MAE_RND_MASK, hide as many in every frame of tokens
    PRED_HOG: bool = False  # predict histograms of oriented gradients; False: pixels
    NORM_PRED_PIXEL: bool = True  # pixels by mean and deviation of their patch
    TIME_STRIDE_LOSS: bool = True  # of the first frame of a token alone
    SCALE_INIT_BY_DEPTH: bool = False
    HEAD_TYPE: MaskHead = "separate"  # separate_xformer: DECODER_DEPTH blocks, for MAE_ON
    PRETRAIN_DEPTH: tuple[Natural, ...] = (15,)  # the block that predicts, from 0: here always the last one
    DECODER_DEPTH: Annotated[int, Range(0, 1000)] = 0  # blocks of the decoder of MAE_ON
    DECODER_EMBED_DIM: Width = 512
    DECODER_SEP_POS_EMBED: bool = False
    NUM_PICTURES: Natural = 4  # ours; reconstructions that a validation draws
