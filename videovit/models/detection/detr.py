"""Deformable DETR with box refinement and two stages: transformers' encoder and decoder on the maps of a model.

    maps --1x1 and strided convolutions--> levels --encoder--> a box per place --best ones--> queries --decoder--> boxes

transformers (`pip install -e ".[hf]"`) is imported when such a detector is built. Its own one ties the heads of all
layers and does not train that of the first stage, unlike the paper: the heads are here, matcher and losses are its.

B images, H W pixels, Q queries or places, K classes, N objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import VideoModel
from videovit.models.detection.detector import Detections, Detector, Target
from videovit.models.detection.pyramid import Maps
from videovit.models.layers.basic import vector

_WEIGHTS = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
"""transformers' names of losses -> their weights."""
_COSTS = {"class_cost": 2.0, "bbox_cost": 5.0, "giou_cost": 2.0}
_PRIOR = 0.01  # of any class at the start of training


class MaskedMaps(nn.Module):
    """Maps, and which of their places lie in the image: the backbone of transformers' model."""

    def __init__(self, maps: Maps) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, x_BCHW: Tensor, inside_BHW: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Pairs of (B, C, H', W') and bool (B, H', W')."""
        return [(map_, _resized(inside_BHW, map_.shape[-2:])) for map_ in self.maps(x_BCHW)]


def _resized(inside_BHW: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(inside_BHW[:, None].float(), size=list(size))[:, 0].bool()


class LevelNorm(nn.GroupNorm):
    """GroupNorm that takes a level of one place, too, where a group of one channel gives its bias.

    nn.GroupNorm gives the same, but refuses such a level if it is alone in the batch.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalize every group of channels of every image."""
        return torch.group_norm(x_BCHW, self.num_groups, self.weight, self.bias, self.eps)


class BoxMlp(nn.Sequential):
    """Three layers from a query to a box."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))


