"""Graphs as ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch.export import ExportedProgram

from videovit.engine.exported.graph import quiet
from videovit.engine.exported.packages import find_package
from videovit.errors import UserError

OPSET = 20
MOST_BYTES = 2**31 - 2**20  # of one file; the format cannot hold more


def write_onnx(program: ExportedProgram, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a graph.

    Args:
        program: from `capture`.
        path: of the file.
        metadata: text by name, kept in the file.

    Raises:
        UserError: a package is missing, an operation has no counterpart, or the weights are larger than 2 GiB.
    """
    for package in ("onnx", "onnxscript"):
        find_package(package, "onnx")
    size = sum(t.nbytes for t in [*program.state_dict.values(), *program.constants.values()] if torch.is_tensor(t))
    if size > MOST_BYTES:
        raise UserError(f"{size / 2**30:.1f} GiB of weights", where=path, expected="at most 2 GiB, or the format pt2")
    # Whoever calls may be in inference mode or in autocast, which would get into the graph.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False), quiet():
        try:
            exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the graph has no counterpart in ONNX: {reason}") from error
        assert exported is not None  # it is with `dynamo`
        exported.model.metadata_props.update(metadata or {})
        exported.save(str(path))
