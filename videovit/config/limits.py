"""Marks that a field carries in its annotation (limits, aliases, `Free`), and annotations that many fields share.

The choices of a field are a `Literal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar


@dataclass(frozen=True)
class Range:
    """Limits of a number; `low` and `high` themselves are allowed, `above` and `below` are not."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        limits = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        return " and ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)


@dataclass(frozen=True)
class Aliases:
    """Other spellings of a field's choices, which are accepted with a warning."""

    meanings: dict[str, str]


@dataclass(frozen=True)
class Size:
    """The allowed lengths of a list."""

    allowed: tuple[int, ...]


Natural = Annotated[int, Range(low=0)]
Positive = Annotated[int, Range(low=1)]
# Of layers and channels: larger models are mistakes, or a stranger's config that would fill the memory.
DEPTHS, WIDTHS = Range(low=1, high=1000), Range(low=1, high=65_536)
Depth = Annotated[int, DEPTHS]
Width = Annotated[int, WIDTHS]
# Of processes or threads on one machine: more end in a crash, or fill the memory.
Crew = Annotated[int, Range(low=0, high=1024)]
# Of frames between two frames, and of frames per second: beyond these, a stranger's config would compute for ever.
Stride = Annotated[int, Range(low=1, high=10_000)]
FrameRate = Annotated[float, Range(low=0.01, high=10_000.0)]
# Of pictures, in pixels.
Side = Annotated[int, Range(low=1, high=16_384)]
AtLeastZero = Annotated[float, Range(low=0.0)]
AboveZero = Annotated[float, Range(above=0.0)]
# Of widths inside of a block to the width of the block: for the same reason.
Times = Annotated[float, Range(above=0.0, high=64.0)]
Fraction = Annotated[float, Range(low=0.0, high=1.0)]
DropRate = Annotated[float, Range(low=0.0, below=1.0)]
Color = Annotated[tuple[float, ...], Size((1, 3))]
ColorScale = Annotated[tuple[AboveZero, ...], Size((1, 3))]
SpaceTime = tuple[Positive, Positive, Positive]


class MayChange:
    """Marks a field that may differ between a run and the run that resumes it; see `Free`."""


T = TypeVar("T")
Free = Annotated[T, MayChange()]
"""`Free[Positive]`: a field, or a whole section, that a resumed run may change. Everything else shapes the training."""
