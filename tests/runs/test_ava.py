"""Detection through tools/run_net.py on data in the layout of AVA: train, validate, test, in one and two processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.ava_data import write_ava
from tests.helpers.runs import run_tool, stats


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The config of a small data set, and the folder of a finished run on it."""
    folder = tmp_path_factory.mktemp("ava")
    config = write_ava(folder)
    run_tool("run_net.py", "--cfg", config, "OUTPUT_DIR", folder / "out")
    yield config, folder / "out"


def test_actions_of_boxes_are_learned(trained: tuple[Path, Path]) -> None:
    _, out = trained
    (validated,) = stats(out, "val_epoch")
    assert validated["num_videos"] == 4  # every fourth second: 4, 8, 12, 16
    (tested,) = stats(out, "test_final")
    assert (tested["num_videos"], tested["num_boxes"], tested["num_skipped"]) == (18, 36, 0)
    assert tested["num_classes"] == 3  # of the four judged ones; the fourth never occurs
    # Chance is a third.
    assert tested["map"] > 80


def test_detections_and_classes_are_written(trained: tuple[Path, Path]) -> None:
    _, out = trained
    rows = [line.split(",") for line in (out / "detections.csv").read_text().splitlines()]
    assert len(rows) == 36 * 4
    assert {len(row) for row in rows} == {8}
    assert rows[0][:2] == ["movie_3", "0001"]
    assert {row[6] for row in rows} == {"1", "2", "3", "4"}
    assert all(0 <= float(value) <= 1 for row in rows for value in row[2:6] + row[7:])
    header, *table = (out / "per_class.csv").read_text().splitlines()
    assert header == "class,number,boxes,detections,average precision"
    assert table[1].startswith('"green (""grass"")",2,')
    assert table[3] == "never,4,0,34,"  # key frame 5 is excluded, with its two boxes


def test_two_processes_test_like_one(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, out = trained
    run_tool(
        "run_net.py", "--cfg", config, *("OUTPUT_DIR", tmp_path, "TRAIN.ENABLE", False, "NUM_CPU_PROCS", 2),
        *("TEST.CHECKPOINT_FILE_PATH", out, "TEST.SAVE_RESULTS_PATH", "scores.pt", "TEST.BATCH_SIZE", 6),
    )  # fmt: skip
    (one,), (two,) = stats(out, "test_final"), stats(tmp_path, "test_final")
    assert two["map"] == pytest.approx(one["map"])
    assert (two["num_videos"], two["num_boxes"]) == (18, 36)
    here, there = ((folder / "detections.csv").read_text().splitlines() for folder in (out, tmp_path))
    assert [row.rpartition(",")[0] for row in here] == [row.rpartition(",")[0] for row in there]
    pairs = zip(here, there, strict=True)
    assert all(abs(float(a.rpartition(",")[2]) - float(b.rpartition(",")[2])) < 1e-4 for a, b in pairs)


def test_unreadable_movie_stops_or_is_skipped(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """One of two movies is unreadable; its boxes must not count as missed when it is skipped."""
    config, out = trained
    notes = shutil.copytree(config.parent / "annotations", tmp_path / "annotations")
    for name in ("", "_proposals"):
        rows = (notes / f"train{name}.csv").read_text().splitlines(keepends=True)
        with open(notes / f"val{name}.csv", "a") as file:
            file.writelines(row for row in rows if row.startswith("movie_2,"))
    (tmp_path / "movies").mkdir()
    (tmp_path / "movies" / "movie_3.mkv").write_bytes(b"not a movie")
    for movie in range(3):  # the training list is not read, but refers to them
        shutil.copy(config.parent / "movies" / f"movie_{movie}.mkv", tmp_path / "movies")
    broken = tmp_path / "broken.yaml"
    broken.write_text(config.read_text().replace(str(config.parent), str(tmp_path)))
    opts = ["OUTPUT_DIR", tmp_path / "out", "TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", out]
    done = run_tool("run_net.py", "--cfg", broken, *opts, check=False)
    assert done.returncode == 1
    assert "movie_3.mkv" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr

    opts += ["TEST.SAVE_RESULTS_PATH", "scores.pt"]
    done = run_tool("run_net.py", "--cfg", broken, *opts, "TEST.SKIP_UNREADABLE", True)
    (tested,) = stats(tmp_path / "out", "test_final")
    assert (tested["num_videos"], tested["num_boxes"], tested["num_skipped"]) == (18, 36, 18)
    assert "18 of 36" in done.stderr + done.stdout and "left out" in done.stderr + done.stdout
    assert tested["map"] > 80
    rows = (tmp_path / "out" / "detections.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows} == {"movie_2"}
    saved = torch.load(tmp_path / "out" / "scores.pt", weights_only=True)
    assert {Path(path).name for path in np.array(saved["paths"])[saved["read"].numpy()]} == {"movie_2.mkv"}
    assert len(saved["paths"]) == 36 and saved["read"][saved["key_frames"]].all() and saved["read"].sum() == 18
