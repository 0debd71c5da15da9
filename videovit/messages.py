"""How messages are worded: one form for every problem, suggestions, and counts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ABSENT: object = object()
"""Stands for "not given" where None is a value that can be found."""


class Plain(str):
    """Text that a message shows without quotes."""

    __repr__ = str.__str__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word closest to `word`, ignoring case; empty if none is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else ""


def plural(number: int, noun: str, nouns: str = "") -> str:
    """`1 step`, `2 steps`; `nouns` gives a plural that does not end in s."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def problem(
    what: str = "",
    *,
    where: object = "",
    found: object = ABSENT,
    expected: str = "",
    near: str = "",
    hint: str = "",
) -> str:
    """One problem as one message.

        where: what; found X, expected Y; did you mean Z? Hint

    Args:
        what: what is wrong; may be empty when `found` and `expected` say it.
        where: file and line, key, or option.
        found: the offending value; strings are quoted, unless they are `Plain`.
        expected: what would be right.
        near: the closest right word, from `did_you_mean`.
        hint: what to do about it, as a sentence without its full stop.
    """
    parts = [what] if what else []
    values = [] if found is ABSENT else [f"found {found!r}"]
    values += [f"expected {expected}"] if expected else []
    parts += [", ".join(values)] if values else []
    parts += [f"did you mean {near}?"] if near else []
    text = "; ".join(parts)
    text = f"{where}: {text}" if str(where) else text
    if not hint:
        return text
    return f"{text} {hint}" if text.endswith("?") else f"{text}. {hint}"
