"""From the stages of a model to maps of chosen strides, which detectors read.

    images --VideoModel.forward_stages--> stages --LayerNorm each--> maps of the chosen strides --FPN--> equal channels

A stride finer than all stages is made by transposed convolutions from the finest one, a coarser one by maximum pooling
from the coarsest, so a model that keeps one resolution (ViT) has a pyramid too.

B images, C channels, H W pixels (of maps: tokens).
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from videovit.errors import UserError
from videovit.models.contract import VideoModel

_PROBED = 256  # pixels; a multiple of all strides in use


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of maps (B, C, H, W)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalize every place."""
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stage(NamedTuple):
    """A map of a model: its channels, and pixels from one place to the next."""

    channels: int
    stride: int


def stages_of(body: VideoModel) -> list[Stage]:
    """What `forward_stages` gives for an image.

    Raises:
        UserError: maps without rows (PSViT with 1d pooling), or strides that are no power of two (PiT-B).
    """
    twin = copy.deepcopy(body).to("meta").eval()
    with torch.no_grad():
        maps = twin.forward_stages(torch.empty(1, body.in_channels, _PROBED, _PROBED, device="meta"))
    stages = []
    for map_BCTHW in maps:
        T, H, W = map_BCTHW.shape[2:]
        if T != 1 or H != W:
            raise UserError(
                f"{type(body).__name__} has maps of {T} x {H} x {W} (T, H, W) for a square image, expected 1 x N x N",
                hint="PSViT has them with PSVIT.POOLING 2d, MViT with DATA.NUM_FRAMES 1",
            )
        stride = 2 ** round(math.log2(_PROBED / H))
        # Patches without padding give up to one place less.
        if not _PROBED // stride - 1 <= H <= _PROBED // stride:
            raise UserError(
                f"{type(body).__name__} has {H} x {H} places for {_PROBED} x {_PROBED} pixels, expected a stride of 2, "
                "4, 8, ... pixels"
            )
        stages.append(Stage(map_BCTHW.shape[1], stride))
    return stages


class Maps(nn.Module):
    """Maps of a model.

    Args:
        body: the model; its head is dropped.
        strides: of the maps in pixels, in order; None: all stages as they are, also several of one stride.
        norm: a LayerNorm for every map.

    Attributes:
        channels: of every map.
        strides: of every map.

    Raises:
        UserError: as `stages_of`; or a stride that lies between those of the stages.

    Source: MViTv2 (arXiv 2112.01526), section 4.2; simple pyramid: ViTDet (arXiv 2203.16527), section 3.
    """

    def __init__(self, body: VideoModel, strides: Sequence[int] | None = None, *, norm: bool = True) -> None:
        super().__init__()
        stages = stages_of(body)
        body.drop_head()
        self.body = body
        own = [stage.stride for stage in stages]
        self.strides = tuple(own if strides is None else strides)
        # Of several stages of one stride the last one counts, but all if the stages are taken as they are.
        last = {stride: i for i, stride in enumerate(own)}
        self.sources = tuple(range(len(own))) if strides is None else tuple(self._source(s, last) for s in self.strides)
        self.norms = nn.ModuleList()
        self.resizers = nn.ModuleList()
        self.channels: list[int] = []
        for source, stride in zip(self.sources, self.strides, strict=True):
            channels = stages[source].channels
            self.norms.append(MapNorm(channels, eps=1e-6) if norm else nn.Identity())
            resizer, channels = _resizer(channels, stages[source].stride, stride)
            self.resizers.append(resizer)
            self.channels.append(channels)
        self._check_use(len(own))

    @staticmethod
    def _source(stride: int, last: dict[int, int]) -> int:
        """The stage that a map of this stride is made from."""
        nearest = min(max(stride, min(last)), max(last))
        if nearest not in last:
            raise UserError(
                where="DETECTOR.STRIDES", found=stride, expected=f"a stride of the stages, {sorted(last)}, or outside"
            )
        return last[nearest]

    def _check_use(self, num_stages: int) -> None:
        """The last stage is read: the blocks of later ones would be computed and trained for nothing."""
        if num_stages - 1 not in self.sources:
            raise UserError(
                where="DETECTOR.STRIDES",
                found=list(self.strides),
                expected="strides up to that of the last stage; a model with fewer stages makes no others",
            )

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """The maps (B, C, H', W') of normalized images of any size, each H / stride rounded up."""
        step, (H, W) = max(self.strides), x_BCHW.shape[-2:]
        x_BCHW = F.pad(x_BCHW, (0, -W % step, 0, -H % step))
        stages = [map_BCTHW[:, :, 0] for map_BCTHW in self.body.forward_stages(x_BCHW)]
        return [
            resizer(norm(stages[source]))
            for source, norm, resizer in zip(self.sources, self.norms, self.resizers, strict=True)
        ]


def _resizer(channels: int, old: int, new: int) -> tuple[nn.Module, int]:
    """What makes a map of another stride, and the channels that it gives."""
    if new > old:
        return nn.MaxPool2d(new // old, new // old, ceil_mode=True), channels
    steps: list[nn.Module] = []
    while old > new:
        steps += [] if not steps else [MapNorm(channels, eps=1e-6), nn.GELU()]
        steps.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        old, channels = old // 2, channels // 2
    return nn.Sequential(*steps), channels


class Pyramid(nn.Module):
    """Maps with equal channels, named "0", "1", ... as torchvision's detectors expect them.

    Args:
        maps: of a model.
        channels: of every level.
        extra: makes further, coarser levels.

    Attributes:
        out_channels: as `channels`; torchvision reads it.

    Source: FPN (arXiv 1612.03144).
    """

    def __init__(self, maps: Maps, channels: int, extra: ExtraFPNBlock) -> None:
        super().__init__()
        self.maps, self.out_channels = maps, channels
        self.fpn = FeaturePyramidNetwork(maps.channels, channels, extra)

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Name of a level -> map (B, C, H', W')."""
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(i), x) for i, x in enumerate(self.maps(x_BCHW))))
        return levels
