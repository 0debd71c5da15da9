"""PSViT on paper: which layers, how many tokens, what they cost. No tensors here.

A plan names the layers of every stage, `B` a basic layer (its own attention map), `S` a sharing layer (the map of the
layer before it): `BSBB|BSBBB|BSSBS`. In the search a stage is a row of cells, and `-` is a cell that does nothing.

N tokens, d channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import numpy as np

from videovit.errors import UserError

BASIC, SHARING, IDENTITY = "B", "S", "-"


class PlanError(UserError):
    """A plan or shape that does not describe a PSViT."""


@dataclass(frozen=True)
class PsvitShape:
    """Everything that fixes a PSViT but its plan and its regularisation.

    What the paper leaves open is a field here; the defaults give its published parameter and multiply-add counts.

    Attributes:
        dims: channels of every stage.
        heads: attention heads of every stage.
        image_size: side of the square image in pixels that position tables are made for.
        patch_size: side of a patch in pixels.
        pooling: between stages, `1d` over the row-major sequence of tokens, `2d` over their grid.
        pool_kernel: of the pooling convolution, stride 2, padding kernel // 2 (even kernels: none).
        pool_conv: `dense`, or `depthwise` followed by a pointwise one.
        cls: `joint`, a class token in front of the sequence, pooled like any other (1d only); `apart`, taken round the
            pooling by a linear layer; `none`.
        head_input: what is classified, the `mean` of all tokens or the `cls` token.
        pos_embed: position tables in front of the `first` stage or of `all`.
        shared_heads: for each stage a string over 0 and 1, a character per head: the heads of sharing layers that
            take the map of the layer before (1), and those that compute their own (0); empty: all take it.
        mlp_ratio: hidden over token channels.
        qkv_bias: biases of the projections into queries, keys and values.

    Source: PSViT (arXiv 2108.03428). Its text names none of pool_kernel, pool_conv and cls: reconstruction.
    """

    dims: tuple[int, ...]
    heads: tuple[int, ...]
    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    pooling: Literal["1d", "2d"] = "1d"
    pool_kernel: int = 3
    pool_conv: Literal["dense", "depthwise"] = "dense"
    cls: Literal["joint", "apart", "none"] = "joint"
    head_input: Literal["mean", "cls"] = "mean"
    pos_embed: Literal["first", "all"] = "first"
    shared_heads: tuple[str, ...] = ()
    mlp_ratio: float = 4.0
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.heads):
            raise PlanError(f"{len(self.dims)} widths and {len(self.heads)} numbers of heads: expected one per stage")
        for dim, heads in zip(self.dims, self.heads, strict=True):
            if dim % heads:
                raise PlanError(f"{heads} heads do not divide {dim} channels")
        if self.pooling == "2d" and self.cls == "joint":
            raise PlanError("cls 'joint' needs 1d pooling: a grid has no place for a class token; use apart or none")
        if self.head_input == "cls" and self.cls == "none":
            raise PlanError("head_input 'cls' needs a class token, and cls is 'none'")
        if self.image_size < self.patch_size:
            raise PlanError(f"image_size {self.image_size} is below patch_size {self.patch_size}")
        if self.shared_heads and [len(mask) for mask in self.shared_heads] != list(self.heads):
            raise PlanError(f"shared_heads {list(self.shared_heads)}: expected one 0 or 1 per head, {list(self.heads)}")
        if any(set(mask) - {"0", "1"} for mask in self.shared_heads):
            raise PlanError(f"shared_heads {list(self.shared_heads)}: expected strings of 0 and 1")

    @property
    def num_cls(self) -> int:
        """Class tokens beside the patches: 0 or 1."""
        return 0 if self.cls == "none" else 1

    def own_heads(self, stage: int) -> tuple[int, ...]:
        """Heads of the sharing layers of a stage that compute their own map."""
        mask = self.shared_heads[stage] if self.shared_heads else ""
        return tuple(i for i, taken in enumerate(mask) if taken == "0")

    def pooled(self, size: int) -> int:
        """Positions left of `size` on one pooled axis."""
        padding = self.pool_kernel // 2 if self.pool_kernel % 2 else 0
        return (size + 2 * padding - self.pool_kernel) // 2 + 1

    def grid(self, stage: int) -> tuple[int, int]:
        """Rows and columns of the tokens that a stage pools; one row with 1d pooling, a joint class token included."""
        side = self.image_size // self.patch_size
        size = (side, side) if self.pooling == "2d" else (1, side * side + (1 if self.cls == "joint" else 0))
        for _ in range(stage):
            size = (self.pooled(size[0]) if self.pooling == "2d" else 1, self.pooled(size[1]))
        if min(size) < 1:
            raise PlanError(
                f"stage {stage + 1}: no tokens left of a {self.image_size} px image (patch_size, pool_kernel)"
            )
        return size

    def num_tokens(self, stage: int) -> int:
        """Tokens that the layers of a stage see."""
        rows, columns = self.grid(stage)
        return rows * columns + (1 if self.cls == "apart" else 0)


@dataclass(frozen=True)
class Cost:
    """What a model costs: `params`, and `macs`, multiply-adds of one image as `macs.count_macs` counts them."""

    params: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)


def parse_plan(text: str, num_stages: int) -> tuple[str, ...]:
    """Stages of a plan, without spaces and identity cells.

    Args:
        text: such as `BSBB|BSBBB|BSSBS`.
        num_stages: how many stages the shape has.

    Raises:
        PlanError: another number of stages, an empty one, one that starts with a sharing layer, or a strange letter.
    """
    stages = text.replace(" ", "").split("|")
    if len(stages) != num_stages:
        raise PlanError(f"plan {text!r}: found {len(stages)} stages, expected {num_stages}, separated by |")
    for number, stage in enumerate(stages, 1):
        strange = set(stage) - {BASIC, SHARING, IDENTITY}
        if strange:
            raise PlanError(f"plan {text!r}: found {min(strange)!r}, expected B (basic), S (sharing) or - (no layer)")
        if not is_legal(stage):
            raise PlanError(
                f"plan {text!r}: stage {number} must start with B: its first layer has no map of its size to share"
            )
    return tuple(stage.replace(IDENTITY, "") for stage in stages)


def is_legal(stage: str) -> bool:
    """Whether a stage has layers, and the first of them is a basic one."""
    return stage.replace(IDENTITY, "").startswith(BASIC)


@cache
def legal_stages(num_cells: int) -> tuple[str, ...]:
    """All legal rows of so many cells, in a fixed order: 364 of 6 cells."""
    rows = ("".join(cells) for cells in product((BASIC, SHARING, IDENTITY), repeat=num_cells))
    return tuple(row for row in rows if is_legal(row))


def sharing_pattern(depth: int, length: int) -> str:
    """One stage of `depth` layers in which every map serves `length` layers in a row: `BSBS..`, `BSSBSS..`."""
    return "".join(BASIC if i % length == 0 else SHARING for i in range(depth))


def layer_cost(shape: PsvitShape, stage: int, kind: str) -> Cost:
    """Parameters and multiply-adds of one layer.

    A basic layer has 12 d^2 + 13 d parameters and takes 12 N d^2 + 2 N^2 d multiply-adds (MLP ratio 4); sharing spares
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
    return Cost(weights + biases + 4 * d, N * weights + N * N * (d + query_key // 2))


def fixed_cost(shape: PsvitShape) -> Cost:
    """Everything but the layers: patches, positions, class token, pooling, last norm and classifier."""
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


def plan_cost(shape: PsvitShape, plan: str) -> Cost:
    """Parameters and multiply-adds of a model, from the formula alone.

    Args:
        shape: of the model.
        plan: its layers, as `parse_plan` reads them.
    """
    total = fixed_cost(shape)
    for stage, layers in enumerate(parse_plan(plan, len(shape.dims))):
        for kind in layers:
            total += layer_cost(shape, stage, kind)
    return total


def pad_plan(plan: str, num_stages: int, num_cells: int) -> str:
    """A plan as cells of a supernet: identity cells behind the layers of every stage.

    Raises:
        PlanError: not a plan, or a stage has more layers than there are cells.
    """
    stages = parse_plan(plan, num_stages)
    if max(map(len, stages)) > num_cells:
        raise PlanError(f"plan {plan!r}: a stage of {max(map(len, stages))} layers does not fit into {num_cells} cells")
    return "|".join(stage.ljust(num_cells, IDENTITY) for stage in stages)


def draw_plan(rng: np.random.Generator, num_stages: int, num_cells: int) -> str:
    """A legal plan, every one equally likely."""
    rows = legal_stages(num_cells)
    return "|".join(rows[i] for i in rng.integers(len(rows), size=num_stages))
