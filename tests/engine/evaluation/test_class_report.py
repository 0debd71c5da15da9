"""Tables and plots per class."""

from __future__ import annotations

import csv
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from videovit.analysis import lettering
from videovit.data.records import Batch
from videovit.engine.evaluation import class_report
from videovit.engine.evaluation.class_report import (
    confusion_matrix,
    draw_confusion,
    draw_per_class,
    short_name,
    write_confusion,
    write_per_class,
)
from videovit.engine.evaluation.view_ensemble import MultiLabel, TopK
from videovit.engine.reporting.log import format_table
from videovit.engine.tasks.shuffle_eval import draw
from videovit.errors import UserError

NAMES = ["left, far", "right", "never"]


def rows_of(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def batch_of(labels: torch.Tensor) -> Batch:
    index = torch.arange(len(labels))
    return Batch(torch.empty(len(labels)), labels, index, index * 0, index, [])


def test_confusion_matrix() -> None:
    counts = confusion_matrix(np.array([0, 0, 0, 1, 2]), np.array([0, 1, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]


def test_tables_with_one_class_per_video(tmp_path: Path) -> None:
    evaluator = TopK(num_videos=5, num_views=1, num_classes=3)
    scores = torch.eye(3)[torch.tensor([0, 1, 1, 1])]
    evaluator.update(scores, batch_of(torch.tensor([0, 0, 0, 1])))  # the fifth video is unreadable
    files = evaluator.write_report(tmp_path, NAMES, suffix="_2clips")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files)
    assert rows_of(tmp_path / "confusion_matrix_2clips.csv") == [
        ["true \\ predicted", *NAMES],
        ["left, far", "1", "2", "0"],
        ["right", "0", "1", "0"],
        ["never", "0", "0", "0"],
    ]
    assert rows_of(tmp_path / "per_class_2clips.csv") == [
        [
            "class",
            "number",
            "videos",
            "accuracy",
            "most often taken for",
            "percent of videos",
            "precision",
            "recall",
            "F1",
        ],
        ["left, far", "0", "3", "33.33", "right", "66.67", "100.00", "33.33", "50.00"],
        ["right", "1", "1", "100.00", "", "", "33.33", "100.00", "50.00"],
        ["never", "2", "0", "", "", "", "", "", ""],
    ]


def test_table_with_several_classes_per_video(tmp_path: Path) -> None:
    evaluator = MultiLabel(num_videos=3, num_views=1, num_classes=3)
    scores = torch.tensor([[0.9, 0.2, 0.1], [0.5, 0.8, 0.3], [0.7, 0.1, 0.2]])
    evaluator.update(scores, batch_of(torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0]])))
    evaluator.write_report(tmp_path, NAMES)
    assert rows_of(tmp_path / "per_class.csv")[1:] == [
        [
            "left, far",
            "0",
            "2",
            "83.33",
            "66.67",
            "100.00",
            "80.00",
        ],  # precision 1 at the first place, 2/3 at the third
        ["right", "1", "1", "100.00", "100.00", "100.00", "100.00"],
        ["never", "2", "0", "", "", "", ""],
    ]
    assert not (tmp_path / "confusion_matrix.csv").exists()


@pytest.mark.parametrize(("num_classes", "smallest"), [(3, 400), (100, 1300)])
def test_plot_grows_with_the_classes(num_classes: int, smallest: int, tmp_path: Path) -> None:
    counts = np.eye(num_classes, dtype=np.int64)
    draw_confusion(tmp_path / "a.png", counts, [f"Doing something {k}" for k in range(num_classes)])
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) >= smallest
        pixels = np.asarray(image.convert("RGB"))
    for shade in ((253, 231, 36), (68, 1, 84)):  # both ends of the scale
        assert (pixels == shade).all(axis=2).any()


