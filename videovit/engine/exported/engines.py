"""Engines, which run exported graphs, and how a model becomes such a graph.

An engine is a subclass of `Engine` and a row of `ENGINES`. The files that it reads hold operations and data, but no
code.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from videovit.engine.checkpoints.saved_model import METADATA
from videovit.engine.exported.graph import (
    NUM_BOXES,
    Exportable,
    ExportableFeatures,
    capture,
    example_boxes,
)
from videovit.engine.exported.kept_graphs import graph_key, kept_graph
from videovit.engine.exported.onnx_file import write_onnx
from videovit.engine.exported.openvino_file import write_openvino
from videovit.engine.exported.packages import find_package
from videovit.engine.reporting.log import logger
from videovit.errors import UserError
from videovit.models import optimize_for_inference
from videovit.models.contract import Features, Grid, LayeredModel, VideoModel

MOST_SHAPES = 2  # inputs that an engine keeps a graph for


class Engine(ABC):
    """A graph that is ready to run.

    Args:
        path: of its file.
        dtype: of the computation; None for full precision.

    Attributes:
        extra: the extra of videovit that installs its packages.
        packages: names of these packages.
        half: whether it can compute in bf16.
        suffix: of its files.
    """

    extra: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    half: ClassVar[bool]
    suffix: ClassVar[str]

    @staticmethod
    @abstractmethod
    def write(program: ExportedProgram, path: Path) -> None:
        """Write a graph as a file that it reads."""

    @abstractmethod
    def __init__(self, path: Path, dtype: torch.dtype | None = None) -> None: ...

    @abstractmethod
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs of the graph, on the CPU."""

    @property
    @abstractmethod
    def frames(self) -> tuple[int, ...]:
        """Shape of the first input; 0 for a size that is free."""

    @abstractmethod
    def metadata(self) -> dict[str, str]:
        """Text by name that videovit wrote to the file; other programs may have written other text."""


def as_arrays(inputs: Sequence[Tensor]) -> list[np.ndarray[Any, Any]]:
    """Contiguous arrays of tensors."""
    return [np.ascontiguousarray(x.detach().cpu().numpy()) for x in inputs]


