"""Accuracy by length, resolution and frame rate, and a whole run with its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.runs import Make
from tests.helpers.videos import write_video
from videovit.data.decode import DecodeOptions
from videovit.engine import launch
from videovit.engine.reporting.json_lines import read_records
from videovit.report.page import write_report
from videovit.report.run_files import VideoOutcome
from videovit.report.video_files import Shape, read_shapes, tables_by_file


def test_shapes_are_those_of_upright_frames(tmp_path: Path) -> None:
    paths = {
        3: str(write_video(tmp_path / "a.mp4", num_frames=20, fps=10, size=(64, 48))),
        5: str(write_video(tmp_path / "b.mp4", num_frames=15, fps=30, size=(32, 96))),
        7: str(tmp_path / "gone.mp4"),
    }
    assert read_shapes(paths, DecodeOptions()) == {3: Shape(2.0, 48, 10.0), 5: Shape(0.5, 32, 30.0)}


def test_videos_are_grouped_by_each_property() -> None:
    rows = [VideoOutcome(v, f"{v}.mp4", (0,), 1, 0.9, 0, 0.9, v != 1) for v in range(5)]
    shapes = {v: Shape(2.0 if v < 2 else 10.0, 240, 25.0) for v in range(4)}
    length, size, rate = tables_by_file(rows, shapes)
    assert [row[:3] for row in length["rows"]] == [["2.0", 2, 50.0], ["10.0", 2, 100.0]]
    assert length["rows"][0][3] < 50 < length["rows"][0][4] and length["rows"][0][5] == pytest.approx(90)
    assert [row[:2] for row in size["rows"]] == [["240", 4]] and "alike" in size["notes"][-1]
    assert rate["columns"][0] == "frames per second" and "1 video could not be opened" in rate["notes"][1]
    assert [table["title"] for table in tables_by_file(rows, shapes, images=True)] == ["Accuracy by resolution"]
    assert tables_by_file(rows, {}) == []


def test_tested_run_has_errors_and_a_page_with_its_mistakes(make: Make, tmp_path: Path) -> None:
    cfg = make(tmp_path / "run", "SOLVER.MAX_EPOCH 1 TRAIN.EVAL_PERIOD 0 TEST.NUM_SPATIAL_CROPS 1")
    launch.run(cfg)
    folder = tmp_path / "run"
    log = (folder / "stdout.log").read_text()
    assert f"one page that shows it all: videovit report {folder}\n" in log and "errors.json" in log
    errors = json.loads((folder / "errors.json").read_text())
    rows = (folder / "predictions.csv").read_text().splitlines()[1:]
    assert errors["num_videos"] == len(rows) == 7
    wrong = sum(int(row[2]) for row in errors["pairs"]["rows"])
    assert 0 < wrong < 7 and errors["calibration"]["accuracy"] == pytest.approx(100 * (7 - wrong) / 7)
    assert errors["calibration"]["temperature"]["value"] > 0
    (environment,) = read_records(folder / "environment.jsonl")
    assert (environment["config"], environment["device"]) == ("config.yaml", "cpu")
    text = write_report(folder, num_mistakes=2).read_text()
    assert text.count("data:image/webp") == 2 * min(wrong, 2)
    assert "All videos are alike: length (s)" in text and "short side (pixels) 48" in text
    kept = json.loads((folder / "errors.json").read_text())
    assert [table["rows"][0][1] for table in kept["by_file"]] == [7, 7, 7]
    # What was read from the videos is kept, so that the next page opens none.
    kept["by_file"][0]["rows"][0][0] = "9.9"
    (folder / "errors.json").write_text(json.dumps(kept))
    assert "length (s) 9.9" in write_report(folder, num_mistakes=0).read_text()
