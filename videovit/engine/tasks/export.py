"""Export: of weights, to start from or for other projects, and of whole networks, for other programs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from videovit.config import Config, dump_config
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.checkpoints.saving import to_host, write_checkpoint
from videovit.engine.checkpoints.weights import load_all_weights
from videovit.engine.exported.detectors import coarsest_stride, image_size, write_detector
from videovit.engine.exported.formats import BF16, FORMATS, Format, Job, Runner
from videovit.engine.reporting.json_lines import replacing
from videovit.errors import UserError
from videovit.models import Detector, build_model, export_state_dict, optimize_for_inference
from videovit.models.contract import VideoModel
from videovit.models.convert import pool_norm_eps, save_safetensors

OWN = "own"
CONTAINED = (OWN, "pyslowfast", "pytorchvideo")  # layouts whose projects expect weights under `model_state`


def export_weights(cfg: Config, checkpoint: str, path: str | Path, *, layout: str = OWN) -> str:
    """Write the weights of a checkpoint, or with TEST.USE_EMA their moving average, to a file.

    Args:
        cfg: the config of the model.
        checkpoint: a file, or the OUTPUT_DIR of a run, whose newest checkpoint is taken.
        path: ends in `.safetensors`, or else becomes a PyTorch file. That has the weights under `model_state`, and the
            config; in the layout of another project, it has the form that this project reads, which may be the state
            dict alone.
        layout: naming scheme of the weights; "own" or one of `models.export_state_dict`.

    Returns:
        The file that the weights came from.

    Raises:
        CheckpointError: the checkpoint is unreadable or has no average, its weights do not fit the model, are not
            finite or have no name in the layout, or the file cannot be written.
    """
    path = Path(path)
    model = build_model(cfg).eval()
    source = load_all_weights(model, checkpoint, use_ema=cfg.TEST.USE_EMA, which=cfg.TEST.CHECKPOINT)
    state = model.state_dict() if layout == OWN else export_state_dict(model, layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_safetensors(state, path, model=model)
    elif layout not in CONTAINED:
        write_checkpoint(path, to_host(state))
    else:
        beside = {"cfg": dump_config(cfg), "pool_norm_eps": pool_norm_eps(model)} if layout == OWN else {}
        write_checkpoint(path, {"model_state": to_host(state), **beside})
    return source


# ------------------------------------------------------------------------------------------------------ whole networks

TOLERANCES: dict[torch.dtype | None, float] = {None: 1e-3, BF16: 0.15}
"""Precision -> largest difference of logits from PyTorch's in fp32, as a share of their standard deviation. Rounding
alone gives about 5e-6 and 3e-2."""
CHECKED_BATCHES = (1, 2)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        paths: of the files.
        difference, tolerance: see `TOLERANCES`.
        batches: numbers of clips that were compared.
    """

    paths: list[Path]
    difference: float
    tolerance: float
    batches: tuple[int, ...]


def write_network(
    cfg: Config, model: VideoModel, class_names: list[str], path: Path, format_name: str, *, batch: int, half: bool
) -> Exported:
    """Write a network that takes frames as uint8 and returns logits; checked against PyTorch before it gets its name.

    Args:
        cfg: of the model.
        model: on the CPU.
        class_names: of all classes.
        path: of the file.
        format_name: of `FORMATS`.
        batch: clips per call; 0 for any number.
        half: in bf16.

    Raises:
        CheckpointError: the weights cannot be written.
        UserError: the format has no bf16, a package is missing, the network cannot be captured, its answers differ from
            those of PyTorch, or the file cannot be written.
    """
    row = find_format(format_name, path, half=half)
    preparation = build_preparation(cfg, train=False)
    job = Job(cfg, model.eval(), preparation, class_names, batch, BF16 if half else None)
    with replacing_all(row, path) as partial:
        row.write(job, partial)
        checked = check(job, row.open(partial, job))
    return Exported(row.files(path), *checked)


def find_format(format_name: str, path: Path, *, half: bool) -> Format:
    """The row of a format.

    Raises:
        UserError: it has no bf16, or the suffix of the path is another.
    """
    row = FORMATS[format_name]
    if half and not row.half:
        others = ", ".join(name for name, other in FORMATS.items() if other.half)
        raise UserError("has no bf16: ONNX Runtime cannot compute in it on a CPU", where=format_name, expected=others)
    if path.suffix != row.suffix:
        raise UserError(where="--output", found=str(path), expected=f"a name that ends in {row.suffix}")
    return row


@contextlib.contextmanager
def replacing_all(row: Format, path: Path) -> Iterator[Path]:
    """As `replacing`, for all files of a format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        try:
            yield partial
            for written, final in zip(row.files(partial)[1:], row.files(path)[1:], strict=True):
                os.replace(written, final)
        finally:
            for written in row.files(partial)[1:]:
                with contextlib.suppress(OSError):  # gone, if it was renamed
                    written.unlink(missing_ok=True)


def write_object_network(
    cfg: Config, model: Detector, class_names: list[str], path: Path, *, size: tuple[int, int] | None = None
) -> tuple[int, float]:
    """Write a detector of objects as ONNX; checked against PyTorch before the file gets its name.

    Args:
        cfg: of the detector.
        model: on the CPU.
        class_names: of all classes.
        path: of the file.
        size: (H, W) of the images that it takes; None for one that holds all wide images of the test.

    Returns:
        Objects that were compared, and the largest difference of a score or a place of a mask.

    Raises:
        UserError: as `write_detector`, or the size does not consist of whole strides.
    """
    size = size or image_size(cfg)
    step = coarsest_stride(cfg)
    if any(side % step for side in size):
        raise UserError(
            where="--size", found="{} {}".format(*size), expected=f"multiples of {step}, the coarsest stride"
        )
    if path.suffix != ".onnx":
        raise UserError(where="--output", found=str(path), expected="a name that ends in .onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        return write_detector(cfg, model.eval(), class_names, partial, size)


def check(job: Job, engine: Runner) -> tuple[float, float, tuple[int, ...]]:
    """Compare what was written with PyTorch in fp32, on several inputs.

    Returns:
        Difference, tolerance, numbers of clips; see `Exported`.

    Raises:
        UserError: the difference is above the tolerance.
    """
    batches, tolerance = (job.batch,) * 2 if job.batch else CHECKED_BATCHES, TOLERANCES[job.half]
    fast, worst = optimize_for_inference(job.model), 0.0
    for seed, num_clips in enumerate(batches):
        frames, *boxes = job.inputs(num_clips, seed)
        frames[:, :, : frames.shape[2] // (1 + seed)] //= 2  # not all of them alike
        with torch.inference_mode():
            expected = fast(job.preparation(frames), *boxes)
        (found,) = engine(frames, *boxes)
        worst = max(worst, difference(found, expected))
    if not worst <= tolerance:
        raise UserError(
            f"answers differ from PyTorch's by {worst:.1e} of the standard deviation of the logits, at most "
            f"{tolerance:.0e} is allowed; nothing was written",
            where="export",
        )
    return worst, tolerance, tuple(dict.fromkeys(batches))


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference of logits, as a share of their standard deviation; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    spread = expected.std() if expected.numel() > 1 else expected.abs().max()
    return float((found - expected).abs().max() / spread.clamp(min=1e-9))
