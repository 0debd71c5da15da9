"""A node of the tree -> the value of a field, by the field's annotation."""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from .limits import Choice, Range, Size
from .tree import Mapping, Node, Scalar, Sequence, TreeError, parse_tree, shown, written

_TRUE = frozenset(("true", "yes", "on"))
_FALSE = frozenset(("false", "no", "off"))
_NONE = frozenset(("none", "null", "~", ""))
# Around an item or a list; those in quotes (the group) or within a word belong to the text.
_PARENTHESES = re.compile(r"""('[^']*'|"[^"]*")|(?<![^\s\[(,])\(|\)(?![^\s\]),])""")


class Unfit(ValueError):
    """A value that the field cannot take; says what was found and what is expected."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known word closest to `word`, or nothing when none is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def coerce(node: Node, annotation: Any) -> tuple[Any, list[str]]:
    """Turn a node into a value of the annotated type.

    Args:
        node: what the file or the command line says.
        annotation: of the field: bool, int, float, str, tuples of these, `None` as an alternative, with `Range`,
            `Choice` and `Size` in `Annotated`.

    Returns:
        The value, and a notice for each alias that was taken as another value.

    Raises:
        Unfit: wrong type, outside the range, not among the choices, wrong length.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *limits = get_args(annotation)
        return _limited(node, inner, limits)
    if origin in (Union, types.UnionType):
        if isinstance(node, Scalar) and node.text.strip().lower() in _NONE:
            return None, []
        (inner,) = (option for option in get_args(annotation) if option is not type(None))
        return coerce(node, inner)
    if origin is tuple:
        return _tuple(node, get_args(annotation))
    if not isinstance(node, Scalar):
        raise _unfit(node, _NAMES[annotation])
    return _SCALARS[annotation](node), []


def _limited(node: Node, inner: Any, limits: list[Any]) -> tuple[Any, list[str]]:
    limit = next((mark for mark in limits if isinstance(mark, Choice | Range | Size)), None)
    if isinstance(limit, Choice):
        return _chosen(node, inner, limit)
    try:
        value, notices = coerce(node, inner)
    except Unfit as error:
        raise Unfit(f"{error} {limit}") if isinstance(limit, Range) else error from None
    if isinstance(limit, Range) and value not in limit:
        raise Unfit(f"found {shown(node)}, expected {_NAMES[inner]} {limit}")
    if isinstance(limit, Size) and len(value) not in limit.allowed:
        sizes = " or ".join(str(size) for size in limit.allowed)
        raise Unfit(f"found {shown(node)}, expected {sizes} values")
    return value, notices


def _chosen(node: Node, inner: Any, choice: Choice) -> tuple[Any, list[str]]:
    value, notices = coerce(node, inner)
    for alias, meaning in choice.aliases:
        if value == alias:
            return meaning, [f"{alias} is taken as {meaning}"]
    if value in choice.allowed:
        return value, notices
    allowed = " or ".join(repr(option) for option in choice.allowed)
    hint = nearest(str(value), map(str, choice.allowed))
    raise Unfit(f"found {shown(node)!r}, expected {allowed}{hint}")


def _tuple(node: Node, inner: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[str]]:
    items = _items(node)
    if len(inner) == 2 and inner[1] is Ellipsis:
        kinds = [inner[0]] * len(items)
    elif len(items) == len(inner):
        kinds = list(inner)
    else:
        raise Unfit(f"found {shown(node)}, expected {len(inner)} values")
    pairs = [coerce(item, kind) for item, kind in zip(items, kinds, strict=True)]
    return tuple(value for value, _ in pairs), [notice for _, notices in pairs for notice in notices]


def _items(node: Node) -> list[Node]:
    """The items of a list, which may also be text: `(3, 7, 7)` as SlowFast's files have it, or `[3, 7, 7]`."""
    if isinstance(node, Sequence):
        return node.items
    text = written(node).strip()
    if isinstance(node, Scalar) and text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        try:
            parsed = parse_tree(_PARENTHESES.sub(lambda found: found[1] or "[]"[found[0] == ")"], text))
        except TreeError:
            parsed = node
        if isinstance(parsed, Sequence):
            return parsed.items
    raise _unfit(node, f"a list such as [{shown(node)}]" if isinstance(node, Scalar) and text else "a list")


def _unfit(node: Node, expected: str) -> Unfit:
    if isinstance(node, Mapping):
        return Unfit(f"found a section, expected {expected}")
    found = "nothing" if isinstance(node, Scalar) and node.empty else repr(shown(node))
    return Unfit(f"found {found}, expected {expected}")


def _bool(node: Scalar) -> bool:
    text = node.text.strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise _unfit(node, "True or False")


def _int(node: Scalar) -> int:
    try:
        return int(node.text, 0)
    except ValueError:
        raise _unfit(node, "a whole number") from None


def _float(node: Scalar) -> float:
    text = node.text.strip().lower()
    try:
        value = float(text)
    except ValueError:
        raise _unfit(node, "a number") from None
    if not math.isfinite(value):
        raise _unfit(node, "a finite number")
    return value


def _str(node: Scalar) -> str:
    """The text as it stands; only YAML's own words for nothing, without quotes, mean no text."""
    if not node.quoted and node.text.lower() in ("null", "~"):
        return ""
    try:
        node.text.encode()
    except UnicodeEncodeError:
        raise _unfit(node, "UTF-8 text") from None
    return node.text


_SCALARS: dict[Any, Callable[[Scalar], Any]] = {bool: _bool, int: _int, float: _float, str: _str}
_NAMES: dict[Any, str] = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
