"""PS-ViT: a vision transformer that moves its sampling points to where there is something to see, for images and clips.

    convolutions, every frame on its own -> a regular grid of points on their map
    -> per iteration: read the map at the points, add positions, one block, move the points
    -> class token in front -> blocks -> class token (or the mean of all tokens) -> head

(PS for progressive sampling; PSViT, pooling and sharing, is another model.) A point is (t, y, x) in index units of the
map: whole numbers are its elements. Image pixels are 4 times as many, and index p looks at pixel 4 p.

B clips, C channels, T H W frames and sides of the map (in x_BCTHW: pixels), N points, X class tokens, I iterations,
K classes.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.models.layers.basic import Triple, full_precision, vector
from videovit.models.layers.transformer import Block, ClassTokenModel, SizeError, drop_path_rates

Time = Literal["points", "planes", "frames"]

_TINY = {"dim": 192, "num_heads": 3, "stem_dim": 192, "iterations": 4, "depth": 8}
_BASE = {"dim": 384, "num_heads": 6, "stem_dim": 256, "iterations": 4, "depth": 10}
PS_VIT_PRESETS: dict[str, dict[str, Any]] = {
    "ps_vit_ti_14": {**_TINY, "points": (14, 14)},
    "ps_vit_b_10": {**_BASE, "points": (10, 10)},
    "ps_vit_b_12": {**_BASE, "points": (12, 12)},
    "ps_vit_b_14": {**_BASE, "points": (14, 14)},
    "ps_vit_b_16": {**_BASE, "points": (16, 16)},
    "ps_vit_b_18": {**_BASE, "points": (18, 18)},
}
"""Arguments of `ProgressiveSamplingViT` for published models; each also with `share_sampler=True`."""


def initial_points(points: Triple, size: Triple) -> Tensor:
    """A regular grid of points on a map.

    In space as published: the centres of equal cells, (i + 0.5) * side / number, which is half an element below and
    right of symmetric. In time symmetric, (k + 0.5) * T / number - 0.5, so that as many points as frames stand on them.

    Args:
        points: number over (t, y, x).
        size: (T, H, W) of the map.

    Returns:
        (N, 3) in float32, columns (t, y, x), row by row.
    """
    axes = [(torch.arange(n) + 0.5) * (side / n) for n, side in zip(points, size, strict=True)]
    axes[0] = axes[0] - 0.5
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def sample_map(map_BCTHW: Tensor, points_BN3: Tensor) -> Tensor:
    """Read a map between its elements: the mean of the neighbours by distance, zeros outside.

    Args:
        map_BCTHW: with T = 1 the first column of the points is not looked at.
        points_BN3: (t, y, x) in index units; same dtype.

    Returns:
        (B, N, C); differentiable in both arguments.

    Source: PS-ViT (arXiv 2108.01684), eq. 4.
    """
    if map_BCTHW.shape[2] == 1:
        map_BCTHW, points_BN3 = map_BCTHW[:, :, 0], points_BN3[..., 1:]
    if map_BCTHW.device.type != "cpu" and torch.are_deterministic_algorithms_enabled():
        return _sample_by_index(map_BCTHW, points_BN3)
    sides = vector(map_BCTHW.shape[2:], points_BN3)
    # grid_sample counts from the edges of the map, which are at -1 and 1, and wants x first. (Counting from the first
    # and last element instead divides by T - 1.)
    where = ((2 * points_BN3 + 1) / sides - 1).flip(-1)
    for _ in range(map_BCTHW.dim() - 3):
        where = where.unsqueeze(2)
    read = F.grid_sample(map_BCTHW, where, mode="bilinear", padding_mode="zeros", align_corners=False)
    return read.flatten(2).transpose(1, 2)


def _sample_by_index(map_BCX: Tensor, points_BNA: Tensor) -> Tensor:
    """`sample_map` neighbour by neighbour: slower, but GPUs sum its gradients in the same order every time.

    Args:
        map_BCX: of two or three axes.
        points_BNA: as many coordinates.
    """
    sides = map_BCX.shape[2:]
    values_SC = map_BCX.flatten(2).transpose(1, 2).flatten(0, 1)
    clip_B1 = torch.arange(len(map_BCX), device=map_BCX.device)[:, None]
    low_BNA = points_BNA.detach().floor()
    read_BNC = torch.zeros((), dtype=map_BCX.dtype, device=map_BCX.device)
    for corner in product((0, 1), repeat=len(sides)):
        index_BN, weight_BN = clip_B1, torch.ones_like(points_BNA[..., 0])
        for axis, (step, side) in enumerate(zip(corner, sides, strict=True)):
            at_BN = low_BNA[..., axis] + step
            near_BN = 1 - (points_BNA[..., axis] - at_BN).abs()
            weight_BN = weight_BN * torch.where((at_BN < 0) | (at_BN >= side), 0, near_BN)
            # What is not a number stays so in the weight; as an index it would end the process on a GPU.
            index_BN = index_BN * side + at_BN.nan_to_num().clamp(0, side - 1).long()
        read_BNC = read_BNC + weight_BN[..., None] * values_SC[index_BN]
    return read_BNC


class Bottleneck(nn.Module):
    """Residual unit of three convolutions with batch norm.

    Args:
        dim: channels in.
        width: channels between.
        dim_out: channels out; where they differ from `dim` the shortcut is a convolution.

    Source: ResNet (arXiv 1512.03385).
    """

    def __init__(self, dim: int, width: int, dim_out: int, *, project: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(dim, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, dim_out, 1, bias=False), nn.BatchNorm2d(dim_out)
        self.shortcut = None
        if project:
            self.shortcut = nn.Sequential(nn.Conv2d(dim, dim_out, 1, bias=False), nn.BatchNorm2d(dim_out))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, dim_out, H, W) of (B, dim, H, W)."""
        y = F.relu(self.norm1(self.conv1(x_BCHW)))
        y = F.relu(self.norm2(self.conv2(y)))
        shortcut = x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)
        return F.relu(self.norm3(self.conv3(y)) + shortcut)


