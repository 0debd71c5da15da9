"""The configs that come with the package, found by name from any folder."""

from __future__ import annotations

import functools
from pathlib import Path

SUFFIXES = (".yaml", ".yml")
# In a checkout this is a link to the top-level folder; a built package holds the files themselves.
FOLDER = Path(__file__).parents[1] / "configs"


@functools.cache
def shipped_configs() -> dict[str, Path]:
    """All shipped configs by name, such as `Kinetics/MVITv2_S_16x4`."""
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(FOLDER.glob("*/*.yaml"))}


def find_shipped(name: str) -> Path | None:
    """The shipped config of a name, which may also begin with `configs/` and end in `.yaml`; None if there is none."""
    return shipped_configs().get(plain_name(name))


def plain_name(name: str) -> str:
    """The name without `configs/` in front and without the suffix."""
    stem = name.removeprefix("./").removeprefix("configs/")
    return next((stem.removesuffix(suffix) for suffix in SUFFIXES if stem.endswith(suffix)), stem)
