"""Read YAML files, `_BASE_` and KEY VALUE pairs into one table of keys, with the place where each value stands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videovit.config.keys import known_keys, section_names
from videovit.config.shipped import SUFFIXES, find_shipped, plain_name, shipped_configs
from videovit.config.tree import Mapping, Node, Scalar, TreeError, is_empty, line_of, read_tree, shown, text_node
from videovit.messages import Plain, did_you_mean, did_you_mean_file, problem, why_no_file

_BASE = "_BASE_"
_MAX_BASES = 16


@dataclass
class Found:
    """What has been read so far. A later value of a key replaces an earlier one."""

    values: dict[str, tuple[Node, str]] = field(default_factory=dict)  # key -> value and the place where it stands
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def where(self, keys: Sequence[str]) -> str:
        """The place of the first of `keys` that was set, and the name of the first key."""
        places = [self.values[key][1] for key in keys if key in self.values]
        return f"{places[0] if places else 'defaults'}: {keys[0]}"


def read_opts(opts: Sequence[str], found: Found, place: str) -> None:
    """Add KEY VALUE pairs of the command line, or of another place."""
    if len(opts) % 2:
        hint = ", without =" if "=" in opts[-1] else ""
        text = f"{opts[-1]} has no value; expected KEY VALUE KEY VALUE ...{hint}"
        found.problems.append(problem(text, where=place))
    for key, value in zip(opts[::2], opts[1::2], strict=False):
        found.values[key] = (text_node(value), place)


def read_file(path: Path, found: Found, parents: tuple[Path, ...] = ()) -> None:
    """Add the keys of a YAML file, after those of its `_BASE_`.

    Args:
        path: the file, or the name of a shipped config. A file that exists comes first.
        parents: the files that led here by `_BASE_`.
    """
    if not os.path.lexists(path):
        path = find_shipped(str(path)) or path
    mistake = _file_problem(path, parents)
    if mistake:
        found.problems.append(problem(mistake, where=path))
        return
    try:
        root = read_tree(path)
    except TreeError as error:
        where = f"{path}:{error.line}" if error.line else path
        found.problems.append(problem(error.message, where=where))
        return
    if not isinstance(root, Mapping):
        what = "is empty" if is_empty(root) else "holds no keys"
        found.problems.append(problem(what, where=path, expected="lines such as MODEL: and NUM_GPUS: 1"))
        return
    own = _unique(root, path, "", found)
    base = own.pop(_BASE, None)
    if base is not None:
        _read_base(base, path, found, (*parents, path.resolve()))
    for key, node in own.items():
        _flatten(key, node, path, found)


def _file_problem(path: Path, parents: tuple[Path, ...]) -> str:
    """Why a file cannot be read as a config; empty if it can."""
    if path.suffix.lower() == ".py":
        return "Python files are not run; write the keys as YAML"
    if found := why_no_file(path):
        return f"is {found}, expected a file"
    if not os.path.isfile(path):
        return _missing(path)
    if path.suffix.lower() not in SUFFIXES:
        return "expected a file that ends in .yaml or .yml"
    if path.resolve() in parents:
        chain = " -> ".join(file.name for file in (*parents, path))
        return f"{_BASE} forms a circle: {chain}"
    if len(parents) >= _MAX_BASES:
        return f"more than {_MAX_BASES} files are chained by {_BASE}"
    return ""


def _missing(path: Path) -> str:
    has_folder = os.path.isdir(path.parent)
    beside = [file.name for file in path.parent.iterdir() if file.suffix.lower() in SUFFIXES] if has_folder else []
    near = did_you_mean_file(path.name, sorted(beside)) or did_you_mean(plain_name(str(path)), shipped_configs())
    what = "there is no such file"
    return problem(what if has_folder or near else f"{what}; the folder {path.parent} does not exist either", near=near)


def _read_base(node: Node, path: Path, found: Found, parents: tuple[Path, ...]) -> None:
    name = node.value if isinstance(node, Scalar) else ""
    where = f"{path}:{line_of(node)}: {_BASE}"
    if not name:
        value = Plain(shown(node) or "nothing")
        found.problems.append(problem(where=where, found=value, expected="the name of one YAML file"))
    elif "://" in name:
        found.problems.append(problem(where=where, found=Plain(name), expected="a file on this machine"))
    else:
        beside = path.parent / os.path.expanduser(name)
        shipped = None if beside.exists() else find_shipped(name)
        read_file(shipped or beside, found, parents)


def _unique(mapping: Mapping, path: Path, prefix: str, found: Found) -> dict[str, Node]:
    """The mapping as a dict. Of a key that is given twice the last one counts, as in every YAML reader."""
    values: dict[str, Node] = {}
    lines: dict[str, int] = {}
    for key, node in mapping.value:
        name, line = key.value, line_of(key)
        if name in values:
            what = f"{prefix}{name} was already given on line {lines[name]}; line {line} counts"
            found.notices.append(problem(what, where=f"{path}:{line}"))
        values[name], lines[name] = node, line
    return values


def _flatten(key: str, node: Node, path: Path, found: Found) -> None:
    where = f"{path}:{line_of(node)}"
    if key.rpartition(".")[2] == "<<":
        found.problems.append(problem(f"{key} (merging) is not supported; use {_BASE}", where=where))
    elif key in known_keys() or not isinstance(node, Mapping):
        # A section without keys, `MIXUP:` alone, is no value.
        if not (key in section_names() and is_empty(node)):
            found.values[key] = (node, where)
    else:
        for name, inner in _unique(node, path, f"{key}.", found).items():
            _flatten(f"{key}.{name}", inner, path, found)
