"""torchvision's residual networks as models of images: the controls of transformers.

Parameter names are torchvision's, so its published weights load as they are.

B images, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import BoxHead, Features, VideoModel

RESNETS: dict[int, Callable[..., nn.Module]] = {
    18: resnet.resnet18,
    34: resnet.resnet34,
    50: resnet.resnet50,
    101: resnet.resnet101,
}
"""Layers with weights -> torchvision's builder."""


class ImageResNet(VideoModel):
    """Stem, four stages of residual blocks, mean, linear layer.

    Args:
        depth: a key of `RESNETS`.
        num_classes: K.
        frozen_norms: batch norms with fixed statistics and factors.

    Source: ResNet (arXiv 1512.03385).
    """

    head_names: ClassVar[tuple[str, ...]] = ("fc",)

    def __init__(self, depth: int = 50, *, num_classes: int = 1000, frozen_norms: bool = False) -> None:
        super().__init__()
        self.in_channels, self.grid = 3, None
        norm = FrozenBatchNorm2d if frozen_norms else nn.BatchNorm2d
        for child, module in RESNETS[depth](num_classes=num_classes, norm_layer=norm).named_children():
            self.add_module(child, module)

    @property
    def head(self) -> nn.Module:  # type: ignore[override]  # its name in published files is not `head`
        """The linear layer."""
        return self.get_submodule("fc")

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
        """Strides 4, 8, 16, 32.

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
    return ImageResNet(
        cfg.IMAGE_RESNET.DEPTH, num_classes=cfg.MODEL.NUM_CLASSES, frozen_norms=cfg.IMAGE_RESNET.FROZEN_NORMS
    )
