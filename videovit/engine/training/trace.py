"""What every step trained on, written down to be compared between runs (`TRAIN.TRACE`)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from videovit.data.records import Batch
from videovit.engine.reporting.json_lines import append_record


class Trace:
    """Appends a line a step to `OUTPUT_DIR/trace_rank<N>.jsonl`.

    A line holds epoch, step, the path of every clip, a checksum of its cropped frames (so of the frame indices, the
    crop and the augmentation), the targets (which hold mixup's lambda), and a checksum of what the model is given.

    Args:
        output_dir: of the run.
        rank: of this process.
        paths: of the training list.
    """

    def __init__(self, output_dir: Path, rank: int, paths: Sequence[str]) -> None:
        self._path, self._paths = output_dir / f"trace_rank{rank}.jsonl", paths

    def record(self, epoch: int, step: int, batch: Batch, x_BCTHW: Tensor, targets: Tensor) -> None:
        """Note one step, before the model sees it."""
        line = {
            "epoch": epoch,
            "step": step,
            "paths": [self._paths[video] for video in batch.videos_B.tolist()],
            "frames": [_checksum(clip) for clip in batch.frames_BTHWC],
            "targets": targets.tolist(),
            "input": _checksum(x_BCTHW),
        }
        append_record(self._path, line)


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().numpy().tobytes())
