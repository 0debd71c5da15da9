"""Convert a node of the tree to the value of a field, guided by the field's annotation."""

from __future__ import annotations

import contextlib
import math
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from videovit.config.limits import Aliases, Range, Size
from videovit.config.tree import (
    Mapping,
    Node,
    Scalar,
    Sequence,
    TreeError,
    is_empty,
    is_null,
    parse_tree,
    shown,
    written,
)
from videovit.errors import UserError
from videovit.messages import Plain, did_you_mean

_TRUE = frozenset(("true", "yes", "on"))
_FALSE = frozenset(("false", "no", "off"))
_NONE = frozenset(("none", "null", "~", ""))
# Parentheses around an item or a list. Those in quotes (the group) or inside a word are part of the text.
LARGEST = 2**53  # whole numbers up to it fit into those of C, and are exact in JSON
_PARENTHESES = re.compile(r"""('[^']*'|"[^"]*")|(?<![^\s\[(,])\(|\)(?![^\s\]),])""")


def coerce(node: Node, annotation: object) -> tuple[Any, list[str]]:
    """Turn a node into a value of the annotated type.

    Args:
        node: the value as written in the file or on the command line.
        annotation: the field's: bool, int, float, str, a `Literal`, tuples of these, alternatives (`None` too); with
            `Range`, `Size` and `Aliases` in `Annotated`.

    Returns:
        The value, and a notice for each alias that was replaced by its meaning.

    Raises:
        UserError: wrong type, outside the range, not among the choices, wrong length.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return _marked(node, annotation)
    if origin is Literal:
        return _chosen(node, get_args(annotation)), []
    if origin in (Union, types.UnionType):
        return _any_of(node, get_args(annotation))
    if origin is tuple:
        return _tuple(node, get_args(annotation))
    if not isinstance(node, Scalar):
        raise _unfit(node, _NAMES[annotation])
    return _SCALARS[annotation](node), []


def _marked(node: Node, annotation: object) -> tuple[Any, list[str]]:
    """A value whose annotation carries limits or aliases; other marks are ignored here."""
    inner, *marks = get_args(annotation)
    for mark in marks:
        if isinstance(mark, Aliases) and written(node) in mark.meanings:
            alias, meaning = written(node), mark.meanings[written(node)]
            return meaning, [f"{alias} is taken as {meaning}"]
    limits = [mark for mark in marks if isinstance(mark, Range)]
    try:
        value, notices = coerce(node, inner)
    except UserError as error:
        raise UserError(" ".join(map(str, (error, *limits)))) from None
    for limit in limits:
        if value not in limit:
            raise _unfit(node, f"{_NAMES[inner]} {limit}", quoted=False)
    for mark in marks:
        if isinstance(mark, Size) and len(value) not in mark.allowed:
            raise _unfit(node, f"{' or '.join(map(str, mark.allowed))} values", quoted=False)
    return value, notices


def _any_of(node: Node, options: tuple[object, ...]) -> tuple[Any, list[str]]:
    """A value of the first type that it fits; None if the field allows it and the value is null."""
    if type(None) in options and isinstance(node, Scalar) and node.value.strip().lower() in _NONE:
        return None, []
    kinds = [option for option in options if option is not type(None)]
    for kind in kinds[:-1]:
        with contextlib.suppress(UserError):
            return coerce(node, kind)
    try:
        return coerce(node, kinds[-1])
    except UserError:
        if len(kinds) == 1:
            raise
    words = [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    near = did_you_mean(node.value, words) if isinstance(node, Scalar) else ""
    raise _unfit(node, " or ".join(map(_described, kinds)), near=near)


def _described(annotation: object) -> str:
    """A type in words, as an error message needs it."""
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(map(repr, get_args(annotation)))
    if origin is Annotated:
        inner, *marks = get_args(annotation)
        return " ".join([_described(inner), *(str(mark) for mark in marks if isinstance(mark, Range))])
    if origin is tuple:
        return f"a list, each {_described(get_args(annotation)[0])}"
    return _NAMES[annotation]


def _chosen(node: Node, choices: tuple[object, ...]) -> object:
    kind = type(choices[0])
    if not isinstance(node, Scalar):
        raise _unfit(node, _NAMES[kind])
    value = _SCALARS[kind](node)
    if value in choices:
        return value
    near = did_you_mean(str(value), map(str, choices))
    raise _unfit(node, " or ".join(map(repr, choices)), near=near)


def _tuple(node: Node, inner: tuple[object, ...]) -> tuple[tuple[object, ...], list[str]]:
    # A list of any length that is left empty, `AVA.TRAIN_PREDICT_BOX_LISTS:`, is a list of nothing.
    items = [] if is_empty(node) and inner[-1] is Ellipsis else _items(node)
    if len(inner) == 2 and inner[1] is Ellipsis:
        kinds = [inner[0]] * len(items)
    elif len(items) == len(inner):
        kinds = list(inner)
    else:
        raise _unfit(node, f"{len(inner)} values", quoted=False)
    pairs = [coerce(item, kind) for item, kind in zip(items, kinds, strict=True)]
    return tuple(value for value, _ in pairs), [notice for _, notices in pairs for notice in notices]


def _items(node: Node) -> list[Node]:
    """The items of a list, which may also be text: `(3, 7, 7)` as in SlowFast's files, or `[3, 7, 7]`."""
    if isinstance(node, Sequence):
        return list(node.value)
    text = written(node).strip()
    if isinstance(node, Scalar) and text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        try:
            parsed = parse_tree(_PARENTHESES.sub(lambda found: found[1] or "[]"[found[0] == ")"], text))
        except TreeError:
            parsed = node
        if isinstance(parsed, Sequence):
            return list(parsed.value)
    raise _unfit(node, f"a list such as [{shown(node)}]" if isinstance(node, Scalar) and text else "a list")


def _unfit(node: Node, expected: str, *, near: str = "", quoted: bool = True) -> UserError:
    """The error about a node; `quoted` shows it as text, for values that are not even of the right type."""
    if isinstance(node, Mapping):
        found: object = Plain("a section")
    elif is_empty(node):
        found = Plain("nothing")
    else:
        found = shown(node) if quoted else Plain(shown(node))
    return UserError(found=found, expected=expected, near=near)


def _bool(node: Scalar) -> bool:
    text = node.value.strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise _unfit(node, "True or False")


def _int(node: Scalar) -> int:
    try:
        value = int(node.value, 0)
    except ValueError:
        raise _unfit(node, "a whole number") from None
    if abs(value) > LARGEST:
        raise _unfit(node, "a smaller whole number")
    return value


def _float(node: Scalar) -> float:
    text = node.value.strip().lower()
    try:
        value = float(text)
    except ValueError:
        raise _unfit(node, "a number") from None
    if not math.isfinite(value):
        raise _unfit(node, "a finite number")
    return value


def _str(node: Scalar) -> str:
    text = "" if is_null(node) else str(node.value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unfit(node, "UTF-8 text") from None
    return text


_SCALARS: dict[object, Callable[[Scalar], object]] = {bool: _bool, int: _int, float: _float, str: _str}
_NAMES: dict[object, str] = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
