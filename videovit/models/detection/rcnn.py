"""Mask R-CNN, Faster R-CNN and RetinaNet: torchvision's heads on the maps of a model of this project.

B images, H W pixels, N objects, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from videovit.config import Config
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.contract import VideoModel
from videovit.models.detection.detector import Detections, Detector, Target
from videovit.models.detection.pyramid import Maps, Pyramid

_COUNTED_BOXES = 100  # per image, that masks are counted for: the most that COCO counts


class PadOnly(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """Normalizes and pads images. They are resized with their boxes by the data, as all images of this project."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Both as they are."""
        return image, target


class TorchvisionDetector(Detector):
    """A detector of torchvision with a backbone of this project.

    Args:
        network: of torchvision; its backbone is a `Pyramid`.
        num_classes: K.
        finds_masks: whether it has a head of masks.
    """

    def __init__(self, network: nn.Module, num_classes: int, *, finds_masks: bool = False) -> None:
        super().__init__()
        self.network, self.num_classes, self.finds_masks = network, num_classes, finds_masks

    @property
    def body(self) -> VideoModel:
        """The model in the pyramid."""
        body = self.network.get_submodule("backbone.maps.body")
        assert isinstance(body, VideoModel)
        return body

    def _losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.network(list(images), [dict(target) for target in targets])
        return losses

    def _detections(self, images: Sequence[Tensor]) -> list[Detections]:
        found: list[Detections] = self.network(list(images))
        return found


class RCNN(TorchvisionDetector):
    """Proposals, then a class, a box and possibly a mask for each.

    Source: Faster R-CNN (arXiv 1506.01497); Mask R-CNN (arXiv 1703.06870).
    """

    head_names: ClassVar[tuple[str, ...]] = (
        "network.roi_heads.box_predictor",
        "network.roi_heads.mask_predictor.mask_fcn_logits",
    )

    def _run_for_cost(self, x_BCHW: Tensor) -> None:
        """Backbone, proposals and boxes as for the most proposals of evaluation, masks as for 100 objects."""
        network: Any = self.network
        levels = network.backbone(x_BCHW)
        network.rpn.head(list(levels.values()))
        heads = network.roi_heads
        bins, channels = heads.box_roi_pool.output_size, network.backbone.out_channels
        proposals = x_BCHW.new_empty(network.rpn.post_nms_top_n() * len(x_BCHW), channels, *bins)
        heads.box_predictor(heads.box_head(proposals))
        if self.finds_masks:
            objects = x_BCHW.new_empty(_COUNTED_BOXES * len(x_BCHW), channels, *heads.mask_roi_pool.output_size)
            heads.mask_predictor(heads.mask_head(objects))


class SingleShot(TorchvisionDetector):
    """Every place of every map says what object it is part of.

    Source: RetinaNet (arXiv 1708.02002).
    """

    head_names: ClassVar[tuple[str, ...]] = ("network.head.classification_head.cls_logits",)

    def _run_for_cost(self, x_BCHW: Tensor) -> None:
        """Backbone and heads; nothing depends on what is found."""
        network: Any = self.network
        network.head(list(network.backbone(x_BCHW).values()))


