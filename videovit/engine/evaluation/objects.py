"""Evaluation of objects in images: box and mask AP as COCO defines them, results in its format, and pictures.

Detections go to a file per process as they come, so that memory holds no masks, and each image counts once.

N detections of an image, H W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.data.masks import encode_masks
from videovit.data.objects import Objects, images_of
from videovit.data.readers.coco import Annotations
from videovit.data.records import Batch, Sample
from videovit.engine import distributed
from videovit.engine.evaluation.class_report import write_per_class
from videovit.engine.evaluation.coco_ap import NAMES, Kind, Precision, build_truth, measure
from videovit.engine.evaluation.evaluator import Activation, Evaluator
from videovit.engine.evaluation.inference import ForwardPass, Inference, Sink
from videovit.engine.evaluation.object_pictures import Shown, write_pictures
from videovit.engine.reporting.json_lines import replacing, writing
from videovit.errors import UserError
from videovit.messages import plural

MASKS_AT_ONCE = 16  # of an image, that are scaled to its full size together
KINDS: tuple[tuple[Kind, str], ...] = (("bbox", "box"), ("segm", "mask"))


def found_in(output: Mapping[str, Tensor], shown: Objects) -> list[dict[str, Any]]:
    """What a detector found in one image, in pixels of the file.

    Args:
        output: `boxes` (N, 4), `scores`, `labels` (N,) and maybe `masks` (N, 1, H, W) in pixels of the scaled image.
        shown: its sizes.

    Returns:
        Per detection `box` x, y, width, height; `label`, `score`; with masks `mask` as run lengths.
    """
    scale_4 = torch.tensor([full / own for full, own in zip(shown.full_size, shown.size, strict=True)][::-1] * 2)
    boxes_N4 = output["boxes"].detach().float().cpu() * scale_4
    boxes_N4[:, 0::2] = boxes_N4[:, 0::2].clamp(0, shown.full_size[1])
    boxes_N4[:, 1::2] = boxes_N4[:, 1::2].clamp(0, shown.full_size[0])
    boxes_N4[:, 2:] -= boxes_N4[:, :2]
    scores, labels = output["scores"].detach().float().cpu().tolist(), output["labels"].cpu().tolist()
    rows: list[dict[str, Any]] = [
        {"box": box, "label": label, "score": score}
        for box, label, score in zip(boxes_N4.double().tolist(), labels, scores, strict=True)
    ]
    if "masks" in output:
        for row, mask in zip(rows, _masks(output["masks"], shown.full_size), strict=True):
            row["mask"] = mask
    return rows


def _masks(masks_N1HW: Tensor, full_size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    for masks in torch.split(masks_N1HW.detach().float(), MASKS_AT_ONCE):
        if tuple(masks.shape[-2:]) != full_size:
            masks = F.interpolate(masks, full_size, mode="bilinear", align_corners=False)
        yield from encode_masks((masks[:, 0] > 0.5).cpu().numpy().astype(np.uint8))


@dataclass(frozen=True)
class ObjectPass:
    """Runs a detector, and hands what it finds to an evaluator; see `ForwardPass`.

    Images of different sizes go through it one after the other: padding would change what is found in an image, so that
    it would depend on the batch, and on the number of processes.
    """

    evaluator: ObjectEvaluator

    def run(self, inference: Inference, x_BCTHW: Tensor, batch: Batch) -> None:
        """See `ForwardPass.run`."""
        images, numbers = images_of(x_BCTHW, batch.objects), batch.videos_B.tolist()
        for size in dict.fromkeys(shown.size for shown in batch.objects):
            places = [place for place, shown in enumerate(batch.objects) if shown.size == size]
            for place, output in zip(places, inference.model([images[place] for place in places]), strict=True):
                self.evaluator.add(numbers[place], found_in(output, batch.objects[place]))


class ObjectEvaluator(Evaluator):
    """Box and mask AP over images, each of which is seen by one rank.

    Args:
        samples: the images, in the order of their numbers in batches.
        annotations: the ground truth.
        masks: whether masks are evaluated too.
        folder: of the files that detections go to.
        name: of these files.
        num_pictures: images that `write_report` draws.
    """

    has_labels = False
    views = "images"
    columns = {"box_ap": "box AP", "box_ap50": "box AP50", "mask_ap": "mask AP", "mask_ap50": "mask AP50"}

    def __init__(
        self,
        samples: Sequence[Sample],
        annotations: Annotations,
        *,
        masks: bool,
        folder: Path,
        name: str,
        num_pictures: int = 0,
    ) -> None:
        if not masks:
            self.columns = {key: title for key, title in self.columns.items() if key.startswith("box")}
        self._samples, self._annotations = samples, annotations
        self._kinds = KINDS if masks else KINDS[:1]
        self._folder, self._name, self._num_pictures = folder, name, num_pictures
        self._truth = build_truth(annotations, masks=masks)
        self._own = self._file(distributed.rank())
        with writing(self._own):
            folder.mkdir(parents=True, exist_ok=True)
            self._own.write_bytes(b"")
        self._found: dict[int, list[dict[str, Any]]] = {}  # image -> detections, after `result`
        self.last: dict[Kind, Precision] = {}

    def forward_pass(self, activation: Activation, sinks: Sequence[Sink] = ()) -> ForwardPass:
        """See `Evaluator.forward_pass`; a detector returns objects instead of logits."""
        return ObjectPass(self)

    def add(self, number: int, rows: list[dict[str, Any]]) -> None:
        """Take what was found in an image.

        Args:
            number: of the image in the list.
            rows: see `found_in`.

        Raises:
            UserError: a box or score is not finite, masks are missing, or the file cannot be written.
        """
        values = [value for row in rows for value in (row["score"], *row["box"])]
        if not np.isfinite(values).all():
            raise UserError(
                "the model's boxes or scores are not finite",
                where=self._samples[number].path,
                hint="The weights may be broken, or the range of fp16 too small (TEST.MIXED_PRECISION)",
            )
        if len(self._kinds) > 1 and any("mask" not in row for row in rows):
            raise UserError("the model finds no masks", where="COCO.MASKS", hint="Set COCO.MASKS False")
        with writing(self._own), open(self._own, "a", encoding="ascii") as file:
            file.write(json.dumps({"number": number, "found": rows}) + "\n")

    def gather(self) -> Self:
        """Wait until all ranks have written what they found."""
        distributed.barrier()
        return self

    def result(self, *, skipped: Collection[int] = ()) -> dict[str, float]:
        """COCO's twelve numbers for boxes, as box_ap and so on, and for masks, in percent; a collective call.

        Rank 0 computes them. A number without any object to find, such as of small ones, is NaN.

        Returns:
            The numbers, num_detections, num_videos and num_views (both: images), num_skipped.

        Raises:
            UserError: an image has no result.
        """
        return distributed.gather(self._measure(skipped) if distributed.rank() == 0 else {})[0]

    def _measure(self, skipped: Collection[int]) -> dict[str, float]:
        kept = [number for number in range(len(self._samples)) if number not in skipped]
        found = self._read()
        missing = [number for number in kept if number not in found]
        if missing or not kept:
            first = f", first: {self._samples[missing[0]].path}" if missing else ""
            raise UserError(f"{len(missing)} of {plural(len(kept), 'image')} have no result{first}")
        self._found = {number: found[number] for number in kept}
        image_ids = [self._image_id(number) for number in kept]
        numbers: dict[str, float] = {}
        for kind, prefix in self._kinds:
            self.last[kind] = measure(self._truth, self._results(kind), kind, image_ids)
            numbers |= {f"{prefix}_{name}": self.last[kind].summary[name] for name in NAMES}
        counts = {
            "num_detections": sum(map(len, self._found.values())),
            "num_videos": len(kept),
            "num_views": len(kept),
            "num_skipped": len(frozenset(skipped)),
        }
        return numbers | counts

    def _read(self) -> dict[int, list[dict[str, Any]]]:
        """What all ranks found."""
        found: dict[int, list[dict[str, Any]]] = {}
        for rank in range(distributed.world_size()):
            with open(self._file(rank), encoding="ascii") as file:
                for line in file:
                    record = json.loads(line)
                    found.setdefault(record["number"], record["found"])
        return found

    def _file(self, rank: int) -> Path:
        return self._folder / f"{self._name}_rank{rank}.jsonl"

    def _image_id(self, number: int) -> int:
        image = self._samples[number].image
        assert image is not None
        return image.image_id

    def _results(self, kind: Kind) -> list[dict[str, Any]]:
        """Detections in COCO's result format; those of masks without boxes, which would take over their areas."""
        ids = list(self._annotations.categories)
        results = []
        for number, rows in self._found.items():
            for row in rows:
                shape = {"bbox": row["box"]} if kind == "bbox" else {"segmentation": row["mask"]}
                place = {"image_id": self._image_id(number), "category_id": ids[row["label"] - 1]}
                results.append({**place, **shape, "score": row["score"]})
        return results

    def state(self) -> dict[str, Tensor]:
        """Of all detections: boxes x1, y1, x2, y2 in pixels of the file, scores, labels, and numbers of the images."""
        rows = [(number, row) for number, rows in self._found.items() for row in rows]
        boxes_N4 = torch.tensor([row["box"] for _, row in rows]).reshape(-1, 4)
        boxes_N4[:, 2:] += boxes_N4[:, :2]
        return {
            "boxes": boxes_N4,
            "scores": torch.tensor([row["score"] for _, row in rows]),
            "labels": torch.tensor([row["label"] for _, row in rows], dtype=torch.int64),
            "images": torch.tensor([number for number, _ in rows], dtype=torch.int64),
        }

    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """Results in COCO's submission format, a table of classes, and pictures of the best and worst; on rank 0."""
        files = []
        for kind, prefix in self._kinds:
            files.append(folder / f"detections_{prefix}{suffix}.json")
            with replacing(files[-1]) as partial, open(partial, "w", encoding="ascii") as file:
                json.dump(self._results(kind), file)
        files += self._write_classes(folder, names, suffix)
        shown = [
            Shown(self._samples[number].path, self._image_id(number), rows) for number, rows in self._found.items()
        ]
        return files + write_pictures(folder, shown, self._annotations, names, self._num_pictures, suffix=suffix)

    def _write_classes(self, folder: Path, names: Sequence[str], suffix: str) -> list[Path]:
        labels = [row["label"] for rows in self._found.values() for row in rows]
        images = {self._image_id(number) for number in self._found}
        truth = [row for row in self._annotations.annotations if row["image_id"] in images and not row.get("iscrowd")]
        header = ["class", "number", "category id", "objects", "detections"]
        header += [f"{prefix} {name}" for _, prefix in self._kinds for name in ("AP", "AP50")]
        rows: list[list[object]] = []
        for k, (category, name) in enumerate(zip(self._annotations.categories, names, strict=True)):
            num_objects = sum(row["category_id"] == category for row in truth)
            values = [
                value for kind, _ in self._kinds for value in (self.last[kind].ap_K[k], self.last[kind].ap50_K[k])
            ]
            aps = ["" if np.isnan(value) else float(value) for value in values]
            rows.append([name, k + 1, category, num_objects, labels.count(k + 1), *aps])
        return write_per_class(folder, header, rows, measure="box AP", suffix=suffix)
