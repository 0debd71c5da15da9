"""datasets/coco/prepare.py names every flaw with its image, and writes a copy without them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import runpy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.coco_data import write_coco
from tests.helpers.project import ROOT
from videovit.data.masks import draw_masks, encode_masks
from videovit.data.objects import Runs
from videovit.data.readers.coco import read, read_annotations, structure
from videovit.data.records import AnnotationError
from videovit.preparation.command import exit_code

MAIN = runpy.run_path(str(ROOT / "datasets/coco/prepare.py"))["main"]
KINDS = {
    "outside": 1,
    "zero area": 1,
    "duplicate id": 2,
    "missing": 1,
    "polygon": 2,
    "run lengths": 1,
    "image": 1,
    "category": 1,
    "box": 1,
}


def run(*words: object) -> int:
    return int(exit_code(lambda: MAIN(list(map(str, words)))))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Annotations with one flaw or two of each kind, and their images."""
    write_coco(tmp_path, train=8, val=2)
    path = tmp_path / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    rows: list[dict[str, Any]] = content["annotations"]
    size = next(image for image in content["images"] if image["id"] == rows[0]["image_id"])
    box = {"image_id": rows[0]["image_id"], "category_id": 3, "iscrowd": 0, "area": 9.0, "bbox": [1, 1, 3, 3]}
    triangle = [1, 1, 4, 1, 4, 4]
    rows += [
        {**box, "id": 901, "bbox": [-5, 2, 20, 20], "segmentation": [triangle]},
        {**box, "id": 902, "bbox": [3, 3, 0, 7], "segmentation": [triangle]},
        {**box, "id": 901, "segmentation": [triangle]},
        {**box, "id": 903, "segmentation": [[1, 1, 2, 2], triangle]},
        {**box, "id": 904, "segmentation": [[1, 1, 2, 2]]},
        {**box, "id": 905, "segmentation": {"size": [size["height"], size["width"]], "counts": [5, 5]}},
        {**box, "id": 906, "image_id": 1234567, "segmentation": [triangle]},
        {**box, "id": 907, "category_id": 4, "segmentation": [triangle]},
        {**box, "id": 908, "bbox": [1, 2, None, 4], "segmentation": [triangle]},
    ]
    content["images"].append({**content["images"][0], "file_name": "other.png"})
    path.write_text(json.dumps(content))
    (tmp_path / "train" / content["images"][2]["file_name"]).unlink()
    return tmp_path


