"""Evaluation of detectors on key frames: frame-mAP, and files with detections and classes.

R boxes, K classes.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from videovit.data.detection import AvaTruth
from videovit.data.records import Batch, Sample
from videovit.engine import distributed
from videovit.engine.evaluation.ava_map import Detections, FrameMap, Truth, frame_map
from videovit.engine.evaluation.class_report import write_per_class
from videovit.engine.evaluation.evaluator import ScoreEvaluator
from videovit.engine.reporting.json_lines import writing
from videovit.errors import UserError
from videovit.messages import plural, table_cell


class BoxEvaluator(ScoreEvaluator):
    """Frame-mAP over key frames (see `ava_map`), each of which is scored by one rank.

    Args:
        samples: key frames with the boxes that are scored, in the order of their numbers in batches.
        truth: annotated boxes, evaluated classes, and excluded key frames.
        num_classes: K.
    """

    columns = {"map": "mAP"}
    has_labels = False  # boxes are proposals of a person detector
    views = "key frames"

    def __init__(self, samples: Sequence[Sample], truth: AvaTruth, *, num_classes: int) -> None:
        self._samples = samples
        self._truth = truth
        self._num_classes = num_classes
        self._scores: dict[int, Tensor] = {}  # key frame -> (R, K)
        self.last: FrameMap | None = None  # per class, after `result`

    def update(self, scores: Tensor, batch: Batch) -> None:
        """Take the scores (R, K) of all boxes of a batch; a key frame that came before is ignored."""
        if batch.boxes_R5 is None:
            raise ValueError("the batch has no boxes, which detection is evaluated on")
        clips_R = batch.boxes_R5[:, 0].long().cpu()
        scores_RK = scores.detach().float().cpu()
        for clip, number in enumerate(batch.videos_B.tolist()):
            self._scores.setdefault(number, scores_RK[clips_R == clip])

    def gather(self) -> Self:
        """Join the key frames of all ranks; every rank gets all of them."""
        for part in distributed.gather(self._scores):
            self._scores.update(part)
        return self

    def result(self, *, skipped: Collection[int] = ()) -> dict[str, float]:
        """Frame-mAP in percent over all key frames except the skipped ones, whose ground truth is left out as well.

        Returns:
            map, num_classes (that it is the mean of), num_boxes scored, num_videos and num_views (both: key frames),
            num_skipped.

        Raises:
            UserError: a key frame was not scored, or a score is NaN or infinite.
        """
        left_out = frozenset(skipped)
        kept = [number for number in range(len(self._samples)) if number not in left_out]
        missing = [number for number in kept if number not in self._scores]
        if missing or not kept:
            first = f", first: {_name(self._samples[missing[0]])}" if missing else ""
            raise UserError(f"{len(missing)} of {plural(len(kept), 'key frame')} were not scored{first}")
        broken = [number for number in kept if not torch.isfinite(self._scores[number]).all()]
        if broken:
            raise UserError(
                f"the model's scores of {len(broken)} of {plural(len(kept), 'key frame')} are not finite, first: "
                f"{_name(self._samples[broken[0]])}",
                hint="The weights may be broken, or the range of fp16 too small (TEST.MIXED_PRECISION)",
            )
        # The truth of a whole video is left out, since a video that cannot be read has no key frame that can.
        unread = {self._samples[number].path for number in left_out}
        videos = {sample.key.video for sample in self._samples if sample.key is not None and sample.path in unread}
        truth = (
            Truth(row.key, row.corners, row.class_id)
            for row in self._truth.rows
            if row.class_id is not None and row.key[0] not in videos
        )
        detections = self._detections(kept)
        self.last = frame_map(
            truth, detections, class_ids=self._truth.class_names.keys(), excluded=self._truth.excluded
        )
        return {
            "map": 100.0 * self.last.mean,
            "num_classes": sum(number > 0 for number in self.last.num_boxes.values()),
            "num_boxes": len(detections.keys),
            "num_videos": len(kept),
            "num_views": len(kept),
            "num_skipped": len(left_out),
        }

    def _detections(self, kept: Iterable[int]) -> Detections:
        keys, boxes, scores = [], [np.zeros((0, 4))], [np.zeros((0, self._num_classes))]
        for number in kept:
            key = self._samples[number].key
            assert key is not None
            keys += [(key.video, key.time_s)] * len(key.boxes)
            boxes.append(np.array([(b.x1, b.y1, b.x2, b.y2) for b in key.boxes], dtype=np.float64).reshape(-1, 4))
            scores.append(self._scores[number].double().numpy())
        return Detections(keys, np.concatenate(boxes), np.concatenate(scores))

    def state(self) -> dict[str, Tensor]:
        """What was scored, and `read`.

        Scores (R, K) of all boxes, their corners as fractions of the frame (R, 4), their key frames (R,); and for each
        key frame of the list whether it was read.
        """
        numbers = sorted(self._scores)
        found = self._detections(numbers)
        return {
            "scores": torch.from_numpy(found.scores_RK).float(),
            "boxes": torch.from_numpy(found.boxes_R4).float(),
            "key_frames": torch.repeat_interleave(
                torch.tensor(numbers), torch.tensor([len(self._scores[number]) for number in numbers])
            ),
            "read": torch.tensor([number in self._scores for number in range(len(self._samples))]),
        }

    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """Detections in the format of the AVA challenge, and a table of the evaluated classes; after `result`.

        `detections.csv` has video_id, time stamp, x1, y1, x2, y2, action_id, score, for the evaluated classes. The
        names are those of the class list, not `names`.
        """
        assert self.last is not None
        evaluated, found = self._truth.class_names, self._detections(sorted(self._scores))
        detections = folder / f"detections{suffix}.csv"
        with writing(detections), detections.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for (video, time_s), box_4, scores_K in zip(found.keys, found.boxes_R4, found.scores_RK, strict=True):
                place = [table_cell(video), time_stamp(time_s), *(f"{value:.4f}" for value in box_4)]
                writer.writerows([*place, class_id, f"{scores_K[class_id - 1]:.6f}"] for class_id in evaluated)
        rows: list[list[object]] = []
        for class_id, name in evaluated.items():
            ap = 100.0 * self.last.ap[class_id]
            counts = self.last.num_boxes[class_id], self.last.num_detections[class_id]
            rows.append([name, class_id, *counts, "" if np.isnan(ap) else ap])
        header = ["class", "number", "boxes", "detections", "average precision"]
        return [detections, *write_per_class(folder, header, rows, measure="average precision", suffix=suffix)]


def time_stamp(time_s: float) -> str:
    """A time stamp as AVA writes it: whole seconds with four digits."""
    return f"{int(time_s):04d}" if time_s == int(time_s) else f"{time_s:g}"


def _name(sample: Sample) -> str:
    return sample.path if sample.key is None else f"{sample.key.video} at {sample.key.time_s:g} s"
