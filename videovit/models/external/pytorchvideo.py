"""Convolutional video networks of pytorchvideo behind the interface of this project's models.

Built by pytorchvideo's own `create_*` functions with the arguments of its published files, so that those load by name.
Three things differ from its hub: logits come out, never probabilities; the pooling windows of the head follow the clip
size; and a network with two pathways takes one clip and makes its slow pathway itself.

pytorchvideo is imported when such a network is built, not before.

B clips, C channels, T H W time and space (in x_BCTHW: pixels), K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from videovit.errors import UserError

Triple = tuple[int, int, int]

ALPHA = 4  # frames of the fast pathway for one of the slow, as in the published SlowFast
_SPATIAL_STRIDE = 32


class PtvError(UserError):
    """An unknown network, or a setting that pytorchvideo's networks do not take."""


class PtvNetwork(nn.Module):
    """A network of pytorchvideo: its blocks one after the other, the last of them the classifier.

    State-dict names (`blocks.i...`) are those of the published files.

    Args:
        blocks: of the network.
        alpha: frames of the fast pathway for one of the slow; 0 for a network with a single pathway.
    """

    def __init__(self, blocks: nn.ModuleList, alpha: int = 0) -> None:
        super().__init__()
        self.blocks = blocks
        self.alpha = alpha
        self.head_prefix = f"blocks.{len(blocks) - 1}.proj."

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Logits (B, K) of clips (B, C, T, H, W), normalised."""
        logits: Tensor = self.blocks[-1](self._features(x_BCTHW))
        return logits

    def forward_features(self, x_BCTHW: Tensor) -> tuple[Tensor, Triple]:
        """What enters the classifier, as tokens.

        Returns:
            tokens: (B, N, C), row by row.
            grid: (T, H, W) with N = T * H * W; (1, 1, 1) for SlowFast at its own clip size, whose pathways are pooled
                before they meet.
        """
        features_BCTHW = self._features(x_BCTHW)
        T, H, W = features_BCTHW.shape[2:]
        return features_BCTHW.flatten(2).transpose(1, 2), (T, H, W)

    def _features(self, x_BCTHW: Tensor) -> Tensor:
        x: Any = [slow_pathway(x_BCTHW, self.alpha), x_BCTHW] if self.alpha else x_BCTHW
        for block in self.blocks[:-1]:
            x = block(x)
        features_BCTHW: Tensor = x
        return features_BCTHW


def slow_pathway(x_BCTHW: Tensor, alpha: int) -> Tensor:
    """Every alpha-th frame or so: T // alpha frames from the first to the last, evenly spread and rounded down.

    Of 32 frames with alpha 4: 0, 4, 8, 13, 17, 22, 26, 31.

    Raises:
        PtvError: T is not a multiple of alpha.

    Source: PySlowFast's and pytorchvideo's SlowFast input.
    """
    num_frames = x_BCTHW.shape[2]
    if num_frames % alpha:
        raise PtvError(f"the clip has {num_frames} frames; two pathways need a multiple of {alpha} (DATA.NUM_FRAMES)")
    # In double precision and on the CPU: the same frames on every device.
    frames = torch.linspace(0, num_frames - 1, num_frames // alpha, dtype=torch.float64, device="cpu").long()
    return x_BCTHW.index_select(2, frames.to(x_BCTHW.device))


def _x3d_m(clip: Triple, head: dict[str, Any], in_channels: int) -> nn.Module:
    from pytorchvideo.models.x3d import create_x3d

    return create_x3d(
        input_channel=in_channels,
        input_clip_length=clip[0],
        input_crop_size=clip[1],
        inner_act=nn.SiLU,  # pytorchvideo's Swish by PyTorch's kernel
        **head,
    )


def _slowfast_r50(clip: Triple, head: dict[str, Any], in_channels: int) -> nn.Module:
    from pytorchvideo.models.slowfast import create_slowfast

    return create_slowfast(
        input_channels=(in_channels, in_channels),
        model_depth=50,
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        head_pool_kernel_sizes=(_window(clip, ALPHA), _window(clip, 1)),
        **head,
    )


def _csn_r101(clip: Triple, head: dict[str, Any], in_channels: int) -> nn.Module:
    from pytorchvideo.models.csn import create_csn

    return create_csn(
        input_channel=in_channels,
        model_depth=101,
        stem_pool=nn.MaxPool3d,
        head_pool_kernel_size=_window(clip, 8),
        **head,
    )


def _r2plus1d_r50(clip: Triple, head: dict[str, Any], in_channels: int) -> nn.Module:
    from pytorchvideo.models.r2plus1d import create_r2plus1d

    return create_r2plus1d(input_channel=in_channels, head_pool_kernel_size=_window(clip, 4), **head)


def _resnet(clip: Triple, head: dict[str, Any], in_channels: int, *, time_stride: int, **arguments: Any) -> nn.Module:
    from pytorchvideo.models.resnet import create_resnet

    window = _window(clip, time_stride)
    return create_resnet(input_channel=in_channels, model_depth=50, head_pool_kernel_size=window, **arguments, **head)


_slow_r50 = partial(_resnet, time_stride=1, stem_conv_kernel_size=(1, 7, 7))
_c2d_r50 = partial(
    _resnet,
    time_stride=2,
    stem_conv_kernel_size=(1, 7, 7),
    stage1_pool=nn.MaxPool3d,
    stage_conv_a_kernel_size=((1, 1, 1),) * 4,
)
_i3d_r50 = partial(
    _resnet,
    time_stride=2,
    stem_conv_kernel_size=(5, 7, 7),
    stage1_pool=nn.MaxPool3d,
    # A tuple is one kernel for the whole stage; a list goes round its blocks.
    stage_conv_a_kernel_size=(
        (3, 1, 1),
        [(3, 1, 1), (1, 1, 1)],
        [(3, 1, 1), (1, 1, 1)],
        [(1, 1, 1), (3, 1, 1)],
    ),
)

NETWORKS: dict[str, Callable[[Triple, dict[str, Any], int], nn.Module]] = {
    "ptv_x3d_m": _x3d_m,
    "ptv_slowfast_r50": _slowfast_r50,
    "ptv_csn_r101": _csn_r101,
    "ptv_r2plus1d_r50": _r2plus1d_r50,
    "ptv_i3d_r50": _i3d_r50,
    "ptv_c2d_r50": _c2d_r50,
    "ptv_slow_r50": _slow_r50,
}


def _window(clip: Triple, time_stride: int) -> Triple:
    """Size of the feature map that the head pools over, in a network that shortens time by `time_stride`."""
    frames, height, width = clip
    if frames < time_stride:
        raise PtvError(f"a clip of {frames} frames is too short, the network takes {time_stride} or more")
    return frames // time_stride, -(-height // _SPATIAL_STRIDE), -(-width // _SPATIAL_STRIDE)


def build_ptv(
    name: str,
    *,
    clip_size: Triple,
    num_classes: int = 400,
    in_channels: int = 3,
    dropout: float = 0.5,
) -> PtvNetwork:
    """A convolutional network of pytorchvideo, initialised.

    Args:
        name: a key of `NETWORKS`.
        clip_size: (T, H, W) in pixels, H equal to W, of the clips it is trained on; for SlowFast T is that of the fast
            pathway. Larger clips may come in evaluation: the logits of all positions are averaged.
        num_classes: K.
        in_channels: C of the clip.
        dropout: in front of the classifier.

    Returns:
        The network; its logits have no activation behind them.

    Raises:
        PtvError: unknown name; a clip too short for the network; frames that two pathways cannot share.
    """
    if name not in NETWORKS:
        raise PtvError(f"{name!r} is not a network of pytorchvideo known here; known: {', '.join(NETWORKS)}")
    two_pathways = name == "ptv_slowfast_r50"
    if two_pathways and clip_size[0] % ALPHA:
        raise PtvError(f"{name}: {clip_size[0]} frames (DATA.NUM_FRAMES) are not a multiple of {ALPHA}")
    head = {"model_num_class": num_classes, "dropout_rate": dropout, "head_activation": None}
    network = NETWORKS[name](clip_size, head, in_channels)
    return PtvNetwork(network.blocks, ALPHA if two_pathways else 0)


def ptv_from_config(cfg: Any, *, name: str) -> PtvNetwork:
    """`build_ptv` from the sections DATA and MODEL of a config.

    Args:
        cfg: `videovit.config.Config`.
        name: a key of `NETWORKS`.

    Raises:
        PtvError: as `build_ptv`; or MODEL.ACT_CHECKPOINT, which would update batch statistics twice.
    """
    if cfg.MODEL.ACT_CHECKPOINT:
        raise PtvError(f"{name}: MODEL.ACT_CHECKPOINT would update the batch statistics twice; switch it off")
    side = cfg.DATA.TRAIN_CROP_SIZE
    return build_ptv(
        name,
        clip_size=(cfg.DATA.NUM_FRAMES, side, side),
        num_classes=cfg.MODEL.NUM_CLASSES,
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        dropout=cfg.MODEL.DROPOUT_RATE,
    )


PTV_MODELS: dict[str, Callable[[Any], nn.Module]] = {name: partial(ptv_from_config, name=name) for name in NETWORKS}
