"""The problem of a run: what is learned from which data, and how it is evaluated.

A `Problem` is built from the config once and handed to every task. Files are read when they are first needed, and then
kept: lists of videos, ground truth, class names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch

from videovit.config import Config
from videovit.config.schema.evaluation import EngineName
from videovit.data.build import ClipLoader, build_dataset, build_loader
from videovit.data.catalog import DatasetSpec, Evaluation, Split, build_spec, read_names
from videovit.data.class_frequency import count_classes, inverse_frequency
from videovit.data.coco import read_split
from videovit.data.dataset import ClipDataset
from videovit.data.detection import read_truth
from videovit.data.records import Sample
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.distributed import preemption
from videovit.engine.evaluation.boxes import BoxEvaluator
from videovit.engine.evaluation.evaluator import Activation, Evaluator
from videovit.engine.evaluation.inference import Inference, Preparation
from videovit.engine.evaluation.objects import ObjectEvaluator
from videovit.engine.evaluation.reconstruction import ReconstructionEvaluator
from videovit.engine.evaluation.reconstruction_pictures import Pictures
from videovit.engine.evaluation.sinks import ACTIVATIONS
from videovit.engine.evaluation.view_ensemble import MultiLabel, TopK, ViewEnsemble
from videovit.engine.objectives import Objective, build_objective
from videovit.engine.reporting.log import logger
from videovit.engine.run_context import Run
from videovit.messages import plural
from videovit.models.contract import LayeredModel
from videovit.models.masked.masks import masks_from_config

E = TypeVar("E", bound=ViewEnsemble)

CPU_PIXELS = 1_000_000  # pixels per forward pass that a CPU's caches hold: one clip of 16 x 224 x 224


class Problem:
    """Data, objective and evaluation of a run.

    Args:
        cfg: the config.

    Attributes:
        train, val, test: the splits of the data.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.train, self.val, self.test = (DataSplit(cfg, split) for split in ("train", "val", "test"))

    @cached_property
    def class_names(self) -> list[str]:
        """The name of every class.

        Raises:
            AnnotationError: the file of names cannot be used.
        """
        return read_names(self.cfg)

    @cached_property
    def activation(self) -> Activation:
        """What turns logits into scores."""
        return ACTIVATIONS[self.cfg.MODEL.HEAD_ACT]

    @cached_property
    def preparation(self) -> Preparation:
        """What turns frames into the input of a model in evaluation."""
        return build_preparation(self.cfg, train=False)

    @cached_property
    def train_preparation(self) -> Preparation:
        """What turns frames into the input of a model in training."""
        return build_preparation(self.cfg, train=True, spec=self.train.spec)

    def objective(self, model: LayeredModel, device: torch.device) -> Objective:
        """What is minimized in training, with `MODEL.CLASS_WEIGHTS auto` as numbers; see `build_objective`."""
        cfg = self.cfg
        if cfg.MODEL.CLASS_WEIGHTS == "auto":
            cfg = replace(cfg, MODEL=replace(cfg.MODEL, CLASS_WEIGHTS=self.class_weights))
        return build_objective(cfg, model, device)

    @cached_property
    def class_weights(self) -> tuple[float, ...]:
        """A weight per class, by how often it occurs in the training list; see `inverse_frequency`."""
        counts_K = count_classes(self.train.samples, self.cfg.MODEL.NUM_CLASSES)
        weights = tuple(inverse_frequency(counts_K).tolist())
        lowest, highest = (weights.index(choose(weights)) for choose in (min, max))
        logger.info(
            "class weights: %.3g (%s) to %.3g (%s), by frequency in the training list",
            weights[lowest],
            self.class_names[lowest],
            weights[highest],
            self.class_names[highest],
        )
        return weights

    def inference(
        self,
        model: LayeredModel,
        run: Run,
        *,
        batch_size: int,
        dtype: torch.dtype | None,
        engine: EngineName = "torch",
    ) -> Inference:
        """A model to evaluate.

        Args:
            model: on the device of the run.
            run: this process.
            batch_size: clips per step and shard; fewer go through the model at once on a CPU.
            dtype: of autocast; None for full precision.
            engine: what runs it.
        """
        cfg = self.cfg
        clips = batch_size * cfg.NUM_SHARDS // run.world_size
        if run.device.type == "cpu":
            clips = min(clips, CPU_PIXELS // (cfg.DATA.NUM_FRAMES * cfg.DATA.TEST_CROP_SIZE**2))
        return Inference(
            model,
            self.preparation,
            run.device,
            dtype=dtype,
            clips_per_step=max(1, clips),
            skip_unreadable=cfg.TEST.SKIP_UNREADABLE,
            engine=engine,
        )


class DataSplit:
    """One split of the data: its row in the catalog, its videos, and its evaluator.

    Args:
        cfg: the config.
        split: train, val or test.
    """

    def __init__(self, cfg: Config, split: Split) -> None:
        self._cfg, self._split = cfg, split

    @cached_property
    def spec(self) -> DatasetSpec:
        """The row of the data set.

        Raises:
            UserError: unknown, or contradicted by DATA.MULTI_LABEL or DETECTION.ENABLE.
        """
        return build_spec(self._cfg, self._split)

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """The videos.

        Raises:
            AnnotationError: the list cannot be used.
        """
        return self.spec.read(self._cfg, self._split)

    def dataset(self, num_clips: int = 0) -> ClipDataset:
        """The clips of the videos.

        Args:
            num_clips: per video of the test; 0 for `TEST.NUM_ENSEMBLE_VIEWS`.
        """
        return build_dataset(self._with_clips(num_clips), self._split, self.samples, self.spec)

    def loader(self, run: Run, num_clips: int = 0, samples: Sequence[Sample] | None = None) -> ClipLoader:
        """The batches of this process; see `dataset`. `samples` are other videos than those of the list."""
        loader = build_loader(
            self._with_clips(num_clips),
            self._split,
            rank=run.rank,
            world_size=run.world_size,
            spec=self.spec,
            samples=self.samples if samples is None else samples,
        )
        loader.while_waiting = preemption.check_wait
        return loader

    @cached_property
    def new_evaluator(self) -> Callable[[ClipDataset], Evaluator]:
        """Makes evaluators for all views of a data set of this split; the ground truth is read once, here.

        Raises:
            AnnotationError: the ground truth cannot be used.
        """
        return EVALUATORS[self.spec.evaluation](self._cfg, self._split)

    def check(self) -> None:
        """Read all files that training or evaluation will need, to fail early.

        Raises:
            UserError: a file cannot be used.
        """
        _ = self.samples
        if self._split != "train":
            _ = self.new_evaluator

    def _with_clips(self, num_clips: int) -> Config:
        if not num_clips:
            return self._cfg
        return replace(self._cfg, TEST=replace(self._cfg.TEST, NUM_ENSEMBLE_VIEWS=num_clips))


def build_ensembles(kind: type[E], cfg: Config, split: Split) -> Callable[[ClipDataset], E]:
    """What makes evaluators of whole videos.

    Args:
        kind: their class.
        cfg: MODEL.NUM_CLASSES, DATA.ENSEMBLE_METHOD and TEST.NUM_SPATIAL_CROPS.
        split: of the data that they evaluate.
    """
    num_crops = cfg.TEST.NUM_SPATIAL_CROPS if split == "test" else 1
    return lambda dataset: kind(
        num_videos=len(dataset.samples),
        num_views=dataset.num_views,
        num_classes=cfg.MODEL.NUM_CLASSES,
        method=cfg.DATA.ENSEMBLE_METHOD,
        views=f"{plural(dataset.num_views // num_crops, 'clip')} x {plural(num_crops, 'crop')}",
    )


def build_box_evaluators(cfg: Config, split: Split) -> Callable[[ClipDataset], BoxEvaluator]:
    """What makes evaluators of boxes on key frames, by the ground truth of a split."""
    truth = read_truth(cfg, split)
    return lambda dataset: BoxEvaluator(dataset.samples, truth, num_classes=cfg.MODEL.NUM_CLASSES)


def build_object_evaluators(cfg: Config, split: Split) -> Callable[[ClipDataset], ObjectEvaluator]:
    """What makes evaluators of objects in images, by the annotations of validation and test."""
    annotations = read_split(cfg, training=False)
    return lambda dataset: ObjectEvaluator(
        dataset.samples,
        annotations,
        masks=cfg.COCO.MASKS,
        folder=Path(cfg.OUTPUT_DIR) / "detections",
        name=split,
        num_pictures=cfg.COCO.NUM_PICTURES,
    )


def build_reconstruction_evaluators(cfg: Config) -> Callable[[ClipDataset], ReconstructionEvaluator]:
    """What makes evaluators of masked pre-training, which draw MASK.NUM_PICTURES of the videos."""
    masks, folder = masks_from_config(cfg), Path(cfg.OUTPUT_DIR) / "reconstructions"

    def build(dataset: ClipDataset) -> ReconstructionEvaluator:
        number, total = cfg.MASK.NUM_PICTURES, len(dataset.samples)
        videos = sorted({place * total // number for place in range(number)})
        order = -1 if cfg.DATA.REVERSE_INPUT_CHANNEL else 1  # the model gets RGB in any case
        pictures = Pictures(folder, videos, mean=cfg.DATA.MEAN[::order], std=cfg.DATA.STD[::order])
        return ReconstructionEvaluator(
            dataset.samples, dataset.num_views, masks=masks, seed=cfg.RNG_SEED, pictures=pictures
        )

    return build


EVALUATORS: dict[Evaluation, Callable[[Config, Split], Callable[[ClipDataset], Evaluator]]] = {
    "top-k": lambda cfg, split: build_ensembles(TopK, cfg, split),
    "multi-label": lambda cfg, split: build_ensembles(MultiLabel, cfg, split),
    "detection": build_box_evaluators,
    "objects": build_object_evaluators,
    "reconstruction": lambda cfg, split: build_reconstruction_evaluators(cfg),
}
"""`DatasetSpec.evaluation` -> what makes evaluators for a split."""
