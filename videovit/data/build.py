"""From the config to a data loader: its videos, clips, batches and workers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from videovit.config import Config
from videovit.data.catalog import DatasetSpec, Items, Split, build_spec
from videovit.data.class_frequency import classes_of
from videovit.data.dataset import (
    ActionsShown,
    BoxCrops,
    ClipDataset,
    Crops,
    FixedCrops,
    LabelRule,
    RepeatedCrops,
    one_class,
)
from videovit.data.decode import DecodeOptions
from videovit.data.decode.protocol import MOST_ELONGATED
from videovit.data.detection import build_key_plan
from videovit.data.handover import HANDOVER_HINT, HandedOver, Lost
from videovit.data.order import EpochSampler
from videovit.data.records import Batch, Item, Sample, collate
from videovit.data.running_clock import RunningClock
from videovit.data.sample_list import SampleList, labels_of
from videovit.data.sampling import EvenSpans
from videovit.data.transforms.boxes import Placement
from videovit.data.transforms.objects import ObjectCrops, build_object_transform
from videovit.data.transforms.pipeline import (
    EvalTransform,
    build_eval_transform,
    build_image_eval_transform,
    build_image_train_transform,
    build_train_transform,
)
from videovit.data.workers import Board, signals_blocked, try_semaphores
from videovit.errors import UserError
from videovit.messages import plural

PATIENCE_S = 5.0  # how long to wait for a batch before looking at limits and signals
WORKERS_HINT = (
    "They need room for semaphores in /dev/shm and, unless they are forked, a TMPDIR with a short path; "
    "DATA_LOADER.NUM_WORKERS 0 does without workers"
)


class ClipLoader(DataLoader[Item]):
    """A data loader of Batches over a ClipDataset. `len()` is the number of steps of this rank in a whole epoch.

    Args:
        dataset: the clips.
        rank: of the process that the loader belongs to.
        num_workers: 0 reads in this process.
        collate_fn: items -> batch.
        timeout: seconds after which a batch that has not arrived is an error; 0 disables. Pauses of this process
            (Ctrl-Z, a machine that sleeps) do not count.
        kwargs: of PyTorch's DataLoader.

    Attributes:
        board: shows which video each worker is reading.
        served_by: number of videos read so far by each decoder.
        while_waiting: called every few seconds while a batch is late.
    """

    dataset: ClipDataset
    sampler: EpochSampler

    def __init__(
        self,
        dataset: ClipDataset,
        *,
        rank: int = 0,
        num_workers: int = 0,
        collate_fn: Callable[[Sequence[Item]], Batch] = collate,
        timeout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        # Must exist before the workers, which inherit its shared memory.
        self.board = Board(dataset.samples, num_workers=num_workers, rank=rank)
        super().__init__(
            dataset,
            num_workers=num_workers,
            worker_init_fn=self.board.start_worker,
            collate_fn=HandedOver(collate_fn),
            timeout=min(PATIENCE_S, timeout or PATIENCE_S) if num_workers else 0,
            **kwargs,
        )
        self._limit_s = timeout or float("inf")
        self.served_by: Counter[str] = Counter()
        self.while_waiting: Callable[[], object] = lambda: None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # Workers inherit blocked signals: a scheduler's signal to the whole job must not end them before a checkpoint.
        try:
            if self.num_workers and self._iterator is None:
                try_semaphores(self.num_workers)
            with signals_blocked():
                try:
                    batches = super().__iter__()
                except RuntimeError as error:
                    if not _is_late(error):
                        raise
                    # Workers are busy with batches of an epoch that was left early: start others.
                    self._iterator = None
                    batches = super().__iter__()
        except OSError as error:
            raise UserError(
                f"{plural(self.num_workers, 'data loader worker')} could not be started: {error}", hint=WORKERS_HINT
            ) from error
        return self._counted(batches)

    def _counted(self, batches: Iterator[Batch | Lost]) -> Iterator[Batch]:
        while (batch := self._next(batches)) is not None:
            if isinstance(batch, Lost):
                raise UserError(f"a batch of a worker could not be received: {batch.error}", hint=HANDOVER_HINT)
            self.served_by.update(batch.served_by)
            yield batch

    def _next(self, batches: Iterator[Batch | Lost]) -> Batch | Lost | None:
        """Wait for the next batch; None after the last one."""
        clock = RunningClock(2 * PATIENCE_S)
        while True:
            try:
                return next(batches, None)
            except RuntimeError as error:
                if not _is_late(error):
                    raise
                if clock.elapsed_s() >= self._limit_s:
                    raise self.board.late(self._limit_s) from error
            self.board.collect()
            self.while_waiting()


def _is_late(error: RuntimeError) -> bool:
    return str(error).startswith("DataLoader timed out")


def build_loader(
    cfg: Config,
    split: Split,
    *,
    rank: int = 0,
    world_size: int = 1,
    spec: DatasetSpec | None = None,
    samples: Sequence[Sample] | None = None,
) -> ClipLoader:
    """Build everything from the annotation file to batches of clips, for one process.

    Training draws DATA.TRAIN_CROP_NUM_TEMPORAL random spans, with AUG.NUM_SAMPLE augmentations each; `val` takes one
    central clip per video; `test` takes all TEST.NUM_ENSEMBLE_VIEWS x TEST.NUM_SPATIAL_CROPS views of a video together.

    Args:
        cfg: the config.
        split: which annotations to read, and how to sample.
        rank: this process.
        world_size: number of processes, over all shards.
        spec: the row of the data set, if already resolved.
        samples: the videos of the split, if already read.

    Returns:
        A ClipLoader: `loader.dataset.samples`, `loader.dataset.num_views`, `loader.sampler.set_epoch(epoch, step)`.

    Raises:
        AnnotationError: the annotations cannot be used.
        UserError: the batch size is not divisible by the number of processes, there are fewer videos than one batch, or
            the data set is unknown or does not match DATA.MULTI_LABEL or DETECTION.ENABLE.
    """
    spec = build_spec(cfg, split) if spec is None else spec
    samples = spec.read(cfg, split) if samples is None else samples
    dataset = build_dataset(cfg, split, samples, spec)
    training = split == "train"
    if training:
        batch_size = train_batch_size(cfg, len(samples), world_size)
    else:
        batch_size = eval_batch_size(cfg, split, dataset.num_views, world_size)
    sampler = EpochSampler(
        len(samples),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        seed=cfg.RNG_SEED if training else None,
        classes=labels_of(samples) if training and cfg.DATA.SAMPLER == "balanced" else None,
        groups=aspect_groups(samples) if training and cfg.COCO.GROUP_BY_ASPECT else None,
    )
    num_workers = cfg.DATA_LOADER.NUM_WORKERS
    return ClipLoader(
        dataset,
        rank=rank,
        num_workers=num_workers,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        # Pinned memory speeds up copies to a GPU only, and allocating it needs one.
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and cfg.NUM_GPUS > 0 and torch.cuda.is_available(),
        # Workers keep their caches of frame tables from epoch to epoch.
        persistent_workers=num_workers > 0,
        timeout=cfg.DATA_LOADER.TIMEOUT if num_workers > 0 else 0,
        generator=torch.Generator(),  # of its own, so that creating iterators leaves the global random state alone
    )


def build_dataset(cfg: Config, split: Split, samples: Sequence[Sample], spec: DatasetSpec | None = None) -> ClipDataset:
    """The data set of a split: which frames of a video become clips, and how they are cropped and labeled.

    Args:
        cfg: the config.
        split: the split.
        samples: its videos.
        spec: the row of the data set, if already resolved.
    """
    spec = build_spec(cfg, split) if spec is None else spec
    return BUILDERS[spec.items](cfg, split, samples, spec)


def build_clip_dataset(cfg: Config, split: Split, samples: Sequence[Sample], spec: DatasetSpec) -> ClipDataset:
    """The data set of clips of whole videos."""
    data, training = cfg.DATA, split == "train"
    num_crops: int = cfg.TEST.NUM_SPATIAL_CROPS if split == "test" else 1
    label: LabelRule = one_class
    if spec.multi_label:
        # Charades is evaluated per video, so every view of it has all its actions.
        label = ActionsShown(cfg.MODEL.NUM_CLASSES, whole_video=not training)
    crops: Crops
    if training:
        num_crops = cfg.AUG.NUM_SAMPLE
        crops = RepeatedCrops(build_train_transform(cfg), num_crops, label)
    else:
        # Validation measures the model at its training resolution.
        crop_size = data.TRAIN_CROP_SIZE if split == "val" else data.TEST_CROP_SIZE
        crops = FixedCrops(build_eval_transform(cfg, num_crops, crop_size=crop_size), label)
    return ClipDataset(
        samples,
        plan=spec.plan(cfg, split),
        crops=crops,
        num_crops=num_crops,
        backend=spec.decoder or data.DECODING_BACKEND,
        decoding=build_decode_options(cfg, training=training),
        seed=cfg.RNG_SEED,
        replace_unreadable=training,
    )


def build_key_frame_dataset(cfg: Config, split: Split, samples: Sequence[Sample], spec: DatasetSpec) -> ClipDataset:
    """The data set of key frames: the clip around each, with its boxes; one center crop in evaluation."""
    data, training = cfg.DATA, split == "train"
    evaluate = build_eval_transform(cfg, 1, crop_size=data.TEST_CROP_SIZE if split == "test" else data.TRAIN_CROP_SIZE)
    crops = BoxCrops(
        transform=build_train_transform(cfg).placed if training else partial(_place_center, evaluate),
        crop_size=data.TRAIN_CROP_SIZE if training else evaluate.crop_size,
        num_classes=cfg.MODEL.NUM_CLASSES,
        times=cfg.AUG.NUM_SAMPLE if training else 1,
        # Nothing can be learned from a box outside the crop; in evaluation it counts as missed.
        drop_empty=training,
    )
    return ClipDataset(
        samples,
        plan=build_key_plan(cfg),
        crops=crops,
        num_crops=crops.times,
        backend="pyav" if cfg.AVA.MOVIE_DIR else "frames",
        decoding=build_decode_options(cfg, training=training),
        seed=cfg.RNG_SEED,
        replace_unreadable=training,
    )


def _place_center(transform: EvalTransform, frames_THWC: Tensor, rng: np.random.Generator) -> tuple[Tensor, Placement]:
    return transform.placed(frames_THWC)[0]


def build_image_dataset(cfg: Config, split: Split, samples: Sequence[Sample], spec: DatasetSpec) -> ClipDataset:
    """The data set of still images: each is a clip of one frame, tested with one view; see `build_clips_of_images`."""
    if split == "train":
        crops: Crops = RepeatedCrops(build_image_train_transform(cfg), cfg.AUG.NUM_SAMPLE)
    else:
        transform = build_image_eval_transform(cfg)
        if split == "val":
            transform = replace(transform, crop_size=cfg.DATA.TRAIN_CROP_SIZE)
        crops = FixedCrops(transform)
    return build_clips_of_images(cfg, split, samples, crops, build_decode_options(cfg, training=split == "train"))


def build_object_dataset(cfg: Config, split: Split, samples: Sequence[Sample], spec: DatasetSpec) -> ClipDataset:
    """The data set of images with objects: whole images, scaled; see `build_clips_of_images`."""
    training = split == "train"
    crops = ObjectCrops(
        build_object_transform(cfg, train=training),
        learned=training,
        masks=cfg.COCO.MASKS,
        times=cfg.AUG.NUM_SAMPLE if training else 1,
    )
    # Not scaled while decoding: boxes and masks are those of the whole image.
    decoding = replace(build_decode_options(cfg, training=training), short_side=0)
    return build_clips_of_images(cfg, split, samples, crops, decoding)


def build_clips_of_images(
    cfg: Config, split: Split, samples: Sequence[Sample], crops: Crops, decoding: DecodeOptions
) -> ClipDataset:
    """Images as clips of one frame.

    Raises:
        UserError: the config asks for more frames, views or crops.
    """
    fixed = {"DATA.NUM_FRAMES": cfg.DATA.NUM_FRAMES}
    if split == "test":
        fixed["TEST.NUM_ENSEMBLE_VIEWS"] = cfg.TEST.NUM_ENSEMBLE_VIEWS
        fixed["TEST.NUM_SPATIAL_CROPS"] = cfg.TEST.NUM_SPATIAL_CROPS
    for key, value in fixed.items():
        if value != 1:
            raise UserError(where=key, found=value, expected="1: a still image has one frame and one test view")
    return ClipDataset(
        samples,
        # Any plan of a single frame does.
        plan=EvenSpans(1, 1, cfg.DATA.TARGET_FPS),
        crops=crops,
        num_crops=cfg.AUG.NUM_SAMPLE if split == "train" else 1,
        backend="image",
        decoding=decoding,
        seed=cfg.RNG_SEED,
        replace_unreadable=split == "train",
    )


BUILDERS: dict[Items, Callable[[Config, Split, Sequence[Sample], DatasetSpec], ClipDataset]] = {
    "clips": build_clip_dataset,
    "key frames": build_key_frame_dataset,
    "images": build_image_dataset,
    "images with objects": build_object_dataset,
}
"""`DatasetSpec.items` -> what builds the data set of a split."""


def build_decode_options(cfg: Config, *, training: bool = False) -> DecodeOptions:
    """Decoder options of a split: scaling, limits, and the frame rate of image folders."""
    data = cfg.DATA
    return DecodeOptions(
        short_side=data.DECODE_SHORT_SIDE if training else data.TEST_DECODE_SHORT_SIDE,
        max_pixels=data.MAX_PIXELS,
        # Detectors of objects scale whole images, and limit the long side.
        max_elongation=0 if cfg.DETECTOR.NAME else MOST_ELONGATED,
        max_frames=data.MAX_FRAMES,
        max_mb=data.MAX_VIDEO_MB,
        inside=data.PATH_PREFIX,
        frames_fps=data.FRAMES_FPS,
        timeout_s=data.DECODE_TIMEOUT_S,
        cache_gb=data.REMOTE_CACHE_GB,
    )


def train_batch_size(cfg: Config, num_videos: int, world_size: int) -> int:
    """Videos per training step and process: the TRAIN.BATCH_SIZE of a shard, divided among its processes.

    Raises:
        UserError: it is not divisible, or the data set has fewer videos than one step takes.
    """
    total = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS
    if total % world_size:
        raise UserError(
            f"TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE} x NUM_SHARDS {cfg.NUM_SHARDS} = {total} videos per step cannot "
            f"be divided evenly among {plural(world_size, 'process', 'processes')}"
        )
    if num_videos < total:
        parts = cfg.TRAIN.GRAD_ACCUM_STEPS
        clips = cfg.AUG.NUM_SAMPLE * cfg.DATA.TRAIN_CROP_NUM_TEMPORAL  # per video
        unit = parts // math.gcd(parts, clips)  # of videos per process that divide into micro-batches
        largest = num_videos // world_size // unit * unit * world_size // cfg.NUM_SHARDS
        raise UserError(
            f"the training list has {plural(num_videos, 'video')}, fewer than one step takes: "
            f"TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE} x NUM_SHARDS {cfg.NUM_SHARDS} = {total}",
            hint=f"Set TRAIN.BATCH_SIZE {largest} or less" if largest else "Start fewer processes",
        )
    return total // world_size


def aspect_groups(samples: Sequence[Sample]) -> list[int] | None:
    """1 for wide and 0 for tall images with objects, which need less padding among their like; None for videos."""
    images = [] if isinstance(samples, SampleList) else [s.image for s in samples if s.image is not None]
    return [int(image.width >= image.height) for image in images] or None


def describe_train_list(
    samples: Sequence[Sample], *, num_classes: int, videos_per_step: int, balanced: bool = False, noun: str = "video"
) -> str:
    """One epoch of training in words: its steps, and the samples and classes that it leaves out.

    Args:
        samples: of the training list.
        num_classes: K.
        videos_per_step: of all processes.
        balanced: whether every class is drawn equally often.
        noun: what a sample is, see `DatasetSpec.noun`.
    """
    num_steps, dropped = divmod(len(samples), videos_per_step)
    parts = [plural(len(samples), noun), f"{plural(num_steps, 'step')} of {videos_per_step:,} per epoch"]
    if balanced:
        counts = Counter(labels_of(samples).tolist())
        each = len(samples) / len(counts)
        rarest, commonest = (each / count for count in (min(counts.values()), max(counts.values())))
        parts.append(
            f"balanced: {each:.1f} draws of each class, {rarest:.2g} to {commonest:.2g} of each of its {noun}s"
        )
    elif dropped:
        share = 100 * dropped / len(samples)
        parts.append(f"which leaves out {plural(dropped, noun)} ({share:.1f} %, others in each epoch)")
    empty = num_classes - len(np.unique(classes_of(samples)))
    if empty:
        parts.append(f"no {noun} for {empty:,} of the {plural(num_classes, 'class', 'classes')} (MODEL.NUM_CLASSES)")
    return ", ".join(parts)


def eval_batch_size(cfg: Config, split: Split, num_views: int, world_size: int) -> int:
    """Videos per evaluation step and process, at least 1.

    TEST.BATCH_SIZE counts the test clips of a shard; validation takes as many clips as training (TRAIN.BATCH_SIZE).
    """
    clips = cfg.TEST.BATCH_SIZE if split == "test" else cfg.TRAIN.BATCH_SIZE
    # The views of a video stay together, even if they are more than the batch size.
    return max(1, clips * cfg.NUM_SHARDS // world_size // num_views)
