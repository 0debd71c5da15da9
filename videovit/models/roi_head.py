"""Detection: what the people in given boxes do, from the tokens of a clip model.

B clips, C channels, T H W grid in tokens (in x_BCTHW: pixels), N tokens, R boxes, K classes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from videovit.config.errors import UserError
from videovit.models.heads import ClassifierHead

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
        from torchvision.ops import roi_align  # takes a second to import, and classification has no boxes

        _, height, width = grid
        num_tokens = grid[0] * height * width
        grid_BTHWC = tokens_BNC[:, tokens_BNC.shape[1] - num_tokens :].unflatten(1, grid)
        map_BCHW = grid_BTHWC.mean(dim=1).permute(0, 3, 1, 2)
        boxes_R5 = boxes_R5.to(torch.promote_types(boxes_R5.dtype, torch.float32))
        scale = boxes_R5.new_tensor([1.0, width / size[1], height / size[0], width / size[1], height / size[0]])
        pooled = roi_align(
            map_BCHW,
            (boxes_R5 * scale).to(map_BCHW.dtype),
            output_size=self.resolution,
            spatial_scale=1.0,
            sampling_ratio=0,
            aligned=self.aligned,
        )
        features_RC = pooled.amax(dim=(2, 3))
        logits: Tensor = self.projection(self.dropout(features_RC))
        return logits


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
