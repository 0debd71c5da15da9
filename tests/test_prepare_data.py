"""The scripts in datasets/: lists and class names from official layouts, and checks that find what is wrong."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import ROOT, TINY, run_tool, stats
from videos import write_video

from videovit.data import prepare
from videovit.data.check import Entry, check_entries
from videovit.data.decode import BACKENDS, DecodeOptions, Video, open_pyav
from videovit.data.records import AnnotationError

COLOURS = [(220, 40, 40), (40, 220, 40), (40, 40, 220)]
KINETICS = ["abseiling", "playing tennis", "tai chi"]
CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"


def script(name: str) -> ModuleType:
    """datasets/<name>/prepare.py as a module."""
    place = ROOT / "datasets" / name / "prepare.py"
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", place)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"prepare_{name}"] = module
    spec.loader.exec_module(module)
    return module


def run(name: str, *args: object) -> int:
    module = script(name)
    code: int = prepare.exit_code(lambda: module.main([str(arg) for arg in args]))
    return code


def picture(label: int, seed: int, *, size: tuple[int, int] = (48, 48)) -> np.ndarray[Any, Any]:
    """Noise, tinted in the colour of the class."""
    noise = np.random.default_rng([label, seed]).integers(0, 60, (*size, 3))
    return (noise * 0.6 + np.array(COLOURS[label]) * 0.7).clip(0, 255).astype(np.uint8)


def film(path: Path, label: int, seed: int = 0, **arguments: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = arguments.pop("draw", lambda i: picture(label, 1000 * seed + i))
    return write_video(path, num_frames=12, size=(48, 48), draw=draw, **arguments)


def findings(report: Path) -> list[dict[str, str]]:
    with open(report, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kinds(report: Path) -> Counter[str]:
    return Counter(row["kind"] for row in findings(report))


def video_id(split: str, i: int) -> str:
    return f"{split:_<5}-{i:05d}"


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official CSV files and clips: folders with blanks, with underscores, and none at all."""
    folder = tmp_path_factory.mktemp("kinetics")
    for split, number, official in (("train", 12, "train"), ("val", 6, "validate")):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for i in range(number):
            label = i % 3
            rows.append(f"{KINETICS[label]},{video_id(split, i)},{i},{i + 10},{official}")
            stem = video_id(split, i) + (f"_{i:06d}_{i + 10:06d}" if i % 2 else "")
            below = [KINETICS[label], KINETICS[label].replace(" ", "_"), "."][i // 3 % 3]
            film(folder / "clips" / split / below / f"{stem}.mp4", label, i + 100 * (split == "val"))
        (folder / f"{split}.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    return folder


def official(folder: Path) -> list[object]:
    return ["--annotations", folder / "train.csv", folder / "val.csv", "--videos", folder / "clips"]


def test_kinetics_release(kinetics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = kinetics / "my lists"
    assert run("kinetics", "--output", lists, *official(kinetics), "--check", "--workers", 2) == 0
    said = capsys.readouterr().out
    assert "train: 12 clips listed, 0 missing" in said and "18 entries checked: nothing wrong" in said
    assert json.loads((lists / "classes.json").read_text()) == {name: i for i, name in enumerate(KINETICS)}
    for split, number in (("train", 12), ("val", 6)):
        rows = [line.rpartition(" ") for line in (lists / f"{split}.csv").read_text().splitlines()]
        assert [int(label) for _, _, label in rows] == [i % 3 for i in range(number)]
        assert all(Path(path).name.startswith(video_id(split, i)) for i, (path, _, _) in enumerate(rows))


def test_kinetics_check_finds_all_that_is_wrong(kinetics: Path, tmp_path: Path) -> None:
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
    assert kinds(lists / "check.csv") == {"missing": 1, "unreadable": 1, "mislabelled": 1, "duplicate": 2}
    by_kind = {row["kind"]: row for row in findings(lists / "check.csv")}
    assert by_kind["missing"]["place"] == "train.csv:8" and video_id("train", 6) in by_kind["missing"]["path"]
    assert video_id("train", 0) in by_kind["unreadable"]["path"]
    assert by_kind["mislabelled"]["detail"] == "listed as 'playing tennis', its folder says 'tai chi'"
    details = [row["detail"] for row in findings(lists / "check.csv") if row["kind"] == "duplicate"]
    assert "the same content" in details[0] and details[0].endswith("in train and val")
    assert "the same file" in details[1] and details[1].endswith("in train and val")

    (lists / "train.csv").write_text((lists / "train.csv").read_text() + "gone.mp4 1\nbad.mp4 3\n")
    assert run("kinetics", "--output", lists, "--check", "--workers", 1, "--report", tmp_path / "again.json") == 1
    again = json.loads((tmp_path / "again.json").read_text())
    assert {(row["kind"], row["place"]) for row in again} >= {("missing", "train.csv:12"), ("bad row", "train.csv:13")}


def test_own_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{name}/{kind} {i}.mp4" for name in ("pour, mix", "stir") for kind in "ab" for i in range(20)]
    for name in names:
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).touch()

    def divide(output: str, *args: object) -> dict[str, set[str]]:
        assert run("kinetics", "--output", tmp_path / output, "--tree", tmp_path / "own", *args) == 0
        files = [tmp_path / output / f"{split}.csv" for split in prepare.SPLITS]
        return {file.stem: set(file.read_text().splitlines()) for file in files if file.is_file()}

    first = divide("lists")
    assert sum(map(len, first.values())) == 80 and 45 <= len(first["train"]) <= 75 and min(map(len, first.values())) > 1
    assert f"{tmp_path}/own/pour, mix/a 0.mp4 0" in set.union(*first.values())
    assert divide("again") == first != divide("other", "--seed", 1)
    (tmp_path / "own/stir/new.mp4").touch()
    assert all(first[split] <= lines for split, lines in divide("more").items())  # no old one has moved
    entries, bad = prepare.entries_of_lists(tmp_path / "lists", classes={"pour, mix": 0, "stir": 1})
    assert not bad and all(os.path.exists(entry.path) for entry in entries)
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "own", tmp_path / "divided" / split)
    assert run("kinetics", "--output", tmp_path / "d", "--tree", tmp_path / "divided") == 0
    assert "val: 81 videos listed" in capsys.readouterr().out and not (tmp_path / "d/test.csv").exists()
    (tmp_path / "names.txt").write_text("stir\npour mix\n")
    assert (
        run("kinetics", "--output", tmp_path / "e", "--tree", tmp_path / "own", "--classes", tmp_path / "names.txt")
        == 1
    )
    assert "pour, mix' is no class of" in (said := capsys.readouterr().err) and "nearest: 'pour mix'" in said


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("abseiling,aaaaaaaaaaa,1,11", "4 columns, expected 5"),
        ("abseiling,aaaaaaaaaaa,one,11,train", "expected two numbers, in seconds"),
        ("abseiling,aaaaaaaaaaa,11,1,train", "expected 0 <= time_start < time_end"),
        ("abseiling,aaaaaaaaaaa,1,11,trian", "unknown split 'trian', expected one of train, val"),
        ("abseiling,../aaaaaaaa,1,11,train", "is not the name of a video"),
        ("abseiling,bbbbbbbbbbb,1,11,train", "listed already, in line 2"),
    ],
)
def test_bad_rows_of_the_kinetics_release(row: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(f"label,youtube_id,time_start,time_end,split\nabseiling,bbbbbbbbbbb,1,11,train\n{row}\n")
    with pytest.raises(AnnotationError, match="1 line cannot be used") as caught:
        script("kinetics").read_release(file)
    assert f"{file}:3: {row}" in str(caught.value) and told in str(caught.value)


def test_bad_files_of_the_kinetics_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.csv"
    (tmp_path / "clips").mkdir()
    arguments = ["--output", tmp_path, "--annotations", file, "--videos", tmp_path / "clips"]

    def told(content: str, *more: object) -> str:
        file.write_text(content)
        assert run("kinetics", *arguments, *more) == 1
        return capsys.readouterr().err

    assert "expected youtube_id, time_start, time_end; nearest: 'youtube-id'" in told("label,youtube-id,time_start\n")
    header = "label,youtube_id,time_start,time_end,split\n"
    assert "no clips listed" in told(header)
    (tmp_path / "names.json").write_text('{"abseiling": 0}')
    said = told(header + "absailing,aaaaaaaaaaa,1,11,train\n", "--classes", tmp_path / "names.json")
    assert "train.csv:2: unknown class 'absailing'" in said and "nearest: 'abseiling'" in said
    assert run("kinetics", "--output", tmp_path / "nothing", "--check") == 1
    assert "classes.json: no such file" in capsys.readouterr().err
    for wrong in (["--annotations", file], [], ["--tree", tmp_path, "--split", "0.5,0.6,0"]):
        with pytest.raises(SystemExit):
            script("kinetics").parse(["--output", str(tmp_path), *map(str, wrong)])


SYNSETS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane"}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ by synset and a flat val/, as released, with the development kit."""
    scipy_io = pytest.importorskip("scipy.io")
    folder = tmp_path_factory.mktemp("imagenet")
    for label, synset in enumerate(SYNSETS):
        (folder / "train" / synset).mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(picture(label, i, size=(40, 60)))
            image.save(folder / "train" / synset / f"{synset}_{i}.JPEG")
    (folder / "val").mkdir()
    for i in range(6):
        image = Image.fromarray(picture(i % 3, 100 + i, size=(40, 60)))
        image.save(folder / "val" / f"ILSVRC2012_val_{i + 1:08d}.JPEG")
    ids = dict(zip(SYNSETS, (3, 1, 2), strict=True))  # another order than that of the synsets
    table = np.array(
        [(ids[s], s, SYNSETS[s], 0) for s in SYNSETS] + [(4, "n00001740", "entity", 3)],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)],
    )
    (folder / "devkit/data").mkdir(parents=True)
    scipy_io.savemat(folder / "devkit/data/meta.mat", {"synsets": table})
    truth = [ids[synset] for synset in [*SYNSETS, *SYNSETS]]
    (folder / "devkit/data/ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, truth)) + "\n")
    return folder


def labels_of(list_file: Path) -> list[int]:
    return [int(line.rpartition(" ")[2]) for line in list_file.read_text().splitlines()]


def test_imagenet_release(imagenet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devkit = ["--images", imagenet, "--devkit", imagenet / "devkit", "--check", "--workers", 1]
    assert run("imagenet", *devkit) == 0
    assert "18 entries checked: nothing wrong" in capsys.readouterr().out
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


def test_imagenet_check_finds_all_that_is_wrong(imagenet: Path, tmp_path: Path) -> None:
    shutil.copytree(imagenet, tmp_path, dirs_exist_ok=True)
    tench, crane = (tmp_path / "train" / synset for synset in list(SYNSETS)[:2])
    (tench / "n01440764_0.JPEG").write_bytes(b"\xff\xd8no image")
    whole = (tench / "n01440764_1.JPEG").read_bytes()
    (tench / "n01440764_1.JPEG").write_bytes(whole[: len(whole) // 2])  # its header is good
    os.rename(tench / "n01440764_2.JPEG", crane / "n01440764_2.JPEG")
    shutil.copy(tench / "n01440764_3.JPEG", tmp_path / "val/ILSVRC2012_val_00000002.JPEG")
    (tmp_path / "val/ILSVRC2012_val_00000006.JPEG").unlink()
    assert run("imagenet", "--images", tmp_path, "--devkit", tmp_path / "devkit", "--check", "--workers", 1) == 1
    assert kinds(tmp_path / "check.csv") == {"missing": 1, "unreadable": 2, "mislabelled": 2, "duplicate": 1}
    details = " | ".join(row["detail"] for row in findings(tmp_path / "check.csv"))
    assert "listed as 'n02012849', its name says 'n01440764'" in details
    assert "listed as 'n02012849', but the same content as" in details and "in train and val" in details


def test_bad_input_for_imagenet(imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.txt"
    arguments = ["--images", imagenet, "--output", tmp_path]

    def told(content: str, option: str = "--val-labels") -> str:
        labels.write_text(content)
        assert run("imagenet", *arguments, option, labels) == 1
        return capsys.readouterr().err

    assert "labels.txt:2: 17" in (said := told("n01440764\n17\n")) and "numbers are read with --devkit" in said
    assert "without a folder in train/, such as 'n01440765'; nearest: 'n01440764'" in told("n01440765\n" * 6)
    assert "there is no label for 'ILSVRC2012_val_00000006'" in told("n01440764\n" * 5)
    said = told("ImageId,PredictionString\nILSVRC2012_val_00000001,tench 1 2\n")
    assert "labels.txt:2:" in said and "'tench' is not a synset" in said
    assert "labels.txt:1: tench" in told("tench n01440764\n", "--words")
    assert run("imagenet", "--images", tmp_path) == 1
    assert "has no folder train, val or test; its folder" in capsys.readouterr().err
    assert run("imagenet", *arguments, "--devkit", tmp_path) == 1
    assert "meta.mat does not exist" in capsys.readouterr().err
    kit = tmp_path / "kit"
    shutil.copytree(imagenet / "devkit", kit)
    (kit / "data/ILSVRC2012_validation_ground_truth.txt").write_text("1\n4\n")
    assert run("imagenet", *arguments, "--devkit", kit) == 1
    said = capsys.readouterr().err
    assert "ground_truth.txt:2: 4" in said and "expected a class number of data/meta.mat, 1 to 3" in said


@pytest.fixture(scope="module")
def ssv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ssv2")
    templates = ["Holding [something]", "Putting [something] on [something]", "Turning [something] upside down"]
    names = {name.replace("[", "").replace("]", ""): str(i) for i, name in enumerate(templates)}
    (folder / "something-something-v2-labels.json").write_text(json.dumps(names))
    for split, first, number in (("train", 100, 12), ("validation", 200, 6)):
        entries = [{"id": str(first + i), "label": "x", "template": templates[i % 3]} for i in range(number)]
        (folder / f"something-something-v2-{split}.json").write_text(json.dumps(entries))
        for i in range(number):
            path = folder / "20bn-something-something-v2" / f"{first + i}.webm"
            film(
                path, i % 3, first + i, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}, bframes=0
            )
    return folder


@pytest.fixture(scope="module")
def charades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of one or two actions: a colour in the upper half, perhaps another one in the lower."""
    folder = tmp_path_factory.mktemp("charades")
    (folder / "Charades_v1_classes.txt").write_text("".join(f"c{k:03d} Showing colour {k}\n" for k in range(3)))
    for split, number in (("train", 12), ("test", 6)):
        rows = [CHARADES]
        for i in range(number):
            shown = (i % 3,) if i % 2 else (i % 3, (i + 1) % 3)
            seed = 50 * i + 1000 * len(rows) * (split == "test")
            name = f"{split[:2].upper()}{i:03d}"

            def draw(frame: int, shown: tuple[int, ...] = shown, seed: int = seed) -> Any:
                return np.concatenate([picture(shown[0], seed + frame)[:24], picture(shown[-1], seed + frame)[24:]])

            film(folder / "Charades_v1_480" / f"{name}.mp4", 0, draw=draw)
            actions = ";".join(f"c{k:03d} 0.00 0.40" for k in shown)
            rows.append(f'{name},S,Room,6,7,Yes,"a, b",,,{actions},0.40')
        (folder / f"Charades_v1_{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_ssv2_release(ssv2: Path, tmp_path: Path) -> None:
    assert run("ssv2", "--data", ssv2, "--check", "--workers", 1, "--output", tmp_path) == 0
    assert json.loads((tmp_path / "classes.json").read_text())[1] == "Putting something on something"
    shutil.copytree(ssv2, tmp_path, dirs_exist_ok=True)
    videos = tmp_path / "20bn-something-something-v2"
    (videos / "100.webm").unlink()
    (videos / "101.webm").write_bytes(b"nothing")
    shutil.copy(videos / "102.webm", videos / "200.webm")
    assert run("ssv2", "--data", tmp_path, "--check", "--workers", 1) == 1
    assert kinds(tmp_path / "check.csv") == {"missing": 1, "unreadable": 1, "mislabelled": 1, "duplicate": 1}


def test_charades_release(charades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("charades", "--data", charades, "--check", "--workers", 1, "--output", tmp_path) == 0
    assert json.loads((tmp_path / "classes.json").read_text()) == [f"Showing colour {k}" for k in range(3)]
    shutil.copytree(charades, tmp_path, dirs_exist_ok=True)
    rows = (tmp_path / "Charades_v1_test.csv").read_text()
    rows += "GONE1,S,Room,6,7,Yes,,,,,1\nTR001,S,Room,6,7,Yes,,,,c001 3.00 4.00,1\n"
    (tmp_path / "Charades_v1_test.csv").write_text(rows)
    (tmp_path / "Charades_v1_480/TR000.mp4").write_bytes(b"nothing")
    assert run("charades", "--data", tmp_path, "--check", "--workers", 1) == 1
    assert kinds(tmp_path / "check.csv") == {"missing": 1, "unreadable": 1, "mislabelled": 1, "duplicate": 1}
    assert "second 3, and the video ends at 0.4" in " ".join(row["detail"] for row in findings(tmp_path / "check.csv"))
    assert "val: 1 videos show no action" in capsys.readouterr().out


def test_folders_of_frames_are_counted(ssv2: Path, tmp_path: Path) -> None:
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
    assert details["101"] == "found 2 images, the list names 3" and "not an image" in details["102"]


def test_a_decoder_that_hangs_or_crashes_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert "took longer than" in found[0].detail and "crashed (SIGSEGV)" in found[1].detail


def test_each_data_set_trains_and_is_tested_by_its_protocol(
    kinetics: Path, imagenet: Path, ssv2: Path, charades: Path, tmp_path: Path
) -> None:
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
