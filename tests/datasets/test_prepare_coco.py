"""datasets/coco/prepare.py names every flaw with its image, and writes a copy without them."""

from __future__ import annotations

import csv
import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.coco_data import write_coco
from tests.helpers.project import ROOT
from videovit.data.readers.coco import read, read_annotations
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
    assert "1 boxes cut at the border" in capsys.readouterr().out and path.read_bytes() == before
    assert run("--annotations", mended, "--images", damaged / "train", "--check", "--open") == 0
    content = json.loads(mended.read_text())
    boxes = {row["id"]: row for row in content["annotations"]}
    assert boxes[901]["bbox"] == [0, 2, 15, 20] and boxes[909]["bbox"] == [1, 1, 3, 3]
    assert boxes[903]["segmentation"] == [[1, 1, 4, 1, 4, 4]] and not boxes.keys() & {902, 904, 905, 906, 907, 908}
    assert len(read(read_annotations(mended), damaged / "train", masks=True, skip_empty=False)) == 7


def test_wrong_calls_and_files_are_user_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--check")
    (tmp_path / "list.json").write_text("[1, 2]")
    assert run("--annotations", tmp_path / "list.json", "--check") == 1
    assert run("--annotations", tmp_path / "none.json", "--check") == 1
    assert "images, annotations, categories" in capsys.readouterr().err
