"""Load configurations: files and KEY VALUE pairs become a checked `Config`, or one error that lists every problem."""

from __future__ import annotations

import dataclasses
import difflib
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from videovit.config import rules
from videovit.config.coerce import coerce
from videovit.config.keys import known_keys, section_names
from videovit.config.reading import Found, read_file, read_opts
from videovit.config.schema import Config
from videovit.config.slowfast import IGNORED, IMPLIED, REFUSED, ignored_reason
from videovit.config.tree import flatten, parse_tree, shown, text_node, written
from videovit.errors import UserError
from videovit.messages import Plain, plural, problem

_MAX_KEY = 80  # characters; longer keys get no suggestion
_MAX_GUESSES = 50  # problems; suggestions take time, so later problems get none


class ConfigError(UserError):
    """A configuration that cannot be used.

    Attributes:
        problems: every problem found; each begins with the place where it is.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(_listed(problems))
        self.problems = list(problems)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


def _listed(problems: Sequence[str]) -> str:
    title = f"{plural(len(problems), 'problem')} in the configuration:"
    return "\n".join([title, *(f"  - {text}" for text in problems)])


class ConfigWarning(UserWarning):
    """Something in a configuration that is ignored, or read differently from how it was written."""


def load_config(path: str | os.PathLike[str] | None = None, opts: Sequence[object] = ()) -> Config:
    """Load a configuration.

    Args:
        path: a YAML file, or the name of a config that comes with the package, such as `Kinetics/MVITv2_S_16x4`. An
            existing file comes first. Its `_BASE_` names a file to start from, relative to it. None: only the defaults.
        opts: KEY VALUE KEY VALUE ...; they override the file. Values are written as they would be in the file.

    Returns:
        The configuration, frozen and checked.

    Raises:
        ConfigError: something is wrong in the files, in the pairs, or between keys; lists all of it.

    Warns:
        ConfigWarning: keys without effect (one warning for all), aliases of values, keys given twice.
    """
    return _load(path, [opts] if isinstance(opts, str) else [str(item) for item in opts], "command line")


def _load(path: str | os.PathLike[str] | None, opts: Sequence[str], place: str) -> Config:
    found = Found()
    if path is not None:
        read_file(Path(path), found)
    unread = bool(found.problems)
    read_opts(opts, found, place)
    values, failed = _coerce_all(found)
    cfg: Config = _build(Config, "", values)
    # Half a file breaks rules that the whole file keeps, so rules are checked only if everything could be read.
    for broken in rules.check(cfg) if not unread else ():
        if failed.isdisjoint(broken.keys):
            found.problems.append(problem(str(broken), where=found.where(broken.keys)))
    if found.problems:
        raise ConfigError(list(dict.fromkeys(found.problems)))
    for notice in found.notices:
        warnings.warn(notice, ConfigWarning, stacklevel=2)
    return cfg


def with_opts(cfg: Config, opts: Sequence[object]) -> Config:
    """A configuration with KEY VALUE pairs on top, checked as if they had been given at first.

    Raises:
        ConfigError: something is wrong in the pairs, or between keys.
    """
    return load_config(None, [*_pairs(cfg), *opts]) if opts else cfg


def checked(cfg: Config, place: str) -> Config:
    """A configuration that was made in code, checked like one that is read.

    Args:
        cfg: the configuration.
        place: where its values come from, for messages.

    Raises:
        ConfigError: something is wrong in it.
    """
    return _load(None, _pairs(cfg), place)


def _pairs(cfg: Config) -> list[str]:
    """KEY VALUE KEY VALUE ... of all keys."""
    return [word for pair in flatten(parse_tree(dump_config(cfg))).items() for word in pair]


def dump_config(cfg: Config) -> str:
    """Write a configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.dump(_plain(cfg), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


# Checking


def _coerce_all(found: Found) -> tuple[dict[str, object], set[str]]:
    """The values of all known keys, and the keys that have none because of a problem."""
    known = known_keys()
    _imply(found)
    values: dict[str, object] = {}
    failed: set[str] = set()
    ignored: dict[str, list[str]] = {}
    for key, (node, place) in found.values.items():
        refusal = REFUSED.get(key)
        where = f"{place}: {key}"
        if refusal and refusal.applies_to(written(node)):
            found.problems.append(problem(where=where, found=Plain(shown(node))) + f"; {refusal.reason}")
            failed.add(key)
        elif key in known:
            try:
                values[key], notices = coerce(node, known[key])
            except UserError as error:
                found.problems.append(problem(str(error), where=where))
                failed.add(key)
            else:
                found.notices.extend(problem(notice, where=where) for notice in notices)
        elif not refusal:
            reason = ignored_reason(key)
            if reason is None:
                near = _nearest_key(key) if len(found.problems) < _MAX_GUESSES else ""
                found.problems.append(problem(_unknown(key), where=place, near=near))
                # The key that was probably meant has no value either, so rules about it are skipped.
                failed.add(near or key)
            else:
                ignored.setdefault(reason, []).append(key)
    if ignored:
        reasons = "; ".join(f"{', '.join(keys)} ({reason})" for reason, keys in ignored.items())
        found.notices.insert(0, f"keys without effect: {reasons}")
    return values, failed


def _imply(found: Found) -> None:
    """Set the keys that SlowFast's files leave out, because their defaults there are others than here."""
    for (key, text), (other, value) in IMPLIED.items():
        if key in found.values and other not in found.values and written(found.values[key][0]) == text:
            place = found.values[key][1]
            found.values[other] = (text_node(value), place)
            found.notices.append(
                problem(f"{other} is taken as {value}, as SlowFast does", where=f"{place}: {key} {text}")
            )


def _unknown(key: str) -> str:
    if key in section_names():
        first = next(name for name in known_keys() if name.startswith(f"{key}."))
        return f"{key} is a section; expected one of its keys, such as {first}"
    name = shown(text_node(key))
    return f"{name} is not a known key; write KEY VALUE, without =" if "=" in key else f"{name} is not a known key"


def _nearest_key(key: str) -> str:
    """The known key most similar to `key`: the same word in another section, or similar letters anywhere."""
    if len(key) > _MAX_KEY or "=" in key or key in section_names():
        return ""
    known, known_score = _closest(key, known_keys(), least=0.7)
    # SlowFast's other keys have no effect here, so they must be far more similar.
    foreign, score = _closest(key, (name for name in (*IGNORED, *REFUSED) if not name.endswith("*")), least=0.85)
    return foreign if score > known_score else known


def _closest(key: str, names: Iterable[str], *, least: float) -> tuple[str, float]:
    """The name that is most similar to `key`, and its similarity above `least`; empty if there is none."""
    wanted, word = key.upper(), key.upper().rpartition(".")[2]
    best, best_score = "", least
    for name in names:
        other = name.upper()
        score = difflib.SequenceMatcher(None, wanted, other).ratio()
        same_word = difflib.SequenceMatcher(None, word, other.rpartition(".")[2]).ratio()
        score = max(score, same_word - 0.05 * (other.rpartition(".")[0] != wanted.rpartition(".")[0]))
        if score > best_score:
            best, best_score = name, score
    return best, best_score if best else 0.0


def _build(section: type, prefix: str, values: dict[str, object]) -> Any:
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

    def ignore_aliases(self, data: object) -> bool:
        return True


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _represent_list(dumper: yaml.SafeDumper, items: list[object]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


_Dumper.add_representer(list, _represent_list)
