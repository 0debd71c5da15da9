"""A broken rule, and the advice about it as changes of keys: a message shows it, and a program can follow it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videovit.config.schema import Config

Change = Mapping[str, Any]
"""Keys and their new values, to be set together."""


@dataclass(frozen=True)
class Broken:
    """A rule that a config breaks.

    Attributes:
        keys: those at fault, with the one to change in first place.
        what: what is wrong.
        advice: changes, each of which mends it.
    """

    keys: tuple[str, ...]
    what: str
    advice: tuple[Change, ...] = ()

    def __str__(self) -> str:
        """What is wrong, and what to set."""
        if not self.advice:
            return self.what
        changes = [" and ".join(f"{key} {_written(value)}" for key, value in change.items()) for change in self.advice]
        return f"{self.what}; set {', or '.join(changes)}"

    def advising(self, *advice: Change) -> Broken:
        """The same with other advice."""
        return dataclasses.replace(self, advice=advice)


def changed(cfg: Config, change: Change) -> Config:
    """`cfg` with other values of some keys."""
    for key, value in change.items():
        cfg = _replaced(cfg, key, value)
    return cfg


def _replaced(section: Any, key: str, value: object) -> Any:
    """A section with another value of a key, whose parts are names of sections in it and of the field."""
    name, _, rest = key.partition(".")
    return dataclasses.replace(section, **{name: _replaced(getattr(section, name), rest, value) if rest else value})


def _written(value: object) -> str:
    """A value as it is written on the command line, without spaces."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "''"