def test_dollar_in_a_name_is_no_formula(tmp_path: Path) -> None:
    draw_confusion(tmp_path / "a.png", np.eye(2, dtype=np.int64), [r"pays $\x$ once", "pays"])
    draw_per_class(tmp_path / "b.png", {r"pays $\x$ once": 50.0}, "accuracy")
    order = {"top1_acc": 50.0, "drop_standard_error": None, "groups": {"a $_$": 50.0}, "class_drop": {r"$\x$": 5.0}}
    draw({"orders": {"ordered": order, "shuffled": order}}, tmp_path / "c.png")
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_many_classes(tmp_path: Path) -> None:
    """Without names, in little time and memory; a single mistake stays visible."""
    num_classes = 3000
    labels = np.arange(num_classes)
    predictions = labels.copy()
    predictions[7] = 2900
    counts = confusion_matrix(labels, predictions, num_classes)
    shares = class_report._shares(counts)
    step = -(-num_classes // class_report.MAX_NAMES)
    assert shares.shape == (num_classes // step,) * 2 and shares[7 // step, 2900 // step] == 100.0
    names = [f"class {k}" for k in range(num_classes)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    write_confusion(tmp_path, counts, names)
    draw_per_class(tmp_path / "bars.png", dict.fromkeys(names, 50.0), "accuracy")
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    assert rows_of(tmp_path / "confusion_matrix.csv")[8][2901] == "1"


def test_full_disk_names_the_file(tmp_path: Path) -> None:
    for name in ("confusion_matrix.csv", "bars.png"):
        (tmp_path / name).symlink_to("/dev/full")
    counts = confusion_matrix(np.array([0]), np.array([0]), 3)
    with pytest.raises(UserError, match=r"confusion_matrix.csv: could not be written, .*No space left"):
        write_confusion(tmp_path, counts, NAMES)
    with pytest.raises(UserError, match=r"bars.png: could not be written, .*No space left"):
        draw_per_class(tmp_path / "bars.png", {"a": 1.0}, "accuracy")


HOSTILE = ["=HYPERLINK(1)", "\x1b[2Jup\r\n", "m\udce4d"]


def test_names_of_strangers_in_tables_and_plots(tmp_path: Path) -> None:
    """Names act neither as formulas nor as escape sequences; a lone surrogate does not end the report."""
    evaluator = TopK(num_videos=3, num_views=1, num_classes=3)
    evaluator.update(torch.eye(3)[torch.tensor([1, 2, 0])], batch_of(torch.tensor([0, 1, 2])))
    files = evaluator.write_report(tmp_path, HOSTILE)
    shown = ["'=HYPERLINK(1)", r"\x1b[2Jup\r\n", r"m\udce4d"]
    assert rows_of(tmp_path / "confusion_matrix.csv")[0][1:] == shown
    assert [row[4] for row in rows_of(tmp_path / "per_class.csv")[1:]] == [*shown[1:], shown[0]]
    order = {"top1_acc": 50.0, "drop_standard_error": None, "groups": {HOSTILE[1]: 50.0}, "class_drop": {HOSTILE[2]: 5}}
    draw({"orders": {"ordered": order, "shuffled": order}}, tmp_path / "c.png")
    assert all(path.stat().st_size for path in [*files, tmp_path / "c.png"])
    text = format_table(HOSTILE, [HOSTILE])
    assert len(text.splitlines()) == 3 and "\x1b" not in text and "\r" not in text
    text.encode()


def test_name_without_font_becomes_its_number_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """U+0378 is no character, so no font has it; the notice comes once, and no picture has boxes."""
    lettering._say_once.cache_clear()
    names = ["\u0378\u0378", "a\u0378", "plain"]
    assert [short_name(name, number=k) for k, name in enumerate(names)] == ["class 0", "class 1", "plain"]
    assert short_name("a\u0378") == r"a\u0378" and lettering.in_one_font("a\u0378")[0] == r"a\u0378"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns about missing glyphs
        draw_confusion(tmp_path / "a.png", np.eye(3, dtype=np.int64), names)
        write_per_class(tmp_path, ["class", "number", "accuracy"], [[n, k, 50.0] for k, n in enumerate(names)],
                        measure="accuracy")  # fmt: skip
    assert [record.getMessage().count("install a font") for record in caplog.records] == [1]


def test_fonts_of_other_scripts_are_used_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the fonts that come with Matplotlib, only STIX has this letter."""
    monkeypatch.setattr(lettering, "families", lambda: ["DejaVu Sans", "STIXNonUnicode"])
    assert lettering.lettered("\ue153") == "\ue153" and lettering.in_one_font("\ue153") == ("\ue153", "STIXNonUnicode")