class DeformableDETR(Detector):
    """Finds objects by queries, each of which looks at a few places of every level.

    Args:
        maps: of a model.
        num_classes: K.
        mean, std: of the images, per channel.
        dim: channels of a level and of a query.
        num_queries: Q of the decoder.
        num_levels: at least as many as there are maps; further ones are strided convolutions of the last.
        encoder_layers, decoder_layers: how many.
        num_heads: of all attention.
        num_points: places per head and level that a query looks at.
        ffn_dim: hidden channels of the MLPs.
        dropout: in all layers.
        min_score: detections below are left out.
        max_detections: per image.

    Raises:
        UserError: transformers is not installed; or numbers that do not fit together.

    Source: Deformable DETR (arXiv 2010.04159).
    """

    head_names: ClassVar[tuple[str, ...]] = ("network.decoder.class_embed",)
    # The gradient of bilinear sampling has no deterministic kernel.
    is_deterministic_on_gpu: ClassVar[bool] = False
    is_capturable: ClassVar[bool] = True

    def __init__(
        self,
        maps: Maps,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        dim: int = 256,
        num_queries: int = 300,
        num_levels: int = 4,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
        min_score: float = 0.05,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.mean, self.std = tuple(mean), tuple(std)
        self.min_score, self.max_detections = min_score, max_detections
        self.step = max(maps.strides)
        self.num_queries = num_queries
        halvings = range(1, num_levels - len(maps.strides) + 1)  # levels beyond the maps
        self.strides = [*maps.strides, *(self.step << number for number in halvings)]
        _check(dim, num_heads, len(maps.channels), num_levels)
        self.network = _network(
            maps,
            d_model=dim,
            num_queries=num_queries,
            two_stage_num_proposals=num_queries,
            num_feature_levels=num_levels,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            encoder_attention_heads=num_heads,
            decoder_attention_heads=num_heads,
            encoder_n_points=num_points,
            decoder_n_points=num_points,
            encoder_ffn_dim=ffn_dim,
            decoder_ffn_dim=ffn_dim,
            dropout=dropout,
        )
        # The last pair of heads belongs to the first stage, which has one class, the first: object.
        decoder: Any = self.network.decoder
        decoder.class_embed = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(decoder_layers + 1))
        decoder.bbox_embed = nn.ModuleList(BoxMlp(dim) for _ in range(decoder_layers + 1))
        self._init_weights(decoder.class_embed, decoder.bbox_embed, self.network.input_proj)

    @staticmethod
    def _init_weights(classifiers: Any, box_heads: Any, projections: Any) -> None:
        """As published: rare classes, boxes at their reference points, Xavier's levels."""
        for classifier in classifiers:
            nn.init.constant_(classifier.bias, -math.log((1 - _PRIOR) / _PRIOR))
        for head in box_heads:
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)
        for projection in projections:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)

    @property
    def body(self) -> VideoModel:
        """The model of the maps."""
        body = self.network.get_submodule("backbone.maps.body")
        assert isinstance(body, VideoModel)
        return body

    def _run_for_cost(self, x_BCHW: Tensor) -> None:
        """All; the number of queries is fixed."""
        self._run(x_BCHW, x_BCHW.new_ones(len(x_BCHW), *x_BCHW.shape[-2:]))

    def _losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

        logits, boxes, first_logits, first_boxes = self._run(*self._batch(images))
        wanted = [_relative(target, image) for target, image in zip(targets, images, strict=True)]
        only_objects = [{**w, "class_labels": torch.zeros_like(w["class_labels"])} for w in wanted]
        criterion = DeformableDetrImageLoss(
            DeformableDetrHungarianMatcher(**_COSTS), self.num_classes, focal_alpha=0.25, losses=["labels", "boxes"]
        )
        number = sum(len(one["class_labels"]) for one in wanted)
        # The library divides by the objects of this process; the paper by their mean over all processes.
        share = max(number, 1) / max(_mean_over_processes(number), 1.0)
        stages = [("", *out, wanted) for out in zip(logits, boxes, strict=True)]
        stages.append(("_proposals", first_logits, first_boxes, only_objects))
        losses: dict[str, Tensor] = {}
        finite = all(bool(out.isfinite().all()) for _, *outputs, _ in stages for out in outputs)
        for suffix, logits_BQK, boxes_BQ4, labels in stages:
            if finite:
                # Boxes and their losses in full precision: matched by a solver, and differences of small numbers.
                terms = criterion({"logits": logits_BQK.float(), "pred_boxes": boxes_BQ4.float()}, labels)
            else:  # The solver refuses them: hand a loss that is not finite to the training, which stops and says so.
                terms = dict.fromkeys(_WEIGHTS, logits_BQK.float().sum() + boxes_BQ4.float().sum())
            for term, weight in _WEIGHTS.items():
                losses[term + suffix] = losses.get(term + suffix, 0) + share * weight * terms[term]
        return losses

    @torch.no_grad()
    def _detections(self, images: Sequence[Tensor]) -> list[Detections]:
        logits, boxes, _, _ = self._run(*self._batch(images))
        found = []
        for image, logits_QK, boxes_Q4 in zip(images, logits[-1].float(), boxes[-1].float(), strict=True):
            height, width = image.shape[-2:]
            scores, index = logits_QK.sigmoid().flatten().topk(min(self.max_detections, logits_QK.numel()))
            kept = ~(scores < self.min_score)  # also those that are not numbers, which the evaluation reports
            scores, index = scores[kept], index[kept]
            size = vector((width, height, width, height), boxes_Q4)
            corners = box_convert(boxes_Q4[index // self.num_classes], "cxcywh", "xyxy").clamp(0, 1) * size
            found.append({"boxes": corners, "scores": scores, "labels": index % self.num_classes + 1})
        return found

    def _batch(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Normalized images, padded at the right and the bottom, and which pixels are theirs.

        Raises:
            UserError: the images have fewer places than there are queries, each of which takes one.
        """
        H, W = (-(-max(image.shape[axis] for image in images) // self.step) * self.step for axis in (1, 2))
        places = sum(-(-H // stride) * -(-W // stride) for stride in self.strides)
        if places < self.num_queries:
            expected = f"at most {places}, the places in the maps of an image of {W} x {H} pixels, or larger images"
            raise UserError(where="DETECTOR.QUERIES", found=self.num_queries, expected=expected)
        x_BCHW = images[0].new_zeros(len(images), images[0].shape[0], H, W)
        inside_BHW = images[0].new_zeros(len(images), H, W)
        mean, std = (vector(values, images[0])[:, None, None] for values in (self.mean, self.std))
        for image, x, inside in zip(images, x_BCHW, inside_BHW, strict=True):
            _, height, width = image.shape
            x[:, :height, :width] = (image - mean) / std
            inside[:height, :width] = 1
        return x_BCHW, inside_BHW

    def _run(self, x_BCHW: Tensor, inside_BHW: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Logits (B, Q, K) and boxes (B, Q, 4) of every layer of the decoder; then those of the first stage.

        Boxes are center, width and height over the sides of the image.
        """
        out = self.network(x_BCHW, pixel_mask=inside_BHW)
        decoder: Any = self.network.decoder
        references = [out.init_reference_points, *out.intermediate_reference_points.unbind(1)[:-1]]
        logits, boxes = [], []
        for i, (queries, reference) in enumerate(
            zip(out.intermediate_hidden_states.unbind(1), references, strict=True)
        ):
            logits.append(decoder.class_embed[i](queries))
            boxes.append((decoder.bbox_embed[i](queries) + torch.logit(reference, eps=1e-5)).sigmoid())
        return logits, boxes, out.enc_outputs_class, out.enc_outputs_coord_logits.sigmoid()


def _check(dim: int, num_heads: int, num_maps: int, num_levels: int) -> None:
    if dim % num_heads or dim % 32:
        expected = f"a multiple of DETECTOR.NUM_HEADS {num_heads}, and of 32 (groups of the norms)"
        raise UserError(where="DETECTOR.CHANNELS", found=dim, expected=expected)
    if not max(2, num_maps) <= num_levels:
        expected = f"at least 2, and as many as there are maps, {num_maps}"
        raise UserError(where="DETECTOR.LEVELS", found=num_levels, expected=expected)


def _network(maps: Maps, **sizes: Any) -> nn.Module:
    """transformers' model with these maps as its backbone."""
    try:
        from transformers import DeformableDetrConfig, DeformableDetrModel
    except ImportError as error:
        raise UserError(
            "DeformableDETR needs transformers",
            where="DETECTOR.NAME",
            hint='pip install -e ".[hf]"; the other detectors need nothing more',
        ) from error
    # transformers builds a backbone too, and what fits it: a ResNet of one block per map, which is then replaced.
    stages = [f"stage{i + 1}" for i in range(len(maps.channels))]
    backbone = {
        "model_type": "resnet",
        "embedding_size": 8,
        "layer_type": "basic",
        "hidden_sizes": list(maps.channels),
        "depths": [1] * len(stages),
        "out_features": stages,
    }
    config = DeformableDetrConfig(
        backbone_config=backbone, two_stage=True, with_box_refine=True, tie_word_embeddings=False, **sizes
    )
    network: nn.Module = DeformableDetrModel(config)
    network.backbone = MaskedMaps(maps)
    for projection in network.get_submodule("input_proj").children():
        assert isinstance(projection, nn.Sequential) and isinstance(projection[1], nn.GroupNorm)
        projection[1] = LevelNorm(projection[1].num_groups, projection[1].num_channels, eps=projection[1].eps)
    return network


def _mean_over_processes(number: int) -> float:
    """The mean of a number over the processes of a run; in host memory, where every run can exchange it."""
    if not (dist.is_available() and dist.is_initialized()):
        return float(number)
    total = torch.tensor(float(number))
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def _relative(target: Target, image: Tensor) -> dict[str, Tensor]:
    """Boxes and labels as transformers' losses take them: relative to the image, and labels from 0."""
    height, width = image.shape[-2:]
    boxes = box_convert(target["boxes"].float(), "xyxy", "cxcywh")
    return {
        "boxes": boxes / vector((width, height, width, height), boxes),
        "class_labels": target["labels"].long() - 1,
    }


def deformable_detr_from_config(cfg: Config, body: VideoModel) -> DeformableDETR:
    """`DeformableDETR` from the sections DETECTOR, MODEL and DATA of a config.

    Args:
        cfg: the config.
        body: the model of MODEL.MODEL_NAME; it loses its head.

    Raises:
        UserError: as `DeformableDETR` and `Maps`.
    """
    d = cfg.DETECTOR
    return DeformableDETR(
        Maps(body, d.STRIDES or None, norm=d.NORM_MAPS),
        num_classes=cfg.MODEL.NUM_CLASSES,
        mean=cfg.DATA.MEAN,
        std=cfg.DATA.STD,
        dim=d.CHANNELS,
        num_queries=d.QUERIES,
        num_levels=d.LEVELS,
        encoder_layers=d.ENCODER_LAYERS,
        decoder_layers=d.DECODER_LAYERS,
        num_heads=d.NUM_HEADS,
        num_points=d.POINTS,
        ffn_dim=d.FFN_DIM,
        dropout=d.DROPOUT_RATE,
        min_score=d.MIN_SCORE,
        max_detections=d.MAX_DETECTIONS,
    )
