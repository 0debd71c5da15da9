"""Formats of exported networks: how each is written, and read back for the check.

    pt2           a program of torch.export: runs in PyTorch without videovit
    onnx          runs in ONNX Runtime, OpenVINO, TensorRT and many others
    openvino      OpenVINO's own: .xml, with the weights beside it in .bin
    safetensors   the weights alone

T frames, S side of a crop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

import videovit
from videovit.config import Config, dump_config
from videovit.engine.checkpoints.saved_model import METADATA, describe_input, saved_config
from videovit.engine.exported.engines import OnnxRuntime, OpenVino
from videovit.engine.exported.graph import NUM_BOXES, Exportable, Preparation, capture, example_boxes
from videovit.engine.exported.onnx_file import OPSET, write_onnx
from videovit.engine.exported.openvino_file import write_openvino
from videovit.models import build_model, load_pretrained, optimize_for_inference, save_safetensors
from videovit.models.contract import VideoModel

BF16 = torch.bfloat16


Runner = Callable[..., list[Tensor]]
"""(frames, and boxes for a detector) -> logits, in a list."""


@dataclass(frozen=True)
class Job:
    """What is exported.

    Attributes:
        cfg: of the model.
        model: in evaluation mode, on the CPU.
        preparation: what turns frames into its input.
        class_names: of all classes.
        batch: clips per call; 0 for any number.
        half: bf16, or None for full precision.
    """

    cfg: Config
    model: VideoModel
    preparation: Preparation
    class_names: list[str]
    batch: int = 0
    half: torch.dtype | None = None

    @cached_property
    def program(self) -> ExportedProgram:
        """The graph, from frames to logits."""
        # Engines choose the precision of products themselves; a program of PyTorch contains it.
        return self.capture(None)

    def capture(self, dtype: torch.dtype | None) -> ExportedProgram:
        """The graph, from frames to logits; `dtype` of autocast."""
        network = Exportable(optimize_for_inference(self.model), self.preparation, dtype).eval()
        return capture(network, self.inputs(self.batch or 2), dynamic=not self.batch)

    def inputs(self, num_clips: int, seed: int = 0) -> list[Tensor]:
        """Random frames uint8 (B, T, S, S, 3), and boxes (R, 5) for a detector."""
        side = self.cfg.DATA.TEST_CROP_SIZE
        generator = torch.Generator().manual_seed(seed)
        shape = (num_clips, self.cfg.DATA.NUM_FRAMES, side, side, 3)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return [frames, example_boxes(NUM_BOXES + seed, num_clips, side)] if self.model.takes_boxes else [frames]

    def metadata(self, packages: Sequence[str]) -> dict[str, str]:
        """Text by name: what the network is, and how to use it.

        Args:
            packages: whose versions are recorded, besides videovit's and torch's.
        """
        own = saved_config(self.cfg)
        side = self.cfg.DATA.TEST_CROP_SIZE
        boxes = ", boxes float32 (R, 5): clip, x1, y1, x2, y2 in pixels" if self.model.takes_boxes else ""
        clips = self.batch or "B"
        return {
            "model": self.cfg.MODEL.MODEL_NAME,
            "input": f"frames uint8 ({clips}, {self.cfg.DATA.NUM_FRAMES}, {side}, {side}, 3), RGB{boxes}",
            "output": "logits float32, one row per box" if boxes else "logits float32, one row per clip",
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "preprocessing": json.dumps(describe_input(own)),
            "precision": "fp32" if self.half is None else "bf16",
            "versions": json.dumps(
                {"videovit": videovit.__version__, "torch": torch.__version__, **{n: version(n) for n in packages}}
            ),
            "config": dump_config(own),
        }


@dataclass(frozen=True)
class Format:
    """A row of `FORMATS`.

    Attributes:
        suffix: of the file.
        write: (job, file); may write a second file of the same stem.
        open: (file, job) -> what runs it.
        half: whether it can be in bf16.
        beside: suffix of the second file.
    """

    suffix: str
    write: Callable[[Job, Path], None]
    open: Callable[[Path, Job], Runner]
    half: bool = True
    beside: str = ""

    def files(self, path: Path) -> list[Path]:
        """The files of a network, `path` first."""
        return [path, *([path.with_suffix(self.beside)] if self.beside else [])]


# ---------------------------------------------------------------------------------------------------------- the rows


def _write_pt2(job: Job, path: Path) -> None:
    files = {f"{METADATA}.json": json.dumps(job.metadata([]), indent=1, ensure_ascii=False)}
    torch.export.save(job.capture(job.half), path, extra_files=files)


class _Program:
    """A program of torch.export. Reading one may run code, so this is for files that were written here."""

    def __init__(self, path: Path, job: Job) -> None:
        self._module = torch.export.load(path).module()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [self._module(*inputs)]


def _write_onnx(job: Job, path: Path) -> None:
    metadata = {**job.metadata(["onnx", "onnxscript"]), "opset": str(OPSET)}
    write_onnx(job.program, path, metadata)


def _write_openvino(job: Job, path: Path) -> None:
    write_openvino(job.program, path, openvino_metadata(job), half=job.half is not None)


def openvino_metadata(job: Job, others: Sequence[str] = ()) -> dict[str, str]:
    """The metadata of a file of OpenVINO; `others` are packages that made it, besides the usual ones."""
    return {**job.metadata(["openvino", "onnx", "onnxscript", *others]), "opset": str(OPSET)}


def _write_safetensors(job: Job, path: Path) -> None:
    state: Mapping[str, Tensor] = job.model.state_dict()
    if job.half:
        state = {name: t.to(job.half) if t.is_floating_point() else t for name, t in state.items()}
    # In one piece: some readers take a name such as `model` for that of the weights.
    metadata = {METADATA: json.dumps(job.metadata(["safetensors"]), ensure_ascii=False)}
    save_safetensors(state, path, model=job.model, metadata=metadata)


class _Weights:
    """The model of a job with the weights of a file."""

    def __init__(self, path: Path, job: Job) -> None:
        model = build_model(job.cfg)
        load_pretrained(model, path)
        self._network = Exportable(model, job.preparation).eval()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [self._network(*inputs)]


FORMATS: dict[str, Format] = {
    "pt2": Format(".pt2", _write_pt2, _Program),
    "onnx": Format(".onnx", _write_onnx, lambda path, job: OnnxRuntime(path), half=False),
    "openvino": Format(".xml", _write_openvino, lambda path, job: OpenVino(path, job.half), beside=".bin"),
    "safetensors": Format(".safetensors", _write_safetensors, _Weights),
}
"""--format -> how it is written and read."""
