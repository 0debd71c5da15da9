"""Convolutional video networks of pytorchvideo as models of this project.

They are built by pytorchvideo's own `create_*` functions with the arguments of its published weights, which therefore
load by name. Three things differ from its hub: outputs are logits, never probabilities; the pooling windows of the head
follow the clip size; and a network with two pathways takes one clip and samples its slow pathway from it.

pytorchvideo is imported only when such a network is built.

B clips, C channels, T H W time and space (in x_BCTHW: pixels), K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from videovit.config import Config
from videovit.errors import UserError
from videovit.messages import did_you_mean, plural
from videovit.models.contract import BoxHead, Features, VideoModel
from videovit.models.layers.pathways import slow_pathway

Triple = tuple[int, int, int]

ALPHA = 4  # frames of the fast pathway per frame of the slow one, as in the published SlowFast
_SPATIAL_STRIDE = 32


class PtvNetwork(VideoModel):
    """A network of pytorchvideo: blocks in sequence, the first of them the stem, the last the classifier.

    State-dict names (`blocks.i...`) are those of the published files.

    Args:
        blocks: of the network.
        in_channels: of the clip.
        alpha: frames of the fast pathway per frame of the slow one; 0 for a network with a single pathway.
    """

    # The classifier is block 5, or block 6 of networks that pool between two stages; block 5 has no `proj` there.
    head_names: ClassVar[tuple[str, ...]] = ("blocks.5.proj", "blocks.6.proj")
    # The gradient of average pooling over space and time has no deterministic kernel.
    is_deterministic_on_gpu: ClassVar[bool] = False

    def __init__(self, blocks: nn.ModuleList, *, in_channels: int = 3, alpha: int = 0) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.grid = None
        self.blocks = blocks
        self.alpha = alpha

    @property
    def head(self) -> nn.Module:  # type: ignore[override]  # its name in published files is not `head`
        """The linear layer of the last block, which pools before it and averages over positions after it."""
        return self.blocks[-1].get_submodule("proj")

    def reset_head(self, head: nn.Module) -> None:
        """Replace the linear layer by another one, (..., C) to (..., K).

        Raises:
            UserError: a `BoxHead`: the last block pools the whole clip.
        """
        if isinstance(head, BoxHead):
            raise UserError("networks of pytorchvideo cannot have a detection head; MViT can")
        self.blocks[-1].proj = head

    def layers(self) -> list[list[nn.Module]]:
        """One layer per stage; blocks without parameters only pool."""
        return [[block] for block in self.blocks[1:-1] if any(True for _ in block.parameters())]

    def head_modules(self) -> list[nn.Module]:
        """The last block."""
        return [self.blocks[-1]]

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        logits: Tensor = self.blocks[-1](self._last_map(x_BCTHW))
        return logits

    def _features(self, x_BCTHW: Tensor) -> Features:
        """The input of the classifier; SlowFast pools its pathways before it, to one token at its own clip size."""
        map_BCTHW = self._last_map(x_BCTHW)
        T, H, W = map_BCTHW.shape[2:]
        return Features(map_BCTHW.flatten(2).transpose(1, 2), (T, H, W), None)

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        """Of two pathways the slow one, into which the fast one is fused."""
        stages = [modules[0] for modules in self.layers()]
        maps: list[Tensor] = []
        x = self._inputs(x_BCTHW)
        for block in self.blocks[:-1]:
            x = block(x)
            if any(block is stage for stage in stages):
                # Later blocks overwrite the entries of the list, not the tensors.
                maps.append(x[0] if self.alpha else x)
        return maps

    def _last_map(self, x_BCTHW: Tensor) -> Tensor:
        x = self._inputs(x_BCTHW)
        for block in self.blocks[:-1]:
            x = block(x)
        map_BCTHW: Tensor = x
        return map_BCTHW

    def _inputs(self, x_BCTHW: Tensor) -> Any:
        """One clip, or a list with one clip per pathway: what blocks of pytorchvideo pass on."""
        return [slow_pathway(x_BCTHW, self.alpha), x_BCTHW] if self.alpha else x_BCTHW


def x3d(clip: Triple, head: dict[str, Any], in_channels: int, **arguments: Any) -> nn.Module:
    """X3D; X3D-M by default."""
    from pytorchvideo.models.x3d import create_x3d

    network: nn.Module = create_x3d(
        input_channel=in_channels,
        input_clip_length=clip[0],
        input_crop_size=clip[1],
        inner_act=nn.SiLU,  # pytorchvideo's Swish by PyTorch's kernel
        **arguments,
        **head,
    )
    return network


def slowfast(
    clip: Triple, head: dict[str, Any], in_channels: int, *, alpha: int = ALPHA, kernel_t: int = 7, **arguments: Any
) -> nn.Module:
    """SlowFast; 8x8 R50 by default. `kernel_t` is of the lateral connections."""
    from pytorchvideo.models.slowfast import create_slowfast

    network: nn.Module = create_slowfast(
        input_channels=(in_channels, in_channels),
        slowfast_fusion_conv_kernel_size=(kernel_t, 1, 1),
        slowfast_fusion_conv_stride=(alpha, 1, 1),
        head_pool_kernel_sizes=(_window(clip, alpha), _window(clip, 1)),
        **{"model_depth": 50, **arguments},
        **head,
    )
    return network


def csn(clip: Triple, head: dict[str, Any], in_channels: int, **arguments: Any) -> nn.Module:
    """Channel-separated network; R101 by default."""
    from pytorchvideo.models.csn import create_csn

    network: nn.Module = create_csn(
        input_channel=in_channels,
        stem_pool=nn.MaxPool3d,
        head_pool_kernel_size=_window(clip, 8),
        **{"model_depth": 101, **arguments},
        **head,
    )
    return network


def r2plus1d(clip: Triple, head: dict[str, Any], in_channels: int, **arguments: Any) -> nn.Module:
    """R(2+1)D; R50 by default."""
    from pytorchvideo.models.r2plus1d import create_r2plus1d

    network: nn.Module = create_r2plus1d(
        input_channel=in_channels, head_pool_kernel_size=_window(clip, 4), **arguments, **head
    )
    return network


def resnet(clip: Triple, head: dict[str, Any], in_channels: int, *, arch: str, **arguments: Any) -> nn.Module:
    """C2D, I3D or Slow, a key of `ARCHS`; R50 by default."""
    from pytorchvideo.models.resnet import create_resnet

    time_stride, own = ARCHS[arch]
    network: nn.Module = create_resnet(
        input_channel=in_channels,
        head_pool_kernel_size=_window(clip, time_stride),
        **{"model_depth": 50, **own, **arguments},
        **head,
    )
    return network


ARCHS: dict[str, tuple[int, dict[str, Any]]] = {
    "slow": (1, {"stem_conv_kernel_size": (1, 7, 7)}),
    "c2d": (
        2,
        {
            "stem_conv_kernel_size": (1, 7, 7),
            "stage1_pool": nn.MaxPool3d,
            "stage_conv_a_kernel_size": ((1, 1, 1),) * 4,
        },
    ),
    "i3d": (
        2,
        {
            "stem_conv_kernel_size": (5, 7, 7),
            "stage1_pool": nn.MaxPool3d,
            # A tuple is one kernel for the whole stage; a list is cycled over its blocks.
            "stage_conv_a_kernel_size": (
                (3, 1, 1),
                [(3, 1, 1), (1, 1, 1)],
                [(3, 1, 1), (1, 1, 1)],
                [(1, 1, 1), (3, 1, 1)],
            ),
        },
    ),
}
"""MODEL.ARCH of a network with one pathway -> frames per frame of its last map, and what it is built with."""

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "ptv_x3d_m": x3d,
    "ptv_slowfast_r50": slowfast,
    "ptv_csn_r101": csn,
    "ptv_r2plus1d_r50": r2plus1d,
    "ptv_i3d_r50": partial(resnet, arch="i3d"),
    "ptv_c2d_r50": partial(resnet, arch="c2d"),
    "ptv_slow_r50": partial(resnet, arch="slow"),
}


def _window(clip: Triple, time_stride: int) -> Triple:
    """Size of the feature map that the head pools over, in a network that reduces time by `time_stride`."""
    frames, height, width = clip
    if frames < time_stride:
        raise UserError(f"a clip of {plural(frames, 'frame')} is too short; the network needs {time_stride} or more")
    return frames // time_stride, -(-height // _SPATIAL_STRIDE), -(-width // _SPATIAL_STRIDE)


def build_ptv(
    name: str,
    *,
    clip_size: Triple,
    num_classes: int = 400,
    in_channels: int = 3,
    dropout: float = 0.5,
) -> PtvNetwork:
    """A convolutional network of pytorchvideo, initialized.

    Args:
        name: a key of `NETWORKS`.
        clip_size: (T, H, W) in pixels of the clips it is trained on, H equal to W; for SlowFast T is that of the fast
            pathway. Evaluation may use larger clips: the logits of all positions are averaged.
        num_classes: K.
        in_channels: C of the clip.
        dropout: before the classifier.

    Raises:
        UserError: unknown name; a clip too short for the network; a number of frames that two pathways cannot share.
    """
    if name not in NETWORKS:
        raise UserError(
            "network of pytorchvideo",
            found=name,
            expected=f"one of {', '.join(NETWORKS)}",
            near=did_you_mean(name, NETWORKS),
        )
    alpha = ALPHA if name == "ptv_slowfast_r50" else 0
    create = partial(NETWORKS[name], clip_size, in_channels=in_channels)
    return as_model(create, name, clip_size, in_channels, num_classes=num_classes, dropout=dropout, alpha=alpha)


def as_model(
    create: Callable[[dict[str, Any]], nn.Module],
    name: str,
    clip_size: Triple,
    in_channels: int,
    *,
    num_classes: int,
    dropout: float,
    alpha: int,
) -> PtvNetwork:
    """The network that `create` builds around a head.

    Args:
        create: arguments of the head -> network.
        name: for messages.
        clip_size, in_channels, num_classes, dropout: see `build_ptv`.
        alpha: frames of the fast pathway per frame of the slow one; 0 for a network with a single pathway.

    Raises:
        UserError: a number of frames that two pathways cannot share.
    """
    if alpha and clip_size[0] % alpha:
        raise UserError(f"{name}: {clip_size[0]} frames (DATA.NUM_FRAMES) are not a multiple of {alpha}")
    # Activation None: the published heads end in a softmax, which belongs to evaluation here.
    head = {"model_num_class": num_classes, "dropout_rate": dropout, "head_activation": None}
    blocks = create(head).get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    return PtvNetwork(blocks, in_channels=in_channels, alpha=alpha)


def build_from_config(cfg: Config, create: Callable[..., nn.Module], *, alpha: int = 0) -> PtvNetwork:
    """The network that `create` builds, with the clips, classes and dropout of a config.

    Args:
        cfg: the config; sections DATA and MODEL.
        create: (clip size, head, in_channels) -> network.
        alpha: frames of the fast pathway per frame of the slow one; 0 for a network with a single pathway.

    Raises:
        UserError: frames that two pathways cannot share; or MODEL.ACT_CHECKPOINT, which would update batch statistics
            twice.
    """
    name, side = cfg.MODEL.MODEL_NAME, cfg.DATA.TRAIN_CROP_SIZE
    if cfg.MODEL.ACT_CHECKPOINT:
        raise UserError(f"{name}: MODEL.ACT_CHECKPOINT would update the batch statistics twice; switch it off")
    clip_size, in_channels = (cfg.DATA.NUM_FRAMES, side, side), cfg.DATA.INPUT_CHANNEL_NUM[0]
    return as_model(
        partial(create, clip_size, in_channels=in_channels),
        name,
        clip_size,
        in_channels,
        num_classes=cfg.MODEL.NUM_CLASSES,
        dropout=cfg.MODEL.DROPOUT_RATE,
        alpha=alpha,
    )


PTV_MODELS: dict[str, Callable[[Config], VideoModel]] = {
    name: partial(build_from_config, create=create, alpha=ALPHA if create is slowfast else 0)
    for name, create in NETWORKS.items()
}
