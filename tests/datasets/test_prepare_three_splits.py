"""Lists of the three divisions of UCF101 and HMDB51, and annotation files that are not the official ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.helpers.releases import film, findings, run

ACTIONS = ["Archery", "BabyCrawling", "Biking"]


@pytest.fixture(scope="module")
def ucf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups of two clips for each class; division n tests group n."""
    folder = tmp_path_factory.mktemp("ucf")
    notes = folder / "ucfTrainTestlist"
    notes.mkdir()
    (notes / "classInd.txt").write_text("".join(f"{i} {name}\r\n" for i, name in enumerate(ACTIONS, 1)))
    names = [(i, a, g, f"{a}/v_{a}_g{g:02d}_c01.avi") for i, a in enumerate(ACTIONS, 1) for g in (1, 2, 3)]
    for i, _, g, name in names:
        film(folder / "UCF-101" / name, i - 1, g)
    for n in (1, 2, 3):
        (notes / f"trainlist{n:02d}.txt").write_text("".join(f"{v} {i}\n" for i, _, g, v in names if g != n))
        (notes / f"testlist{n:02d}.txt").write_text("".join(f"{v}\n" for _, _, g, v in names if g == n))
    return folder


def arguments(folder: Path, output: Path) -> list[object]:
    return ["--output", output, "--annotations", folder / "ucfTrainTestlist", "--videos", folder / "UCF-101"]


def rows(file: Path) -> list[tuple[str, int]]:
    lines = [line.rpartition(" ") for line in file.read_text().splitlines()]
    return [(Path(path).name, int(label)) for path, _, label in lines]


def test_ucf101_has_three_divisions(ucf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    assert run("ucf101", *arguments(ucf, tmp_path), "--check", "--workers", 1) == 0
    out = capsys.readouterr().out
    assert "split2 train: 6 videos, 0 missing; the official division lists 9586" in out
    assert "3 classes" in out and "9 entries checked: no problems" in out
    for n in (1, 2, 3):
        assert rows(tmp_path / f"split{n}/val.csv") == [(f"v_{a}_g{n:02d}_c01.avi", i) for i, a in enumerate(ACTIONS)]
        assert len(rows(tmp_path / f"split{n}/train.csv")) == 6
        assert json.loads((tmp_path / f"split{n}/classes.json").read_text()) == {a: i for i, a in enumerate(ACTIONS)}


def test_missing_videos_are_counted_and_listed(ucf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ucf, tmp_path / "copy")
    (tmp_path / "copy/UCF-101/Archery/v_Archery_g01_c01.avi").unlink()
    (tmp_path / "copy/UCF-101/Biking/v_Biking_g02_c01.avi").write_bytes(b"no video" * 100)
    assert run("ucf101", *arguments(tmp_path / "copy", tmp_path / "lists"), "--check", "--workers", 1) == 1
    assert "split1 val: 2 videos, 1 missing" in capsys.readouterr().out
    found = findings(tmp_path / "lists/check.csv")
    assert sorted(row["kind"] for row in found) == ["missing", "unreadable"]
    assert found[0]["place"] == "testlist01.txt:1"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("classInd.txt", "2 BabyCrawling", "3 BabyCrawling", r"(?s)classInd.txt:2: .*expected 2 and the name"),
        ("trainlist01.txt", "Archery_g02_c01.avi 1", "Archery_g02_c01.avi 2", "the class Archery is number 1"),
        ("trainlist01.txt", "Biking/v", "Bikin/v", "did you mean Biking"),
        ("trainlist01.txt", "Biking/v", "../Biking/v", "expected CLASS/video.avi"),
        ("testlist01.txt", "g01_c01", "g02_c02", "is of the same group g02 as Archery/v_Archery_g02_c01.avi"),
    ],
)
def test_lists_that_are_not_official_are_refused(
    file: str, old: str, new: str, message: str, ucf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ucf / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    (tmp_path / "UCF-101").mkdir()
    path = tmp_path / "ucfTrainTestlist" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert run("ucf101", *arguments(tmp_path, tmp_path / "lists")) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "lists").exists()


def test_hmdb51_has_three_divisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes, videos = tmp_path / "notes", tmp_path / "hmdb51"
    notes.mkdir()
    for i, action in enumerate(("brush_hair", "cartwheel")):
        names = [f"{action} #{k}_f_cm.avi" for k in range(4)]
        for k, name in enumerate(names):
            film(videos / action / name, i, k)
        for n in (1, 2, 3):
            kinds = [0 if k == 3 else 2 if k == n - 1 else 1 for k in range(4)]
            lines = (f"{name} {kind} \n" for name, kind in zip(names, kinds, strict=True))
            (notes / f"{action}_test_split{n}.txt").write_text("".join(lines))
    args = ["--output", tmp_path / "lists", "--annotations", notes, "--videos", videos]
    assert run("hmdb51", *args, "--check", "--workers", 1) == 0
    assert "6 entries checked: no problems" in capsys.readouterr().out
    assert rows(tmp_path / "lists/split2/val.csv") == [("brush_hair #1_f_cm.avi", 0), ("cartwheel #1_f_cm.avi", 1)]
    assert len(rows(tmp_path / "lists/split2/train.csv")) == 4
    (notes / "cartwheel_test_split3.txt").unlink()
    assert run("hmdb51", *args) == 1
    assert "cartwheel_test_split3.txt" in capsys.readouterr().err
    (notes / "cartwheel_test_split3.txt").write_text("a.avi 3\n")
    assert run("hmdb51", *args) == 1
    assert "1 (training), 2 (test) or 0 (neither)" in capsys.readouterr().err
