"""ResNets over space and time, with one pathway (C2D, I3D, Slow, X3D) or two (SlowFast).

Names of parameters are PySlowFast's: `s1.pathway0_stem`, `s2.pathway0_res0.branch2.a`, `s2_fuse.conv_f2s`,
`s3.pathway0_nonlocal1.conv_theta`, `head.projection`.

B clips, C channels, T H W positions (in x_BCTHW: pixels), K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.errors import UserError
from videovit.models.contract import BoxHead, Features, VideoModel
from videovit.models.convolutional.blocks import (
    Basic,
    BlockShape,
    Bottleneck,
    ChannelwiseBottleneck,
    FuseFastToSlow,
    NonLocal,
    ResBlock,
    SeparableStem,
    Stem,
    average_windows,
    conv3d,
    max_pool_BCTHW,
)
from videovit.models.layers.basic import Triple
from videovit.models.layers.heads import ClassifierHead
from videovit.models.layers.pathways import slow_pathway


@dataclass(frozen=True)
class NonLocalPlan:
    """Where a stage attends to all positions.

    Attributes:
        after: blocks that a non-local block follows.
        groups: parts of the clip, along time, that attend to themselves.
        pool: windows over which keys and values are pooled.
        softmax: see `NonLocal`.
    """

    after: tuple[int, ...] = ()
    groups: int = 1
    pool: Triple = (1, 2, 2)
    softmax: bool = False


@dataclass(frozen=True)
class PathwayStage:
    """One stage of one pathway.

    Attributes:
        blocks: shapes of its residual blocks, in order.
        non_local: where it attends.
        pool_t: frames per frame of the maximum over time behind it; 1 for none.
    """

    blocks: tuple[BlockShape, ...]
    non_local: NonLocalPlan = NonLocalPlan()
    pool_t: int = 1


@dataclass(frozen=True)
class Pathway:
    """What one pathway is made of.

    Attributes:
        stem_dim: channels after the stem.
        stem_kernel_t: frames of its convolution.
        stages: the four stages.
    """

    stem_dim: int
    stem_kernel_t: int
    stages: tuple[PathwayStage, ...]


@dataclass(frozen=True)
class Fusion:
    """How the fast pathway of SlowFast joins the slow one.

    Attributes:
        alpha: frames of the fast pathway per frame of the slow one.
        ratio: channels that join per channel of the fast pathway.
        kernel_t: frames of the convolution.
    """

    alpha: int
    ratio: int
    kernel_t: int


class Stage(nn.Module):
    """Residual blocks of all pathways at one resolution.

    Args:
        transform: a key of `TRANSFORMS`.
        pathways: the stage of each pathway.
    """

    def __init__(self, transform: str, pathways: Sequence[PathwayStage]) -> None:
        super().__init__()
        self.sequences: list[list[str]] = []
        for p, stage in enumerate(pathways):
            names = []
            for i, shape in enumerate(stage.blocks):
                names.append(f"pathway{p}_res{i}")
                self.add_module(names[-1], ResBlock(transform, shape))
                if i in stage.non_local.after:
                    plan = stage.non_local
                    names.append(f"pathway{p}_nonlocal{i}")
                    block = NonLocal(shape.dim_out, pool=plan.pool, softmax=plan.softmax, groups=plan.groups)
                    self.add_module(names[-1], block)
            self.sequences.append(names)

    def forward(self, pathways: Sequence[Tensor]) -> list[Tensor]:
        """The maps (B, C, T, H, W) of all pathways."""
        return [self._run(names, x) for names, x in zip(self.sequences, pathways, strict=True)]

    def _run(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class PooledHead(ClassifierHead):
    """Means over windows of every pathway, side by side, then dropout and a linear layer at every position.

    Args:
        dims: channels of each pathway.
        num_classes: K.
        windows: (t, h, w) of each pathway: its whole map at the size of training.
        dropout: probability of the dropout before the layer.
        init_std: of the initial weights.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        windows: Sequence[Triple],
        dropout: float = 0.0,
        init_std: float = 0.01,
    ) -> None:
        super().__init__(sum(dims), num_classes, dropout=dropout)
        self.windows, self.init_std = tuple(windows), init_std

    def init_weights(self) -> None:
        """Normal weights, zero bias."""
        nn.init.normal_(self.projection.weight, std=self.init_std)
        nn.init.zeros_(self.projection.bias)

    def pooled(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, T', H', W', C): one position at the size of training, more on larger clips."""
        windows = [average_windows(x, window) for x, window in zip(maps, self.windows, strict=True)]
        return torch.cat(windows, dim=1).permute(0, 2, 3, 4, 1)


class ExpandedHead(PooledHead):
    """X3D's: a 1 x 1 x 1 convolution before the mean, a layer of 2048 channels after it, then the classifier.

    Args:
        dim: channels of the map.
        dim_inner: of the convolution.
        dim_out: of the layer.
        num_classes: K.
        windows: (t, h, w) of the only pathway: its whole map at the size of training.
        dropout: probability of the dropout before the classifier.
        init_std: of the initial weights of the classifier.
        norm: a batch norm after the layer.
    """

    def __init__(
        self,
        dim: int,
        dim_inner: int,
        dim_out: int,
        num_classes: int,
        *,
        windows: Sequence[Triple],
        dropout: float = 0.0,
        init_std: float = 0.01,
        norm: bool = False,
    ) -> None:
        super().__init__([dim_out], num_classes, windows=windows, dropout=dropout, init_std=init_std)
        self.conv_5 = conv3d(dim, dim_inner, (1, 1, 1))
        self.conv_5_bn = nn.BatchNorm3d(dim_inner)
        self.lin_5 = conv3d(dim_inner, dim_out, (1, 1, 1))
        self.lin_5_bn = nn.BatchNorm3d(dim_out) if norm else None

    def pooled(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, T', H', W', dim_out), see `PooledHead`."""
        (x,) = maps
        x = average_windows(F.relu(self.conv_5_bn(self.conv_5(x))), self.windows[0])
        x = self.lin_5(x)
        x = F.relu(x if self.lin_5_bn is None else self.lin_5_bn(x))
        return x.permute(0, 2, 3, 4, 1)


class ConvolutionalNetwork(VideoModel):
    """Stem, four stages, head; with two pathways, lateral connections after the stem and the first three stages.

    Args:
        pathways: the only one, or the slow and the fast one.
        head: pools and classifies.
        transform: a key of `TRANSFORMS`.
        fusion: of two pathways; None for one.
        separable_stem: X3D's stem.
        in_channels: of the clip.
        zero_init_norm: the last norm of every block begins at 0, so that a block begins as its shortcut.
        zero_init_conv: the same for the last convolution.

    Source: ResNet (arXiv 1512.03385), I3D (1705.07750), non-local (1711.07971), SlowFast
        (1812.03982), X3D (2004.04730).
    """

    head_names: ClassVar[tuple[str, ...]] = ("head.projection",)
    head: nn.Module

    def __init__(
        self,
        pathways: Sequence[Pathway],
        head: PooledHead,
        *,
        transform: str = "bottleneck_transform",
        fusion: Fusion | None = None,
        separable_stem: bool = False,
        in_channels: int = 3,
        zero_init_norm: bool = False,
        zero_init_conv: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.grid, self.fusion = in_channels, None, fusion
        stem = SeparableStem if separable_stem else Stem
        self.s1 = nn.ModuleDict(
            {
                f"pathway{p}_stem": stem(in_channels, path.stem_dim, path.stem_kernel_t)
                for p, path in enumerate(pathways)
            }
        )
        self.s2, self.s3, self.s4, self.s5 = (Stage(transform, [path.stages[i] for path in pathways]) for i in range(4))
        if fusion is not None:
            fast = pathways[1]
            dims = [fast.stem_dim, *(stage.blocks[-1].dim_out for stage in fast.stages[:3])]
            self.s1_fuse, self.s2_fuse, self.s3_fuse, self.s4_fuse = (
                FuseFastToSlow(dim, fusion.ratio, fusion.kernel_t, fusion.alpha) for dim in dims
            )
        self.pools_t = [stage.pool_t for stage in pathways[0].stages]
        self.head = head
        self._init_weights(zero_init_norm, zero_init_conv)

    def _init_weights(self, zero_norm: bool, zero_conv: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, NonLocal):
                nn.init.zeros_(module.bn.weight)
            elif isinstance(module, Bottleneck | Basic | ChannelwiseBottleneck):
                last_conv, last_norm = module.last()
                if zero_norm:
                    nn.init.zeros_(last_norm.weight)
                if zero_conv:
                    nn.init.zeros_(last_conv.weight)
            elif isinstance(module, PooledHead):
                module.init_weights()

    def reset_head(self, head: nn.Module) -> None:
        """Replace the classifier by another one, (..., C) to (..., K), or the whole head by a `BoxHead`.

        Raises:
            UserError: X3D's features come after its pooling, so boxes have nothing to pool from.
        """
        if isinstance(head, BoxHead):
            if isinstance(self.head, ExpandedHead):
                raise UserError("X3D cannot have a detection head; ResNet, SlowFast and MViT can")
            self.head = head
        elif isinstance(self.head, PooledHead):
            self.head.projection = head  # type: ignore[assignment]
        else:
            self.head = head

    def layers(self) -> list[list[nn.Module]]:
        """One layer per stage, with the lateral connection after it."""
        stages: list[list[nn.Module]] = [[self.s2], [self.s3], [self.s4], [self.s5]]
        if self.fusion is not None:
            for stage, fuse in zip(stages, (self.s2_fuse, self.s3_fuse, self.s4_fuse), strict=False):
                stage.append(fuse)
        return stages

    def head_modules(self) -> list[nn.Module]:
        """The head."""
        return [self.head]

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        """Means over the positions of larger clips."""
        assert isinstance(self.head, PooledHead)
        logits: Tensor = self.head(self.head.pooled(self._run(x_BCTHW)[-1]))
        return logits.mean(dim=(1, 2, 3))

    def _features(self, x_BCTHW: Tensor) -> Features:
        """Tokens of the last map; of two pathways the means over time, side by side."""
        maps = self._run(x_BCTHW)[-1]
        if len(maps) > 1:
            maps = [torch.cat([x.mean(dim=2, keepdim=True) for x in maps], dim=1)]
        T, H, W = maps[0].shape[2:]
        return Features(maps[0].flatten(2).transpose(1, 2), (T, H, W), None)

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        """Of two pathways the slow one, into which the fast one is fused."""
        return [maps[0] for maps in self._run(x_BCTHW)]

    def _run(self, x_BCTHW: Tensor) -> list[list[Tensor]]:
        """The maps of all pathways after every stage, before they are fused."""
        x = [x_BCTHW] if self.fusion is None else [slow_pathway(x_BCTHW, self.fusion.alpha), x_BCTHW]
        x = [stem(pathway) for stem, pathway in zip(self.s1.values(), x, strict=True)]
        x = self._fused("s1_fuse", x)
        maps = []
        for i, stage in enumerate((self.s2, self.s3, self.s4, self.s5)):
            x = stage(x)
            maps.append(x)
            x = self._fused(f"s{i + 2}_fuse", x) if i < 3 else x
            if (t := self.pools_t[i]) > 1:
                x = [max_pool_BCTHW(pathway, (t, 1, 1), (t, 1, 1)) for pathway in x]
        return maps

    def _fused(self, name: str, pathways: list[Tensor]) -> list[Tensor]:
        return pathways if self.fusion is None else list(self.get_submodule(name)(*pathways))
