"""datasets/ava/prepare.py on a correct data set, and on one with every kind of problem."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

from tests.helpers.ava_data import FPS, draw, write_ava
from tests.helpers.runs import ROOT
from tests.helpers.videos import write_video
from videovit.preparation.command import exit_code


def run(folder: Path, *args: str) -> int:
    spec = importlib.util.spec_from_file_location("prepare_ava", ROOT / "datasets" / "ava" / "prepare.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = ["--train", "train.csv", "--val", "val.csv", "--train-proposals", "train_proposals.csv"]
    files += ["--val-proposals", "val_proposals.csv", "--excluded", "excluded.csv", "--label-map", "classes.pbtxt"]
    places = ["--annotations", str(folder / "annotations"), "--movies", str(folder / "movies")]
    rules = ["--classes", "6", "--window", "1", "18", "--workers", "1"]
    code: int = exit_code(lambda: module.main([*places, *files, *rules, *args]))
    return code


def test_ava_whole_and_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ava(tmp_path, num_train=3, num_val=2)
    assert run(tmp_path, "--check") == 0
    message = capsys.readouterr().out
    assert "evaluated: 4 classes; excluded: 1 key frame" in message
    assert "train: 54 key frames of 3 videos, 0 missing" in message
    assert "no problems" in message

    movies, train = tmp_path / "movies", tmp_path / "annotations" / "train.csv"
    (movies / "movie_0.mkv").unlink()
    (movies / "movie_1.mkv").write_bytes(b"not a movie")
    write_video(movies / "movie_3.mkv", num_frames=10 * FPS, fps=FPS, size=(64, 48), draw=lambda i: draw(3, i))
    lines = train.read_text().splitlines()
    lines[4] = lines[3]
    train.write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:], "movie_2,0004,0.1,0.1,0.2,0.2,7,0"]).encode())
    assert run(tmp_path, "--check", "--report", str(tmp_path / "found.csv")) == 1
    with open(tmp_path / "found.csv", newline="") as file:
        found = {(row["kind"], row["place"] or Path(row["path"]).name): row["detail"] for row in csv.DictReader(file)}
    assert found.keys() == {
        ("bad row", "train.csv:5"),
        ("bad row", "train.csv:109"),
        ("missing", "movie_0"),
        ("unreadable", "movie_1.mkv"),
        ("mislabeled", "movie_3.mkv"),
    }
    assert found["bad row", "train.csv:5"] == "duplicate of line 4"
    assert "found the action '7', expected 1 to 6" in found["bad row", "train.csv:109"]
    assert "annotated at 18 s, but the video ends at 10" in found["mislabeled", "movie_3.mkv"]
    assert run(tmp_path) == 1  # without --check: only bad rows and missing videos
    assert "3 entries checked" not in capsys.readouterr().out.splitlines()[-1]


def test_ava_missing_files_raise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "annotations").mkdir()
    assert run(tmp_path) == 1
    assert "classes.pbtxt does not exist" in capsys.readouterr().err
