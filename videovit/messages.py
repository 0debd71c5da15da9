"""How messages are worded: one form for every problem, suggestions, counts, and how names from elsewhere are shown."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Iterable

ABSENT: object = object()
"""Stands for "not given" where None is a value that can be found."""

# What a terminal, a log or a spreadsheet would act on instead of showing it: control characters (escape sequences begin
# with one), ends of lines, marks that change the direction of writing, invisible tags, and halves of characters, which
# cannot be written as UTF-8.
_ACTIVE = r"\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
_ACTIVE_CHARACTER = re.compile(f"[{_ACTIVE}\U000e0000-\U000e007f]")
_ACTIVE_IN_LINES = re.compile(f"(?![\n\t])[{_ACTIVE}\U000e0000-\U000e007f]")
# A spreadsheet computes cells that begin with these. Numbers and ids such as -5KQ66BBWC4 may begin with a minus.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_HARMLESS = re.compile(r"-[\w.-]*", re.ASCII)


LONGEST_VALUE = 1000  # characters of a value in a message


class Plain(str):
    """Text that a message shows without quotes."""

    __repr__ = str.__str__


class _Shortened(reprlib.Repr):
    """`repr` of a value that was read from a file: lists inside lists could otherwise fill the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 20
        self.maxstring = self.maxother = LONGEST_VALUE

    def repr_instance(self, x: object, level: int) -> str:
        if isinstance(x, str):
            return repr(x)
        return f"<{type(x).__name__}>" if hasattr(x, "__dict__") or hasattr(x, "__len__") else repr(x)


def shortened(value: object) -> str:
    """`repr` of any value, of bounded length."""
    text = _Shortened().repr(value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


def printable(text: object, *, keep_lines: bool = False) -> str:
    """Text as it may reach a terminal, a log or a picture: what would act on these becomes an escape such as `\\x1b`.

    Args:
        text: for example the name of a file or class, which may come from a stranger.
        keep_lines: keep line breaks and tabs, as in a whole message.
    """
    found = _ACTIVE_IN_LINES if keep_lines else _ACTIVE_CHARACTER
    return found.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))


def labeled(level: str, text: object) -> str:
    """A line or paragraph of the console that begins with its level, such as `warning: text`; see `printable`."""
    return printable(f"{level}: {text}", keep_lines=True)


def table_cell(value: object) -> object:
    """A value as a cell of a CSV file: text that a spreadsheet would compute gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    return printable(f"'{value}" if _FORMULA.match(value) and not _HARMLESS.fullmatch(value) else value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word closest to `word`, ignoring case; empty if none is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else ""


def did_you_mean_file(name: str, present: Iterable[str]) -> str:
    """The file name closest to `name`: a similar stem with the same suffix, or the same stem; empty if none is close.

    A name without suffix is close to every name with a similar stem.
    """
    # Suffixes are compared apart: the five letters of .json alone would make any two such names similar.
    stem, suffix = os.path.splitext(name.lower())
    by_stem: dict[str, str] = {}
    for file in present:
        other_stem, other_suffix = os.path.splitext(file)
        if suffix in ("", other_suffix.lower()):
            by_stem[other_stem] = file
        elif other_stem.lower() == stem:
            by_stem.setdefault(other_stem, file)
    return by_stem.get(did_you_mean(stem, by_stem), "")


def why_no_file(path: str | os.PathLike[str]) -> str:
    """What is at a path instead of a file; empty if there is nothing, or a file."""
    if os.path.isdir(path):
        return "a folder"
    if os.path.isfile(path) or not os.path.lexists(path):
        return ""
    return "a pipe or a device" if os.path.exists(path) else "a link that leads to nothing"


def did_you_mean_beside(path: str | os.PathLike[str]) -> str:
    """The path closest to a missing one in the same folder; empty if none is close."""
    folder, name = os.path.split(os.fspath(path))
    try:
        near = did_you_mean(name, os.listdir(folder or os.curdir))
    except (OSError, ValueError):
        return ""
    return os.path.join(folder, near) if near else ""


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
        found: the offending value, shortened; strings are quoted, unless they are `Plain`.
        expected: what would be right.
        near: the closest right word, from `did_you_mean`.
        hint: what to do about it, as a sentence without its full stop.
    """
    parts = [what] if what else []
    values = [] if found is ABSENT else [f"found {shortened(found)}"]
    values += [f"expected {expected}"] if expected else []
    parts += [", ".join(values)] if values else []
    parts += [f"did you mean {near}?"] if near else []
    text = "; ".join(parts)
    text = f"{printable(where)}: {text}" if str(where) else text
    if not hint:
        return text
    return f"{text} {hint}" if text.endswith("?") else f"{text}. {hint}"
