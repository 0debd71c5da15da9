"""Detection: what the people in given boxes do, from the tokens of a clip model.

B clips, C channels, T H W grid in tokens (in x_BCTHW: pixels), N tokens, R boxes, K classes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from videovit.errors import UserError
from videovit.models.layers.basic import full_precision
from videovit.models.layers.heads import ClassifierHead

Triple = tuple[int, int, int]


class NoDetectorError(UserError):
    """A model that detection cannot be built on."""


class RoIHead(nn.Module):
    """One vector per box, then a linear layer: mean over time, RoIAlign, maximum over the box, dropout, classifier.

    It has no spatial scale to set: the scale is the grid over the size of the frames, whatever the model's stride
    (1/32 for MViT, for which SlowFast's default of 1/16 pools the wrong place).

    Args:
        dim: channels of a token.
        num_classes: K.
        resolution: bins of a box on either side.
        aligned: shift by half a token, so that a box covers the tokens it lies on.
        dropout: probability of the dropout before the layer.
        init_scale: factor on the initial weight and bias of the layer.

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
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.resolution, self.aligned = resolution, aligned
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)
        self.projection.weight.data.mul_(init_scale)

    def forward(self, tokens_BNC: Tensor, grid: Triple, boxes_R5: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits of boxes.

        Args:
            tokens_BNC: of the grid, row by row; what stands in front of it (a class token) is not read.
            grid: (T, H, W).
            boxes_R5: index of the clip in the batch, then x1, y1, x2, y2 in pixels of the frames; R may be 0.
            size: (H, W) of the frames in pixels.

        Returns:
            (R, K).
        """
        _, height, width = grid
        num_tokens = grid[0] * height * width
        grid_BTHWC = tokens_BNC[:, tokens_BNC.shape[1] - num_tokens :].unflatten(1, grid)
        map_BCHW = grid_BTHWC.mean(dim=1).permute(0, 3, 1, 2)
        scale = (width / size[1], height / size[0])
        features_RC = roi_align(map_BCHW, boxes_R5, scale, bins=self.resolution, aligned=self.aligned).amax(dim=(2, 3))
        logits: Tensor = self.projection(self.dropout(features_RC))
        return logits


def roi_align(map_BCHW: Tensor, boxes_R5: Tensor, scale: tuple[float, float], *, bins: int, aligned: bool) -> Tensor:
    """The map in the bins of every box: the mean of samples, each read between the four elements around it.

    A sample's weights are a product of one over y and one over x, so a box costs two matrix products. Their gradients
    are the same in every run, which on GPUs those of torchvision's kernel are not.

    Args:
        map_BCHW: one map per clip.
        boxes_R5: index of the clip, then x1, y1, x2, y2; R may be 0.
        scale: elements of the map per unit of the boxes, along x and y.
        bins: of a box on either side, P.
        aligned: shift by half an element, so that a box covers the elements it lies on.

    Returns:
        (R, C, P, P), dtype of the map; computed in fp32 at least.

    Source: Mask R-CNN (arXiv 1703.06870), section 3; the number of samples follows the size of the box.
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
    """What every element of one axis (0 to side - 1) counts for in the bins of boxes from `low_R` to `high_R`.

    A bin has as many samples as elements, rounded up. Those more than one element away from the map count as zero,
    those nearer as the border.

    Returns:
        (R, bins, side).
    """
    start_R = low_R - 0.5 if aligned else low_R
    length_R = high_R - low_R if aligned else (high_R - low_R).clamp(min=1)
    bin_R = length_R / bins
    count_R = bin_R.ceil().clamp(min=1)
    step_R11 = (bin_R / count_R)[:, None, None]
    begin_RP1 = (start_R[:, None] + bin_R[:, None] * torch.arange(bins, device=low_R.device))[..., None]
    # Boxes may be larger than the map: of all samples only those from the first one near it on, half an element apart
    # or more.
    first_RP1 = ((-1 - begin_RP1) / step_R11 - 1).floor().nan_to_num().clamp(min=0)
    sample_RPS = first_RP1 + torch.arange(2 * side + 6, device=low_R.device)
    at_RPS = begin_RP1 + (sample_RPS + 0.5) * step_R11
    counts_RPS = (sample_RPS < count_R[:, None, None]) & (bin_R > 0)[:, None, None] & (at_RPS >= -1) & (at_RPS <= side)
    distance_RPSX = at_RPS.clamp(0, side - 1)[..., None] - torch.arange(side, device=low_R.device)
    weights_RPSX = (1 - distance_RPSX.abs()).clamp(min=0) * counts_RPS[..., None]
    return weights_RPSX.sum(dim=2) / count_R[:, None, None]


class Detector(nn.Module):
    """A clip model whose classifier is replaced by a RoIHead.

    Parameters keep the names that they have in the clip model, and the head's are `head.projection.*` as in PySlowFast:
    weights of a classifier load but for the head, and optimisers group by the same names.

    Args:
        backbone: has `forward_features(x) -> (tokens, grid)` and its classifier in `head`, which is replaced.
        head: of as many channels as the tokens.
    """

    def __init__(self, backbone: nn.Module, head: RoIHead) -> None:
        super().__init__()
        backbone.head = head
        self.backbone = backbone

    @property
    def grid(self) -> Triple | None:
        """(T, H, W) that the backbone's position tables are made for."""
        return getattr(self.backbone, "grid", None)

    def forward(self, x_BCTHW: Tensor, boxes_R5: Tensor) -> Tensor:
        """Logits (R, K) of boxes.

        Args:
            x_BCTHW: (B, C, T, H, W), normalised.
            boxes_R5: index of the clip in the batch, then x1, y1, x2, y2 in pixels of x; R may be 0.
        """
        tokens_BNC, grid = self.backbone.forward_features(x_BCTHW)
        logits: Tensor = self.backbone.head(tokens_BNC, grid, boxes_R5, tuple(x_BCTHW.shape[3:]))
        return logits

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The backbone's, with the new head."""
        return self.backbone.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """See `nn.Module.load_state_dict`; names as `state_dict` gives them."""
        return self.backbone.load_state_dict(state_dict, strict=strict, assign=assign)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The backbone's, with the new head."""
        return self.backbone.named_parameters(prefix, recurse, remove_duplicate)


def detector_from_config(backbone: nn.Module, cfg: Any) -> Detector:
    """A Detector on a clip model, from the sections DETECTION and MODEL of a config.

    Args:
        backbone: the clip model.
        cfg: `videovit.config.Config`.

    Raises:
        NoDetectorError: the model has no head of its own to replace.
    """
    classifier = getattr(backbone, "head", None)
    if not isinstance(classifier, ClassifierHead) or not hasattr(backbone, "forward_features"):
        raise NoDetectorError(
            f"DETECTION.ENABLE: {cfg.MODEL.MODEL_NAME} (MODEL.MODEL_NAME) cannot carry a detection head; MViT can"
        )
    weight = classifier.projection.weight
    with torch.device(weight.device):
        head = RoIHead(
            weight.shape[1],
            cfg.MODEL.NUM_CLASSES,
            resolution=cfg.DETECTION.ROI_XFORM_RESOLUTION,
            aligned=cfg.DETECTION.ALIGNED,
            dropout=cfg.MODEL.DROPOUT_RATE,
            init_scale=classifier.init_scale,
        )
    return Detector(backbone, head)
