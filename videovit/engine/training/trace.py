"""A record of what every step trained on, to compare runs (`TRAIN.TRACE`)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from videovit.data.records import Batch
from videovit.engine.objectives import Example
from videovit.engine.reporting.json_lines import append_record


class Trace:
    """Appends one line per step to `OUTPUT_DIR/trace_rank<N>.jsonl`.

    A line holds epoch, step, the path of every clip, a checksum of its cropped frames (hence of the frame indices, the
    crop and the augmentation), the targets (hence mixup's lambda), and a checksum of the model's input.

    Args:
        output_dir: folder of the run.
        rank: this process.
        paths: videos of the training list.
    """

    def __init__(self, output_dir: Path, rank: int, paths: Sequence[str]) -> None:
        self._path, self._paths = output_dir / f"trace_rank{rank}.jsonl", paths

    def record(self, epoch: int, step: int, batch: Batch, example: Example) -> None:
        """Record one step, before the model runs.

        Args:
            epoch, step: position of the step.
            batch: as the loader gave it.
            example: what became of it.
        """
        line = {
            "epoch": epoch,
            "step": step,
            "paths": [self._paths[video] for video in batch.videos_B.tolist()],
            "frames": [_checksum(clip) for clip in batch.frames_BTHWC],
            "targets": example.described(),
            "input": _checksum(example.x_BCTHW),
        }
        append_record(self._path, line)


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().numpy().tobytes())
