"""Objects in own images and videos: found by a detector, written as COCO's results, and drawn into copies.

H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from videovit.config import Config
from videovit.data.build import build_decode_options
from videovit.data.catalog import read_names
from videovit.data.decode import open_video
from videovit.data.decode.array import Frames, as_frames
from videovit.data.decode.image_backend import SUFFIXES as IMAGE_SUFFIXES
from videovit.data.files.folders import suffix_of
from videovit.data.objects import Objects
from videovit.data.transforms.objects import build_object_transform
from videovit.engine.evaluation.inference import Inference
from videovit.engine.evaluation.object_pictures import SURE, draw_found
from videovit.engine.evaluation.objects import found_in
from videovit.engine.reporting.json_lines import replacing
from videovit.engine.tasks.annotate import copy_video, enlargement, open_pictures
from videovit.engine.tasks.object_prediction import ObjectPrediction, Picture
from videovit.models import Detector

NO_OBJECTS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)


def read_object_names(cfg: Config) -> list[str]:
    """The class names of the data set of a detector; numbers if its annotations are not there.

    Raises:
        AnnotationError: they cannot be used.
    """
    if (Path(cfg.DATA.PATH_TO_DATA_DIR) / cfg.COCO.VAL_ANNOTATIONS).is_file() or cfg.DATA.CLASS_NAMES_FILE:
        return read_names(cfg)
    return [f"class {k}" for k in range(1, cfg.MODEL.NUM_CLASSES + 1)]


class ObjectFinder:
    """Finds objects in images and videos, image by image.

    Args:
        cfg: of the detector.
        model: the detector.
        device: where it is.
        class_names: of the K classes; None reads those of the data set, or numbers them.
        least_score: of detections that are kept.

    Attributes:
        names: of the classes.
    """

    def __init__(
        self,
        cfg: Config,
        model: Detector,
        device: torch.device,
        *,
        class_names: Sequence[str] | None = None,
        least_score: float = SURE,
    ) -> None:
        self._inference = Inference(model, lambda frames, seeds: frames, device)
        self._geometry = build_object_transform(cfg, train=False)
        self._least_score = least_score
        self.decoding = build_decode_options(cfg)
        self.names = list(class_names or read_object_names(cfg))

    def find(self, image_HWC: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The objects of an image.

        Args:
            image_HWC: uint8, RGB.

        Returns:
            Detections, best first, see `found_in`; with `class`, its name.
        """
        image_3HW: Tensor = self._geometry(torch.from_numpy(np.ascontiguousarray(image_HWC)).permute(2, 0, 1))
        size, full_size = (image_3HW.shape[1], image_3HW.shape[2]), (image_HWC.shape[0], image_HWC.shape[1])
        with self._inference.mode():
            (output,) = self._inference.model([image_3HW.to(self._inference.device).float() / 255])
            rows = found_in(output, Objects(0, size, full_size, *NO_OBJECTS))
        kept = [row for row in rows if row["score"] >= self._least_score]
        return [{"class": self.names[row["label"] - 1], **row} for row in kept]

    def predict(self, path: str, target: Path | None = None) -> Iterator[dict[str, Any]]:
        """Find the objects of an image or video, and draw them into a copy.

        Args:
            path: an image, a video, or a folder of frames.
            target: the copy: an image for an image, else a video; None writes none.

        Yields:
            Per picture: `video`, `time_s` (absent for images), `objects`.

        Raises:
            DecodeError: it cannot be read.
            UserError: the copy cannot be written.
        """
        if not os.path.isdir(path) and suffix_of(path) in IMAGE_SUFFIXES:
            with open_video(path, "image", self.decoding) as video:
                image_HWC = video.frames(np.zeros(1, dtype=np.int64))[0].numpy()
            rows = self.find(image_HWC)
            if target is not None:
                target.resolve().parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as partial:
                    Image.fromarray(self.drawn(image_HWC, rows)).save(partial)
            yield {"video": path, "objects": rows}
            return
        if target is None:
            with open_pictures(path, self.decoding) as pictures:
                for picture in pictures.images:
                    time_s = pictures.start_s + float(picture.pts * pictures.time_base)
                    yield {"video": path, "time_s": time_s, "objects": self.find(picture.image_HWC)}
            return
        found: list[dict[str, Any]] = []

        def paint(image_HWC: NDArray[np.uint8], time_s: float) -> NDArray[np.uint8]:
            rows = self.find(image_HWC)
            found.append({"video": path, "time_s": time_s, "objects": rows})
            return self.drawn(image_HWC, rows)

        copy_video(path, target, paint, self.decoding)
        yield from found

    def prediction(self, source: str | os.PathLike[str] | Frames) -> ObjectPrediction:
        """The objects of a file, or of pixels in memory, uint8 (H, W, 3).

        Raises:
            DecodeError: the file cannot be read.
            UserError: the pixels have another type or shape.
        """
        if not isinstance(source, str | os.PathLike):
            (image_HWC,) = as_frames(source[None], "image")
            return ObjectPrediction("array", [Picture(0.0, self.find(image_HWC.numpy()))])
        path = os.fspath(source)
        found = [Picture(one.get("time_s", 0.0), one["objects"]) for one in self.predict(path)]
        return ObjectPrediction(path, found)

    def drawn(self, image_HWC: NDArray[np.uint8], rows: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
        """An image with what was found in it; small ones are enlarged, so that names can be read."""
        height = image_HWC.shape[0]
        factor = enlargement(image_HWC.shape[1], height)
        image_3HW = torch.from_numpy(np.ascontiguousarray(image_HWC)).permute(2, 0, 1)
        drawn = draw_found(image_3HW, rows, self.names, least=0.0, height=height * factor if factor > 1 else 0)
        painted: NDArray[np.uint8] = np.ascontiguousarray(drawn.permute(1, 2, 0).numpy())
        return painted
