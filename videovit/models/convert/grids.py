"""Which grid a position table of other weights was made for.

Several grids have as many rows as a table. What the caller says counts most, then the config beside the weights, then
the grid that state dicts of this project carry. Without any of them the grid of the model decides: most tables come
with the same sides and other frames, some with the same frames and other sides. Everything else is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from videovit.config.tree import TreeError, flatten, parse_tree
from videovit.errors import UserError
from videovit.models.contract import Grid, VideoModel
from videovit.models.pooling_sharing.model import PoolingSharingModel

_NAMED = 6  # grids per message
# MODEL.MODEL_NAME -> keys of kernel and stride of the patches; as in the models, kernels matter for PiT alone.
_PATCHES = {
    "MViT": ("MVIT.PATCH_STRIDE", "MVIT.PATCH_STRIDE"),
    "ViT": ("VIT.PATCH_SIZE", "VIT.PATCH_SIZE"),
    "PiT": ("PIT.PATCH_KERNEL", "PIT.PATCH_STRIDE"),
    "PSViT": ("PSVIT.PATCH_SIZE", "PSVIT.PATCH_SIZE"),
    "PSViTSupernet": ("PSVIT.PATCH_SIZE", "PSVIT.PATCH_SIZE"),
}


@dataclass(frozen=True)
class Table:
    """A position table of a model.

    Attributes:
        grid: (T, H, W) of its rows; 1 along axes that it does not have.
        axes: along which it may have another size: `thw`, `hw`, or one axis, whose size is the number of rows.
        num_cls: rows of class tokens, before the others.
        of_patches: whether `grid` is that of the patches; False: of tokens that were pooled before.
    """

    grid: Grid
    axes: Literal["thw", "hw", "t", "w"]
    num_cls: int = 0
    of_patches: bool = True


@dataclass(frozen=True)
class Grids:
    """What is known about the grids of a model and of the weights for it.

    Attributes:
        model: (T, H, W) in tokens that the model's tables are made for; None: it has none.
        tables: the tables of the model, by name.
        hints: grids that the weights may be made for, the surest first.
        is_strict: the (only) hint is the caller's word.
        is_image: the patches of the weights have no time axis.
    """

    model: Grid | None = None
    tables: Mapping[str, Table] = field(default_factory=dict)
    hints: tuple[Grid, ...] = ()
    is_strict: bool = False
    is_image: bool = False

    def read(self, name: str, rows: int, *, has_time: bool) -> tuple[Grid, list[Grid]]:
        """The grid that a table of the weights was made for.

        Args:
            name: of the table.
            rows: of the table, without those of class tokens.
            has_time: whether other weights beside it depend on time.

        Returns:
            The grid, and others that have as many rows.

        Raises:
            UserError: none is certain, or the caller's does not fit.
        """
        table = self.tables[name]
        if table.axes in ("t", "w"):
            return ((rows, 1, 1) if table.axes == "t" else (1, 1, rows)), []
        for hint in self.hints if table.of_patches else ():
            grid = hint if table.axes == "thw" else (1, *hint[1:])
            if math.prod(grid) == rows:
                return grid, []
            if self.is_strict:
                raise UserError(f"{rows} rows are not the grid {shown(grid)} that the caller names")
        if rows == math.prod(table.grid):
            return table.grid, []
        first, second = self._fits(table, rows, has_time=has_time)
        if len(first) == 1:
            return first[0], second
        if not first and len(second) == 1:
            return second[0], []
        raise UserError(_refusal(rows, first or second or _all_fits(table, rows)))

    def _fits(self, table: Table, rows: int, *, has_time: bool) -> tuple[list[Grid], list[Grid]]:
        """Grids of so many rows that differ from the table's in time or in space alone, the more common kind first."""
        T, H, W = table.grid
        if table.axes == "hw" or self.is_image:
            return _other_sides(rows, 1, H, W), []
        in_time: list[Grid] = [(rows // (H * W), H, W)] if rows and rows % (H * W) == 0 else []
        in_space = _other_sides(rows, T, H, W)
        if T == 1:
            return (in_time, in_space) if has_time else (in_space, in_time)
        if not has_time:  # maybe those of an image
            in_space += [grid for grid in _other_sides(rows, 1, H, W) if grid not in in_time]
        return in_time, in_space


def _other_sides(rows: int, T: int, H: int, W: int) -> list[Grid]:
    """Grids of T frames and so many rows: a square, and the shape of H x W in another size."""
    per_frame = rows // T
    if not per_frame or per_frame * T != rows:
        return []
    side, factor = math.isqrt(per_frame), math.gcd(H, W)
    h, w = H // factor, W // factor
    times = math.isqrt(per_frame // (h * w))
    sides = [(side, side)] if side * side == per_frame else []
    if times * times * h * w == per_frame and h != w:
        sides.append((times * h, times * w))
    return [(T, *pair) for pair in sides]


def _all_fits(table: Table, rows: int) -> list[Grid]:
    if table.axes == "hw":
        return []
    numbers = (T for T in range(1, rows // 4 + 1) if rows % T == 0)
    return [grid for T in numbers for grid in _other_sides(rows, T, *table.grid[1:])]


def _refusal(rows: int, fits: list[Grid]) -> str:
    say = "load_pretrained(..., grid=(T, H, W)) says which"
    if not fits:
        return f"{rows} rows fit neither the sides of the model nor a square; {say} grid they are"
    names = ", ".join(shown(grid) for grid in sorted(fits)[:_NAMED])
    return f"{rows} rows may be the grid {names}{', ...' if len(fits) > _NAMED else ''} (T x H x W); {say}"


def shown(grid: Grid) -> str:
    """`8x14x14`."""
    return "x".join(map(str, grid))


def as_grid(value: object) -> Grid | None:
    """A grid from a value of unknown origin (`(8, 14, 14)`, or `8x14x14`); None if it is none."""
    if isinstance(value, str):
        value = [int(n) for n in value.split("x")] if re.fullmatch(r"\d{1,6}(x\d{1,6}){2}", value) else None
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in value):
        return None
    return value[0], value[1], value[2]


def tables_of(model: nn.Module, wanted: Mapping[str, Tensor]) -> dict[str, Table]:
    """The position tables that a model has, or could have in another form, by name.

    Args:
        model: any module.
        wanted: its state dict.
    """
    if not isinstance(model, VideoModel) or model.grid is None:
        return {}
    if isinstance(model, PoolingSharingModel):
        return {f"pos_embed.{stage}": _pooled_table(model, stage) for stage in range(len(model.pos_embed))}
    T, H, W = model.grid
    num_cls = wanted["pos_embed"].shape[1] - T * H * W if "pos_embed" in wanted else 0
    return {
        "pos_embed": Table(model.grid, "thw", num_cls),
        "pos_embed_spatial": Table((1, H, W), "hw"),
        "pos_embed_temporal": Table((T, 1, 1), "t"),
    }


def _pooled_table(model: PoolingSharingModel, stage: int) -> Table:
    num_cls, grid = model.table_grid(stage)
    is_line = stage > 0 and model.shape.pooling == "1d"
    return Table(grid, "w" if is_line else "hw", num_cls, of_patches=stage == 0)


def grid_in_config(text: str, model: nn.Module) -> Grid | None:
    """The grid of the model that a config describes.

    Args:
        text: a config of this project or of SlowFast, saved beside weights; of unknown origin.
        model: whose patches are assumed if the config does not describe its own.

    Returns:
        (T, H, W) in tokens; None if the text does not say.
    """
    try:
        keys = flatten(parse_tree(text))
    except TreeError:
        return None
    size = [*_numbers(keys.get("DATA.NUM_FRAMES", "")), *_numbers(keys.get("DATA.TRAIN_CROP_SIZE", "")) * 2]
    if len(size) != 3:
        return None
    name = keys.get("MODEL.MODEL_NAME", "")
    kernel, stride = (_patch(keys.get(key, "")) for key in _PATCHES.get(name, ("", "")))
    if not (kernel and stride):
        conv = dict(model.named_modules()).get("patch_embed.proj")
        if not isinstance(conv, nn.Conv3d):
            return None
        kernel = stride = list(conv.stride)
    if name == "PiT":  # its patches overlap, and only in time they are padded
        size[0] += 2 * (kernel[0] // 2)
        return as_grid([(n - k) // s + 1 for n, k, s in zip(size, kernel, stride, strict=True)])
    return as_grid([n // s for n, s in zip(size, stride, strict=True)])


def _patch(text: str) -> list[int]:
    """Three sizes of a patch from one (a square), two (an image) or three; empty if the text is something else."""
    numbers = _numbers(text)
    numbers = numbers * 2 if len(numbers) == 1 else numbers
    numbers = [1, *numbers] if len(numbers) == 2 else numbers
    return numbers if len(numbers) == 3 and all(numbers) else []


def _numbers(text: str) -> list[int]:
    is_list = re.fullmatch(r"[\[(]?\s*\d{1,6}(\s*,\s*\d{1,6}){0,2}\s*[\])]?", text)
    return [int(n) for n in re.findall(r"\d+", text)] if is_list else []
