"""Detectors of objects as ONNX files: equal to PyTorch, wrong files refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.mvit_variants import perturb
from tests.helpers.tiny_detectors import tiny_config, tiny_detector
from tests.helpers.tiny_transformers import need_transformers
from videovit.config import Config
from videovit.engine.exported import detectors
from videovit.engine.exported.detectors import ExportableDetector, check, difference, example_image, image_size
from videovit.engine.tasks.export import write_object_network
from videovit.errors import UserError
from videovit.models import Detector

SIZE = (64, 96)
NAMES = [f"thing {i}, größer" for i in range(7)]
ALL = "DETECTOR.MIN_SCORE 0.0 COCO.MASKS {} DETECTOR.MAX_DETECTIONS 20"
PAIRS = [
    *(("MaskRCNN", body, ALL.format(True)) for body in ("MViT", "PiT", "PSViT", "ViT")),
    (
        "FasterRCNN",
        "ImageResNet",
        ALL.format(False) + " DETECTOR.STRIDES [4,8,16,32] DETECTOR.ANCHOR_SIZES [8,16,32,64,128]",
    ),
    (
        "RetinaNet",
        "ImageResNet",
        ALL.format(False) + " DETECTOR.STRIDES [4,8,16,32] DETECTOR.ANCHOR_SIZES [8,16,32,64,128,256]",
    ),
    ("DeformableDETR", "PiT", ALL.format(False) + " DETECTOR.STRIDES [8,16]"),
]


def tiny(head: str, body: str, options: str) -> tuple[Config, Detector]:
    detector = tiny_detector(head, body, options).eval()
    perturb(detector)
    return tiny_config(head, body, options), detector


@pytest.mark.parametrize(("head", "body", "options"), PAIRS, ids=[f"{head} on {body}" for head, body, _ in PAIRS])
def test_file_finds_what_pytorch_finds(head: str, body: str, options: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    if head == "DeformableDETR":
        need_transformers()
    cfg, detector = tiny(head, body, options)
    path = tmp_path / "net.onnx"
    num, worst = write_object_network(cfg, detector, NAMES, path, size=SIZE)
    assert num > 30 and worst < 1e-4 and list(tmp_path.iterdir()) == [path] and not detector.training
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = example_image(SIZE, seed=9)
    found = [torch.from_numpy(one) for one in session.run(None, {session.get_inputs()[0].name: image.numpy()})]
    with torch.no_grad():
        (expected,) = detector([image.permute(2, 0, 1) / 255])
    assert isinstance(expected, dict)
    assert difference(found, tuple(expected[name] for name in detectors.OUTPUTS if name in expected)) < 1e-4
    metadata = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert json.loads(metadata["class_names"]) == NAMES and "(64, 96, 3)" in metadata["input"]
    assert ("masks" in metadata["output"]) == detector.finds_masks


def test_image_without_objects(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    cfg, detector = tiny("MaskRCNN", "PiT", "DETECTOR.MIN_SCORE 0.999")
    assert write_object_network(cfg, detector, NAMES, tmp_path / "net.onnx", size=SIZE) == (0, 0.0)
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    shapes = [one.shape for one in session.run(None, {"image": example_image(SIZE).numpy()})]
    assert shapes == [(0, 4), (0,), (0,), (0, 1, *SIZE)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda boxes, labels, scores, masks: [boxes, labels, scores + 0.01, masks], "scores or masks by 1.0e-02"),
        (lambda boxes, labels, scores, masks: [boxes, labels, scores, masks * 0.9], "scores or masks by"),
        (lambda boxes, labels, scores, masks: [boxes + 1, labels, scores, masks], "other boxes or labels"),
        (lambda boxes, labels, scores, masks: [boxes, labels % 7 + 1, scores, masks], "other boxes or labels"),
        (lambda boxes, labels, scores, masks: [x[:-1] for x in (boxes, labels, scores, masks)], "other boxes"),
    ],
    ids=["scores", "masks", "boxes", "labels", "missing"],
)
def test_wrong_answers_are_refused(change: object, message: str) -> None:
    _, detector = tiny("MaskRCNN", "PiT", ALL.format(True))
    network = ExportableDetector(detector).eval()

    def engine(image: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return change(*network(image))  # type: ignore[operator, no-any-return]

    with pytest.raises(UserError, match=message):
        check(network, engine, SIZE)


def test_order_of_equal_scores_does_not_count() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [20.0, 20.0, 40.0, 44.0]])
    labels, scores = torch.tensor([1, 2]), torch.tensor([0.5, 0.5])
    assert difference([boxes.flip(0), labels.flip(0), scores], (boxes, labels, scores)) == 0


def test_sizes_are_whole_strides(tmp_path: Path) -> None:
    cfg, detector = tiny("MaskRCNN", "PiT", "COCO.TEST_SHORT_SIDE 100 COCO.MAX_LONG_SIDE 130")
    assert image_size(cfg) == (112, 144)
    with pytest.raises(UserError, match=r"--size.*60 64.*multiples of 16"):
        write_object_network(cfg, detector, NAMES, tmp_path / "net.onnx", size=(60, 64))
    with pytest.raises(UserError, match=r"--output.*net\.pt2.*ends in \.onnx"):
        write_object_network(cfg, detector, NAMES, tmp_path / "net.pt2")
