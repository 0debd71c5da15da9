"""Parse YAML text into PyYAML's nodes, which keep plain text and line numbers.

What `101` or `1e-4` means is decided by the field that it is given to, so nothing is ever constructed and a file cannot
run code. Size, depth and what aliases expand to are checked on the parser's events, before any node is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

Node = yaml.Node
Scalar = yaml.ScalarNode
Sequence = yaml.SequenceNode
Mapping = yaml.MappingNode

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 32

_Loader: type = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_YAML_TAG = "tag:yaml.org,2002:"
_TEXT, _NULL = _YAML_TAG + "str", _YAML_TAG + "null"
_PLAIN_TAGS = frozenset(_YAML_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map"))


class TreeError(ValueError):
    """Text that cannot be a configuration. `line` counts from 1; 0 if no single line is at fault."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message, line)
        self.message = message
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


def read_tree(path: Path) -> Node:
    """Read a YAML file.

    Raises:
        TreeError: not readable, not UTF-8, too large, not YAML, or with tags that would construct objects.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TreeError(f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise TreeError(f"is larger than {MAX_BYTES >> 20} MiB, which no configuration is")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TreeError(f"is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return parse_tree(text)


def parse_tree(text: str) -> Node:
    """Parse YAML text of one document.

    Raises:
        TreeError: not YAML, with tags that would construct objects, or beyond the limits of depth and nodes.
    """
    try:
        # Composing recurses into nested nodes and follows aliases, so limits must be enforced before it.
        _check_limits(yaml.parse(text, Loader=_Loader))
        node: Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise TreeError(f"is not valid YAML: {error.problem or error}", mark.line + 1 if mark else 0) from error
    except yaml.YAMLError as error:
        raise TreeError(f"is not valid YAML: {' '.join(str(error).split())}") from error
    if node is None:
        return Scalar(_NULL, "")
    _check_keys(node)
    return node


def text_node(text: str) -> Scalar:
    """A value that is text whatever it looks like, as if it stood in quotes."""
    return Scalar(_TEXT, text)


def line_of(node: Node) -> int:
    """The line where a node begins, from 1; 0 for nodes that come from no file."""
    return node.start_mark.line + 1 if node.start_mark else 0


def is_null(node: Node) -> bool:
    """Whether the node is empty, or one of YAML's spellings of null."""
    return node.tag == _NULL


def is_empty(node: Node) -> bool:
    """Whether the node is empty."""
    return is_null(node) and not node.value


def written(node: Node) -> str:
    """The node on one line, for messages and comparisons."""
    if isinstance(node, Sequence):
        return "[" + ", ".join(written(item) for item in node.value) + "]"
    if isinstance(node, Mapping):
        return "{" + ", ".join(f"{key.value}: {written(value)}" for key, value in node.value) + "}"
    return str(node.value)


def flatten(node: Node, prefix: str = "") -> dict[str, str]:
    """Every value of a tree as text, by its dotted key: `{"SOLVER.BASE_LR": "0.1", ...}`."""
    if not isinstance(node, Mapping):
        return {prefix: written(node)}
    flat: dict[str, str] = {}
    for key, value in node.value:
        flat.update(flatten(value, f"{prefix}.{key.value}" if prefix else key.value))
    return flat


def shown(node: Node) -> str:
    """The node for a message, shortened if it is long."""
    text = written(node)
    if not isinstance(node, Scalar):
        text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-15:]}"


def _check_limits(events: Iterable[yaml.Event]) -> None:
    """Refuse what would be dangerous to compose: deep nesting, aliases that explode or contain themselves, tags."""
    sizes: dict[str, int] = {}  # anchor -> number of nodes it expands to
    opened: list[tuple[str | None, int]] = []  # anchor and preceding number of nodes, of each open collection
    num_nodes = num_documents = 0
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark else 0
        before = num_nodes
        if isinstance(event, yaml.DocumentStartEvent):
            num_documents += 1
        elif isinstance(event, yaml.AliasEvent):
            # An anchor gets its size when its collection ends, so aliases inside that collection are unknown too.
            if event.anchor not in sizes:
                raise TreeError(f"the alias *{event.anchor} has no anchor before it", line)
            num_nodes += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            _check_tag(event.tag, line)
            num_nodes += 1
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, before))
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = num_nodes - before
        for number, most, what in (
            (num_documents, 1, "holds more than one document"),
            (num_nodes, MAX_NODES, f"holds more than {MAX_NODES} values, counting what aliases expand to"),
            (len(opened), MAX_DEPTH, f"is nested deeper than {MAX_DEPTH} levels"),
        ):
            if number > most:
                raise TreeError(what, line)


def _check_tag(tag: str | None, line: int) -> None:
    if tag not in (None, "!") and tag not in _PLAIN_TAGS:
        raise TreeError(f"the tag {str(tag).replace(_YAML_TAG, '!!')} is refused; only plain values are read", line)


def _check_keys(node: Node) -> None:
    if isinstance(node, Mapping):
        for key, value in node.value:
            if not isinstance(key, Scalar):
                raise TreeError("a key must be a plain word", line_of(key))
            _check_keys(value)
    elif isinstance(node, Sequence):
        for item in node.value:
            _check_keys(item)
