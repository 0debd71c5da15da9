"""datasets/imagenet/prepare.py: lists and class names from official files, and findings of the check."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.releases import SYNSETS, findings, kinds, run, write_imagenet


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imagenet(tmp_path_factory.mktemp("imagenet"))


def labels_of(list_file: Path) -> list[int]:
    return [int(line.rpartition(" ")[2]) for line in list_file.read_text().splitlines()]


def test_imagenet_release(imagenet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (imagenet / "test").mkdir()  # released without answers
    shutil.copy(imagenet / "val/ILSVRC2012_val_00000001.JPEG", imagenet / "test/ILSVRC2012_test_00000001.JPEG")
    devkit = ["--images", imagenet, "--devkit", imagenet / "devkit", "--check", "--workers", 1]
    assert run("imagenet", *devkit) == 0
    message = capsys.readouterr().out
    assert (
        "18 entries checked: no problems" in message
        and "test: skipped, because its images are not in class folders" in message
    )
    assert (
        labels_of(imagenet / "val.csv") == [0, 1, 2] * 2
        and labels_of(imagenet / "train.csv") == [0] * 4 + [1] * 4 + [2] * 4
    )
    names = json.loads((imagenet / "classes.json").read_text())
    assert names == ["tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)"]

    solution = imagenet / "LOC_val_solution.csv"
    rows = [f"ILSVRC2012_val_{i + 1:08d},{list(SYNSETS)[i % 3]} 1 2 30 40" for i in range(6)]
    solution.write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    plain = imagenet / "labels.txt"
    plain.write_text("\n".join([*SYNSETS, *SYNSETS]) + "\n")
    words = imagenet / "words.txt"
    words.write_text("".join(f"{synset} {name}\n" for synset, name in SYNSETS.items()))
    for file in (solution, plain):
        out = imagenet / file.stem
        assert run("imagenet", "--images", imagenet, "--val-labels", file, "--words", words, "--output", out) == 0
        assert labels_of(out / "val.csv") == [0, 1, 2] * 2
        assert json.loads((out / "classes.json").read_text()) == names


def test_imagenet_check_findings(imagenet: Path, tmp_path: Path) -> None:
    shutil.copytree(imagenet, tmp_path, dirs_exist_ok=True)
    tench, crane = (tmp_path / "train" / synset for synset in list(SYNSETS)[:2])
    (tench / "n01440764_0.JPEG").write_bytes(b"\xff\xd8no image")
    whole = (tench / "n01440764_1.JPEG").read_bytes()
    (tench / "n01440764_1.JPEG").write_bytes(whole[: len(whole) // 2])  # with an intact header
    os.rename(tench / "n01440764_2.JPEG", crane / "n01440764_2.JPEG")
    shutil.copy(tench / "n01440764_3.JPEG", tmp_path / "val/ILSVRC2012_val_00000002.JPEG")
    (tmp_path / "val/ILSVRC2012_val_00000006.JPEG").unlink()
    assert run("imagenet", "--images", tmp_path, "--devkit", tmp_path / "devkit", "--check", "--workers", 1) == 1
    assert kinds(tmp_path / "check.csv") == {"missing": 1, "unreadable": 2, "mislabeled": 2, "duplicate": 1}
    details = " | ".join(row["detail"] for row in findings(tmp_path / "check.csv"))
    assert "listed as 'n02012849', but its name starts with 'n01440764'" in details
    assert "listed as 'n02012849', but the same content as" in details and "in train and val" in details


def test_imagenet_invalid_input_raises(imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.txt"
    arguments = ["--images", imagenet, "--output", tmp_path]

    def error_of(content: str, option: str = "--val-labels") -> str:
        labels.write_text(content)
        assert run("imagenet", *arguments, option, labels) == 1
        return capsys.readouterr().err

    assert (
        "labels.txt:2: 17" in (message := error_of("n01440764\n17\n")) and "numbers are read with --devkit" in message
    )
    assert "without a folder in train/, such as 'n01440765'; did you mean n01440764" in error_of("n01440765\n" * 6)
    assert "no label for 'ILSVRC2012_val_00000006'" in error_of("n01440764\n" * 5)
    message = error_of("ImageId,PredictionString\nILSVRC2012_val_00000001,tench 1 2\n")
    assert "labels.txt:2:" in message and "'tench' is not a synset" in message
    assert "labels.txt:1: tench" in error_of("tench n01440764\n", "--words")
    assert run("imagenet", "--images", tmp_path) == 1
    assert "has no folder train, val or test; its folder" in capsys.readouterr().err
    assert run("imagenet", *arguments, "--devkit", tmp_path) == 1
    assert "meta.mat does not exist" in capsys.readouterr().err
    kit = tmp_path / "kit"
    shutil.copytree(imagenet / "devkit", kit)
    (kit / "data/ILSVRC2012_validation_ground_truth.txt").write_text("1\n4\n")
    assert run("imagenet", *arguments, "--devkit", kit) == 1
    message = capsys.readouterr().err
    assert "ground_truth.txt:2: 4" in message and "expected a class number of data/meta.mat, 1 to 3" in message
