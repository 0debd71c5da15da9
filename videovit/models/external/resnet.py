"""torchvision's residual networks as models of images: the controls of transformers.

Parameter names are torchvision's, so its published weights load as they are.

B images, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import BoxHead, Features, VideoModel

Dimensions = Literal["resnet", "vit"]
Block = type[BasicBlock] | type[Bottleneck]

RESNETS: dict[int, tuple[Block, tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}
"""Layers with weights -> torchvision's block, and how many each stage has."""


class ImageResNet(VideoModel):
    """Stem, four stages of residual blocks, mean, linear layer.

    Args:
        depth: a key of `RESNETS`.
        num_classes: K.
        frozen_norms: batch norms with fixed statistics and factors.
        dimensions: "resnet" halves rows and columns, and doubles channels, from stage to stage. "vit" keeps those of
            a grid of patches, as a ViT does.
        width: channels inside the first block; in a bottleneck, its output has four times as many.
        patch_size: side of a patch in pixels, for the dimensions of a ViT.

    Source: ResNet (arXiv 1512.03385); the dimensions of a ViT: PiT (arXiv 2103.16302), section 3.1.
    """

    head_names: ClassVar[tuple[str, ...]] = ("fc",)

    def __init__(
        self,
        depth: int = 50,
        *,
        num_classes: int = 1000,
        frozen_norms: bool = False,
        dimensions: Dimensions = "resnet",
        width: int = 64,
        patch_size: int = 16,
    ) -> None:
        super().__init__()
        self.in_channels, self.grid = 3, None
        norm = FrozenBatchNorm2d if frozen_norms else nn.BatchNorm2d
        block, numbers = RESNETS[depth]
        if dimensions == "resnet":
            dim, factors, stride = width, (1, 2, 4, 8), 2
            self.conv1 = nn.Conv2d(3, dim, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            dim, factors, stride = width * block.expansion, (1, 1, 1, 1), 1
            self.conv1 = nn.Conv2d(3, dim, patch_size, stride=patch_size, bias=False)
            self.maxpool = nn.Identity()
        self.bn1, self.relu = norm(dim), nn.ReLU(inplace=True)
        for stage, (number, factor) in enumerate(zip(numbers, factors, strict=True), start=1):
            inner = width * factor
            self.add_module(f"layer{stage}", _stage(block, dim, inner, number, stride if stage > 1 else 1, norm))
            dim = inner * block.expansion
        self.fc: nn.Module = nn.Linear(dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def head(self) -> nn.Module:  # type: ignore[override]  # its name in published files is not `head`
        """The linear layer."""
        return self.fc

    def reset_head(self, head: nn.Module) -> None:
        """Replace the linear layer by another one, (B, C) to (B, K).

        Raises:
            UserError: a `BoxHead`: actions are classified in clips.
        """
        if isinstance(head, BoxHead):
            raise UserError("residual networks read single images; MViT can have a head for boxes in clips")
        self.fc = head

    def layers(self) -> list[list[nn.Module]]:
        """One layer per stage."""
        return [[self.get_submodule(f"layer{i}")] for i in range(1, 5)]

    def head_modules(self) -> list[nn.Module]:
        """The linear layer."""
        return [self.head]

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self._stages(x_BCTHW)[-1].mean(dim=(2, 3, 4)))
        return logits

    def _features(self, x_BCTHW: Tensor) -> Features:
        map_BCTHW = self._stages(x_BCTHW)[-1]
        _, _, T, H, W = map_BCTHW.shape
        return Features(map_BCTHW.flatten(2).transpose(1, 2), (T, H, W), None)

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        """Strides 4, 8, 16, 32; with the dimensions of a ViT, that of the patches.

        Raises:
            UserError: the clips have more than one frame.
        """
        if x_BCTHW.shape[2] != 1:
            raise UserError(f"residual networks read images: expected clips of 1 frame, found {x_BCTHW.shape[2]}")
        x_BCHW: Any = x_BCTHW[:, :, 0]
        for name in ("conv1", "bn1", "relu", "maxpool"):
            x_BCHW = self.get_submodule(name)(x_BCHW)
        maps = []
        for (stage,) in self.layers():
            x_BCHW = stage(x_BCHW)
            maps.append(x_BCHW[:, :, None])
        return maps


def _stage(
    block: Block, dim: int, inner: int, number: int, stride: int, norm: Callable[[int], nn.Module]
) -> nn.Sequential:
    """Residual blocks, the first of which may change the size of the map, as torchvision names them."""
    out, shortcut = inner * block.expansion, None
    if stride > 1 or dim != out:
        shortcut = nn.Sequential(nn.Conv2d(dim, out, 1, stride=stride, bias=False), norm(out))
    first = block(dim, inner, stride, shortcut, norm_layer=norm)
    return nn.Sequential(first, *(block(out, inner, norm_layer=norm) for _ in range(1, number)))


def image_resnet_from_config(cfg: Config) -> ImageResNet:
    """`ImageResNet` from the sections DATA, IMAGE_RESNET and MODEL of a config.

    Raises:
        UserError: clips of several frames or other than three channels; or MODEL.ACT_CHECKPOINT, which would update
            batch statistics twice.
    """
    if cfg.DATA.NUM_FRAMES != 1 or cfg.DATA.INPUT_CHANNEL_NUM[0] != 3:
        raise UserError("ImageResNet reads images: expected DATA.NUM_FRAMES 1 and DATA.INPUT_CHANNEL_NUM [3]")
    if cfg.MODEL.ACT_CHECKPOINT:
        raise UserError("ImageResNet: MODEL.ACT_CHECKPOINT would update the batch statistics twice; switch it off")
    section = cfg.IMAGE_RESNET
    return ImageResNet(
        section.DEPTH,
        num_classes=cfg.MODEL.NUM_CLASSES,
        frozen_norms=section.FROZEN_NORMS,
        dimensions=section.DIMENSIONS,
        width=section.WIDTH,
        patch_size=section.PATCH_SIZE,
    )
