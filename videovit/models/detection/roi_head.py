"""Detection: what the people in given boxes do, from the tokens of a model of clips.

A detector is a model whose head was replaced by a `RoIHead`; its parameters are `head.projection.*`, as in PySlowFast.

B clips, C channels, T H W grid in tokens, N tokens, R boxes, K classes, P bins of a box per axis, S samples of a bin,
X elements of an axis of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import BoxHead, Features, VideoModel
from videovit.models.layers.basic import full_precision
from videovit.models.layers.heads import ClassifierHead


class RoIHead(BoxHead):
    """One vector per box, then a linear layer: mean over time, RoIAlign, maximum over the box, dropout, classifier.

    There is no spatial scale to set: it is the grid over the size of the frames, whatever the stride of the model (1/32
    for MViT, for which SlowFast's default of 1/16 pools the wrong region).

    Args:
        dim: channels of a token.
        num_classes: K.
        resolution: bins of a box per axis.
        aligned: shift by half a token, so that a box covers exactly the tokens under it.
        dropout: probability of the dropout before the layer.
        init_std: of the initial weight of the layer.
        init_scale: factor on it.

    Source: SlowFast (arXiv 1812.03982), section 5; MViT (arXiv 2104.11227), section D.2.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        resolution: int = 7,
        aligned: bool = True,
        dropout: float = 0.0,
        init_std: float = 0.02,
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.resolution, self.aligned = resolution, aligned
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.projection.weight, std=init_std)
        nn.init.zeros_(self.projection.bias)
        self.projection.weight.data.mul_(init_scale)

    def forward(self, features: Features, boxes_R5: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (R, K) of boxes; class tokens are not used.

        Args:
            features: of the clips.
            boxes_R5: index of the clip in the batch, then x1, y1, x2, y2 in pixels of the frames; R may be 0.
            size: (H, W) of the frames in pixels.
        """
        _, height, width = features.grid
        grid_BTHWC = torch.unflatten(features.tokens_BNC, 1, features.grid)
        map_BCHW = grid_BTHWC.mean(dim=1).permute(0, 3, 1, 2)
        scale = (width / size[1], height / size[0])
        features_RC = roi_align(map_BCHW, boxes_R5, scale, bins=self.resolution, aligned=self.aligned).amax(dim=(2, 3))
        logits: Tensor = self.projection(self.dropout(features_RC))
        return logits


def roi_align(map_BCHW: Tensor, boxes_R5: Tensor, scale: tuple[float, float], *, bins: int, aligned: bool) -> Tensor:
    """The map in the bins of every box: the mean of bilinear samples.

    The weights of a sample are a product of one over y and one over x, so a box costs two matrix products. Their
    gradients are deterministic on GPUs, unlike those of torchvision's kernel.

    Args:
        map_BCHW: one map per clip.
        boxes_R5: index of the clip, then x1, y1, x2, y2; R may be 0.
        scale: elements of the map per unit of the boxes, along x and y.
        bins: P.
        aligned: shift by half an element, so that a box covers exactly the elements under it.

    Returns:
        (R, C, P, P) in the dtype of the map; computed in fp32 or wider.

    Source: Mask R-CNN (arXiv 1703.06870), section 3; the number of samples grows with the box, as in torchvision.
    """
    wide = torch.promote_types(map_BCHW.dtype, torch.float32)
    clips_R, boxes_R4 = boxes_R5[:, 0].long(), boxes_R5[:, 1:].to(wide)
    with full_precision(map_BCHW):
        axes = [
            _bin_weights(boxes_R4[:, axis] * s, boxes_R4[:, axis + 2] * s, side, bins, aligned)
            for axis, s, side in zip((0, 1), scale, (map_BCHW.shape[3], map_BCHW.shape[2]), strict=True)
        ]
        x_RPW, y_RPH = axes
        rows_RCHP = map_BCHW.to(wide)[clips_R] @ x_RPW.transpose(1, 2)[:, None]
        return (y_RPH[:, None] @ rows_RCHP).to(map_BCHW.dtype)


def _bin_weights(low_R: Tensor, high_R: Tensor, side: int, bins: int, aligned: bool) -> Tensor:
    """Weights of the elements 0 to side - 1 of one axis in the bins of boxes from `low_R` to `high_R`.

    A bin has one sample per element, rounded up. A sample more than one element outside of the map is zero, a closer
    one takes the border.

    Returns:
        (R, P, X) with P = bins, X = side.
    """
    start_R = low_R - 0.5 if aligned else low_R
    length_R = high_R - low_R if aligned else (high_R - low_R).clamp(min=1)
    bin_R = length_R / bins
    count_R = bin_R.ceil().clamp(min=1)
    step_R11 = (bin_R / count_R)[:, None, None]
    begin_RP1 = (start_R[:, None] + bin_R[:, None] * torch.arange(bins, device=low_R.device))[..., None]
    # A box may be far larger than the map, with any number of samples. Those that can read the map begin at `first`,
    # and they are half an element apart or more, so that 2 * side + 6 of them reach across it.
    first_RP1 = ((-1 - begin_RP1) / step_R11 - 1).floor().nan_to_num().clamp(min=0)
    sample_RPS = first_RP1 + torch.arange(2 * side + 6, device=low_R.device)
    at_RPS = begin_RP1 + (sample_RPS + 0.5) * step_R11
    counts_RPS = (sample_RPS < count_R[:, None, None]) & (bin_R > 0)[:, None, None] & (at_RPS >= -1) & (at_RPS <= side)
    distance_RPSX = at_RPS.clamp(0, side - 1)[..., None] - torch.arange(side, device=low_R.device)
    weights_RPSX = (1 - distance_RPSX.abs()).clamp(min=0) * counts_RPS[..., None]
    return weights_RPSX.sum(dim=2) / count_R[:, None, None]


def box_head_from_config(cfg: Config, model: VideoModel) -> RoIHead:
    """A head for `model.reset_head`, from the sections DETECTION and MODEL of a config.

    Args:
        cfg: the config.
        model: a classifier, whose head says how many channels features have and how its weights are initialized.

    Raises:
        UserError: the head of the model does not classify features of tokens.
    """
    classifier = model.head
    if not isinstance(classifier, ClassifierHead):
        raise UserError(
            f"DETECTION.ENABLE: {cfg.MODEL.MODEL_NAME} (MODEL.MODEL_NAME) cannot have a detection head; MViT can"
        )
    weight = classifier.projection.weight
    with torch.device(weight.device):
        return RoIHead(
            weight.shape[1],
            cfg.MODEL.NUM_CLASSES,
            resolution=cfg.DETECTION.ROI_XFORM_RESOLUTION,
            aligned=cfg.DETECTION.ALIGNED,
            dropout=cfg.MODEL.DROPOUT_RATE,
            init_std=classifier.init_std,
            init_scale=classifier.init_scale,
        )
