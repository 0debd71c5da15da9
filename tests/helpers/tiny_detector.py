"""A small Mask R-CNN on a ResNet, to train and test in seconds; a row of MODELS for the time of a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import MultiScaleRoIAlign

from videovit.config import Config
from videovit.models.contract import Features, VideoModel


class Body(nn.Module):
    """Maps of stride 8 of a ResNet with few channels."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        net = ResNet(BasicBlock, [1, 1, 1, 1])
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2)
        self.narrow = nn.Conv2d(128, self.out_channels, 1)

    def forward(self, x_B3HW: Tensor) -> dict[str, Tensor]:
        return {"0": self.narrow(self.stem(x_B3HW))}


class Unscaled(GeneralizedRCNNTransform):
    """Normalizes and pads images, which are scaled before."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


class TinyDetector(VideoModel):
    """Mask R-CNN: `model(images, targets)`."""

    in_channels, grid = 3, None

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net = MaskRCNN(
            Body(),
            rpn_anchor_generator=AnchorGenerator(((16, 32, 48),), ((0.7, 1.0, 1.5),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
            mask_predictor=MaskRCNNPredictor(16, 16, num_classes + 1),
            mask_head=MaskRCNNHeads(32, [16], 1),
            mask_roi_pool=MultiScaleRoIAlign(["0"], 8, 2),
            box_head=nn.Sequential(nn.Flatten(), nn.Linear(32 * 25, 64), nn.ReLU()),
            box_predictor=BoxPredictor(64, num_classes + 1),
            rpn_pre_nms_top_n_train=200,
            rpn_post_nms_top_n_train=50,
            rpn_pre_nms_top_n_test=100,
            rpn_post_nms_top_n_test=30,
            box_batch_size_per_image=32,
            rpn_batch_size_per_image=32,
            box_detections_per_img=20,
        )
        self.net.transform = Unscaled(1, 1, [0.4] * 3, [0.2] * 3)

    def forward(self, images: Any, targets: Any = None) -> Any:
        return self.net(images, targets)

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        return [[self.net.backbone]]

    def head_modules(self) -> Sequence[nn.Module]:
        return [self.net.rpn, self.net.roi_heads]

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        raise NotImplementedError

    def _features(self, x_BCTHW: Tensor) -> Features:
        raise NotImplementedError

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        return [torch.stack(list(self.net.backbone(x_BCTHW[:, :, 0]).values()))]


class BoxPredictor(nn.Module):
    """Classes and boxes."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(dim, num_classes), nn.Linear(dim, 4 * num_classes)

    def forward(self, x_NC: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x_NC), self.bbox_pred(x_NC)


def tiny_detector_from_config(cfg: Config) -> TinyDetector:
    return TinyDetector(cfg.MODEL.NUM_CLASSES)
