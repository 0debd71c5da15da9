"""Detectors of objects as ONNX files: one image of a fixed size in, its objects out.

A detector of torchvision keeps as many proposals as the picture has, which `torch.export` cannot describe; PyTorch's
older exporter, which records what a run does, can, and torchvision supports it for images of one size. Deformable DETR
has a fixed number of queries and is captured like a classifier.

H W pixels, N objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic
from torchvision.ops import box_iou

import videovit
from videovit.config import Config, dump_config
from videovit.engine.checkpoints.saved_model import saved_config
from videovit.engine.exported.engines import OnnxRuntime
from videovit.engine.exported.graph import capture, quiet
from videovit.engine.exported.onnx_file import OPSET, write_onnx
from videovit.engine.exported.packages import find_package
from videovit.errors import UserError
from videovit.models import Detector

OUTPUTS = ("boxes", "labels", "scores", "masks")
SAME_OBJECT = 0.99  # IoU of the boxes; rounding alone gives above 0.9999
TOLERANCE = 1e-3  # of scores and masks
NUM_CHECKED = 3  # images


class ExportableDetector(nn.Module):
    """The objects of one image.

    Args:
        detector: in evaluation mode.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image_HWC: Tensor) -> tuple[Tensor, ...]:
        """uint8 (H, W, 3) -> boxes (N, 4), labels (N,), scores (N,), and masks (N, 1, H, W), best first."""
        (found,) = self.detector([image_HWC.permute(2, 0, 1).float() / 255])
        return tuple(found[name] for name in OUTPUTS if name in found)