class OnnxRuntime(Engine):
    """ONNX Runtime on the CPU.

    Args:
        path: of an ONNX file.
        dtype: must be None, since ONNX Runtime has no products in bf16 on CPUs.

    Raises:
        UserError: the package is missing, or the file cannot be used.
    """

    extra, packages, half, suffix = "onnx", ("onnx", "onnxscript", "onnxruntime"), False, ".onnx"

    def __init__(self, path: Path, dtype: torch.dtype | None = None) -> None:
        ort = find_package("onnxruntime", "onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(f"ONNX Runtime cannot read it: {_first_line(error)}", where=path) from error
        self._names = [one.name for one in self._session.get_inputs()]

    @property
    def frames(self) -> tuple[int, ...]:
        """See `Engine`."""
        return tuple(size if isinstance(size, int) else 0 for size in self._session.get_inputs()[0].shape)

    def metadata(self) -> dict[str, str]:
        """See `Engine`."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @staticmethod
    def write(program: ExportedProgram, path: Path) -> None:
        """See `Engine`."""
        write_onnx(program, path)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """See `Engine`."""
        outputs = self._session.run(None, dict(zip(self._names, as_arrays(inputs), strict=True)))
        return [torch.from_numpy(output) for output in outputs]


class OpenVino(Engine):
    """OpenVINO on the CPU.

    Args:
        path: of an ONNX file, or the .xml of OpenVINO's own format.
        dtype: bf16, which is used if the CPU has such products; None for fp32.

    Raises:
        UserError: the package is missing, or the file cannot be used.
    """

    extra, packages, half, suffix = "openvino", ("onnx", "onnxscript", "openvino"), True, ".xml"

    def __init__(self, path: Path, dtype: torch.dtype | None = None) -> None:
        ov = find_package("openvino", "openvino")
        self._core = ov.Core()
        precision = "bf16" if dtype == torch.bfloat16 else "f32"
        self._options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            self._model = self._core.read_model(str(path))
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot read it: {_first_line(error)}", where=path) from error
        self._compiled: dict[tuple[int, ...], Any] = {}

    @property
    def frames(self) -> tuple[int, ...]:
        """See `Engine`."""
        shape = self._model.inputs[0].partial_shape
        return tuple(size.get_length() if size.is_static else 0 for size in shape)

    def metadata(self) -> dict[str, str]:
        """See `Engine`."""
        held = self._model.get_rt_info([METADATA]).value if self._model.has_rt_info([METADATA]) else None
        return held if isinstance(held, dict) else {}

    @staticmethod
    def write(program: ExportedProgram, path: Path) -> None:
        """See `Engine`."""
        write_openvino(program, path)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """See `Engine`."""
        # A graph for one number of clips is up to a fifth faster than one for any number. Boxes are too little work.
        shape = tuple(inputs[0].shape)
        if shape not in self._compiled:
            while len(self._compiled) >= MOST_SHAPES:
                del self._compiled[next(iter(self._compiled))]
            model = self._model.clone()
            model.reshape({model.inputs[0]: list(shape), **{one: one.partial_shape for one in model.inputs[1:]}})
            self._compiled[shape] = self._core.compile_model(model, "CPU", self._options)
        outputs = self._compiled[shape](as_arrays(inputs))
        return [torch.from_numpy(np.array(outputs[i])) for i in range(len(outputs))]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class EngineNetwork(nn.Module):
    """A model whose forward passes are computed by an engine; called like the model.

    The graph for clips of a size is read from the cache, or made when it is first needed, which takes seconds to a
    minute. Graphs of the last two sizes stay open. Threads may share a network.

    Args:
        model: on the CPU. Its weights are copied when a graph is made.
        engine: that computes.
        dtype: of the computation; None for full precision.

    Raises:
        UserError: the model finds objects in images, or is on another device; or the engine is not installed, or
            cannot compute in `dtype`.
    """

    def __init__(
        self,
        model: LayeredModel,
        engine: type[Engine],
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dtype is not None and not (engine.half and dtype == torch.bfloat16):
            raise UserError(f"cannot compute in {dtype} on a CPU", where=engine.__name__, hint="openvino has bf16")
        for package in engine.packages:
            find_package(package, engine.extra)
        if not isinstance(model, VideoModel):
            hint = "Leave out the engine: PyTorch runs it"
            raise UserError("a detector of objects in images cannot be run by another engine", hint=hint)
        if next(model.parameters()).device.type != "cpu":
            raise UserError("other engines than PyTorch run on the CPU", hint="Set NUM_GPUS 0, or device cpu")
        self.model = model.twin().eval()
        self._engine, self._dtype = engine, dtype
        self._graphs: dict[tuple[str, tuple[int, ...]], tuple[Engine, Grid | None]] = {}
        self._lock = threading.Lock()

    def forward(self, x_BCTHW: Tensor, boxes_R5: Tensor | None = None) -> Tensor:
        """As `VideoModel.forward`."""
        x_BCTHW = self.model.as_clips(x_BCTHW)
        inputs = (x_BCTHW,) if boxes_R5 is None else (x_BCTHW, boxes_R5)
        return self._run("logits", inputs)[0][0]

    def forward_features(self, x_BCTHW: Tensor) -> Features:
        """As `VideoModel.forward_features`."""
        (tokens_BNC, *cls), grid = self._run("features", (self.model.as_clips(x_BCTHW),))
        assert grid is not None  # that of features is known
        return Features(tokens_BNC, grid, cls[0] if cls else None)

    def _run(self, what: str, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], Grid | None]:
        key = (what, tuple(inputs[0].shape[1:]))
        with self._lock:
            if key not in self._graphs:
                while len(self._graphs) >= MOST_SHAPES:
                    del self._graphs[next(iter(self._graphs))]
                self._graphs[key] = self._made(what, inputs)
            engine, grid = self._graphs[key]
            return engine(*inputs), grid

    def _made(self, what: str, inputs: tuple[Tensor, ...]) -> tuple[Engine, Grid | None]:
        """The engine for inputs of this shape, and the grid of features."""
        _, *shape = inputs[0].shape

        def make(path: Path) -> Grid | None:
            size = " x ".join(map(str, shape[1:]))
            logger.info("%s: making the graph for clips of %s; this takes up to a minute", self._engine.__name__, size)
            fast = optimize_for_inference(self.model)
            network = ExportableFeatures(fast) if what == "features" else Exportable(fast)
            example = [torch.zeros(2, *shape), *(example_boxes(NUM_BOXES, 2, shape[-1]) for _ in inputs[1:])]
            self._engine.write(capture(network, example), path)
            return network.grid if isinstance(network, ExportableFeatures) else None

        key = graph_key(self.model, self._engine.__name__, what, shape, len(inputs))
        with kept_graph(key, self._engine.suffix, make) as (path, grid):
            return self._engine(path, self._dtype), None if grid is None else cast(Grid, tuple(grid))


ENGINES: dict[str, Callable[[LayeredModel, torch.dtype | None], nn.Module]] = {
    "torch": lambda model, dtype: optimize_for_inference(model),
    "onnxruntime": lambda model, dtype: EngineNetwork(model, OnnxRuntime, dtype),
    "openvino": lambda model, dtype: EngineNetwork(model, OpenVino, dtype),
}
"""TEST.ENGINE -> (model, type of autocast) -> what is called like the model."""
