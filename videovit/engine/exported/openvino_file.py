"""Graphs as files of OpenVINO: .xml, with the weights beside it in .bin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from videovit.engine.checkpoints.saved_model import METADATA
from videovit.engine.exported.onnx_file import write_onnx
from videovit.engine.exported.packages import find_package


def write_openvino(
    program: ExportedProgram, path: Path, metadata: Mapping[str, str] | None = None, *, half: bool = False
) -> None:
    """Write a graph.

    Args:
        program: from `capture`.
        path, metadata, half: see `save_openvino`.

    Raises:
        UserError: see `write_onnx`; or the package is missing.
    """
    ov = find_package("openvino", "openvino")
    # Straight from the program would be quicker, but PiT then computes something else (OpenVINO 2026.4).
    between = path.with_suffix(".onnx")
    try:
        write_onnx(program, between)
        model = ov.convert_model(str(between))
    finally:
        between.unlink(missing_ok=True)
    save_openvino(model, path, metadata, half=half)


def save_openvino(model: Any, path: Path, metadata: Mapping[str, str] | None = None, *, half: bool = False) -> None:
    """Write a graph of OpenVINO.

    Args:
        model: an `openvino.Model`.
        path: of the .xml file.
        metadata: text by name, kept in the file.
        half: products in bf16. Weights are stored in fp16, which rounds less than bf16.
    """
    ov = find_package("openvino", "openvino")
    for name, text in (metadata or {}).items():
        model.set_rt_info(text, [METADATA, name])
    if half:
        model.set_rt_info("bf16", ["runtime_options", "INFERENCE_PRECISION_HINT"])  # read by the engine
    ov.save_model(model, str(path), compress_to_fp16=half)