def image_size(cfg: Config) -> tuple[int, int]:
    """(H, W) that holds every wide image as the test scales it, in whole strides."""
    step = coarsest_stride(cfg)
    short, long = cfg.COCO.TEST_SHORT_SIDE, max(cfg.COCO.MAX_LONG_SIDE, cfg.COCO.TEST_SHORT_SIDE)
    return -(-short // step) * step, -(-long // step) * step


def coarsest_stride(cfg: Config) -> int:
    """Pixels; images are padded to a multiple of it. Without DETECTOR.STRIDES, a multiple of those of all models."""
    return max(cfg.DETECTOR.STRIDES, default=32)


def write_detector(
    cfg: Config, detector: Detector, class_names: list[str], path: Path, size: tuple[int, int]
) -> tuple[int, float]:
    """Write a detector to a file, and compare what is read back with PyTorch.

    Args:
        cfg: of the detector.
        detector: in evaluation mode, on the CPU.
        class_names: of the labels 1, 2, ...
        path: of the file.
        size: (H, W) of the images that it takes.

    Returns:
        Objects that were compared, and the largest difference of a score or a place of a mask.

    Raises:
        UserError: a package is missing, the detector has no counterpart in ONNX, or its answers differ from PyTorch's.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        find_package(package, "onnx")
    network = ExportableDetector(detector).eval()
    metadata = _metadata(cfg, detector, class_names, size)
    if detector.is_capturable:
        write_onnx(capture(network, [example_image(size)], dynamic=False), path, metadata)
    else:
        _trace(network, example_image(size), path)
        _add_metadata(path, metadata)
    return check(network, OnnxRuntime(path), size)


def _trace(network: ExportableDetector, image_HWC: Tensor, path: Path) -> None:
    outputs = list(OUTPUTS if network.detector.finds_masks else OUTPUTS[:-1])
    # The layout in memory means nothing in ONNX, and the exporter does not know how to write it.
    register_custom_op_symbolic("aten::contiguous", lambda graph, x, layout: x, OPSET)
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False), quiet():
            torch.onnx.export(
                network,
                (image_HWC.clone(),),
                str(path),
                opset_version=OPSET,
                dynamo=False,
                input_names=["image"],
                output_names=outputs,
                dynamic_axes={name: {0: "objects"} for name in outputs},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the detector has no counterpart in ONNX: {reason}") from error
    finally:
        unregister_custom_op_symbolic("aten::contiguous", OPSET)


def _metadata(cfg: Config, detector: Detector, class_names: list[str], size: tuple[int, int]) -> dict[str, str]:
    packages = {"videovit": videovit.__version__, "torch": torch.__version__, "onnx": version("onnx")}
    masks = ", masks float32 (N, 1, H, W) in 0..1" if detector.finds_masks else ""
    return {
        "model": f"{cfg.DETECTOR.NAME} on {cfg.MODEL.MODEL_NAME}",
        "input": f"image uint8 ({size[0]}, {size[1]}, 3), RGB; a smaller one lies at the top left of the mean color",
        "output": f"boxes float32 (N, 4): x1, y1, x2, y2 in pixels, labels int64 (N,), scores float32 (N,){masks}",
        "class_names": json.dumps(class_names, ensure_ascii=False),  # of label 1, 2, ...
        "preprocessing": json.dumps(
            {"short_side": cfg.COCO.TEST_SHORT_SIDE, "max_long_side": cfg.COCO.MAX_LONG_SIDE, "mean": cfg.DATA.MEAN}
        ),
        "precision": "fp32",
        "versions": json.dumps(packages),
        "opset": str(OPSET),
        "config": dump_config(saved_config(cfg)),
    }


def _add_metadata(path: Path, metadata: dict[str, str]) -> None:
    onnx: Any = find_package("onnx", "onnx")
    file = onnx.load(str(path))
    onnx.helper.set_model_props(file, metadata)
    onnx.save(file, str(path))


# ------------------------------------------------------------------------------------------------------------ the check


def example_image(size: tuple[int, int], seed: int = 0) -> Tensor:
    """uint8 (H, W, 3): rectangles of different colors on a noisy ground, so that there is something to find."""
    generator = torch.Generator().manual_seed(seed)
    H, W = size
    image = torch.randint(40, 120, (H, W, 3), generator=generator)
    for _ in range(4):
        top, left, height, width = (torch.rand(4, generator=generator) * torch.tensor([H, W, H / 2, W / 2])).tolist()
        color = torch.randint(0, 256, (3,), generator=generator)
        image[int(top) : int(top + height) + 1, int(left) : int(left + width) + 1] = color
    return image.to(torch.uint8)


def check(network: ExportableDetector, engine: Callable[..., list[Tensor]], size: tuple[int, int]) -> tuple[int, float]:
    """Compare what an engine finds with what PyTorch finds.

    Returns:
        Objects that were compared, and the largest difference of a score or a place of a mask.

    Raises:
        UserError: an object is missing, or a difference is above the tolerance.
    """
    compared, worst = 0, 0.0
    for seed in range(NUM_CHECKED):
        image = example_image(size, seed)
        with torch.no_grad():
            expected = network(image)
        found = engine(image)
        compared += len(expected[0])
        worst = max(worst, difference(found, expected))
    if not worst <= TOLERANCE:
        raise UserError(
            "objects differ from PyTorch's: "
            + ("other boxes or labels" if worst == float("inf") else f"scores or masks by {worst:.1e}")
            + f", at most {TOLERANCE:.0e} is allowed; nothing was written",
            where="export",
        )
    return compared, worst


def difference(found: list[Tensor], expected: tuple[Tensor, ...]) -> float:
    """Largest difference of scores and masks of the same objects; infinite if there are other objects.

    The order does not count: objects with equal scores have none.
    """
    if [tuple(one.shape) for one in found] != [tuple(one.shape) for one in expected]:
        return float("inf")
    if not len(expected[0]):
        return 0.0
    alike = box_iou(expected[0], found[0]) > SAME_OBJECT
    alike &= expected[1][:, None] == found[1]
    gap = (expected[2][:, None] - found[2]).abs().masked_fill(~alike, float("inf"))
    scores, partner = gap.min(dim=1)
    masks = [(a - b[partner]).abs().max() for a, b in zip(expected[3:], found[3:], strict=True)]
    return max(float(one) for one in [scores.max(), *masks])