class ConvStem(nn.Module):
    """From pixels to the map that is sampled: the beginning of a ResNet-50, a quarter of the sides.

    Args:
        in_channels: of the clip.
        width: channels of the first convolution and inside the units.
        stem_dim: channels between the units.
        dim: channels out.
    """

    def __init__(self, in_channels: int, width: int, stem_dim: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        first = Bottleneck(width, width, stem_dim, project=True)
        self.units = nn.ModuleList([first, Bottleneck(stem_dim, width, dim, project=stem_dim != dim)])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim, T, H / 4, W / 4) of (B, C, T, H, W), every frame on its own."""
        y = x_BCTHW.transpose(1, 2).flatten(0, 1)
        y = F.max_pool2d(F.relu(self.norm(self.conv(y))), 3, stride=2, padding=1)
        for unit in self.units:
            y = unit(y)
        return y.unflatten(0, (x_BCTHW.shape[0], -1)).transpose(1, 2)


class SamplingBlock(Block):
    """A block, and the linear layer that says where its tokens want to look next.

    Args:
        dim: C.
        num_heads: M.
        num_axes: of an offset, 3 (t, y, x) or 2 (y, x); 0: the last iteration, nothing moves.
        sizes: further arguments of `Block`.
    """

    def __init__(self, dim: int, num_heads: int, *, num_axes: int, **sizes: Any) -> None:
        super().__init__(dim, num_heads, **sizes)
        self.offset = nn.Linear(dim, num_axes) if num_axes else None

    def offsets(self, x_BNC: Tensor, num_frames: int) -> Tensor:
        """(B, N, 3) of (B, N, C); nothing moves in time where there is none, nor between frames with two axes."""
        offsets: Tensor = self.offset(x_BNC.to(self.offset.weight.dtype))
        if offsets.shape[-1] == 2:
            return F.pad(offsets, (1, 0))
        return offsets * vector([0.0, 1.0, 1.0], offsets) if num_frames == 1 else offsets


class ProgressiveSamplingViT(ClassTokenModel):
    """Vision transformer with progressive sampling.

    Args:
        dim: channels of a token.
        num_heads: of each block.
        iterations: rounds of sampling, one block each.
        depth: blocks after them.
        points: number of points over (y, x) in a frame; any, whatever the size of the image.
        time_points: number of points over time; 0: one per frame.
        time: how a clip is read. `points`: they move in (t, y, x); `planes`: in (y, x), each in its frame, and tokens
            of all frames attend to each other; `frames`: every frame is an image of its own, and features are averaged.
        share_sampler: one block and one offset layer for all iterations.
        gamma: factor on the offsets.
        cls_token: whether a class token is classified; False: the mean of the tokens, which have none among them.
        num_classes: K.
        num_frames: T of the clips it is made for; with 1 there are no parameters about time.
        in_channels: of the clip.
        stem_width, stem_dim: channels of the convolutions, see `ConvStem`.
        mlp_ratio: hidden channels of the MLPs over `dim`.
        dropout: inside attention and MLP.
        drop_path: rate of the last block; grows linearly from 0. A shared block has the mean of its iterations.
        head_dropout: in front of the classifier.
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        SizeError: heads that do not divide `dim`, or no iteration.

    Source: PS-ViT (arXiv 2108.01684); clips are this project's extension.
    """

    def __init__(
        self,
        *,
        dim: int = 384,
        num_heads: int = 6,
        iterations: int = 4,
        depth: int = 10,
        points: tuple[int, int] = (14, 14),
        time_points: int = 0,
        time: Time = "points",
        share_sampler: bool = False,
        gamma: float = 1.0,
        cls_token: bool = True,
        num_classes: int = 1000,
        num_frames: int = 1,
        in_channels: int = 3,
        stem_width: int = 64,
        stem_dim: int = 256,
        mlp_ratio: float = 3.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__(
            dim=dim,
            dim_out=dim,
            num_classes=num_classes,
            cls_token=cls_token,
            head_dropout=head_dropout,
            eps=1e-5,
            act_checkpoint=act_checkpoint,
        )
        if iterations < 1:
            raise SizeError("tokens come from sampling: at least one iteration is needed")
        self.points, self.time_points, self.time, self.gamma = tuple(points), time_points, time, gamma
        self.iterations, self.share_sampler = iterations, share_sampler
        in_time = num_frames > 1 and time != "frames"
        num_axes = 3 if in_time and time == "points" else 2
        self.stem = ConvStem(in_channels, stem_width, stem_dim, dim)
        self.pos_layer = nn.Linear(3 if in_time else 2, dim)
        sizes = {"mlp_ratio": mlp_ratio, "qkv_bias": False, "dropout": dropout, "eps": 1e-5}
        rates = drop_path_rates(drop_path, iterations + depth)
        sampling, rest = rates[:iterations], rates[iterations:]
        if share_sampler:
            sampling = [sum(sampling) / iterations]
        self.blocks = nn.ModuleList()
        for i, rate in enumerate(sampling):
            moves = iterations > 1 if share_sampler else i < iterations - 1
            axes = num_axes if moves else 0
            self.blocks.append(SamplingBlock(dim, num_heads, num_axes=axes, drop_path=rate, **sizes))
        self.blocks.extend(Block(dim, num_heads, drop_path=rate, **sizes) for rate in rest)
        self._init_weights()

    def _init_weights(self) -> None:
        """Truncated normal (0.02) for linear layers, but points stand still and time is unknown; convs as PyTorch."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            if isinstance(block, SamplingBlock) and block.offset is not None:
                nn.init.zeros_(block.offset.weight)
        if self.pos_layer.in_features == 3:
            with torch.no_grad():
                self.pos_layer.weight[:, 0] = 0.0
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Logits of a batch of clips.

        Args:
            x_BCTHW: (B, C, T, H, W), normalised; images with T = 1.

        Returns:
            (B, K).
        """
        x_BNC, num_frames = self._encode(x_BCTHW)
        found_BC = self.norm(x_BNC[:, 0]) if self.num_cls else self.norm(x_BNC).mean(dim=1)
        logits: Tensor = self.head(self._mean_of_frames(found_BC, num_frames))
        return logits

    def forward_features(self, x_BCTHW: Tensor) -> tuple[Tensor, Triple]:
        """Tokens of the last block, normalised.

        Args:
            x_BCTHW: (B, C, T, H, W), normalised.

        Returns:
            tokens: (B, X + N, C), class token first, then the points in the order of their initial grid.
            grid: (T, H, W) of that grid, N = T * H * W.
        """
        x_BNC, num_frames = self._encode(x_BCTHW)
        x_BNC = self.norm(x_BNC)
        cls_BXC = self._mean_of_frames(x_BNC[:, : self.num_cls], num_frames)
        tokens_BNC = x_BNC[:, self.num_cls :].reshape(x_BCTHW.shape[0], -1, x_BNC.shape[-1])
        T, (H, W) = tokens_BNC.shape[1] // (self.points[0] * self.points[1]), self.points
        return torch.cat([cls_BXC, tokens_BNC], dim=1), (T, H, W)

    def sampling_points(self, x_BCTHW: Tensor) -> Tensor:
        """Where the model looks.

        Args:
            x_BCTHW: (B, C, T, H, W), normalised.

        Returns:
            (I, B, N, 3): points (t, y, x) of each iteration in index units of the map (image pixel 4 p), in the order
            of `forward_features`; they may lie outside. With `time='frames'` t is the number of the frame.
        """
        map_BCTHW = self._map(x_BCTHW)
        points_IBN3 = torch.stack([points for _, points in self._sample(map_BCTHW)])
        num_clips, num_frames = x_BCTHW.shape[0], map_BCTHW.shape[0] // x_BCTHW.shape[0]
        if num_frames == 1:
            return points_IBN3
        split = points_IBN3.unflatten(1, (num_clips, num_frames)).clone()
        split[..., 0] = torch.arange(num_frames, device=split.device, dtype=split.dtype)[:, None]
        return split.flatten(2, 3)

    @staticmethod
    def _mean_of_frames(x: Tensor, num_frames: int) -> Tensor:
        return x if num_frames == 1 else x.unflatten(0, (-1, num_frames)).mean(dim=1)

    def _map(self, x_BCTHW: Tensor) -> Tensor:
        """The map to sample; with `time='frames'` frames become clips of their own."""
        map_BCTHW: Tensor = self.stem(x_BCTHW)
        if self.time == "frames":
            map_BCTHW = map_BCTHW.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        return map_BCTHW

    def _encode(self, x_BCTHW: Tensor) -> tuple[Tensor, int]:
        """Tokens of the last block, and how many rows of the batch belong to one clip."""
        map_BCTHW = self._map(x_BCTHW)
        for tokens_BNC, _ in self._sample(map_BCTHW):
            x_BNC = tokens_BNC
        x_BNC = self.with_cls(x_BNC)
        for block in self.blocks[1 if self.share_sampler else self.iterations :]:
            x_BNC = self.run_block(block, x_BNC)
        return x_BNC, map_BCTHW.shape[0] // x_BCTHW.shape[0]

    def _sample(self, map_BCTHW: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens (B, N, C) and points (B, N, 3) of every iteration.

        Only the reading of the map sends gradients into the offsets; the points that are carried on, and their
        positions, do not.
        """
        B, _, T, H, W = map_BCTHW.shape
        number = (min(self.time_points or T, T), *self.points)
        # Coordinates and what is read at them stay in float32 under autocast: bf16 knows index 54 to a quarter only.
        map_BCTHW = map_BCTHW.to(torch.promote_types(map_BCTHW.dtype, torch.float32))
        points_BN3 = initial_points(number, (T, H, W)).to(map_BCTHW).expand(B, -1, -1)
        moved_BN3, x_BNC = points_BN3, None
        for i in range(self.iterations):
            block = self.blocks[0 if self.share_sampler else i]
            with full_precision(map_BCTHW):
                read_BNC = sample_map(map_BCTHW, moved_BN3) + self._positions(points_BN3, (T, H, W))
                x_BNC = read_BNC if x_BNC is None else read_BNC + x_BNC
            x_BNC = self.run_block(block, x_BNC.to(self.norm.weight.dtype))
            yield x_BNC, points_BN3
            if i < self.iterations - 1:
                with full_precision(map_BCTHW):
                    step_BN3 = self.gamma * block.offsets(x_BNC, T).to(points_BN3.dtype)
                moved_BN3 = points_BN3 + step_BN3
                points_BN3 = moved_BN3.detach()

    def _positions(self, points_BN3: Tensor, size: Triple) -> Tensor:
        """(B, N, C) of points as fractions of the map."""
        layer = self.pos_layer
        fractions = (points_BN3 / vector(size, points_BN3))[..., 3 - layer.in_features :]
        positions: Tensor = layer(fractions.to(layer.weight.dtype))
        return positions


def ps_vit_from_config(cfg: Any) -> ProgressiveSamplingViT:
    """`ProgressiveSamplingViT` from the sections DATA, PS_VIT and MODEL of a config.

    Args:
        cfg: `videovit.config.Config`.

    Returns:
        The model, initialised.

    Raises:
        SizeError: sizes that do not fit together.
    """
    p = cfg.PS_VIT
    return ProgressiveSamplingViT(
        dim=p.EMBED_DIM,
        num_heads=p.NUM_HEADS,
        iterations=p.ITERATIONS,
        depth=p.DEPTH,
        points=tuple(p.POINTS),
        time_points=p.TIME_POINTS,
        time=p.TIME,
        share_sampler=p.SHARE_SAMPLER,
        gamma=p.GAMMA,
        cls_token=p.CLS_TOKEN,
        num_classes=cfg.MODEL.NUM_CLASSES,
        num_frames=cfg.DATA.NUM_FRAMES,
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        stem_width=p.STEM_WIDTH,
        stem_dim=p.STEM_DIM,
        mlp_ratio=p.MLP_RATIO,
        dropout=p.DROPOUT_RATE,
        drop_path=p.DROPPATH_RATE,
        head_dropout=cfg.MODEL.DROPOUT_RATE,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
    )
