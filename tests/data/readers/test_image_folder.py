"""Folders of images: numbers of classes, which files are read, and invalid input."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.runs import TINY, write_config
from videovit.config import load_config
from videovit.data.build import build_dataset, build_loader
from videovit.data.readers import image_folder
from videovit.data.records import AnnotationError
from videovit.errors import UserError


def write_images(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), "red").save(path)
    return folder


def read(folder: Path, num_classes: int = 2, **arguments: object) -> list[tuple[str, int]]:
    samples = image_folder.read(folder, num_classes=num_classes, **arguments)  # type: ignore[arg-type]
    return [(Path(sample.path).relative_to(folder.parent).as_posix(), sample.label) for sample in samples]


def error(folder: Path, num_classes: int = 2) -> str:
    with pytest.raises(AnnotationError) as caught:
        read(folder, num_classes)
    return str(caught.value)


def test_read_class_numbers_and_depth(tmp_path: Path) -> None:
    write_images(tmp_path, "train/b c/2.PNG", "train/a/x.jpg", "train/b c/deep/1.webp", "train/b c/.hidden.png")
    (tmp_path / "train/a/notes.txt").write_text("no image")
    assert read(tmp_path / "train") == [("train/a/x.jpg", 0), ("train/b c/2.PNG", 1), ("train/b c/deep/1.webp", 1)]


def test_read_symlink_loops(tmp_path: Path) -> None:
    write_images(tmp_path, "elsewhere/3.png", "train/a/1.png", "train/b/2.png")
    (tmp_path / "train/a/more").symlink_to(tmp_path / "elsewhere")
    for place, target in (("train/a/self", "."), ("train/a/up", ".."), ("elsewhere/back", tmp_path / "train/a")):
        (tmp_path / place).symlink_to(target)
    for place in ("train/a/knot", "train/knot"):
        (tmp_path / place).symlink_to("knot")  # a link to itself
    assert read(tmp_path / "train") == [("train/a/1.png", 0), ("train/a/more/3.png", 0), ("train/b/2.png", 1)]


def test_read_class_missing_in_val_keeps_numbers(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a/1.png", "train/b/1.png", "val/b/2.png")
    assert read(tmp_path / "val") == [("val/b/2.png", 1)]


def test_read_test_falls_back_to_val(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a/1.png", "train/b/1.png", "val/b/2.png")
    assert read(tmp_path / "test") == [("val/b/2.png", 1)]
    write_images(tmp_path, "test/loose.png")  # as ImageNet is released
    with pytest.warns(UserWarning, match="has no class folders, .*; the test reads val"):
        assert read(tmp_path / "test") == [("val/b/2.png", 1)]
    write_images(tmp_path, "test/a/3.png")
    assert read(tmp_path / "test") == [("test/a/3.png", 0)]


def test_read_list_takes_precedence(tmp_path: Path) -> None:
    write_images(tmp_path, "val/1.JPEG", "val/2.JPEG")
    (tmp_path / "val.csv").write_bytes(b"\xef\xbb\xbfval/1.JPEG 1\r\nval/2.JPEG 0\r\n")
    assert read(tmp_path / "val") == read(tmp_path / "test") == [("val/1.JPEG", 1), ("val/2.JPEG", 0)]
    (tmp_path / "val.csv").write_text("val/1.JPEG 1\nval/2.JPEG 2\n")
    assert re.search(r"val\.csv:2: val/2.JPEG 2\s+label 2 is not in 0\.\.1", error(tmp_path / "val"))


def test_read_invalid_folder_raises(tmp_path: Path) -> None:
    assert "holds nothing" in error(tmp_path / "train")
    write_images(tmp_path, "train/loose.png")
    assert "has no class folders; expected train/<class>/<image>" in error(tmp_path / "train")
    (tmp_path / "train/cat").mkdir()
    (tmp_path / "train/dog").mkdir()
    assert "no images in the class folders" in error(tmp_path / "train")
    write_images(tmp_path, "train/cat/1.png", "val/dgo/1.png")
    message = error(tmp_path / "train", 1000)
    assert "train: 2 class folders (cat, dog), but MODEL.NUM_CLASSES is 1000" in message
    assert re.search(r"val/dgo' is not a class of '.*train'; did you mean dog\?", error(tmp_path / "val"))


def test_image_batches_one_view_only(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name, color in (("dark", 20), ("light", 220)):
            for i in range(4):
                path = tmp_path / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((40, 60), color, dtype=np.uint8)).save(path)  # gray, one channel
    config = write_config(tmp_path, TINY)
    opts = f"""TRAIN.DATASET imagenet TEST.DATASET imagenet DATA.NUM_FRAMES 1 MODEL.NUM_CLASSES 2
        TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 AUG.NUM_SAMPLE 2 DATA.PATH_TO_DATA_DIR {tmp_path}""".split()
    for split in ("train", "val", "test"):
        batch = next(iter(build_loader(load_config(config, opts), split)))
        assert batch.frames_BTHWC.shape[1:] == (1, 32, 32, 3) and set(batch.served_by) == {"image"}
        assert len(batch) == {"train": 8, "val": 4, "test": 4}[split]
        assert ((batch.frames_BTHWC.float().mean(dim=(1, 2, 3, 4)) > 128).long() == batch.labels).all()
    for key, value in (("TEST.NUM_ENSEMBLE_VIEWS", "5"), ("TEST.NUM_SPATIAL_CROPS", "3"), ("DATA.NUM_FRAMES", "4")):
        with pytest.raises(UserError, match=f"{key}: found {value}, expected 1"):
            build_loader(load_config(config, [*opts, key, value]), "test")


@pytest.mark.parametrize("name", ["kinetics", "imagenet"])
def test_decode_short_side_per_split(name: str) -> None:
    sides = ["DATA.DECODE_SHORT_SIDE", "320", "DATA.TEST_DECODE_SHORT_SIDE", "256"]
    frames = "1" if name == "imagenet" else "8"
    words = ["TRAIN.DATASET", name, "TEST.DATASET", name, "DATA.NUM_FRAMES", frames, "TEST.NUM_ENSEMBLE_VIEWS", "1"]
    cfg = load_config(None, [*words, *sides, "TEST.NUM_SPATIAL_CROPS", "1"])
    for split, side in (("train", 320), ("val", 256), ("test", 256)):
        assert build_dataset(cfg, split, [])._decoding.short_side == side  # type: ignore[arg-type]


def test_read_without_classes_takes_images_of_any_depth(tmp_path: Path) -> None:
    write_images(tmp_path, "train/2.png", "train/a/x.jpg", "train/a/deep/1.webp")
    found = [("train/2.png", -1), ("train/a/deep/1.webp", -1), ("train/a/x.jpg", -1)]
    assert read(tmp_path / "train", labeled=False) == found
    (tmp_path / "train" / "notes.doc").write_text("")
    with pytest.warns(UserWarning, match="1 file left out"):
        assert read(tmp_path / "train", labeled=False) == found
    (tmp_path / "val").mkdir()
    with pytest.raises(AnnotationError, match="no images"):
        read(tmp_path / "val", labeled=False)
