"""Advice in messages is followed to the letter: it must lead to a config that loads."""

from __future__ import annotations

import ast
import itertools
import re
import shlex

import pytest

from tests.helpers.broken_configs import BROKEN, SAME_RULES
from tests.helpers.project import ROOT
from videovit.config import ConfigError, load_config
from videovit.config.keys import known_keys, section_names
from videovit.config.slowfast import IGNORED, REFUSED

CHANGE = r"[A-Z][A-Z0-9_.]+ (?:\[[^ ]*\]|[^ ,;\[]+)"
ADVICE = re.compile(rf"\bset ({CHANGE}(?:(?:, or | and ){CHANGE})*)$")


def advice(message: str) -> list[dict[str, str]]:
    """The changes that a message offers: each its keys and values."""
    found = ADVICE.search(message)
    assert found, f"no advice: {message}"
    return [dict(map(shlex.split, change.split(" and "))) for change in found[1].split(", or ")]


def problems(opts: dict[str, str]) -> list[str]:
    try:
        load_config(None, [word for pair in opts.items() for word in pair])
    except ConfigError as error:
        return error.problems
    return []


def pairs(text: str) -> dict[str, str]:
    words = text.split(" ")
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize("opts", [opts for opts, _ in [*BROKEN, *SAME_RULES]])
def test_every_change_advised_mends_the_config(opts: str) -> None:
    (message,) = problems(pairs(opts))
    for change in advice(message):
        assert problems(pairs(opts) | change) == [], change


def test_advice_about_several_mistakes_never_goes_in_a_circle() -> None:
    """Every pair of broken rules: each round follows all first advice, and no state comes twice."""
    for (one, _), (two, _) in itertools.combinations(BROKEN, 2):
        opts = pairs(one) | pairs(two)
        seen = []
        while found := problems(opts):
            assert opts not in seen and len(seen) < 4, (one, two, seen, found)
            seen.append(opts)
            for message in found:
                opts = opts | advice(message)[0]


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_refused_value_is_replaced_as_advised(key: str) -> None:
    refusal = REFUSED[key]
    for value in refusal.on or ("1234", "True"):
        (message,) = problems({key: value})
        found = re.search(r"; set it to (\S+(?: or \S+)*)$", message)
        assert found, message
        for choice in found[1].split(" or "):
            assert problems({key: choice.strip("'")}) == []


@pytest.mark.parametrize(
    ("key", "close"),
    [
        ("MODEL.FREEZE", "TRAIN.FREEZE"),
        ("TRAIN.FREZE", "TRAIN.FREEZE"),
        ("DATA.DECODE_SHORT_SIZE", "DATA.DECODE_SHORT_SIDE"),
    ],
)
def test_unknown_key_suggests_a_key_with_an_effect(key: str, close: str) -> None:
    (message,) = problems({key: "1"})
    assert message.endswith(f"did you mean {close}?")


def test_keys_in_messages_exist() -> None:
    """Every SECTION.KEY in a string of the package is a key that a config may have."""
    known = known_keys().keys() | IGNORED.keys() | REFUSED.keys()
    known |= {key.rpartition(".")[0] for key in known}  # sections
    sections = "|".join(section_names())
    for path in (ROOT / "videovit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for key in re.findall(rf"\b(?:{sections})\.[A-Z][A-Z0-9_]*\b(?!\.)", node.value):
                    assert key in known or f"{key}.*" in known, f"{path}: {key}"
