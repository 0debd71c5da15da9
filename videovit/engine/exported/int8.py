"""Networks of OpenVINO in int8: weights and inputs of products have 8 bits, and ranges that clips set (NNCF)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videovit.engine.exported.openvino_file import save_openvino
from videovit.engine.exported.packages import find_package

ATTENTION = ("ScaledDotProductAttention", "Softmax")  # classifiers return logits, so no softmax is at their end
NOT_FASTER = ["ScaledDotProductAttention", "GroupConvolution"]
"""What OpenVINO computes in floating point beside attention, so that rounding would only lose accuracy."""


def find_nncf() -> Any:
    """The package that makes int8 of a network, with its remarks silenced.

    Raises:
        UserError: it is not installed.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA when NNCF imports it
    nncf = find_package("nncf", "int8")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def quantize(path: Path, inputs: Iterable[NDArray[np.uint8]], num_inputs: int) -> Any:
    """A network in int8.

    Args:
        path: of the network in full precision, an .xml file.
        inputs: of the network; they are read several times.
        num_inputs: their number.

    Returns:
        An `openvino.Model`.

    Raises:
        UserError: a package is missing.
    """
    nncf, ov = find_nncf(), find_package("openvino", "openvino")
    model = ov.Core().read_model(str(path))
    options: dict[str, Any] = {}
    if any(op.get_type_name() in ATTENTION for op in model.get_ops()):
        # Evens out channels whose ranges differ (SmoothQuant).
        options["model_type"] = nncf.ModelType.TRANSFORMER
        options["ignored_scope"] = nncf.IgnoredScope(types=NOT_FASTER, validate=False)
    return nncf.quantize(model, nncf.Dataset(inputs), subset_size=num_inputs, **options)


def computes_bf16() -> bool:
    """Whether this CPU has products in bf16."""
    ov = find_package("openvino", "openvino")
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def save_half(path: Path, target: Path) -> None:
    """Write a network in full precision (an .xml file) once more, for products in bf16."""
    ov = find_package("openvino", "openvino")
    save_openvino(ov.Core().read_model(str(path)), target, half=True)
