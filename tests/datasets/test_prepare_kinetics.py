"""datasets/kinetics/prepare.py: lists from official files and from class folders, and findings of the check."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.releases import KINETICS, findings, kinds, official, run, script, video_id, write_kinetics
from tests.helpers.videos import write_video
from videovit.data.decode import open_video
from videovit.data.records import AnnotationError
from videovit.preparation.checks import entries_of_lists
from videovit.preparation.splits import SPLITS


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinetics(tmp_path_factory.mktemp("kinetics"))


def test_kinetics_release(kinetics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = kinetics / "my lists"
    assert run("kinetics", "--output", lists, *official(kinetics), "--check", "--workers", 2) == 0
    message = capsys.readouterr().out
    assert "train: 12 clips listed, 0 missing" in message and "18 entries checked: no problems" in message
    assert json.loads((lists / "classes.json").read_text()) == {name: i for i, name in enumerate(KINETICS)}
    for split, number in (("train", 12), ("val", 6)):
        rows = [line.rpartition(" ") for line in (lists / f"{split}.csv").read_text().splitlines()]
        assert [int(label) for _, _, label in rows] == [i % 3 for i in range(number)]
        assert all(Path(path).name.startswith(video_id(split, i)) for i, (path, _, _) in enumerate(rows))


def test_kinetics_check_findings(kinetics: Path, tmp_path: Path) -> None:
    shutil.copytree(kinetics, tmp_path, dirs_exist_ok=True)
    clips = tmp_path / "clips"
    (clips / "train" / f"{video_id('train', 6)}.mp4").unlink()
    (clips / "train/abseiling" / f"{video_id('train', 0)}.mp4").write_bytes(b"\0" * 5000)
    tennis = clips / "train/playing tennis" / f"{video_id('train', 1)}_000001_000011.mp4"
    os.rename(tennis, clips / "train/tai chi" / tennis.name)
    copied = clips / "val/tai chi" / f"{video_id('val', 2)}.mp4"
    shutil.copy(clips / "train/tai chi" / f"{video_id('train', 2)}.mp4", copied)
    with open(tmp_path / "val.csv", "a") as file:  # the same clip in both splits
        file.write(f"\r\nabseiling,{video_id('train', 3)},3,13,validate")
    lists = tmp_path / "lists"
    assert run("kinetics", "--output", lists, *official(tmp_path), "--check", "--workers", 2) == 1
    assert kinds(lists / "check.csv") == {"missing": 1, "unreadable": 1, "mislabeled": 1, "duplicate": 2}
    by_kind = {row["kind"]: row for row in findings(lists / "check.csv")}
    assert by_kind["missing"]["place"] == "train.csv:8" and video_id("train", 6) in by_kind["missing"]["path"]
    assert video_id("train", 0) in by_kind["unreadable"]["path"]
    assert by_kind["mislabeled"]["detail"] == "listed as 'playing tennis', but its folder is 'tai chi'"
    details = [row["detail"] for row in findings(lists / "check.csv") if row["kind"] == "duplicate"]
    assert "the same content" in details[0] and details[0].endswith("in train and val")
    assert "the same file" in details[1] and details[1].endswith("in train and val")

    (lists / "train.csv").write_text((lists / "train.csv").read_text() + "gone.mp4 1\nbad.mp4 3\n")
    assert run("kinetics", "--output", lists, "--check", "--workers", 1, "--report", tmp_path / "again.json") == 1
    again = json.loads((tmp_path / "again.json").read_text())
    assert {(row["kind"], row["place"]) for row in again} >= {("missing", "train.csv:12"), ("bad row", "train.csv:13")}


def test_kinetics_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{name}/{kind} {i}.mp4" for name in ("pour, mix", "stir") for kind in "ab" for i in range(20)]
    for name in names:
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).touch()

    def divide(output: str, *args: object) -> dict[str, set[str]]:
        assert run("kinetics", "--output", tmp_path / output, "--tree", tmp_path / "own", *args) == 0
        files = [tmp_path / output / f"{split}.csv" for split in SPLITS]
        return {file.stem: set(file.read_text().splitlines()) for file in files if file.is_file()}

    first = divide("lists")
    assert sum(map(len, first.values())) == 80 and 45 <= len(first["train"]) <= 75 and min(map(len, first.values())) > 1
    assert f"{tmp_path}/own/pour, mix/a 0.mp4 0" in set.union(*first.values())
    assert divide("again") == first != divide("other", "--seed", 1)
    (tmp_path / "own/stir/new.mp4").touch()
    assert all(first[split] <= lines for split, lines in divide("more").items())  # no earlier video has moved
    entries, bad = entries_of_lists(tmp_path / "lists", classes={"pour, mix": 0, "stir": 1})
    assert not bad and all(os.path.exists(entry.path) for entry in entries)
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "own", tmp_path / "divided" / split)
    assert run("kinetics", "--output", tmp_path / "d", "--tree", tmp_path / "divided") == 0
    assert "val: 81 videos listed" in capsys.readouterr().out and not (tmp_path / "d/test.csv").exists()
    assert divide("again", "--split", "1,0,0")["train"] == set.union(*divide("other").values())
    assert [path.name for path in (tmp_path / "again").iterdir() if path.suffix == ".csv"] == ["train.csv"]
    assert "val: no videos; renamed the existing list to val.csv.old" in capsys.readouterr().out
    (tmp_path / "divided/train").rename(tmp_path / "divided/Train")
    (tmp_path / "divided/val").rename(tmp_path / "divided/valid")
    assert run("kinetics", "--output", tmp_path / "d2", "--tree", tmp_path / "divided") == 0
    assert "val: 81 videos listed\n2 classes" in capsys.readouterr().out
    (tmp_path / "divided/Train").rename(tmp_path / "divided/training")
    assert run("kinetics", "--output", tmp_path / "d3", "--tree", tmp_path / "divided") == 1
    assert "contains both the split 'valid' and 'training'" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("stir\npour mix\n")
    assert (
        run("kinetics", "--output", tmp_path / "e", "--tree", tmp_path / "own", "--classes", tmp_path / "names.txt")
        == 1
    )
    assert "pour, mix' is not a class of" in (message := capsys.readouterr().err) and "did you mean pour mix" in message
    (tmp_path / "names.txt").write_text("stir\nstir\npour, mix\n")
    assert run("kinetics", "--output", tmp_path / "d", "--check", "--classes", tmp_path / "names.txt") == 1
    assert "two classes have the same name 'stir'" in capsys.readouterr().err


def test_kinetics_file_name_not_utf8_raises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own/a").mkdir(parents=True)
    (tmp_path / "own/a" / os.fsdecode(b"m\xe4dchen.mp4")).touch()
    assert run("kinetics", "--output", tmp_path, "--tree", tmp_path / "own") == 1
    assert "not UTF-8; rename the file" in capsys.readouterr().err


def test_kinetics_check_without_class_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "a.mp4", num_frames=3)
    (tmp_path / "val.csv").write_text("a.mp4 6\nb.mp4 2\n")
    assert run("kinetics", "--output", tmp_path, "--check", "--workers", 1) == 1
    message = capsys.readouterr().out
    assert "7 classes (MODEL.NUM_CLASSES)" in message and "2 entries checked: 1 missing" in message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("abseiling,aaaaaaaaaaa,1,11", "4 columns, expected 5"),
        ("abseiling,aaaaaaaaaaa,one,11,train", "expected two numbers, in seconds"),
        ("abseiling,aaaaaaaaaaa,11,1,train", "expected 0 <= time_start < time_end"),
        ("abseiling,aaaaaaaaaaa,1,11,trian", "unknown split 'trian', expected one of train, val"),
        ("abseiling,../aaaaaaaa,1,11,train", "is not the name of a video"),
        ("abseiling,bbbbbbbbbbb,1,11,train", "already listed in line 2"),
    ],
)
def test_kinetics_invalid_row_raises(row: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(f"label,youtube_id,time_start,time_end,split\nabseiling,bbbbbbbbbbb,1,11,train\n{row}\n")
    with pytest.raises(AnnotationError, match="1 line cannot be used") as caught:
        script("kinetics").read_release(file)
    assert f"{file}:3: {row}" in str(caught.value) and message in str(caught.value)


def test_kinetics_invalid_files_raise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.csv"
    (tmp_path / "clips").mkdir()
    arguments = ["--output", tmp_path, "--annotations", file, "--videos", tmp_path / "clips"]

    def error_of(content: str, *more: object) -> str:
        file.write_text(content)
        assert run("kinetics", *arguments, *more) == 1
        return capsys.readouterr().err

    assert "expected youtube_id, time_start, time_end; did you mean youtube-id" in error_of(
        "label,youtube-id,time_start\n"
    )
    header = "label,youtube_id,time_start,time_end,split\n"
    assert "no clips listed" in error_of(header)
    (tmp_path / "names.json").write_text('{"abseiling": 0}')
    message = error_of(header + "absailing,aaaaaaaaaaa,1,11,train\n", "--classes", tmp_path / "names.json")
    assert "train.csv:2: unknown class 'absailing'" in message and "did you mean abseiling" in message
    assert run("kinetics", "--output", tmp_path / "nothing", "--check") == 1
    assert "no train.csv, val.csv or test.csv in" in capsys.readouterr().err
    for wrong in (["--annotations", file], [], ["--tree", tmp_path, "--split", "0.5,0.6,0"]):
        with pytest.raises(SystemExit):
            script("kinetics").parse(["--output", str(tmp_path), *map(str, wrong)])


def test_kinetics_class_folders_name_what_they_leave_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other suffixes, notes and pictures are named; a folder of images is a video, as in training."""
    tree = tmp_path / "own"
    for name in ("run/a.mp4", "run/b.gif", "sit/c.3g2", "sit/d.h264", "sit/e.xyz", "sit/notes.md", "run/a.jpg"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    for number in range(3):
        picture = tree / f"sit/frames 1/{number}.png"
        picture.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(picture)
    (tree / "sit/frames 1/times.txt").touch()
    assert run("kinetics", "--output", tmp_path / "l", "--tree", tree, "--split", "1,0,0") == 0
    rows = (tmp_path / "l/train.csv").read_text().splitlines()
    listed = [f"{tree}/{name}" for name in ("run/a.mp4 0", "run/b.gif 0", "sit/c.3g2 1", "sit/d.h264 1")]
    assert rows == [*listed, f"{tree}/sit/frames 1 1"]
    message = capsys.readouterr().out
    assert "4 files left out" in message
    assert all(part in message for part in (".jpg (1: run/a.jpg)", ".md (1: sit/notes.md)", ".xyz (1: sit/e.xyz)"))
    with open_video(f"{tree}/sit/frames 1") as video:
        assert video.num_frames == 3
    for name in ("run/1.jpg", "sit/1.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    assert run("kinetics", "--output", tmp_path / "m", "--tree", tmp_path / "images") == 1
    assert "datasets/imagenet/prepare.py" in capsys.readouterr().err and not (tmp_path / "m").exists()


@pytest.mark.parametrize("bad", [b"run/m\xe4dchen.mp4", b"m\xe4dchen/a.mp4", b"run/a\nb.mp4"])
def test_kinetics_that_stops_writes_nothing(tmp_path: Path, bad: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (os.fsencode(tmp_path / "own") + b"/" + bad, os.fsencode(tmp_path / "own/run/b.mp4")):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).touch()
    (tmp_path / "test.csv").write_text("old.mp4 0\n")
    assert run("kinetics", "--output", tmp_path, "--tree", tmp_path / "own", "--split", "1,0,0") == 1
    assert "rename the f" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "test.csv"]


def test_kinetics_check_reads_lists_as_training_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", num_frames=3)
    (tmp_path / "l").mkdir()
    (tmp_path / "l/val.csv").write_text("path;label\na.mp4;1\n../out.mp4;0\n")
    args = ["--output", tmp_path / "l", "--check", "--workers", 1, "--separator", ";", "--skip-rows", 1]
    assert run("kinetics", *args, "--prefix", tmp_path / "videos") == 1
    assert "2 classes" in (message := capsys.readouterr().out) and "1 entry checked: 1 bad row" in message
    (bad,) = findings(tmp_path / "l/check.csv")
    assert bad["place"] == "val.csv:3" and "leads out of --prefix" in bad["detail"]
    with pytest.raises(SystemExit):
        script("kinetics").parse(["--output", "l", "--tree", "own", "--prefix", "videos"])


def test_kinetics_check_of_lists_with_several_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        write_video(tmp_path / f"{name}.mp4", num_frames=3)
    (tmp_path / "val.csv").write_text("a.mp4 0;3\nb.mp4 -\nc.mp4 1;1\n")
    assert run("kinetics", "--output", tmp_path, "--check", "--workers", 1, "--multi-label") == 1
    assert "4 classes" in (message := capsys.readouterr().out) and "1 bad row" in message
    bad, *copies = findings(tmp_path / "check.csv")
    assert bad["place"] == "val.csv:3" and "class 1 is listed twice" in bad["detail"]
    assert all(copy["kind"] == "duplicate" for copy in copies)
