"""Names of files and classes in messages: what a terminal, a log or a spreadsheet would act on."""

from __future__ import annotations

import pytest

from videovit.errors import UserError
from videovit.messages import Plain, did_you_mean_file, printable, problem, shortened, table_cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u4f60\u597d \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", None),  # other scripts stay
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("50 %\r100 %\n[11/28] done", r"50 %\r100 %\n[11/28] done"),
        ("\x9b31m\u202egnp.exe\u2028", r"\x9b31m\u202egnp.exe\u2028"),
        ("m\udce4dchen\ud800", r"m\udce4dchen\ud800"),
        ("a\U000e0041", r"a\U000e0041"),
    ],
)
def test_printable(text: str, shown: str | None) -> None:
    assert printable(text) == (shown or text)
    printable(text).encode()
    assert printable("a\n\tb" + text, keep_lines=True).startswith("a\n\tb")


@pytest.mark.parametrize("text", ["=1+1", "+1", "@SUM(A1)", "\t=1", " =1", "-1+cmd|' /C calc'!A0", "\uff1d1", "\r=1"])
def test_table_cell_formula_gets_an_apostrophe(text: str) -> None:
    assert table_cell(text) == "'" + printable(text)


@pytest.mark.parametrize("value", [-1.5, 3, None, "-1.5", "-1e-05", "-5KQ66BBWC4", "a=1", "left, far"])
def test_table_cell_other_values_stay(value: object) -> None:
    assert table_cell(value) == value


def test_found_value_of_any_depth_is_shortened() -> None:
    bomb: object = "x"
    for _ in range(40):
        bomb = [bomb] * 10
    assert len(problem("pool_norm_eps", found=bomb)) < 10_000 and len(shortened({"a" * 10**6: bomb})) < 10_000
    assert problem("b", found=("x", 1.5, [2])) == "b; found ('x', 1.5, [2])" and shortened(Plain("x y")) == "x y"


def test_user_error_escapes_names() -> None:
    assert str(UserError("a\x1b[2J\nb", where="c\nd\r.csv")) == "c\\nd\\r.csv: a\\x1b[2J\nb"


@pytest.mark.parametrize(
    ("name", "present", "near"),
    [
        ("classes.json", ["case.log", "tests.json"], ""),  # the same suffix alone is no likeness
        ("classes.json", ["case.log", "Classes.json"], "Classes.json"),
        ("clases.json", ["classes.txt", "classes.json"], "classes.json"),
        ("classes.json", ["classes.txt.bak", "classes.txt"], "classes.txt"),
        ("classes.json", ["classes.mp4"], "classes.mp4"),
        ("exp.yaml", ["mix.yaml", "max.yaml"], ""),
        ("MVITv2_S_16x4", ["MVITv2_S_16x4.yaml"], "MVITv2_S_16x4.yaml"),
    ],
)
def test_did_you_mean_file_compares_stems(name: str, present: list[str], near: str) -> None:
    assert did_you_mean_file(name, present) == near
