"""Limits and other spellings of a field, carried by its annotation, and the annotations that many fields share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar


@dataclass(frozen=True)
class Range:
    """Limits of a number: `low` and `high` are allowed values, `above` and `below` are not."""

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
class Choice:
    """The allowed values of a field, and other spellings that mean one of them (taken with a warning)."""

    allowed: tuple[str | int, ...]
    aliases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Size:
    """The allowed lengths of a list."""

    allowed: tuple[int, ...]


Natural = Annotated[int, Range(low=0)]
Positive = Annotated[int, Range(low=1)]
AtLeastZero = Annotated[float, Range(low=0.0)]
AboveZero = Annotated[float, Range(above=0.0)]
Fraction = Annotated[float, Range(low=0.0, high=1.0)]
DropRate = Annotated[float, Range(low=0.0, below=1.0)]
Colour = Annotated[tuple[float, ...], Size((1, 3))]
ColourScale = Annotated[tuple[AboveZero, ...], Size((1, 3))]
SpaceTime = Annotated[tuple[Positive, ...], Size((3,))]


class MayChange:
    """Marks a field that may differ between a run and the run that resumes it; see `Free`."""


T = TypeVar("T")
Free = Annotated[T, MayChange()]
"""`Free[Positive]`: a field, or a whole section, that a resumed run may change. Everything else shapes the training."""
