"""Something-Something v2: official files, frame lists, and invalid input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.project import CONFIGS
from tests.helpers.samples import read_samples
from tests.helpers.videos import barcode, read_barcodes
from videovit.config import load_config
from videovit.data.build import build_dataset, build_loader
from videovit.data.readers import ssv2
from videovit.data.records import AnnotationError, Sample
from videovit.data.transforms.pipeline import build_preparation

LABELS = {"Holding something": "0", "Putting something on something": "1", "Pushing something from left to right": "2"}
TRAIN = [
    {"id": "10", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]},
    {"id": "11", "label": "x", "template": "Putting [something] on [something]", "placeholders": ["a", "b"]},
]


def release(folder: Path, *, train: Any = TRAIN, labels: Any = LABELS, prefix: str = "something-something-v2-") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}labels.json").write_text(json.dumps(labels, indent=0))
    for name, entries in (("train", train), ("validation", TRAIN[::-1])):
        rows = ",\n".join(json.dumps(entry) for entry in entries)
        (folder / f"{prefix}{name}.json").write_text(f"[{rows}]")
    return folder


def frame_list(folder: Path, videos: dict[str, int]) -> None:
    rows = ["original_vido_id video_id frame_id path labels"]
    for number, (name, count) in enumerate(videos.items()):
        rows += [f'{name} {number} {i} {name}/{name}_{i + 1:04d}.jpg ""' for i in range(count)]
    (folder / "train.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_read_official_files(prefix: str, tmp_path: Path) -> None:
    folder = release(tmp_path, prefix=prefix)
    videos = tmp_path / "20bn-something-something-v2"
    videos.mkdir()
    (videos / "10.webm").touch()
    (videos / "11.mp4").touch()  # re-encoded
    expected = [Sample(str(videos / "10.webm"), 0), Sample(str(videos / "11.mp4"), 1)]
    assert ssv2.read(folder, "train", num_classes=3) == expected
    assert ssv2.read(folder, "val", num_classes=3) == expected[::-1]
    assert ssv2.read(folder, "train", num_classes=3, prefix="/v") == [Sample("/v/10.webm", 0), Sample("/v/11.webm", 1)]


def test_read_bom_and_crlf(tmp_path: Path) -> None:
    folder = release(tmp_path)
    expected = ssv2.read(folder, "train", num_classes=3)
    for file in folder.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert ssv2.read(folder, "train", num_classes=3) == expected


def test_test_split_default_and_configured(tmp_path: Path) -> None:
    folder = release(tmp_path)
    (folder / "something-something-v2-test-answers.csv").write_text("42;Pushing something from left to right\r\n")
    opts = ["TRAIN.DATASET", "ssv2", "TEST.DATASET", "ssv2", "TEST.NUM_ENSEMBLE_VIEWS", "1"]
    opts += ["DATA.PATH_TO_DATA_DIR", str(folder), "DATA.RANDOM_FLIP", "False", "MODEL.NUM_CLASSES", "3"]
    cfg = load_config(opts=opts)
    assert read_samples(cfg, "test") == read_samples(cfg, "val") == read_samples(cfg, "train")[::-1]
    cfg = load_config(opts=[*opts, "TEST.SPLIT", "test", "DATA.RANDOM_FLIP", "True"])
    assert read_samples(cfg, "test") == [Sample(str(folder / "42.webm"), 2)]
    with pytest.warns(UserWarning, match="RANDOM_FLIP"):
        read_samples(cfg, "train")


def test_read_image_folders(tmp_path: Path) -> None:
    folder = release(tmp_path)
    frame_list(folder, {"11": 9, "10": 3})
    for name, count in (("10", 3), ("11", 9)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(barcode(i)).save(tmp_path / "images" / name / f"{name}_{i + 1:04d}.jpg", quality=95)
    opts = ["TRAIN.DATASET", "ssv2", "TEST.DATASET", "ssv2", "TEST.NUM_ENSEMBLE_VIEWS", 1, "DATA.NUM_FRAMES", 4]
    opts += ["DATA.PATH_TO_DATA_DIR", folder, "DATA.PATH_PREFIX", tmp_path / "images", "DATA.RANDOM_FLIP", False]
    opts += [
        "MODEL.NUM_CLASSES",
        3,
        "DATA.TEST_CROP_SIZE",
        48,
        "DATA.TEST_SHORT_SIDE",
        48,
        "DATA_LOADER.NUM_WORKERS",
        0,
        "TEST.BATCH_SIZE",
        3,
    ]
    opts += ["TRAIN.ENABLE", False]
    cfg = load_config(opts=[str(opt) for opt in opts])
    samples = read_samples(cfg, "train")
    assert samples == [
        Sample(f"{tmp_path}/images/10", 0, num_frames=3),
        Sample(f"{tmp_path}/images/11", 1, num_frames=9),
    ]
    shutil.copy(folder / "train.csv", folder / "val.csv")
    (batch, _) = build_loader(cfg, "test")
    assert batch.labels.tolist() == [1] * 3 and batch.views_B.tolist() == [0, 1, 2]
    middles = [1, 3, 5, 7]  # of the segments 0-2, 2-4, 4-6, 6-8
    assert read_barcodes(batch.frames_BTHWC[1]) == middles
    (tmp_path / "images" / "10" / "10_0009.jpg").write_bytes((tmp_path / "images/10/10_0001.jpg").read_bytes())
    item = build_dataset(cfg, "test", samples)[0, 0]
    assert not item.clips and item.failures[0].reason == "4 images, but the list states 3"


BAD_ENTRIES = [
    ({"id": "12", "template": "Holdng [something]"}, r"unknown template.*did you mean Holding something"),
    ({"id": "10", "template": "Holding [something]"}, "already listed in line 1"),
    ({"id": "12"}, "expected an id and a template"),
    ({"id": "../12", "template": "Holding [something]"}, "not the name of a video"),
    ("12", "expected an id and a template"),
]


@pytest.mark.parametrize(("entry", "told"), BAD_ENTRIES)
def test_read_invalid_entry_raises(entry: object, told: str, tmp_path: Path) -> None:
    folder = release(tmp_path, train=[*TRAIN, entry])
    with pytest.raises(AnnotationError, match=rf"train.json:3: .*\n.*{told}"):
        ssv2.read(folder, "train", num_classes=3)


def test_read_invalid_entries_reported_together(tmp_path: Path) -> None:
    folder = release(tmp_path, train=[*TRAIN, *(entry for entry, _ in BAD_ENTRIES)])
    with pytest.raises(AnnotationError, match="5 lines cannot be used"):
        ssv2.read(folder, "train", num_classes=3)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({**LABELS, "Other": "3"}, r"labels.json:5: Other: 3\n +class 3 is not in 0..2 \(MODEL.NUM_CLASSES\)"),
        ({**LABELS, "Other": "1"}, "class 1 is already 'Putting something on something'"),
        ({**LABELS, "Other": "one"}, "'one' is not a whole number"),
        (list(LABELS), "expected {"),
    ],
)
def test_read_classes_invalid_raises(labels: object, told: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=told):
        ssv2.read(release(tmp_path, labels=labels), "train", num_classes=3)


def test_invalid_file_raises(tmp_path: Path) -> None:
    folder = release(tmp_path)
    answers = folder / "test-answers.csv"
    answers.write_text("42;Holding something;x\n43\n")
    with pytest.raises(AnnotationError, match=r"answers.csv:1: .*\n.*id;template(.|\n)*answers.csv:2"):
        ssv2.read(folder, "test", num_classes=3)
    (folder / "something-something-v2-train.json").write_text('[{"id": "1"},\n{]')
    with pytest.raises(AnnotationError, match=r"train.json:2: not JSON"):
        ssv2.read(folder, "train", num_classes=3)
    (folder / "something-something-v2-train.json").write_text("{}")
    with pytest.raises(AnnotationError, match="expected a list"):
        ssv2.read(folder, "train", num_classes=3)
    (folder / "something-something-v2-train.json").rename(folder / "something-something-v2-trian.json")
    with pytest.raises(AnnotationError, match="found no something-something-v2-train.json.*did you mean .*trian.json"):
        ssv2.read(folder, "train", num_classes=3)
    with pytest.raises(AnnotationError, match="the folder .* does not exist"):
        ssv2.read(tmp_path / "absent", "train", num_classes=3)


def test_read_video_not_in_frame_list_raises(tmp_path: Path) -> None:
    folder = release(tmp_path)
    frame_list(folder, {"11": 2})
    with pytest.raises(AnnotationError, match=r"train.json:1: .*\n.*'10' is not in the frame list"):
        ssv2.read(folder, "train", num_classes=3)


def test_published_config_frames_stay_rgb() -> None:
    """They set REVERSE_INPUT_CHANNEL because PySlowFast reads these images as BGR."""
    path = CONFIGS / "SSv2" / "MVITv2_S_16x4.yaml"
    assert load_config(path).DATA.REVERSE_INPUT_CHANNEL
    assert not build_preparation(load_config(path), train=True).reverse_channels
    kinetics = load_config(path, ["TRAIN.DATASET", "kinetics"])
    assert build_preparation(kinetics, train=True).reverse_channels
