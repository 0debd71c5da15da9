"""Validation while training, and the multi-view test."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videovit.config import Config
from videovit.data.build import ClipLoader, build_dataset, build_loader, read_samples
from videovit.data.catalog import Split, build_spec, read_names
from videovit.data.detection import read_truth
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine import distributed
from videovit.engine.checkpoints.saving import not_written, save_flushed
from videovit.engine.checkpoints.weights import build_on, load_for_test, test_dtype, train_dtype
from videovit.engine.evaluation.boxes import BoxEvaluator
from videovit.engine.evaluation.metrics import EVALUATORS, Evaluator
from videovit.engine.evaluation.sinks import LossSink, ScoreSink, SinkGroup
from videovit.engine.reporting.log import format_table, logger
from videovit.engine.run import Run, report_decoders
from videovit.engine.training.losses import build_loss
from videovit.engine.training.step import Inference, Pass, evaluate, stoppable
from videovit.errors import UserError
from videovit.models.convert.read import read_file

CPU_PIXELS = 1_000_000  # one clip of 16 x 224 x 224, or 30 of 8 x 64 x 64: what the caches of a CPU are good for
COLUMNS = {"top1_acc": "top-1", "top5_acc": "top-5", "mean_class_acc": "mean class", "map": "mAP"}


def validate(cfg: Config, run: Run, model: nn.Module, *, epoch: int) -> dict[str, float]:
    """One centre clip, one centre crop of every validation video; every video once. (SlowFast's draws at random.)"""
    loader = build_loader(cfg, "val", rank=run.rank, world_size=run.world_size)
    evaluator = _evaluator(cfg, loader, "val")
    loss = LossSink(build_loss(cfg.MODEL.LOSS_FUNC))
    parts = _inference(
        cfg, run, model, dtype=train_dtype(cfg), clips_per_step=cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS // run.world_size
    )
    scores = ScoreSink(evaluator, cfg.MODEL.HEAD_ACT)
    # Proposals of a person detector have no labels, and so no loss.
    passes = [Pass(scores if isinstance(evaluator, BoxEvaluator) else SinkGroup(scores, loss))]
    batches = stoppable(loader, len(loader))
    evaluate(parts, batches, passes, run.progress("validation", len(loader), log_period=cfg.LOG_PERIOD))
    report_decoders(loader)
    result = evaluator.gather().result(skipped=_skipped(parts, loader))
    losses = {} if isinstance(evaluator, BoxEvaluator) else {"loss": loss.result()}
    values = {"epoch": f"{epoch + 1}/{cfg.SOLVER.MAX_EPOCH}", **losses, **_with_errors(result)}
    run.log.stats("val_epoch", values, step=epoch + 1)
    return {name: value for name, value in result.items() if not name.startswith("num_")}


def _with_errors(result: dict[str, float]) -> dict[str, float]:
    """Validation reports top1_err for top1_acc, top5_err for top5_acc, as SlowFast does; the rest stays."""
    return {
        name.replace("_acc", "_err") if name.startswith("top") else name: 100.0 - value
        if name.startswith("top")
        else value
        for name, value in result.items()
    }


def check_test(cfg: Config) -> None:
    """Look at what a test needs besides videos, so that training before it does not end in a mistake.

    Raises:
        UserError: a list, the class names or the place of the scores cannot be used, views that there are not, or
            weights that are not there and that training will not write.
    """
    samples = read_samples(cfg, "test")
    for variant in _variants(cfg):
        build_dataset(variant, "test", samples)
    read_names(cfg)
    if cfg.TEST.SAVE_RESULTS_PATH:
        _make_room(Path(cfg.OUTPUT_DIR) / cfg.TEST.SAVE_RESULTS_PATH)
    weights, output_dir = Path(cfg.TEST.CHECKPOINT_FILE_PATH).resolve(), Path(cfg.OUTPUT_DIR).resolve()
    if cfg.TEST.CHECKPOINT_FILE_PATH and not weights.exists() and output_dir not in (weights, *weights.parents):
        read_file(cfg.TEST.CHECKPOINT_FILE_PATH)  # says what is there instead


def test(cfg: Config, run: Run) -> dict[str, float]:
    """Multi-view test: clips x crops of every test video, scores ensembled.

    `TEST.NUM_TEMPORAL_CLIPS` repeats it for several numbers of clips.

    Returns:
        What the evaluator of the data set measures, e.g. top1_acc and top5_acc in percent; num_videos, num_views,
        num_skipped; of the last number of clips.

    Raises:
        UserError: the scores could not be saved where TEST.SAVE_RESULTS_PATH says, among others.
    """
    names = read_names(cfg)
    if cfg.TEST.SAVE_RESULTS_PATH:
        _make_room(Path(cfg.OUTPUT_DIR) / cfg.TEST.SAVE_RESULTS_PATH)
    model = build_on(cfg, run.device)
    checkpoint = load_for_test(cfg, model)
    result: dict[str, float] = {}
    for variant in _variants(cfg):
        result = _test_views(variant, run, model, checkpoint, names)
    return result


def _variants(cfg: Config) -> list[Config]:
    """The config with every number of clips that the test asks for."""
    numbers = cfg.TEST.NUM_TEMPORAL_CLIPS or (cfg.TEST.NUM_ENSEMBLE_VIEWS,)
    return [
        dataclasses.replace(cfg, TEST=dataclasses.replace(cfg.TEST, NUM_ENSEMBLE_VIEWS=int(number)))
        for number in numbers
    ]


def _make_room(path: Path) -> None:
    """The folder for the scores; where there can be none, that is told before the test and not behind it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"TEST.SAVE_RESULTS_PATH: {path.parent} cannot be made: {error.strerror}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        problem = "is a folder, expected the name of a file" if path.is_dir() else "cannot be written there"
        raise UserError(f"TEST.SAVE_RESULTS_PATH: {path} {problem}")


def _test_views(cfg: Config, run: Run, model: nn.Module, checkpoint: str, names: Sequence[str]) -> dict[str, float]:
    (evaluator,), skipped = run_test_passes(cfg, run, model, [None], name="test")
    result = evaluator.result(skipped=skipped)
    views = f"{cfg.TEST.NUM_ENSEMBLE_VIEWS} clips x {cfg.TEST.NUM_SPATIAL_CROPS} crops"
    if isinstance(evaluator, BoxEvaluator):
        views = "key frames"
    source = {"split": "test_final", "views": views, "checkpoint": checkpoint}
    run.log.stats("test_final", {**source, **result}, step=cfg.SOLVER.MAX_EPOCH)
    logger.info("\n%s", _format_result(views, result))
    if run.rank == 0:
        _write(cfg, evaluator, names)
    return result


def _write(cfg: Config, evaluator: Evaluator, names: Sequence[str]) -> None:
    """Leave the tables and pictures of the test in OUTPUT_DIR, and the scores where TEST.SAVE_RESULTS_PATH says."""
    folder, suffix = Path(cfg.OUTPUT_DIR), ""
    if cfg.TEST.NUM_TEMPORAL_CLIPS:
        suffix = f"_{cfg.TEST.NUM_ENSEMBLE_VIEWS}clips"
    files = evaluator.write_report(folder, names, suffix=suffix)
    logger.info("written: %s", ", ".join(map(str, files)))
    if cfg.TEST.SAVE_RESULTS_PATH:
        path = folder / cfg.TEST.SAVE_RESULTS_PATH
        path = path.with_stem(path.stem + suffix)
        try:
            save_flushed(evaluator.state(), path)
        except (OSError, RuntimeError) as error:
            raise not_written(path, error) from error
        logger.info("scores (videos x classes) and labels saved to %s", path)


def _format_result(views: str, result: dict[str, float]) -> str:
    """The table of a test: its measures, and how many videos and views of how many they are about."""
    measures = {name: value for name, value in result.items() if not name.startswith("num_")}
    num_videos, num_views = int(result["num_videos"]), int(result["num_views"])
    total = num_videos + int(result["num_skipped"])
    return format_table(
        ["test", *(COLUMNS.get(name, name) for name in measures), "videos", "views", "left out"],
        [
            [
                views,
                *(f"{value:.2f}" for value in measures.values()),
                f"{num_videos} of {total}",
                f"{num_views} of {num_views // num_videos * total}",
                int(result["num_skipped"]),
            ]
        ],
    )


def run_test_passes(
    cfg: Config, run: Run, model: nn.Module, changes: Sequence[Any], *, name: str
) -> tuple[list[Evaluator], frozenset[int]]:
    """Test views of all videos through the model once per change of the input (see loops.Pass).

    Returns:
        One gathered Evaluator per change, and the indices of the videos that were left out as unreadable.
    """
    loader = build_loader(cfg, "test", rank=run.rank, world_size=run.world_size)
    evaluators = [_evaluator(cfg, loader, "test") for _ in changes]
    passes = [Pass(ScoreSink(e, cfg.MODEL.HEAD_ACT), c) for e, c in zip(evaluators, changes, strict=True)]
    clips_per_step = cfg.TEST.BATCH_SIZE * cfg.NUM_SHARDS // run.world_size
    parts = _inference(cfg, run, model, dtype=test_dtype(cfg), clips_per_step=clips_per_step)
    evaluate(parts, stoppable(loader, len(loader)), passes, run.progress(name, len(loader), log_period=cfg.LOG_PERIOD))
    report_decoders(loader)
    return [evaluator.gather() for evaluator in evaluators], _skipped(parts, loader)


def clips_at_once(cfg: Config, run: Run, wanted: int) -> int:
    """How many clips go through the model together in evaluation: on a CPU few large ones, which is faster there."""
    pixels = cfg.DATA.NUM_FRAMES * cfg.DATA.TEST_CROP_SIZE**2
    return max(1, wanted if run.device.type != "cpu" else min(wanted, CPU_PIXELS // pixels))


def _inference(cfg: Config, run: Run, model: nn.Module, *, dtype: torch.dtype | None, clips_per_step: int) -> Inference:
    return Inference(
        model=model,
        prepare=build_preparation(cfg, train=False),
        device=run.device,
        dtype=dtype,
        clips_per_step=clips_at_once(cfg, run, clips_per_step),
        skip_unreadable=cfg.TEST.SKIP_UNREADABLE,
    )


def _evaluator(cfg: Config, loader: ClipLoader, split: Split) -> Evaluator:
    evaluation = build_spec(cfg, split).evaluation
    if evaluation == "detection":
        return BoxEvaluator(loader.dataset.samples, read_truth(cfg, split), num_classes=cfg.MODEL.NUM_CLASSES)
    return EVALUATORS[evaluation](
        num_videos=len(loader.dataset.samples),
        num_views=loader.dataset.num_views,
        num_classes=cfg.MODEL.NUM_CLASSES,
        method=cfg.DATA.ENSEMBLE_METHOD,
    )


def _skipped(parts: Inference, loader: ClipLoader) -> frozenset[int]:
    paths = {f.path for part in distributed.gather(parts.unreadable) for f in part}
    return frozenset(i for i, sample in enumerate(loader.dataset.samples) if sample.path in paths)
