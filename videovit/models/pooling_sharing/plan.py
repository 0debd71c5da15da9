"""PSViT on paper: layers, numbers of tokens, and cost. No tensors here.

A plan lists the layers of every stage, `B` for a basic layer (its own attention map), `S` for a sharing layer (the map
of the layer before it): `BSBB|BSBBB|BSSBS`. In a supernet a stage is a row of cells, and `-` is a cell without a layer.

N tokens, d channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import numpy as np

from videovit.errors import UserError
from videovit.messages import plural

Pooling = Literal["1d", "2d"]
PoolConv = Literal["dense", "depthwise"]
ClassToken = Literal["joint", "apart", "none"]
HeadInput = Literal["mean", "cls"]
Positions = Literal["first", "all"]

BASIC, SHARING, IDENTITY = "B", "S", "-"


@dataclass(frozen=True)
class PoolingSharingShape:
    """Everything that defines a PSViT except its plan and its regularization.

    What the paper leaves open is a field here; the defaults give its published parameter and multiply-add counts.

    Attributes:
        dims: channels of each stage.
        heads: attention heads of each stage.
        image_size: side in pixels of the square image that position tables are made for.
        patch_size: side of a patch in pixels.
        pooling: between stages, `1d` over the row-major sequence of tokens, `2d` over their grid.
        pool_kernel: of the pooling convolution, stride 2, padding kernel // 2 (none for even kernels).
        pool_conv: `dense`, or `depthwise` followed by a pointwise one.
        cls: `joint`, a class token in front of the sequence, pooled like any other token (1d only); `apart`, a class
            token that bypasses the pooling through a linear layer; `none`.
        head_input: what is classified, the `mean` of all tokens or the `cls` token.
        pos_embed: position tables before the `first` stage or before `all`.
        shared_heads: per stage a string of 0 and 1, one character per head: heads of sharing layers that take the map
            of the layer before (1) or compute their own (0). Empty: all take it.
        mlp_ratio: hidden over token channels.
        qkv_bias: biases of the projections into queries, keys and values.

    Raises:
        UserError: values that contradict each other.

    Source: PSViT (arXiv 2108.03428). Its text specifies none of pool_kernel, pool_conv and cls: reconstructions.
    """

    dims: tuple[int, ...]
    heads: tuple[int, ...]
    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    pooling: Pooling = "1d"
    pool_kernel: int = 3
    pool_conv: PoolConv = "dense"
    cls: ClassToken = "joint"
    head_input: HeadInput = "mean"
    pos_embed: Positions = "first"
    shared_heads: tuple[str, ...] = ()
    mlp_ratio: float = 4.0
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.heads):
            raise UserError(f"{len(self.dims)} widths and {len(self.heads)} numbers of heads", expected="one per stage")
        for dim, heads in zip(self.dims, self.heads, strict=True):
            if dim % heads:
                raise UserError(f"{heads} heads do not divide {dim} channels")
        if self.pooling == "2d" and self.cls == "joint":
            raise UserError(
                "cls 'joint' needs 1d pooling: a grid has no place for a class token", expected="'apart' or 'none'"
            )
        if self.head_input == "cls" and self.cls == "none":
            raise UserError("head_input 'cls' needs a class token, and cls is 'none'")
        if self.image_size < self.patch_size:
            raise UserError(f"image_size {self.image_size} is below patch_size {self.patch_size}")
        if self.shared_heads and [len(mask) for mask in self.shared_heads] != list(self.heads):
            expected = f"one 0 or 1 per head, {list(self.heads)}"
            raise UserError(where="shared_heads", found=list(self.shared_heads), expected=expected)
        if any(set(mask) - {"0", "1"} for mask in self.shared_heads):
            raise UserError(where="shared_heads", found=list(self.shared_heads), expected="strings of 0 and 1")

    @property
    def num_cls(self) -> int:
        """Class tokens beside the patches: 0 or 1."""
        return 0 if self.cls == "none" else 1

    def own_heads(self, stage: int) -> tuple[int, ...]:
        """Heads of the sharing layers of a stage that compute their own map."""
        mask = self.shared_heads[stage] if self.shared_heads else ""
        return tuple(i for i, shared in enumerate(mask) if shared == "0")

    def pooled(self, size: int) -> int:
        """Positions left of `size` on one pooled axis."""
        padding = self.pool_kernel // 2 if self.pool_kernel % 2 else 0
        return (size + 2 * padding - self.pool_kernel) // 2 + 1

    def grid(self, stage: int) -> tuple[int, int]:
        """Rows and columns of the tokens that a stage pools; one row with 1d pooling, a joint class token included.

        Raises:
            UserError: pooling leaves no token.
        """
        side = self.image_size // self.patch_size
        size = (side, side) if self.pooling == "2d" else (1, side * side + (1 if self.cls == "joint" else 0))
        for _ in range(stage):
            size = (self.pooled(size[0]) if self.pooling == "2d" else 1, self.pooled(size[1]))
        if min(size) < 1:
            raise UserError(
                f"stage {stage + 1}: no tokens left of a {self.image_size} px image (patch_size, pool_kernel)"
            )
        return size

    def num_tokens(self, stage: int) -> int:
        """Tokens in the layers of a stage."""
        rows, columns = self.grid(stage)
        return rows * columns + (1 if self.cls == "apart" else 0)


@dataclass(frozen=True)
class Cost:
    """Cost of a model: `params`, and `macs`, the multiply-adds per image as `macs.count_macs` counts them."""

    params: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)


def parse_plan(text: str, num_stages: int) -> tuple[str, ...]:
    """The stages of a plan, without spaces and identity cells.

    Args:
        text: such as `BSBB|BSBBB|BSSBS`.
        num_stages: number of stages of the shape.

    Raises:
        UserError: another number of stages, an empty one, one that starts with a sharing layer, or an unknown letter.
    """
    stages = text.replace(" ", "").split("|")
    where = f"plan {text!r}"
    if len(stages) != num_stages:
        raise UserError(f"found {plural(len(stages), 'stage')}, expected {num_stages}, separated by |", where=where)
    for number, stage in enumerate(stages, 1):
        unknown = set(stage) - {BASIC, SHARING, IDENTITY}
        if unknown:
            raise UserError(where=where, found=min(unknown), expected="B (basic), S (sharing) or - (no layer)")
        if not is_legal(stage):
            raise UserError(
                f"stage {number} must start with B: its first layer has no map of its size to share", where=where
            )
    return tuple(stage.replace(IDENTITY, "") for stage in stages)


def is_legal(stage: str) -> bool:
    """Whether a stage has layers, and the first of them is a basic one."""
    return stage.replace(IDENTITY, "").startswith(BASIC)


@cache
def legal_stages(num_cells: int) -> tuple[str, ...]:
    """All legal rows of `num_cells` cells, in a fixed order: 364 for 6 cells."""
    rows = ("".join(cells) for cells in product((BASIC, SHARING, IDENTITY), repeat=num_cells))
    return tuple(row for row in rows if is_legal(row))


def sharing_pattern(depth: int, length: int) -> str:
    """One stage of `depth` layers in which each map serves `length` layers in a row: `BSBS..`, `BSSBSS..`."""
    return "".join(BASIC if i % length == 0 else SHARING for i in range(depth))


def layer_cost(shape: PoolingSharingShape, stage: int, kind: str) -> Cost:
    """Parameters and multiply-adds of one layer.

    A basic layer has 12 d^2 + 13 d parameters and needs 12 N d^2 + 2 N^2 d multiply-adds (MLP ratio 4). Sharing saves
    queries and keys, 2 d^2 + 2 d, and their product, N^2 d.
    """
    if kind == IDENTITY:
        return Cost(0, 0)
    N, d, heads = shape.num_tokens(stage), shape.dims[stage], shape.heads[stage]
    hidden = int(d * shape.mlp_ratio)
    own = heads if kind == BASIC else len(shape.own_heads(stage))
    query_key = 2 * d * own // heads
    biases = (query_key + d if shape.qkv_bias else 0) + d + hidden + d
    weights = (query_key + 2 * d + 2 * hidden) * d
    # 4 d parameters of two norms. The map costs N^2 per own query channel, applying it N^2 per value channel.
    return Cost(weights + biases + 4 * d, N * weights + N * N * (d + query_key // 2))


def fixed_cost(shape: PoolingSharingShape) -> Cost:
    """Everything except the layers: patches, positions, class token, pooling, last norm and classifier."""
    d = shape.dims
    patch = shape.in_channels * shape.patch_size**2 * d[0]
    num_patches = (shape.image_size // shape.patch_size) ** 2
    stages = range(len(d) if shape.pos_embed == "all" else 1)
    tables = sum(shape.num_tokens(stage) * d[stage] for stage in stages)
    total = Cost(patch + d[0] + shape.num_cls * d[0] + tables, num_patches * patch)
    taps = shape.pool_kernel ** (2 if shape.pooling == "2d" else 1)
    for stage in range(1, len(d)):
        before, after = d[stage - 1], d[stage]
        rows, columns = shape.grid(stage)
        depthwise = shape.pool_conv == "depthwise"
        weights = taps * before + before * after if depthwise else taps * before * after
        total += Cost(weights + after + (before if depthwise else 0), rows * columns * weights)
        if shape.cls == "apart":
            total += Cost(before * after + after, before * after)
    return total + Cost(2 * d[-1] + (d[-1] + 1) * shape.num_classes, d[-1] * shape.num_classes)


def plan_cost(shape: PoolingSharingShape, plan: str) -> Cost:
    """Parameters and multiply-adds of a model, from the closed form.

    Args:
        shape: of the model.
        plan: its layers, see `parse_plan`.
    """
    total = fixed_cost(shape)
    for stage, layers in enumerate(parse_plan(plan, len(shape.dims))):
        for kind in layers:
            total += layer_cost(shape, stage, kind)
    return total


def pad_plan(plan: str, num_stages: int, num_cells: int) -> str:
    """A plan as cells of a supernet: each stage filled up with identity cells.

    Raises:
        UserError: not a legal plan, or a stage has more layers than there are cells.
    """
    stages = parse_plan(plan, num_stages)
    longest = max(map(len, stages))
    if longest > num_cells:
        raise UserError(
            f"a stage of {plural(longest, 'layer')} does not fit into {plural(num_cells, 'cell')}",
            where=f"plan {plan!r}",
        )
    return "|".join(stage.ljust(num_cells, IDENTITY) for stage in stages)


def draw_plan(rng: np.random.Generator, num_stages: int, num_cells: int) -> str:
    """A random legal plan; all are equally likely."""
    rows = legal_stages(num_cells)
    return "|".join(rows[i] for i in rng.integers(len(rows), size=num_stages))