def test_check_names_flaws_and_repair_mends_them(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, mended = damaged / "annotations/instances_train.json", damaged / "mended.json"
    assert run("--annotations", path, "--images", damaged / "train", "--check", "--open") == 1
    with (path.parent / "instances_train_check.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["kind"] for row in rows) == KINDS
    image_id = json.loads(path.read_text())["annotations"][0]["image_id"]
    assert f"outside: image {image_id}, annotation 901: the box -5, 2, 20, 20 reaches" in capsys.readouterr().out
    with pytest.raises(AnnotationError, match=r"(?s)5 flaws in the annotations:.*--check lists"):
        read_annotations(path)

    before = path.read_bytes()
    assert run("--annotations", path, "--images", damaged / "train", "--check", "--repair", mended) == 0
    assert "boxes cut at the border: 1" in capsys.readouterr().out and path.read_bytes() == before
    assert run("--annotations", mended, "--images", damaged / "train", "--check", "--open") == 0
    content = json.loads(mended.read_text())
    boxes = {row["id"]: row for row in content["annotations"]}
    assert boxes[901]["bbox"] == [0, 2, 15, 20] and boxes[909]["bbox"] == [1, 1, 3, 3]
    assert boxes[903]["segmentation"] == [[1, 1, 4, 1, 4, 4]] and not boxes.keys() & {902, 904, 905, 906, 907, 908}
    assert len(read(read_annotations(mended), damaged / "train", masks=True, skip_empty=False)) == 7


SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]


def strange(change: Callable[[dict[str, Any]], object], folder: Path) -> str:
    """What the check says about changed annotations, whose mended copy has no flaw."""
    write_coco(folder, train=2, val=1)
    content = json.loads((folder / "annotations/instances_train.json").read_text())
    row = {**content["annotations"][0], "segmentation": SQUARE}
    content["annotations"][0] = row
    change(content)
    path, mended = folder / "strange.json", folder / "mended.json"
    path.write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert run("--annotations", path, "--images", folder / "train", "--check") == 1
        assert run("--annotations", path, "--images", folder / "train", "--repair", mended) == 0
    with contextlib.redirect_stdout(io.StringIO()):
        assert run("--annotations", mended, "--images", folder / "train", "--check") == 0
    assert not list(structure(json.loads(mended.read_text())))
    return text.getvalue()


def first(**keys: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["annotations"][0].update(keys)


def again(**keys: object) -> Callable[[dict[str, Any]], object]:
    """The same annotation once more."""
    return lambda content: content["annotations"].append({**content["annotations"][0], **keys})


def runs(counts: object) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> None:
        (image,) = [image for image in content["images"] if image["id"] == content["annotations"][0]["image_id"]]
        size = [image["height"], image["width"]]
        content["annotations"][0]["segmentation"] = {"size": size, "counts": counts}

    return change


def unusable_image(content: dict[str, Any]) -> None:
    content["images"].append({"id": [], "file_name": "x"})
    content["annotations"][0]["bbox"] = [-10, -10, 50, 50]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (first(bbox=[0, 0, 10**400, 5]), "box"),
        (first(area=10**400), "area"),
        (first(id=10**30), "id"),
        (again(image_id=None), "image"),
        (again(image_id=[3]), "image"),
        (again(bbox=[0, 0, -1, 5]), "zero area"),
        (again(bbox=[-10, -10, 50, 50]), "outside"),
        (unusable_image, "outside"),
        (first(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]), "segmentation"),
        (first(segmentation=[[200, 200, 210, 200, 210, 210]]), "zero area"),
        (first(segmentation=None), "no mask"),
        (first(segmentation=[]), "no mask"),
        (runs("hello world!"), "run lengths"),
        (runs(""), "run lengths"),
        (runs("\u20ac"), "run lengths"),
        (runs("o"), "run lengths"),
        (runs("o" * 100), "run lengths"),
        (runs([-5, 10]), "run lengths"),
        (runs([1 << 62]), "run lengths"),
        (lambda content: content["images"][0].update(file_name="."), "images"),
    ],
)
def test_strange_annotation_is_named_and_mended(
    change: Callable[[dict[str, Any]], object], kind: str, tmp_path: Path
) -> None:
    assert f"{kind}: " in strange(change, tmp_path)


def test_masks_of_compressed_runs_are_valid_or_refused() -> None:
    """Run lengths that pycocotools writes pass; every shortened one is refused before it is read."""
    masks_RHW = np.random.default_rng(0).integers(0, 2, (20, 9, 70)).repeat(7, axis=2).astype(np.uint8)
    masks_RHW[0], masks_RHW[1] = 0, 1
    for mask_HW, encoded in zip(masks_RHW, encode_masks(masks_RHW), strict=True):
        height, width = mask_HW.shape
        (found_HW,) = draw_masks([Runs((height, width), encoded["counts"])], height, width)
        assert np.array_equal(found_HW, mask_HW)
        with pytest.raises(ValueError, match="run"):
            draw_masks([Runs((height, width), encoded["counts"][:-1])], height, width)


def test_boxes_without_any_mask_are_no_flaw(tmp_path: Path) -> None:
    write_coco(tmp_path, train=2, val=1)
    path = tmp_path / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    for number, row in enumerate(content["annotations"]):
        row["segmentation"] = ([], None)[number % 2]
    path.write_text(json.dumps(content))
    assert run("--annotations", path, "--images", tmp_path / "train", "--check") == 0


def test_summary_and_repair_of_hopeless_files_are_user_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path, train=2, val=1)
    path = tmp_path / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "a" * 5000
    path.write_text(json.dumps(content))
    assert run("--annotations", path, "--images", tmp_path / "train") == 0
    assert "1 missing" in capsys.readouterr().out
    for image in content["images"]:
        image["id"] = str(image["id"])
    path.write_text(json.dumps(content))
    assert run("--annotations", path, "--check", "--repair", tmp_path / "mended.json") == 1
    assert "no image would be left" in capsys.readouterr().err and not (tmp_path / "mended.json").exists()


def test_wrong_calls_and_files_are_user_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--check")
    (tmp_path / "list.json").write_text("[1, 2]")
    assert run("--annotations", tmp_path / "list.json", "--check") == 1
    assert run("--annotations", tmp_path / "none.json", "--check") == 1
    assert run("--annotations", tmp_path / "list.json", "--images", tmp_path / "none", "--check") == 1
    printed = capsys.readouterr().err
    assert "images, annotations, categories" in printed and "none: the folder of images does not exist" in printed
