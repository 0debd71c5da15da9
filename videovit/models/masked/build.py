"""From the config to a masked model: the section MASK, on the model of MODEL.MODEL_NAME."""

from __future__ import annotations

import math

import torch
from torch import nn

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import MaskableModel, VideoModel
from videovit.models.masked.autoencoder import Decoder, MaskedAutoencoder
from videovit.models.masked.features import MaskedFeatures
from videovit.models.masked.model import MaskedModel
from videovit.models.masked.targets import HogTarget, PixelTarget, Target
from videovit.models.mvit.model import MViT


def masked_from_config(cfg: Config, encoder: VideoModel) -> MaskedModel:
    """The masked model of MASK.*, which pre-trains `encoder`.

    Raises:
        UserError: the encoder cannot be pre-trained in this way, or its tokens do not fit the clip or the target.
    """
    if not isinstance(encoder, MaskableModel):
        raise UserError(
            "only models of patches are pre-trained by masking",
            where="MODEL.MODEL_NAME",
            found=cfg.MODEL.MODEL_NAME,
            expected="MViT or ViT",
        )
    mask, stride = cfg.MASK, encoder.output_stride
    sizes = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE)
    if any(size % step for size, step in zip(sizes, stride, strict=True)):
        raise UserError(
            where="DATA.NUM_FRAMES, DATA.TRAIN_CROP_SIZE",
            found=f"clips of {sizes[0]} x {sizes[1]} x {sizes[2]}",
            expected=f"multiples of {stride[0]} x {stride[1]} x {stride[2]}, the pixels per token of the last block",
        )
    target: Target
    if mask.PRED_HOG:
        target = HogTarget(stride, encoder.in_channels)
    else:
        target = PixelTarget(
            stride, encoder.in_channels, first_frame=mask.TIME_STRIDE_LOSS, normalize=mask.NORM_PRED_PIXEL
        )
    build = build_autoencoder if mask.MAE_ON else build_features
    built = build(cfg, encoder, target)
    if mask.SCALE_INIT_BY_DEPTH:
        _scale_by_depth(built)
    return built


def build_autoencoder(cfg: Config, encoder: MaskableModel, target: Target) -> MaskedModel:
    """The masked autoencoder of MASK.*; see `masked_from_config`."""
    mask = cfg.MASK
    of_mvit = isinstance(encoder, MViT)
    if isinstance(encoder, MViT) and encoder.reads_grid:
        raise UserError(
            "the encoder gets visible patches alone, so it can neither pool nor have windows or relative positions",
            where="MASK.MAE_ON",
        )
    assert encoder.grid is not None
    cls_token = encoder.cls_token
    assert cls_token is None or isinstance(cls_token, torch.Tensor)
    decoder = Decoder(
        _width(encoder.head_modules()[0]),
        mask.DECODER_EMBED_DIM,
        mask.DECODER_DEPTH,
        grid=encoder.grid,
        num_cls=0 if cls_token is None else cls_token.shape[1],
        dim_out=target.dim,
        mlp_ratio=cfg.MVIT.MLP_RATIO if of_mvit else cfg.VIT.MLP_RATIO,
        qkv_bias=cfg.MVIT.QKV_BIAS if of_mvit else cfg.VIT.QKV_BIAS,
        separate_tables=mask.DECODER_SEP_POS_EMBED,
    )
    return MaskedAutoencoder(encoder, target, decoder, cfg.AUG.MASK_RATIO)


def build_features(cfg: Config, encoder: MaskableModel, target: Target) -> MaskedModel:
    """The model of MASK.* whose encoder sees all patches; see `masked_from_config`."""
    window = cfg.AUG.MASK_WINDOW_SIZE
    return MaskedFeatures(
        encoder,
        target,
        dim=cfg.MVIT.EMBED_DIM if isinstance(encoder, MViT) else cfg.VIT.EMBED_DIM,
        dim_out=_width(encoder.head_modules()[0]),
        # As published: of images every token is a cell.
        window=window if cfg.DATA.NUM_FRAMES > 1 else None,
        mask_ratio=cfg.AUG.MASK_RATIO,
    )


def _width(norm: nn.Module) -> int:
    """Channels of the last tokens."""
    assert isinstance(norm, nn.LayerNorm)
    return norm.normalized_shape[0]


@torch.no_grad()
def _scale_by_depth(model: MaskedModel) -> None:
    """Make the branches of later blocks smaller.

    Source: BEiT (arXiv 2106.08254), section 2.5.
    """
    blocks = [block for layer in model.layers() for block in layer]
    if isinstance(model, MaskedAutoencoder):
        blocks += list(model.decoder.blocks)
    for number, block in enumerate(blocks, 1):
        for name, weight in block.named_parameters():
            if name in ("attn.proj.weight", "mlp.fc2.weight"):
                weight.div_(math.sqrt(2.0 * number))
