"""PS-ViT (progressive sampling): a vision transformer that moves its sampling points to the salient places of a clip.

    convolutions, every frame alone -> a regular grid of points on their map
    -> per iteration: read the map at the points, add positions, one block, move the points
    -> prepend the class token -> blocks -> class token (or the mean of all tokens) -> head

PSViT, pooling and sharing, is another model. A point is (t, y, x) in index units of the map: integers are its elements.
The image has 4 times as many pixels per side, and index p corresponds to pixel 4 p.

B clips, C channels, T H W frames and sides of the map (in x_BCTHW: pixels), N points, X class tokens, I iterations,
K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import AttentionTokens, Features, Grid
from videovit.models.layers.basic import Triple, full_precision, vector
from videovit.models.layers.conv_stem import ConvStem
from videovit.models.layers.transformer import Block, ClassTokenModel, drop_path_rates, init_linear

Time = Literal["points", "planes", "frames"]

_TINY: dict[str, Any] = {"dim": 192, "num_heads": 3, "stem_dim": 192, "iterations": 4, "depth": 8}
_BASE: dict[str, Any] = {"dim": 384, "num_heads": 6, "stem_dim": 256, "iterations": 4, "depth": 10}
PROGRESSIVE_SAMPLING_PRESETS: dict[str, dict[str, Any]] = {
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

    In space as published: the centers of equal cells, (i + 0.5) * side / number, half an element below and to the right
    of symmetric. In time symmetric, (k + 0.5) * T / number - 0.5: with as many points as frames, each is on a frame.

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
    """Read a map between its elements: neighbors weighted by distance, zeros outside.

    Args:
        map_BCTHW: if T = 1, the first column of the points is ignored.
        points_BN3: (t, y, x) in index units; same dtype.

    Returns:
        (B, N, C); differentiable in both arguments.

    Source: PS-ViT (arXiv 2108.01684), eq. 4.
    """
    if map_BCTHW.shape[2] == 1:
        map_BCTHW, points_BN3 = map_BCTHW[:, :, 0], points_BN3[..., 1:]
    # Deterministic gradients on GPUs, and graphs for programs that can read images between pixels, but not clips.
    in_graph = torch.compiler.is_exporting() and map_BCTHW.dim() == 5
    if in_graph or (map_BCTHW.device.type != "cpu" and torch.are_deterministic_algorithms_enabled()):
        return _sample_by_index(map_BCTHW, points_BN3)
    sides = vector(map_BCTHW.shape[2:], points_BN3)
    # grid_sample puts the edges of the map at -1 and 1, and expects x first. (Its other convention puts the first and
    # last element there, which divides by T - 1.)
    where = ((2 * points_BN3 + 1) / sides - 1).flip(-1)
    for _ in range(map_BCTHW.dim() - 3):
        where = where.unsqueeze(2)
    read = F.grid_sample(map_BCTHW, where, mode="bilinear", padding_mode="zeros", align_corners=False)
    return read.flatten(2).transpose(1, 2)


def _sample_by_index(map_BCX: Tensor, points_BNA: Tensor) -> Tensor:
    """`sample_map` neighbor by neighbor: slower, but of plain operations, and its gradients are deterministic on GPUs.

    Args:
        map_BCX: with two or three axes X.
        points_BNA: one coordinate per axis.
    """
    sides = map_BCX.shape[2:]
    values_SC = map_BCX.flatten(2).transpose(1, 2).flatten(0, 1)
    clip_B1 = torch.arange(map_BCX.shape[0], device=map_BCX.device)[:, None]
    low_BNA = points_BNA.detach().floor()
    read_BNC = torch.zeros((), dtype=map_BCX.dtype, device=map_BCX.device)
    for corner in product((0, 1), repeat=len(sides)):
        index_BN, weight_BN = clip_B1, torch.ones_like(points_BNA[..., 0])
        for axis, (step, side) in enumerate(zip(corner, sides, strict=True)):
            at_BN = low_BNA[..., axis] + step
            near_BN = 1 - (points_BNA[..., axis] - at_BN).abs()
            weight_BN = weight_BN * torch.where((at_BN < 0) | (at_BN >= side), 0, near_BN)
            # NaN reaches the result through the weight; as an index it would abort the process on a GPU.
            index_BN = index_BN * side + at_BN.nan_to_num().clamp(0, side - 1).long()
        read_BNC = read_BNC + weight_BN[..., None] * values_SC[index_BN]
    return read_BNC


class SamplingBlock(Block):
    """A block, and the linear layer that predicts where its tokens sample next.

    Args:
        dim: C.
        num_heads: M.
        num_axes: of an offset, 3 (t, y, x) or 2 (y, x); 0: the last iteration, after which nothing moves.
        mlp_ratio, qkv_bias, dropout, drop_path, eps: as in `Block`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_axes: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(
            dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, dropout=dropout, drop_path=drop_path, eps=eps
        )
        self.offset = nn.Linear(dim, num_axes) if num_axes else None

    def offsets(self, x_BNC: Tensor, num_frames: int) -> Tensor:
        """(B, N, C) to (B, N, 3); nothing moves in time with two axes, or in a clip of one frame."""
        assert self.offset is not None, "the last iteration has no offsets"
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
        points: number of points over (y, x) in a frame, independent of the size of the image.
        time_points: number of points over time; 0: one per frame.
        time: how a clip is read. `points`: they move in (t, y, x). `planes`: they move in (y, x), each in its frame,
            and tokens of all frames attend to each other. `frames`: every frame is an image, features are averaged.
        share_sampler: one block and one offset layer for all iterations.
        gamma: factor on the offsets.
        cls_token: classify a class token; False: there is none, and the mean of the tokens is classified.
        num_classes: K.
        num_frames: T of the clips; with 1 the model has no parameters for time.
        in_channels: of the clip.
        stem_width, stem_dim: channels of the convolutions, see `ConvStem`.
        mlp_ratio: hidden channels of the MLPs over `dim`.
        dropout: inside attention and MLP.
        drop_path: rate of the last block; grows linearly from 0. A shared block has the mean over its iterations.
        head_dropout: before the classifier.
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        UserError: heads that do not divide `dim`, or no iteration.

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
            raise UserError("tokens come from sampling: at least one iteration is needed")
        self.in_channels = in_channels
        self.grid = None  # positions are computed from the points
        self.points, self.time_points, self.time, self.gamma = points, time_points, time, gamma
        self.iterations, self.share_sampler = iterations, share_sampler
        in_time = num_frames > 1 and time != "frames"
        num_axes = 3 if in_time and time == "points" else 2
        self.stem = ConvStem(in_channels, stem_width, stem_dim, dim)
        self.pos_layer = nn.Linear(3 if in_time else 2, dim)
        sizes: dict[str, Any] = {"mlp_ratio": mlp_ratio, "qkv_bias": False, "dropout": dropout, "eps": 1e-5}
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
        """Truncated normal (0.02) for linear layers; convolutions as PyTorch."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)
        # Training starts from the regular grid: no point moves yet.
        for block in self.blocks:
            if isinstance(block, SamplingBlock) and block.offset is not None:
                nn.init.zeros_(block.offset.weight)
        # A clip starts as a set of images, so that weights of images mean the same in it.
        if self.pos_layer.in_features == 3:
            with torch.no_grad():
                self.pos_layer.weight[:, 0] = 0.0
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def units_to_shard(self) -> Iterator[nn.Module]:
        """Blocks, but of sampling blocks attention and MLP: offset layers are called from outside of their block."""
        for block in self.blocks:
            if isinstance(block, SamplingBlock):
                yield from (block.attn, block.mlp)
            else:
                yield block

    def sampling_points(self, x: Tensor) -> Tensor:
        """The points at which the model reads the map.

        Args:
            x: clips (B, C, T, H, W) or images (B, C, H, W), normalized.

        Returns:
            (I, B, N, 3): points (t, y, x) of each iteration in index units of the map (image pixel 4 p), in the order
            of `Features.tokens_BNC`; they may lie outside. With `time='frames'` t is the number of the frame.
        """
        x_BCTHW = self.as_clips(x)
        map_BCTHW = self._map(x_BCTHW)
        points_IBN3 = torch.stack([points for _, points in self._sample(map_BCTHW)])
        num_clips, num_rows = x_BCTHW.shape[0], map_BCTHW.shape[0]
        if num_rows == num_clips:
            return points_IBN3
        split = torch.unflatten(points_IBN3, 1, (num_clips, -1)).clone()
        split[..., 0] = torch.arange(num_rows // num_clips, device=split.device, dtype=split.dtype)[:, None]
        return split.flatten(2, 3)

    def attention_tokens(self, x: Tensor) -> list[AttentionTokens]:
        """Tokens are at the points of their iteration, and in the blocks after these at the last points.

        See `AttentionModel.attention_tokens`; with `time='frames'` B counts frames, as in the attention maps.
        """
        x_BCTHW = self.as_clips(x)
        T, H, W = x_BCTHW.shape[2:]
        points_IBN3 = self.sampling_points(x_BCTHW)
        if self.time == "frames":
            points_IBN3 = torch.unflatten(points_IBN3, 2, (T, -1)).flatten(1, 2)
        # Index 0 of time is the first frame itself; in space, points are counted from the edge, see `initial_points`.
        where_IBN3 = points_IBN3 + vector([0.5, 0.0, 0.0], points_IBN3)
        where_IBN3 = where_IBN3 / vector([T, -(-H // 4), -(-W // 4)], points_IBN3)
        num_rest = len(self.blocks) - (1 if self.share_sampler else self.iterations)
        sampling = [AttentionTokens(0, where, where) for where in where_IBN3]
        return sampling + [AttentionTokens(self.num_cls, where_IBN3[-1], where_IBN3[-1])] * num_rest

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        x_BNC, _ = self._encode(x_BCTHW)
        found_BC = self.norm(x_BNC[:, 0]) if self.num_cls else self.norm(x_BNC).mean(dim=1)
        logits: Tensor = self.head(_mean_of_frames(found_BC, x_BCTHW.shape[0]))
        return logits

    def _features(self, x_BCTHW: Tensor) -> Features:
        """Tokens are in the order of the initial grid of points; with `time='frames'` class tokens are averaged."""
        x_BNC, grid = self._encode(x_BCTHW)
        num_clips, x_BNC = x_BCTHW.shape[0], self.norm(x_BNC)
        cls_BXC = _mean_of_frames(x_BNC[:, : self.num_cls], num_clips) if self.num_cls else None
        return Features(_frames_in_line(x_BNC[:, self.num_cls :], num_clips), grid, cls_BXC)

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        x_BNC, grid = self._encode(x_BCTHW)
        tokens_BNC = _frames_in_line(x_BNC[:, self.num_cls :], x_BCTHW.shape[0])
        return [torch.unflatten(tokens_BNC.transpose(1, 2), 2, grid)]

    def _map(self, x_BCTHW: Tensor) -> Tensor:
        """The map to sample; with `time='frames'` every frame becomes a clip."""
        map_BCTHW: Tensor = self.stem(x_BCTHW)
        if self.time == "frames":
            map_BCTHW = map_BCTHW.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        return map_BCTHW

    def _encode(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        """Tokens of the last block, class token first, and the grid of a clip's points.

        With `time='frames'` the batch holds B * T frames, the frames of a clip next to each other.
        """
        map_BCTHW = self._map(x_BCTHW)
        # Of all iterations only the last one's tokens are kept.
        for tokens_BNC, _ in self._sample(map_BCTHW):
            x_BNC = tokens_BNC
        H, W = self.points
        T = x_BNC.shape[1] // (H * W) * (map_BCTHW.shape[0] // x_BCTHW.shape[0])
        x_BNC = self.with_cls(x_BNC)
        for block in self.blocks[1 if self.share_sampler else self.iterations :]:
            x_BNC = self.run_block(block, x_BNC)
        return x_BNC, (T, H, W)

    def _sample(self, map_BCTHW: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens (B, N, C) and points (B, N, 3) of every iteration.

        Gradients reach the offsets only through the reading of the map: the points that the next iteration starts
        from, and their positions, are detached.
        """
        B, _, T, H, W = map_BCTHW.shape
        number = (min(self.time_points or T, T), *self.points)
        # Coordinates and what is read at them stay in float32 under autocast: bf16 resolves index 54 to 1/4 only.
        map_BCTHW = map_BCTHW.to(torch.promote_types(map_BCTHW.dtype, torch.float32))
        points_BN3 = initial_points(number, (T, H, W)).to(map_BCTHW).expand(B, -1, -1)
        moved_BN3, x_BNC = points_BN3, None
        for i in range(self.iterations):
            block = self.blocks[0 if self.share_sampler else i]
            assert isinstance(block, SamplingBlock)
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
        """(B, N, C) for points as fractions of the map."""
        layer = self.pos_layer
        fractions = (points_BN3 / vector(size, points_BN3))[..., 3 - layer.in_features :]
        positions: Tensor = layer(fractions.to(layer.weight.dtype))
        return positions


def _mean_of_frames(x: Tensor, num_clips: int) -> Tensor:
    """(B * T, ...) to (B, ...), unless the batch holds clips already."""
    return x if x.shape[0] == num_clips else torch.unflatten(x, 0, (num_clips, -1)).mean(dim=1)


def _frames_in_line(x_BNC: Tensor, num_clips: int) -> Tensor:
    """(B * T, N, C) to (B, T * N, C), the tokens of a clip one frame after the other."""
    return x_BNC.reshape(num_clips, -1, x_BNC.shape[-1])


def progressive_sampling_from_config(cfg: Config) -> ProgressiveSamplingViT:
    """`ProgressiveSamplingViT` from the sections DATA, PS_VIT and MODEL of a config.

    Raises:
        UserError: sizes that do not fit together.
    """
    p = cfg.PS_VIT
    return ProgressiveSamplingViT(
        dim=p.EMBED_DIM,
        num_heads=p.NUM_HEADS,
        iterations=p.ITERATIONS,
        depth=p.DEPTH,
        points=(p.POINTS[0], p.POINTS[1]),
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
