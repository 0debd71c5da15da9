"""Graphs as files of OpenVINO: .xml, with the weights beside it in .bin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from videovit.engine.checkpoints.saved_model import METADATA
from videovit.engine.exported.graph import quiet
from videovit.engine.exported.packages import find_package
from videovit.errors import UserError


def write_openvino(
    program: ExportedProgram, path: Path, metadata: Mapping[str, str] | None = None, *, half: bool = False
) -> None:
    """Write a graph.

    Args:
        program: from `capture`.
        path: of the .xml file.
        metadata: text by name, kept in the file.
        half: products in bf16. Weights are stored in fp16, which rounds less than bf16.

    Raises:
        UserError: the package is missing, or an operation has no counterpart.
    """
    ov = find_package("openvino", "openvino")
    # Whoever calls may be in inference mode or in autocast, which would get into the graph.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False), quiet():
        try:
            model = ov.convert_model(program)
        except Exception as error:  # its classes are not public
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the graph has no counterpart in OpenVINO: {reason}") from error
    # The converter leaves every size open. Those that are known make the graph faster.
    names, users = program.graph_signature.user_inputs, {node.name: node for node in program.graph.nodes}
    shapes = [users[name].meta["val"].shape for name in names]
    model.reshape({one: _known(ov, shape) for one, shape in zip(model.inputs, shapes, strict=True)})
    for name, text in (metadata or {}).items():
        model.set_rt_info(text, [METADATA, name])
    if half:
        model.set_rt_info("bf16", ["runtime_options", "INFERENCE_PRECISION_HINT"])  # read by the engine
    ov.save_model(model, str(path), compress_to_fp16=half)


def _known(ov: Any, shape: torch.Size) -> Any:
    return ov.PartialShape([size if isinstance(size, int) else -1 for size in shape])
