"""YAML text -> a tree of plain text that remembers lines.

Scalars stay text: what `101` or `1e-4` means is decided by the field it is given to. Nothing is ever constructed, so a
file cannot run code; its size, its depth and what its aliases expand to are limited.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 32
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))


class TreeError(ValueError):
    """Text that cannot be taken as a configuration; `line` counts from 1, 0 where no line is to blame."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message, line)
        self.message = message
        self.line = line


@dataclass(frozen=True)
class Scalar:
    """A single value as it is written; `quoted` tells `''` from nothing at all."""

    text: str
    line: int = 0
    quoted: bool = False

    @property
    def empty(self) -> bool:
        return not self.text and not self.quoted


@dataclass(frozen=True)
class Sequence:
    """A list."""

    items: list[Node] = field(default_factory=list)
    line: int = 0


@dataclass(frozen=True)
class Mapping:
    """Keys and values in the order of the file, duplicates included."""

    pairs: list[tuple[Scalar, Node]] = field(default_factory=list)
    line: int = 0


Node = Scalar | Sequence | Mapping


def written(node: Node) -> str:
    """The node on one line, for messages and comparisons."""
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return "[" + ", ".join(written(item) for item in node.items) + "]"
    return "{" + ", ".join(f"{key.text}: {written(value)}" for key, value in node.pairs) + "}"


def shown(node: Node) -> str:
    """The node for a message: long ones shortened."""
    text = " ".join(written(node).split()) if not isinstance(node, Scalar) else node.text
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-15:]}"


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
        raise TreeError(f"is larger than {MAX_BYTES >> 20} MiB; this is no configuration")
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
        return _Builder().build(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise TreeError(f"is not valid YAML: {error.problem or error}", mark.line + 1 if mark else 0) from error
    except yaml.YAMLError as error:
        raise TreeError(f"is not valid YAML: {' '.join(str(error).split())}") from error


class _Builder:
    """Collects the parser's events into nodes, without recursion."""

    def __init__(self) -> None:
        self.roots: list[Node] = []
        self.open: list[tuple[Sequence | Mapping, str | None, int]] = []  # node, its anchor, nodes counted before it
        self.keys: list[Scalar | None] = []  # of each open node: the key that waits for its value
        self.anchors: dict[str, tuple[Node, int]] = {}  # node and how many nodes it expands to
        self.count = 0

    def build(self, events: Iterator[yaml.Event]) -> Node:
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark else 0
            if isinstance(event, yaml.NodeEvent):
                self._node(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                node, anchor, before = self.open.pop()
                self.keys.pop()
                if anchor:
                    self.anchors[anchor] = (node, self.count - before)
            elif isinstance(event, yaml.DocumentStartEvent) and self.roots:
                raise TreeError("holds more than one document", line)
        return self.roots[0] if self.roots else Scalar("")

    def _node(self, event: yaml.NodeEvent, line: int) -> None:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise TreeError(f"*{event.anchor} stands for nothing before it", line)
            node, size = self.anchors[event.anchor]
            self._attach(node, size, line)
            return
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag not in (None, "!") and event.tag not in _PLAIN_TAGS:
            raise TreeError(f"tag {event.tag.replace('tag:yaml.org,2002:', '!!')} is refused; plain values only", line)
        if isinstance(event, yaml.ScalarEvent):
            scalar = Scalar(event.value, line, quoted=not event.implicit[0])
            self._attach(scalar, 1, line)
            if event.anchor:
                self.anchors[event.anchor] = (scalar, 1)
            return
        before = self.count
        opened: Sequence | Mapping = (
            Mapping([], line) if isinstance(event, yaml.MappingStartEvent) else Sequence([], line)
        )
        self._attach(opened, 1, line)
        self.open.append((opened, event.anchor, before))
        self.keys.append(None)
        if len(self.open) > MAX_DEPTH:
            raise TreeError(f"is nested deeper than {MAX_DEPTH} levels", line)

    def _attach(self, node: Node, size: int, line: int) -> None:
        self.count += size
        if self.count > MAX_NODES:
            raise TreeError(f"holds more than {MAX_NODES} values, aliases counted in full", line)
        if not self.open:
            self.roots.append(node)
            return
        parent = self.open[-1][0]
        if isinstance(parent, Sequence):
            parent.items.append(node)
            return
        key = self.keys[-1]
        if key is not None:
            parent.pairs.append((key, node))
            self.keys[-1] = None
        elif isinstance(node, Scalar):
            self.keys[-1] = node
        else:
            raise TreeError("a key must be a plain word", line)
