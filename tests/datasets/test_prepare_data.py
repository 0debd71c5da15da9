"""datasets/{ssv2,charades}/prepare.py, the check, and training on each data set in its official layout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.releases import (
    film,
    findings,
    kinds,
    official,
    picture,
    run,
    write_charades,
    write_imagenet,
    write_kinetics,
    write_ssv2,
)
from tests.helpers.runs import TINY, run_tool, stats
from videovit.data.decode import BACKENDS, DecodeOptions, Video, open_pyav
from videovit.preparation.checks import Entry, check_entries


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinetics(tmp_path_factory.mktemp("kinetics"))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imagenet(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="module")
def ssv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ssv2(tmp_path_factory.mktemp("ssv2"))


@pytest.fixture(scope="module")
def charades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_charades(tmp_path_factory.mktemp("charades"))


def test_ssv2_release(ssv2: Path, tmp_path: Path) -> None:
    assert run("ssv2", "--data", ssv2, "--check", "--workers", 1, "--output", tmp_path) == 0
    assert json.loads((tmp_path / "classes.json").read_text())[1] == "Putting something on something"
    shutil.copytree(ssv2, tmp_path, dirs_exist_ok=True)
    videos = tmp_path / "20bn-something-something-v2"
    (videos / "100.webm").unlink()
    (videos / "101.webm").write_bytes(b"nothing")
    shutil.copy(videos / "102.webm", videos / "200.webm")
    assert run("ssv2", "--data", tmp_path, "--check", "--workers", 1) == 1
    assert kinds(tmp_path / "check.csv") == {"missing": 1, "unreadable": 1, "mislabeled": 1, "duplicate": 1}


def test_charades_release(charades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("charades", "--data", charades, "--check", "--workers", 1, "--output", tmp_path) == 0
    assert json.loads((tmp_path / "classes.json").read_text()) == [f"Showing color {k}" for k in range(3)]
    shutil.copytree(charades, tmp_path, dirs_exist_ok=True)
    rows = (tmp_path / "Charades_v1_test.csv").read_text()
    rows += "GONE1,S,Room,6,7,Yes,,,,,1\nTR001,S,Room,6,7,Yes,,,,c001 3.00 4.00,1\n"
    (tmp_path / "Charades_v1_test.csv").write_text(rows)
    (tmp_path / "Charades_v1_480/TR000.mp4").write_bytes(b"nothing")
    assert run("charades", "--data", tmp_path, "--check", "--workers", 1) == 1
    assert kinds(tmp_path / "check.csv") == {"missing": 1, "unreadable": 1, "mislabeled": 1, "duplicate": 1}
    assert "annotated at 3 s, but the video ends at 0.4 s" in " ".join(
        row["detail"] for row in findings(tmp_path / "check.csv")
    )
    assert "val: 1 video without actions" in capsys.readouterr().out


def test_check_counts_frames(ssv2: Path, tmp_path: Path) -> None:
    shutil.copytree(ssv2, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.webm"))
    for split, first, number in (("train", 100, 12), ("val", 200, 6)):
        rows = ["original_vido_id video_id frame_id path labels"]
        for name in range(first, first + number):
            (tmp_path / str(name)).mkdir()
            for i in range(3):
                Image.fromarray(picture(0, 10 * name + i)).save(tmp_path / str(name) / f"{i}.jpg")
                rows.append(f'{name} {name} {i} {name}/{i}.jpg ""')
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    assert run("ssv2", "--data", tmp_path, "--check", "--workers", 1) == 0
    (tmp_path / "101/1.jpg").unlink()
    (tmp_path / "102/2.jpg").write_bytes(b"nothing")
    shutil.rmtree(tmp_path / "205")
    assert run("ssv2", "--data", tmp_path, "--check", "--workers", 1) == 1
    details = {Path(row["path"]).name: row["detail"] for row in findings(tmp_path / "check.csv")}
    assert details.keys() == {"101", "102", "205"}
    assert details["101"] == "found 2 images, but the list states 3" and "not an image" in details["102"]


def test_check_survives_hanging_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_bad(path: str, options: DecodeOptions) -> Video:
        if "spin" in path:
            while True:
                pass
        if "crash" in path:
            os.kill(os.getpid(), signal.SIGSEGV)
        return open_pyav(path, options)

    monkeypatch.setitem(BACKENDS, "bad", open_bad)
    names = ["good0", "spin", "good1", "crash", "good2"]
    entries = [Entry(str(film(tmp_path / f"{name}.mp4", 0, i)), "train") for i, name in enumerate(names)]
    found = check_entries(entries, backend="bad", workers=2, timeout_s=1.0, quiet=True)
    assert [(finding.kind, Path(finding.path).stem) for finding in found] == [
        ("unreadable", "spin"),
        ("unreadable", "crash"),
    ]
    assert "took longer than --timeout 1 s" in found[0].detail and "crashed (SIGSEGV)" in found[1].detail


def test_data_sets_train_and_test(kinetics: Path, imagenet: Path, ssv2: Path, charades: Path, tmp_path: Path) -> None:
    assert run("kinetics", "--output", tmp_path / "lists", *official(kinetics)) == 0
    shutil.copy(tmp_path / "lists/val.csv", tmp_path / "lists/test.csv")
    assert run("imagenet", "--images", imagenet, "--output", tmp_path / "images", "--devkit", imagenet / "devkit") == 0
    places = {"kinetics": tmp_path / "lists", "imagenet": tmp_path / "images", "ssv2": ssv2, "charades": charades}
    more = {
        "kinetics": "",
        "imagenet": "TEST: {NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 1}\n",
        "ssv2": "TEST: {NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 3}\n",
        "charades": "TEST: {NUM_ENSEMBLE_VIEWS: 2, NUM_SPATIAL_CROPS: 3}\n",
    }
    data = {
        "kinetics": "",
        "imagenet": ", NUM_FRAMES: 1, TRAIN_JITTER_SCALES_RELATIVE: [0.5, 1.0]",
        "ssv2": "",
        "charades": ", MULTI_LABEL: True, ENSEMBLE_METHOD: max",
    }
    (tmp_path / "tiny.yaml").write_text(TINY)
    configs = []
    for name, place in places.items():
        text = f"_BASE_: tiny.yaml\nTRAIN: {{DATASET: {name}}}\nDATA: {{PATH_TO_DATA_DIR: {place}{data[name]}}}\n"
        text += more[name].replace("TEST: {", f"TEST: {{DATASET: {name}, ") or f"TEST: {{DATASET: {name}}}\n"
        text += "SOLVER: {MAX_EPOCH: 12}\n"
        if name == "imagenet":
            text += "MVIT: {PATCH_2D: True, PATCH_KERNEL: [7, 7], PATCH_STRIDE: [4, 4], PATCH_PADDING: [3, 3]}\n"
        if name == "charades":
            text += "MODEL: {LOSS_FUNC: bce_logit, HEAD_ACT: sigmoid}\n"
        text += f"OUTPUT_DIR: {tmp_path / 'run' / name}\n"
        configs.append(tmp_path / f"{name}.yaml")
        configs[-1].write_text(text)
    run_tool("run_net.py", "--cfg", *configs, "TRAIN.EVAL_PERIOD", 20, "TRAIN.CHECKPOINT_PERIOD", 20)
    for name in places:
        (result,) = stats(tmp_path / "run" / name, "test_final")
        assert result["num_videos"] == 6 and result["num_skipped"] == 0
        assert result["num_views"] == 6 * {"kinetics": 6, "imagenet": 1, "ssv2": 3, "charades": 6}[name]
        metric = result["map"] if name == "charades" else result["top1_acc"]
        assert metric >= 80.0, (name, result)


MISSING = [
    ("ava", "--annotations X --movies X", "--annotations"),
    ("ava", "--annotations X --frames X --frame-lists X", "--frame-lists"),
    ("charades", "--data X", "--data"),
    ("coco", "--annotations X/a.json", ""),
    ("hmdb51", "--annotations X --videos X --output X", "--annotations"),
    ("imagenet", "--images X", "--images"),
    ("kinetics", "--annotations X/a.csv --videos X --output X", ""),
    ("kinetics", "--output X --check", ""),
    ("ssv2", "--data X", "--data"),
    ("transfer", "cifar10 --archives X --output X", "--archives"),
    ("ucf101", "--annotations X --videos X --output X", "--annotations"),
]


@pytest.mark.parametrize(("name", "line", "option"), MISSING)
def test_missing_folder_is_named_by_its_option_not_by_a_config_key(
    name: str, line: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    assert run(name, *line.replace("X", str(missing)).split()) == 1
    error = capsys.readouterr().err
    assert str(missing) in error and option in error
    assert not re.search(r"\b[A-Z]+\.[A-Z_]+\b", error)


def test_path_out_of_the_folder_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.csv").write_text("path label\n/elsewhere/a.mp4 0\n")
    assert run("kinetics", "--output", tmp_path, "--check", "--prefix", tmp_path) == 1
    text = capsys.readouterr()
    assert "DATA." not in text.err + text.out + (tmp_path / "check.csv").read_text()
