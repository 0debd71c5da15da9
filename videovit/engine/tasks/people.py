"""What people do in own videos: a person detector finds boxes, a detector of actions (DETECTION.ENABLE) labels them.

    window of NUM_FRAMES * SAMPLING_RATE frames  ->  clip of T frames  ->  middle frame  ->  boxes of people
                                                          |                                      |
                                                          +-> center crop of the test -> model <-+

Frames, crop and scores are those of the test on AVA, whose boxes come from a file instead.

T frames, H W pixels, S side of the crop, R boxes, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from videovit.config import Config
from videovit.data.build import build_decode_options
from videovit.data.decode import open_video
from videovit.data.detection import build_key_plan
from videovit.data.readers.label_map import read_label_map
from videovit.data.transforms.boxes import has_area
from videovit.data.transforms.pipeline import build_eval_transform
from videovit.engine.checkpoints.weights import test_dtype
from videovit.engine.evaluation.inference import Inference
from videovit.engine.evaluation.windows import Clip, WindowReader
from videovit.engine.problem import Problem
from videovit.engine.tasks.labels import Corners, Labels, Person, VideoLabels
from videovit.engine.tasks.prediction import Ranked
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.contract import VideoModel
from videovit.models.convert.read import CheckpointError, read_file
from videovit.models.download import local_file
from videovit.models.zoo import with_hash

FINDERS = {
    "accurate": "fasterrcnn_resnet50_fpn_v2",
    "fast": "fasterrcnn_mobilenet_v3_large_fpn",
}
"""Name of a person detector -> its name in torchvision. In torchvision's measurements, the box AP on COCO is 46.7 and
32.8, for 280 and 4.5 GFLOPs per picture."""
PERSON = 1  # label in COCO
MIN_SCORE = 0.8


class FoundPerson(NamedTuple):
    """A person in a picture."""

    corners: Corners
    score: float


class PersonFinder:
    """torchvision's Faster R-CNN, trained on COCO.

    Args:
        kind: a name in FINDERS.
        weights: file or URL of its weights; empty for torchvision's, which are downloaded once.
        device: where it runs.
        min_score: people with a lower score are left out.

    Raises:
        UserError: the weights cannot be downloaded, or do not fit.
    """

    def __init__(self, kind: str, weights: str, device: torch.device, *, min_score: float = MIN_SCORE) -> None:
        name = FINDERS[kind]
        self.network: nn.Module = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, box_score_thresh=min_score
        )
        path = local_file(weights or with_hash(torchvision.models.get_model_weights(name).DEFAULT.url))
        content = read_file(path)
        state = content.get("model", content)  # torchvision's training script keeps them there
        try:
            self.network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            first = str(error).split("\n")[1:2]
            raise CheckpointError(
                f"not the weights of torchvision's {name}: {''.join(first).strip()}", where=path
            ) from None
        self.network.to(device).eval()
        self._device = device

    def find(self, image_HWC: Tensor) -> list[FoundPerson]:
        """The people in a picture, uint8 (H, W, 3), best first."""
        height, width = image_HWC.shape[:2]
        with torch.inference_mode():
            image_CHW = image_HWC.to(self._device).permute(2, 0, 1).float() / 255
            (found,) = self.network([image_CHW])
        size = torch.tensor([width, height, width, height])
        people = []
        for box, score, label in zip(
            found["boxes"].cpu(), found["scores"].tolist(), found["labels"].tolist(), strict=True
        ):
            if label == PERSON:
                x1, y1, x2, y2 = (box / size).tolist()
                people.append(FoundPerson((x1, y1, x2, y2), score))
        return people


class BoxPredictor:
    """Scores the people in boxes.

    Args:
        cfg: the config that the model was trained with.
        model: trained; on `device`.
        device: where it runs.
        class_names: of the K classes, if known and the class list of AVA (AVA.LABEL_MAP_FILE) is not there.

    Attributes:
        names: column of the scores -> name of the class, of the classes that have one.
        plan: chooses the frames of a clip.
        decoding: limits of the decoder.

    Raises:
        AnnotationError: the class list cannot be used.
        UserError: the model is no detector.
    """

    def __init__(
        self, cfg: Config, model: VideoModel, device: torch.device, *, class_names: Sequence[str] | None = None
    ) -> None:
        refuse_classifier(cfg)
        problem = Problem(cfg)
        self.names = read_action_names(cfg, problem.class_names if class_names is None else class_names)
        self.plan = build_key_plan(cfg)
        # A movie may take as long as it needs, window by window.
        self.decoding = dataclasses.replace(build_decode_options(cfg), each_request=True)
        self._activation, self._size = problem.activation, cfg.DATA.TEST_CROP_SIZE
        self._crop = build_eval_transform(cfg, 1)
        self._inference = Inference(model, problem.preparation, device, dtype=test_dtype(cfg), engine=cfg.TEST.ENGINE)

    def placed(self, frames_THWC: Tensor, corners: Sequence[Corners]) -> tuple[Tensor, Tensor]:
        """The crop of a clip, as in the test, and the boxes in it.

        Args:
            frames_THWC: uint8 (T, H, W, 3).
            corners: of R people.

        Returns:
            uint8 (T, S, S, 3), and (R, 5) in pixels of the crop: 0, the number of the clip, and x1, y1, x2, y2.
        """
        frames_TSSC, placement = self._crop.placed(frames_THWC)[0]
        boxes_R4 = placement.boxes(torch.tensor(corners).reshape(-1, 4), self._size)
        return frames_TSSC, torch.cat([torch.zeros(len(boxes_R4), 1), boxes_R4], dim=1)

    def prepared(self, frames_TSSC: Tensor) -> Tensor:
        """The input of the model, (1, 3, T, S, S)."""
        return self._inference.prepared(frames_TSSC[None])

    def scores(self, frames_THWC: Tensor, corners: Sequence[Corners]) -> tuple[Tensor, Tensor]:
        """The scores of people, as in the test.

        Args:
            frames_THWC: uint8 (T, H, W, 3), the clip before it is cropped.
            corners: of R people.

        Returns:
            (R, K) on the CPU, and whether each box reaches into the crop, (R,).
        """
        frames_TSSC, boxes_R5 = self.placed(frames_THWC, corners)
        if not len(boxes_R5):
            return torch.zeros(0, 1), torch.zeros(0, dtype=torch.bool)
        with self._inference.mode():
            logits_RK = self._inference.model(self.prepared(frames_TSSC), boxes_R5.to(self._inference.device))
            scores_RK = self._activation(logits_RK).cpu()
        return scores_RK.clone(), has_area(boxes_R5[:, 1:])


class PeoplePredictor(BoxPredictor):
    """Labels the people in videos, one video after the other.

    Args:
        cfg, model, device, class_names: see `BoxPredictor`.
        finder: finds people.

    Attributes:
        reader: cuts videos into windows; its clips hold whole frames.

    Raises:
        AnnotationError: the class list cannot be used.
        UserError: the model is no detector.
    """

    def __init__(
        self,
        cfg: Config,
        model: VideoModel,
        device: torch.device,
        finder: PersonFinder,
        *,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(cfg, model, device, class_names=class_names)
        self._finder, self._top_k = finder, cfg.PREDICT.TOP_K
        # The person finder sees whole frames, so they are cropped only afterwards.
        self.reader = WindowReader(
            plan=self.plan, crop=lambda x_THWC: [x_THWC], num_crops=1, stride_s=cfg.PREDICT.WINDOW_STRIDE_S
        )

    def predict(self, path: str, *, quiet: bool = False) -> VideoLabels:
        """Find and label the people in every window of a video.

        Args:
            path: a video file, or a folder of frames.
            quiet: show no progress bar.

        Raises:
            DecodeError: the file cannot be read.
            UserError: the scores are not finite.
        """
        with open_video(path, "pyav", self.decoding) as video:
            clips = self.reader.clips(video, name=Path(path).name, quiet=quiet)
            windows = [self.label(clip, path) for clip in clips]
        people = plural(sum(len(window.people or ()) for window in windows), "person", "people")
        views = f"{plural(len(windows), 'window')}, {people}, highest score of each class"
        return VideoLabels(path, views, self._best([window.top for window in windows]), windows)

    def label(self, clip: Clip, name: str) -> Labels:
        """The people in a clip of `reader`.

        Args:
            clip: its only crop is the whole frame, uint8 (1, T, H, W, 3).
            name: of the video, for messages.
        """
        frames_THWC = clip.crops_VTSSC[0]
        found = self._finder.find(frames_THWC[len(frames_THWC) // 2])
        scores_RK, inside_R = self.scores(frames_THWC, [person.corners for person in found])
        if not torch.isfinite(scores_RK).all():
            raise UserError("the model's scores are not finite: are the weights broken?", where=name)
        people = tuple(
            Person(one.corners, one.score, self._ranked(scores_K) if inside else [])
            for one, scores_K, inside in zip(found, scores_RK, inside_R.tolist(), strict=True)
        )
        return Labels(clip.start_s, clip.end_s, self._best([person.top for person in people]), people)

    def _ranked(self, scores_K: Tensor) -> Ranked:
        """The best of the classes that have a name."""
        columns = torch.tensor(list(self.names))
        values, places = scores_K[columns].topk(min(self._top_k, len(columns)))
        names = list(self.names.values())
        return [(names[place], value) for place, value in zip(places.tolist(), values.tolist(), strict=True)]

    def _best(self, tops: Sequence[Ranked]) -> Ranked:
        """The classes with the highest scores over all people."""
        best: dict[str, float] = {}
        for name, score in (pair for top in tops for pair in top):
            best[name] = max(score, best.get(name, 0.0))
        return sorted(best.items(), key=lambda pair: -pair[1])[: self._top_k]


def refuse_classifier(cfg: Config) -> None:
    """Refuse the config of a model that classifies whole videos.

    Raises:
        UserError: it does.
    """
    if not cfg.DETECTION.ENABLE:
        raise UserError(
            "this model classifies whole videos, not people; --people needs a detector, trained with DETECTION.ENABLE "
            "True on AVA or data in its form",
            where="--people",
            hint="Leave --people out, or name a detector. No weights of MViT on AVA are published; docs/detection.md "
            "explains how to train them",
        )


def read_action_names(cfg: Config, class_names: Sequence[str]) -> Mapping[int, str]:
    """Column of the scores -> name of the class.

    Args:
        cfg: with AVA.ANNOTATION_DIR, whose class list leaves out the classes that are not evaluated.
        class_names: of all classes, if there is no such list; empty ones are left out.
    """
    path = Path(cfg.AVA.ANNOTATION_DIR) / cfg.AVA.LABEL_MAP_FILE
    if cfg.AVA.ANNOTATION_DIR and cfg.AVA.LABEL_MAP_FILE and path.is_file() and not cfg.DATA.CLASS_NAMES_FILE:
        # Classes count from 1, columns from 0.
        return {class_id - 1: name for class_id, name in read_label_map(path, cfg.MODEL.NUM_CLASSES).items()}
    return {column: name for column, name in enumerate(class_names) if name}
