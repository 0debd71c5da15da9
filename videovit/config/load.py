"""YAML files, `_BASE_` and KEY VALUE pairs -> a checked `Config`, or one error that lists every problem."""

from __future__ import annotations

import dataclasses
import difflib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from videovit.errors import UserError

from . import rules
from .coerce import Unfit, coerce, nearest
from .keys import known_keys, section_names
from .schema import Config
from .slowfast import IGNORED, REFUSED, ignored_reason
from .tree import Mapping, Node, Scalar, TreeError, read_tree, shown, written

_BASE = "_BASE_"
_SUFFIXES = (".yaml", ".yml")
_MAX_BASES = 16
_MAX_KEY = 80  # letters; longer ones get no suggestion
_MAX_GUESSES = 50  # problems; later ones get no suggestion


class ConfigError(UserError):
    """A configuration that cannot be used.

    Attributes:
        problems: every problem found, each one a sentence that starts with where it is.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(list(problems))
        self.problems = list(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        title = "1 problem" if count == 1 else f"{count} problems"
        return "\n".join([f"{title} in the configuration:", *(f"  - {problem}" for problem in self.problems)])


class ConfigWarning(UserWarning):
    """Something in a configuration that was taken otherwise than it was written, or not at all."""


@dataclass
class _Found:
    """What has been read so far; a later value of a key replaces an earlier one."""

    values: dict[str, tuple[Node, str]] = field(default_factory=dict)  # key -> value and where it stands
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def where(self, keys: Sequence[str]) -> str:
        """The place of the first of `keys` that was set, and the name of the first key."""
        places = [self.values[key][1] for key in keys if key in self.values]
        return f"{places[0] if places else 'defaults'}: {keys[0]}"


def load_config(path: str | os.PathLike[str] | None = None, opts: Sequence[object] = ()) -> Config:
    """Load a configuration.

    Args:
        path: YAML file; None: the defaults alone. Its `_BASE_` names a file to start from, relative to it.
        opts: KEY VALUE KEY VALUE ..., stronger than the file; values as they would stand in the file.

    Returns:
        The configuration, frozen and checked.

    Raises:
        ConfigError: anything wrong in the files, the pairs, or between keys; holds all of it.

    Warns:
        ConfigWarning: keys without effect (once for all), values taken as another one, keys given twice.
    """
    found = _Found()
    if path is not None:
        _read_file(Path(path), found, ())
    unread = bool(found.problems)
    _read_opts([opts] if isinstance(opts, str) else [str(item) for item in opts], found)
    values, failed = _coerce_all(found)
    cfg: Config = _build(Config, "", values)
    for keys, text in rules.check(cfg) if not unread else ():  # half a file breaks rules that the whole one keeps
        if failed.isdisjoint(keys):
            found.problems.append(f"{found.where(keys)}: {text}")
    if found.problems:
        raise ConfigError(list(dict.fromkeys(found.problems)))
    for notice in found.notices:
        warnings.warn(notice, ConfigWarning, stacklevel=2)
    return cfg


def dump_config(cfg: Config) -> str:
    """Write a configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.dump(_plain(cfg), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


# Reading


def _read_file(path: Path, found: _Found, parents: tuple[Path, ...]) -> None:
    problem = _file_problem(path, parents)
    if problem:
        found.problems.append(f"{path}: {problem}")
        return
    try:
        root = read_tree(path)
    except TreeError as error:
        place = f"{path}:{error.line}" if error.line else str(path)
        found.problems.append(f"{place}: {error.message}")
        return
    if not isinstance(root, Mapping):
        what = "is empty" if isinstance(root, Scalar) and root.empty else "holds no keys"
        found.problems.append(f"{path}: {what}; expected lines such as MODEL: and NUM_GPUS: 1")
        return
    own = _unique(root, path, "", found)
    base = own.pop(_BASE, None)
    if base is not None:
        _read_base(base, path, found, (*parents, path.resolve()))
    for key, node in own.items():
        _flatten(key, node, path, found)


def _file_problem(path: Path, parents: tuple[Path, ...]) -> str | None:
    if path.suffix.lower() == ".py":
        return "Python files are not run; write the keys as YAML"
    if path.suffix.lower() not in _SUFFIXES:
        return "is a folder, expected a file" if path.is_dir() else "expected a file that ends in .yaml or .yml"
    if path.is_dir():
        return "is a folder, expected a file"
    if not path.is_file():
        return f"there is no such file{_nearest_file(path)}"
    if path.resolve() in parents:
        chain = " -> ".join(str(file.name) for file in (*parents, path))
        return f"{_BASE} goes round in a circle: {chain}"
    if len(parents) >= _MAX_BASES:
        return f"more than {_MAX_BASES} files are chained by {_BASE}"
    return None


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist either"
    names = sorted(file.name for file in path.parent.iterdir() if file.suffix.lower() in _SUFFIXES)
    return nearest(path.name, names)


def _read_base(node: Node, path: Path, found: _Found, parents: tuple[Path, ...]) -> None:
    name = node.text if isinstance(node, Scalar) else ""
    place = f"{path}:{node.line}: {_BASE}"
    if not name:
        found.problems.append(f"{place}: found {shown(node) or 'nothing'}, expected the name of one YAML file")
    elif "://" in name:
        found.problems.append(f"{place}: found {name}, expected a file of this machine")
    else:
        _read_file(path.parent / os.path.expanduser(name), found, parents)


def _unique(mapping: Mapping, path: Path, prefix: str, found: _Found) -> dict[str, Node]:
    """The mapping as a dict; of a key given twice the last one counts, as in every YAML reader."""
    values: dict[str, Node] = {}
    lines: dict[str, int] = {}
    for key, node in mapping.pairs:
        name = key.text
        if name in values:
            found.notices.append(
                f"{path}:{key.line}: {prefix}{name} was already given on line {lines[name]}; line {key.line} counts"
            )
        values[name], lines[name] = node, key.line
    return values


def _flatten(key: str, node: Node, path: Path, found: _Found) -> None:
    if key.rpartition(".")[2] == "<<":
        found.problems.append(f"{path}:{node.line}: {key} (merging) is not read; use {_BASE}")
        return
    if key in known_keys() or not isinstance(node, Mapping):
        if not (key in section_names() and isinstance(node, Scalar) and node.empty):
            found.values[key] = (node, f"{path}:{node.line}")
        return
    for name, inner in _unique(node, path, f"{key}.", found).items():
        _flatten(f"{key}.{name}", inner, path, found)


def _read_opts(opts: list[str], found: _Found) -> None:
    if len(opts) % 2:
        hint = ", without =" if "=" in opts[-1] else ""
        found.problems.append(f"command line: {opts[-1]} has no value; expected KEY VALUE KEY VALUE ...{hint}")
    for key, value in zip(opts[::2], opts[1::2], strict=False):
        found.values[key] = (Scalar(value, quoted=True), "command line")


# Checking


def _coerce_all(found: _Found) -> tuple[dict[str, Any], set[str]]:
    known = known_keys()
    values: dict[str, Any] = {}
    failed: set[str] = set()
    ignored: dict[str, list[str]] = {}
    for key, (node, place) in found.values.items():
        refusal = REFUSED.get(key)
        if refusal and refusal.applies_to(written(node)):
            found.problems.append(f"{place}: {key}: found {shown(node)}; {refusal.reason}")
            failed.add(key)
        elif key in known:
            try:
                values[key], notices = coerce(node, known[key])
            except Unfit as error:
                found.problems.append(f"{place}: {key}: {error}")
                failed.add(key)
            else:
                found.notices.extend(f"{place}: {key}: {notice}" for notice in notices)
        elif not refusal:
            reason = ignored_reason(key)
            if reason is None:
                close = _nearest_key(key) if len(found.problems) < _MAX_GUESSES else None
                found.problems.append(f"{place}: {_unknown(key, close)}")
                failed.add(close or key)  # what was meant is not known, so no rule speaks of it
            else:
                ignored.setdefault(reason, []).append(key)
    if ignored:
        reasons = "; ".join(f"{', '.join(keys)} ({reason})" for reason, keys in ignored.items())
        found.notices.insert(0, f"keys without effect: {reasons}")
    return values, failed


def _unknown(key: str, close: str | None) -> str:
    if key in section_names():
        return f"{key} is a section; expected one of its keys, such as {_first_key(key)}"
    if "=" in key:
        return f"{shown(Scalar(key))} is not a known key; write KEY VALUE, without ="
    return f"{shown(Scalar(key))} is not a known key{f'; did you mean {close}?' if close else ''}"


def _first_key(section: str) -> str:
    return next(key for key in known_keys() if key.startswith(f"{section}."))


def _nearest_key(key: str) -> str | None:
    """The known key most like `key`: the same word in another section, or like letters anywhere."""
    if len(key) > _MAX_KEY:
        return None
    wanted, word = key.upper(), key.upper().rpartition(".")[2]
    best, best_score = None, 0.7
    for name in (*known_keys(), *(name for name in (*IGNORED, *REFUSED) if not name.endswith("*"))):
        other = name.upper()
        score = difflib.SequenceMatcher(None, wanted, other).ratio()
        same_word = difflib.SequenceMatcher(None, word, other.rpartition(".")[2]).ratio()
        score = max(score, same_word - 0.05 * (other.rpartition(".")[0] != wanted.rpartition(".")[0]))
        if score > best_score:
            best, best_score = name, score
    return best


def _build(section: type, prefix: str, values: dict[str, Any]) -> Any:
    changes = {}
    for item in dataclasses.fields(section):
        key = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(item.default):
            changes[item.name] = _build(type(item.default), f"{key}.", values)
        elif key in values:
            changes[item.name] = values[key]
    return section(**changes)


# Writing


class _Dumper(yaml.SafeDumper):
    """Writes lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


_Dumper.add_representer(list, _represent_list)