def rcnn_from_config(cfg: Config, body: VideoModel, *, masks: bool) -> RCNN:
    """Mask R-CNN, or without masks Faster R-CNN, from the sections DETECTOR, MODEL and DATA of a config.

    Args:
        cfg: the config.
        body: the model of MODEL.MODEL_NAME; it loses its head.
        masks: whether it finds masks.

    Raises:
        UserError: maps, anchors and stages that do not fit together.
    """
    d = cfg.DETECTOR
    backbone = Pyramid(Maps(body, d.STRIDES, norm=d.NORM_MAPS), d.CHANNELS, LastLevelMaxPool())
    names = [str(i) for i in range(len(d.STRIDES))]
    options: dict[str, Any] = {
        "min_size": 1,  # images are never resized
        "image_mean": cfg.DATA.MEAN,
        "image_std": cfg.DATA.STD,
        "size_divisible": max(d.STRIDES),
        "rpn_anchor_generator": _anchors([(size,) for size in d.ANCHOR_SIZES], d.ASPECT_RATIOS, len(names) + 1),
        "rpn_pre_nms_top_n_train": d.PROPOSALS[0],
        "rpn_pre_nms_top_n_test": d.PROPOSALS[1],
        "rpn_post_nms_top_n_train": d.PROPOSALS[0],
        "rpn_post_nms_top_n_test": d.PROPOSALS[1],
        "rpn_batch_size_per_image": d.ANCHOR_SAMPLES,
        "box_roi_pool": MultiScaleRoIAlign(names, 7, 2),
        "box_batch_size_per_image": d.BOX_SAMPLES,
        "box_score_thresh": d.MIN_SCORE,
        "box_nms_thresh": d.NMS_IOU,
        "box_detections_per_img": d.MAX_DETECTIONS,
    }
    num_logits = cfg.MODEL.NUM_CLASSES + 1  # class 0 is the background
    options["box_head"] = TwoMLPHead(d.CHANNELS * 7 * 7, d.BOX_DIM)
    options["box_predictor"] = FastRCNNPredictor(d.BOX_DIM, num_logits)
    if masks:
        options["mask_roi_pool"] = MultiScaleRoIAlign(names, 14, 2)
        options["mask_head"] = MaskRCNNHeads(d.CHANNELS, (d.CHANNELS,) * 4, 1)
        options["mask_predictor"] = MaskRCNNPredictor(d.CHANNELS, d.CHANNELS, num_logits)
    network = (MaskRCNN if masks else FasterRCNN)(backbone, **options)
    return RCNN(_padding_only(network), cfg.MODEL.NUM_CLASSES, finds_masks=masks)


def retinanet_from_config(cfg: Config, body: VideoModel) -> SingleShot:
    """RetinaNet from the sections DETECTOR, MODEL and DATA of a config; three sizes of anchors per map, as published.

    Args:
        cfg: the config.
        body: the model of MODEL.MODEL_NAME; it loses its head.

    Raises:
        UserError: maps, anchors and stages that do not fit together.
    """
    d = cfg.DETECTOR
    extra = LastLevelP6P7(d.CHANNELS, d.CHANNELS)
    backbone = Pyramid(Maps(body, d.STRIDES, norm=d.NORM_MAPS), d.CHANNELS, extra)
    sizes = [tuple(size * 2 ** (third / 3) for third in range(3)) for size in d.ANCHOR_SIZES]
    network = RetinaNet(
        backbone,
        cfg.MODEL.NUM_CLASSES + 1,  # labels begin with 1
        min_size=1,  # images are never resized
        image_mean=cfg.DATA.MEAN,
        image_std=cfg.DATA.STD,
        size_divisible=max(d.STRIDES),
        anchor_generator=_anchors(sizes, d.ASPECT_RATIOS, len(d.STRIDES) + 2),
        score_thresh=d.MIN_SCORE,
        nms_thresh=d.NMS_IOU,
        detections_per_img=d.MAX_DETECTIONS,
    )
    return SingleShot(_padding_only(network), cfg.MODEL.NUM_CLASSES)


def _anchors(sizes: Sequence[tuple[float, ...]], ratios: tuple[float, ...], num_maps: int) -> AnchorGenerator:
    if len(sizes) != num_maps:
        raise UserError(
            where="DETECTOR.ANCHOR_SIZES",
            found=plural(len(sizes), "size"),
            expected=f"{num_maps}, one per map of DETECTOR.STRIDES and of those that the detector adds",
        )
    return AnchorGenerator(tuple(sizes), (ratios,) * num_maps)


def _padding_only(network: Any) -> nn.Module:
    """The network with `PadOnly` in place of torchvision's resizing."""
    old = network.transform
    network.transform = PadOnly(1, 1, old.image_mean, old.image_std, size_divisible=old.size_divisible)
    module: nn.Module = network
    return module
