"""`videovit compare` on folders of real runs."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.runs import TINY, stats, write_config, write_data
from videovit import cli
from videovit.config import load_config
from videovit.engine import launch
from videovit.engine.evaluation.bootstrap import bootstrap_mean
from videovit.engine.reporting.log import RunLog
from videovit.models import build_model, count_params


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `small` and `wide` on the test list, the data of the second in another place; `other` on half of the list.

    Only `small` has everything.
    """
    home = tmp_path_factory.mktemp("home")
    data, config = write_data(home / "data", num_train=8, num_test=9), write_config(home, TINY)
    shutil.copytree(data, home / "moved")
    shutil.copytree(data, home / "half")
    lines = (data / "test.csv").read_text().splitlines()
    (home / "half" / "test.csv").write_text("\n".join(lines[:5]) + "\n")
    opts = "SOLVER.MAX_EPOCH 1 TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 DATA.PATH_TO_DATA_DIR"
    for name, folder, more in (
        ("small", "data", "SHUFFLE_EVAL.ENABLE True SHUFFLE_EVAL.ORDERS ['reversed','shuffled']"),
        ("wide", "moved", "MVIT.EMBED_DIM 32"),
        ("other", "half", ""),
    ):
        launch.run(
            load_config(config, [*opts.split(), str(home / folder), "OUTPUT_DIR", str(home / name), *more.split()])
        )
    with RunLog(home / "small") as log:  # as a benchmark, which takes long
        for row, speed in (("fp32", 41.25), ("bf16", 50.5)):
            log.stats("benchmark", {"what": "model", "row": row, "clips_per_s": speed})
        log.stats("benchmark", {"what": "loader", "row": "2 workers", "clips_per_s": 900.0})
    return home


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compared(*words: object) -> int:
    return cli.main(["compare", *map(str, words)])


def test_numbers_are_those_of_the_runs(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(home / "small", home / "wide", "--output", tmp_path / "out") == 0
    shown = capsys.readouterr()
    whole: dict[str, Any] = json.loads((tmp_path / "out/compare.json").read_text())
    small, wide = whole["runs"]
    assert whole["reference"] == small["run"] == "small" and wide["run"] == "wide"
    for run in (small, wide):
        assert run["value"] == stats(home / run["run"], "test_final")[-1]["top1_acc"]
        assert run["params"] == count_params(build_model(load_config(home / run["run"] / "config.yaml")))
        assert (run["model"], run["measure"], run["views"]) == ("MViT", "top-1", "1 clip x 1 crop")
    assert wide["gmacs"] > small["gmacs"] > 0
    hits = [np.array([int(r["correct"]) for r in rows_of(home / n / "predictions.csv")]) for n in ("small", "wide")]
    difference = bootstrap_mean(100.0 * (hits[1] - hits[0]))
    assert [wide[f"difference{end}"] for end in ("", "_low", "_high")] == [
        difference.mean,
        difference.low,
        difference.high,
    ]
    assert wide["difference"] == pytest.approx(wide["value"] - small["value"]) and small["difference"] is None
    report = json.loads((home / "small/shuffle_eval.json").read_text())["orders"]
    for order in ("reversed", "shuffled"):
        assert small[f"drop_{order}"] == report[order]["drop"] and wide[f"drop_{order}"] is None
        assert [small[f"drop_{order}_low"], small[f"drop_{order}_high"]] == report[order]["drop_interval"]
    assert (small["clips_per_s"], small["clips_per_s_row"], wide["clips_per_s"]) == (50.5, "bf16", None)
    # The same numbers in the other files.
    table = rows_of(tmp_path / "out/compare.csv")
    assert [list(row) for row in table] == [list(small), list(wide)]
    for row, run in zip(table, (small, wide), strict=True):
        assert list(row.values()) == ["" if value is None else str(value) for value in run.values()]
    with Image.open(tmp_path / "out/compare.png") as image:
        assert min(image.size) > 400
    lines = shown.out.splitlines()
    assert len(lines) == 4 and str(difference) in lines[3] and "50.5 (bf16)" in lines[2]
    assert "wide has no drops by frame order: videovit run --cfg" in shown.err and "small has no" not in shown.err


def test_hint_leads_to_the_missing_numbers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of a hint, run as it is."""
    shutil.copytree(home / "wide", home / "wide again")
    assert compared(home / "wide again") == 0
    (hint,) = [line for line in capsys.readouterr().err.splitlines() if "no drops by frame order" in line]
    assert cli.main(shlex.split(hint.partition("videovit ")[2])) == 0
    capsys.readouterr()
    assert compared(home / "wide again") == 0
    shown = capsys.readouterr()
    assert "drop, shuffled" in shown.out and "no drops" not in shown.err


def test_other_test_lists_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(home / "small", home / "other") == 1
    said = capsys.readouterr().err
    assert "4 videos of small are not in the test of other, first: test5.mp4" in said and "same list" in said


def copy(home: Path, tmp_path: Path) -> Path:
    shutil.copytree(home / "wide", tmp_path / "copy")
    return tmp_path / "copy"


def test_other_labels_and_data_sets_are_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy(home, tmp_path)
    rows = rows_of(run / "predictions.csv")
    rows[2]["true_number"] = "7"
    with open(run / "predictions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert compared(home / "small", run) == 1
    assert "test2.mp4 has the class 2 in small and 7 in copy" in capsys.readouterr().err
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("NUM_CLASSES: 3", "NUM_CLASSES: 4"))
    assert compared(home / "small", run) == 1
    assert "with 3 classes" in capsys.readouterr().err


def test_lists_that_cannot_be_checked_are_marked(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(home, tmp_path)
    (run / "predictions.csv").unlink()
    assert compared(home / "small", run) == 0
    shown = capsys.readouterr()
    assert "note: not checked, for lack of predictions: whether copy and small share a list" in shown.err
    assert "copy has no predictions per video" in shown.err
    assert compared(run, home / "other") == 1  # another number of videos is enough
    assert "copy was tested on 9 videos, other on 5" in capsys.readouterr().err


def test_untested_run_has_its_cost_only(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new").mkdir()
    shutil.copy(home / "wide/config.yaml", tmp_path / "new")
    assert compared(home / "small", tmp_path / "new", "--output", tmp_path / "out") == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1].split()[-6:] == ["-"] * 6
    assert "new has no accuracy: videovit run --cfg" in shown.err
    assert json.loads((tmp_path / "out/compare.json").read_text())["runs"][1]["value"] is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("predictions.csv", "video,path\n0,a.mp4\n", r"predictions.csv: line 2 cannot be read: KeyError"),
        ("predictions.csv", "path,true_number,correct\na,0,maybe\n", r"predictions.csv: line 2 cannot be read"),
        ("shuffle_eval.json", '{"orders": [1]}', "shuffle_eval.json: not the report of a frame-order test"),
        ("shuffle_eval.json", "[" * 100_000, "shuffle_eval.json: not the report of a frame-order test"),
    ],
)
def test_broken_files_are_named(
    name: str, text: str, message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(home, tmp_path)
    (run / name).write_text(text)
    assert compared(run) == 1
    assert message in capsys.readouterr().err


def test_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path) == 1
    assert "has no config.yaml; expected the OUTPUT_DIR of a run" in capsys.readouterr().err
    assert compared(tmp_path / "nowhere") == 1
    assert "nowhere: no such folder; expected the OUTPUT_DIR of a run" in capsys.readouterr().err
