"""Whole runs of a detector on images in COCO's form: resume, processes, results, unusable losses."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import videovit
from tests.helpers.coco_data import coco_config, write_coco
from tests.helpers.runs import assert_same_bits, exit_codes, num_lines, start_ranks, stats, wait_for
from tests.helpers.videos import write_video
from videovit import cli
from videovit.commands import predict
from videovit.data.decode import open_video
from videovit.data.readers.coco import Annotations
from videovit.engine import launch
from videovit.engine.evaluation.object_pictures import Shown, write_pictures
from videovit.errors import UserError
from videovit.report.page import write_report

RICH = (
    "SOLVER.MAX_EPOCH 2 TRAIN.TRACE True TRAIN.EMA_DECAY 0.9 TEST.USE_EMA True TRAIN.GRAD_ACCUM_STEPS 2 "
    "TRAIN.MIXED_PRECISION True COCO.AUGMENTATION detr VIT.DROPPATH_RATE 0.2 TRAIN.CHECKPOINT_MINUTES 0.000001"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"), train=12, val=5)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 steps without interruption, and the test."""
    out = tmp_path_factory.mktemp("whole")
    launch.run(coco_config(out, data, *RICH))
    return out


def content(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoints/checkpoint_epoch_00002.pyth", weights_only=True)
    return loaded


def trace(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    lines = map(json.loads, (folder / "trace_rank0.jsonl").read_text().splitlines())
    return {(line["epoch"], line["step"]): line for line in lines}


def test_killed_detector_resumes_with_the_same_bits(whole: Path, data: Path, tmp_path: Path) -> None:
    """With a worker, where the first run had none."""
    cfg = coco_config(tmp_path, data, *RICH, "TEST.ENABLE", False, "DATA_LOADER.NUM_WORKERS", 1)
    (child,) = start_ranks(cfg)
    wait_for(lambda: num_lines(tmp_path / "stats.jsonl") >= 2)
    child.kill()
    assert exit_codes([child]) == [-signal.SIGKILL]
    assert not (tmp_path / "checkpoints/checkpoint_epoch_00002.pyth").exists()
    launch.run(cfg)
    for key in ("model_state", "ema_state", "optimizer_state"):
        assert_same_bits(content(whole)[key], content(tmp_path)[key])
    assert trace(whole) == trace(tmp_path) and len(trace(whole)) == 6
    shown = [target for line in trace(whole).values() for target in line["targets"]]
    assert len({target["image_id"] for target in shown}) > 9 and any(len(target["boxes"]) > 1 for target in shown)


def test_losses_are_logged_by_name_and_measures_are_of_coco(whole: Path) -> None:
    (last,) = stats(whole, "train_epoch")[-1:]
    names = ["classifier", "box_reg", "mask", "objectness", "rpn_box_reg"]
    assert last["loss"] == pytest.approx(sum(last[f"loss_{name}"] for name in names), rel=1e-5)
    (test,) = stats(whole, "test_final")
    assert {"box_ap", "box_ap50", "box_ar100", "mask_ap_small"} <= test.keys() and test["num_videos"] == 5
    assert stats(whole, "val_epoch")[-1]["mask_ar10"] is not None
    log = (whole / "stdout.log").read_text()
    assert "box AP50" in log and re.search(
        r"epoch 2/2  train loss .*  val box AP [\d.]+ \(best [\d.]+, epoch \d\)", log
    )


def test_log_and_report_speak_of_images(whole: Path, tmp_path: Path) -> None:
    log = (whole / "stdout.log").read_text()
    assert re.search(r"training: \d+ images, ", log) and "images were decoded by" in log
    assert re.search(r"epoch 2/2 .* images/s, ", log) and re.search(r"mask AP50\s+images\s+views", log)
    assert not re.search(r"\bvideos?\b(?! report)|\bclips?/s", log)
    shutil.copytree(whole, tmp_path / "run")
    text = write_report(tmp_path / "run", tmp_path / "page.html").read_text()
    assert ">images tested<" in text


def test_compare_shows_ap(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, tmp_path / "other")
    assert cli.main(["compare", str(whole), str(tmp_path / "other"), "--output", str(tmp_path / "compared")]) == 0
    (test,) = stats(whole, "test_final")
    table = capsys.readouterr().out
    header, row = (next(line for line in table.splitlines() if word in line) for word in ("box AP", "other"))
    assert "mask AP" in header and "images" in header and "video" not in header
    assert f"{test['box_ap']:.2f}" in row and f"{test['mask_ap']:.2f}" in row
    (first, _) = json.loads((tmp_path / "compared/compare.json").read_text())["runs"]
    assert (first["measure"], first["value"], first["mask_ap"]) == ("box AP", test["box_ap"], test["mask_ap"])


def test_report_shows_ap_and_pictures_of_detections(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    text = write_report(tmp_path / "run", tmp_path / "page.html").read_text()
    (test,) = stats(whole, "test_final")
    for name in ("box AP", "box AP50", "mask AP", "mask AP50", "best validation box AP"):
        assert f">{name}<" in text, name
    assert f">{test['box_ap50']:.1f}<" in text and text.count("detections, beside the annotation") >= 2


def test_results_are_those_of_a_submission(whole: Path, data: Path) -> None:
    """pycocotools reads the files, and computes the numbers that the run reports."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    (test,) = stats(whole, "test_final")
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        rows = json.loads((whole / f"detections_{name}.json").read_text())
        assert len(rows) == test["num_detections"] > 0
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(data / "annotations/instances_val.json"))
            evaluation = COCOeval(truth, truth.loadRes(rows), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        found = [test[f"{name}_{measure}"] for measure in ("ap", "ap50", "ap75")]
        assert found == [100.0 * value for value in evaluation.stats[:3].tolist()]
    per_class = list(csv.DictReader((whole / "per_class.csv").open()))
    assert [row["category id"] for row in per_class] == ["3", "5", "6", "10", "21", "40"]
    assert all(np.asarray(Image.open(whole / f"detections_{end}.png")).std() > 0 for end in ("best", "worst"))


def test_two_processes_see_each_image_once_and_find_the_same(whole: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    assert exit_codes(start_ranks(coco_config(tmp_path, data, *RICH, "TRAIN.ENABLE", False), 2)) == [0, 0]
    numbers = [
        [json.loads(line)["number"] for line in (tmp_path / f"detections/test_rank{rank}.jsonl").open()]
        for rank in (0, 1)
    ]
    assert sorted(numbers[0] + numbers[1]) == [0, 1, 2, 3, 4] and all(numbers)
    one, two = (json.loads((folder / "detections_box.json").read_text()) for folder in (whole, tmp_path))
    assert len(one) == len(two) and [row["image_id"] for row in one] == [row["image_id"] for row in two]
    np.testing.assert_allclose([row["bbox"] for row in one], [row["bbox"] for row in two], atol=1e-2)


def test_two_processes_train_the_same_images(whole: Path, data: Path, tmp_path: Path) -> None:
    cfg = coco_config(tmp_path, data, *RICH, "TEST.ENABLE", False, "TRAIN.GRAD_ACCUM_STEPS", 1, "SOLVER.MAX_EPOCH", 1)
    assert exit_codes(start_ranks(cfg, 2)) == [0, 0]
    ranks = [json.loads((tmp_path / f"trace_rank{rank}.jsonl").read_text().splitlines()[0]) for rank in (0, 1)]
    assert [target for line in ranks for target in line["targets"]] == trace(whole)[0, 0]["targets"]


def test_loss_that_is_not_finite_stops_and_names_images(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"epoch 1, step \d: loss (nan|inf).*train/0000\d\d.png"):
        launch.run(coco_config(tmp_path, data, "SOLVER.BASE_LR", 1e30, "SOLVER.WARMUP_EPOCHS", 0, "TEST.ENABLE", False))
    assert (tmp_path / "nan_dump_rank0.pt").exists()


def test_predict_draws_objects_into_images_and_videos(
    whole: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = sorted((data / "val").glob("*.png"))[:2]
    write_video(tmp_path / "clip.mp4", num_frames=3, size=(96, 64))
    found, drawn = tmp_path / "found.json", tmp_path / "drawn"
    low = ("--opts", "DETECTOR.MIN_SCORE", "0.0")
    predict.main([*map(str, images), "--model", str(whole), "--json", str(found), "--annotate", str(drawn), *low])
    records = json.loads(found.read_text())
    assert [record["video"] for record in records] == list(map(str, images))
    assert all(Image.open(drawn / image.name).size[1] >= 240 for image in images)
    predict.main([str(tmp_path / "clip.mp4"), "--model", str(whole), "--annotate", str(tmp_path / "clip_found.mp4")])
    assert "in 3 pictures" in capsys.readouterr().out
    with open_video(str(tmp_path / "clip_found.mp4"), "pyav") as video:
        assert video.num_frames == 3
    with pytest.raises(UserError, match="--people: the model finds objects"):
        predict.main([str(images[0]), "--model", str(whole), "--people"])
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 2 files could not be read"):
        predict.main([str(tmp_path / "broken.png"), str(images[0]), "--model", str(whole)])


def test_drawn_copy_of_a_strip_is_not_enlarged(whole: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4000, 1), "red").save(tmp_path / "strip.png")
    predict.main([str(tmp_path / "strip.png"), "--model", str(whole), "--annotate", str(tmp_path / "drawn.png")])
    assert Image.open(tmp_path / "drawn.png").size == (4000, 1)
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4000, 1], "iscrowd": 0}
    shown = Shown(str(tmp_path / "strip.png"), 1, [])
    annotations = Annotations(tmp_path, [], [row], {1: "strip"})
    files = write_pictures(tmp_path, [shown] * 2, annotations, ["strip"], 2)
    assert [Image.open(file).size for file in files] == [(8006, 320)] * 2


def test_detector_in_python_equals_the_command_and_its_saved_copy(whole: Path, data: Path, tmp_path: Path) -> None:
    images = sorted((data / "val").glob("*.png"))[:2]
    low = ["DETECTOR.MIN_SCORE", 0.0]
    model = videovit.load(whole, opts=low)
    assert isinstance(model, videovit.ObjectModel) and "MaskRCNN" in repr(model)
    predict.main(
        [str(images[0]), "--model", str(whole), "--json", str(tmp_path / "found.json"), "--opts", *map(str, low)]
    )
    (record,) = json.loads((tmp_path / "found.json").read_text())
    assert [row for row in model.predict(images[0], min_score=0.5).objects] == record["objects"]
    model.save(tmp_path / "saved")
    again = videovit.load(tmp_path / "saved", opts=low)
    assert again.class_names == model.class_names and again.class_names[0] != "class 1"
    pixels = np.asarray(Image.open(images[0]).convert("RGB"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    write_video(tmp_path / "clip.mp4", num_frames=3, size=(96, 64))
    with pytest.warns(UserWarning, match="1 of 4 files could not be read"):
        found = again.predict([images[0], pixels, tmp_path / "broken.png", tmp_path / "clip.mp4"], min_score=0.0)
    assert found[0].objects == found[1].objects == model.predict(images[0], min_score=0.0).objects
    assert len(found[0].objects) > 0 and found[2].error and len(found[3].pictures) == 3
    assert found[3].pictures[2].time_s > 0 and found[0].pictures[0].time_s == 0.0
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "pipeline_tag: object-detection" in card and "MaskRCNN" in card
    with pytest.raises(UserError, match="the model finds objects in images"):
        again.features(images[0])
    predict.main([str(images[0]), "--model", str(tmp_path / "saved"), "--annotate", str(tmp_path / "drawn.png")])
    assert Image.open(tmp_path / "drawn.png").size[1] >= 240
