"""Robustness: the test of a model under occlusion, attacks and corruptions, and on sets that are made to mislead it.

Everything is evaluated as in the test: its views, its ensemble, its activation. Videos are decoded once for all changes
of their clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, cast

import numpy as np
import simplejson
import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.analysis.attacks import Loss, PixelSpace, fgsm, pgd
from videovit.analysis.corruptions import CORRUPTIONS, corrupt
from videovit.analysis.covering import cover_center
from videovit.data.catalog import Evaluation
from videovit.data.records import Batch
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.checkpoints.weights import build_seeded_model, load_weights_to_test, test_dtype
from videovit.engine.evaluation.evaluator import ScoreEvaluator, ScoreSink
from videovit.engine.evaluation.inference import Pass, evaluate_split
from videovit.engine.problem import Problem
from videovit.engine.reporting.json_lines import make_folder, replacing
from videovit.engine.reporting.log import logger
from videovit.engine.reporting.tables import write_report
from videovit.engine.run_context import Run
from videovit.engine.tasks.analyze import spread
from videovit.engine.tasks.robustness_report import (
    CLEAN,
    Found,
    described,
    draw_robustness,
    tabulate,
    tabulate_models,
)
from videovit.engine.tasks.robustness_sets import check_sets, evaluate_sets
from videovit.engine.tasks.test import check_test
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.contract import VideoModel
from videovit.models.convert.checksums import state_crc

REPORT, PICTURE = "robustness.json", "robustness.png"
PGD_STEP = 0.5  # of eps

LOSSES: dict[Evaluation, Loss] = {
    "top-k": lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum"),
    "multi-label": lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels, reduction="sum"),
}
"""What attacks raise, by `DatasetSpec.evaluation`."""


def check_robustness(problem: Problem) -> None:
    """Check what the task needs; see `check_test`.

    Raises:
        UserError: a file cannot be used, the model is a detector, or the reference is no such report.
    """
    cfg = problem.cfg
    if problem.test.spec.evaluation not in LOSSES:
        raise UserError(
            f"attacks need labels, but the boxes of {cfg.TEST.DATASET!r} in the test have none",
            where="ROBUSTNESS.ENABLE",
            expected="a data set of whole videos or images",
        )
    check_test(problem)
    check_sets(problem)
    _reference(problem)


def robustness(problem: Problem, run: Run) -> dict[str, float]:
    """Run the tests of `ROBUSTNESS.*`; writes robustness.json and robustness.png to `OUTPUT_DIR`.

    Returns:
        The most important measure of the test, in percent, by test; corruptions as `<name>_<severity>`.

    Raises:
        UserError: see `check_robustness`.
    """
    cfg = problem.cfg
    check_robustness(problem)
    samples = spread(problem.test.samples, cfg.ROBUSTNESS.NUM_VIDEOS)
    model = build_seeded_model(cfg, run.device)
    checkpoint, weights = load_weights_to_test(cfg, model), state_crc(model.state_dict())
    inference = problem.inference(model, run, batch_size=cfg.TEST.BATCH_SIZE, dtype=test_dtype(cfg))
    loader = problem.test.loader(run, samples=samples)
    trials = build_trials(problem, model)
    evaluators = [problem.test.new_evaluator(loader.dataset) for _ in trials]
    passes = [
        Pass([ScoreSink(cast(ScoreEvaluator, evaluator), problem.activation)], trial.change, trial.corrupt)
        for trial, evaluator in zip(trials, evaluators, strict=True)
    ]
    logger.info(
        "robustness: %s over %s", plural(len(passes), "pass", "passes"), plural(len(samples), problem.test.spec.noun)
    )
    skipped = evaluate_split(inference, loader, passes, run, name="robustness", log_period=cfg.LOG_PERIOD)
    measure, title = next(iter(evaluators[0].columns.items()))
    results = [evaluator.gather().result(skipped=skipped) for evaluator in evaluators]
    found = Found(
        model=cfg.MODEL.MODEL_NAME,
        checkpoint=checkpoint,
        weights=weights,
        measure=title,
        num_videos=int(results[0]["num_videos"]),
        num_skipped=len(skipped),
        views=evaluators[0].views,
        tests={
            trial.name: result[measure] for trial, result in zip(trials, results, strict=True) if trial.severity is None
        },
    )
    for trial, result in zip(trials, results, strict=True):
        if trial.severity is not None:
            found.corruptions.setdefault(trial.name, {})[trial.severity] = result[measure]
    found.sets += evaluate_sets(problem, run, inference)
    if run.rank == 0:
        _write(problem, found)
    values = {name: value for name, value in found.tests.items()}
    values |= {f"{name}_{s}": value for name, levels in found.corruptions.items() for s, value in levels.items()}
    values |= {one.name: one.percent for one in found.sets}
    run.log.stats("robustness", {**values, "checkpoint": checkpoint}, step=cfg.SOLVER.MAX_EPOCH)
    return values


@dataclass(frozen=True)
class Trial:
    """A test whose clips are changed.

    Attributes:
        name: of its row.
        change, corrupt: see `Pass`.
        severity: of a corruption.
    """

    name: str
    change: Callable[[Tensor, Batch], Tensor] | None = None
    corrupt: Callable[[Tensor, Batch], Tensor] | None = None
    severity: int | None = None


def build_trials(problem: Problem, model: VideoModel) -> list[Trial]:
    """The tests that a config asks for; the first one changes nothing.

    Args:
        problem: the problem.
        model: that is attacked.
    """
    cfg, section = problem.cfg, problem.cfg.ROBUSTNESS
    preparation = build_preparation(cfg, train=False)
    pixels = PixelSpace(preparation.mean, preparation.std)
    loss, num_crops = LOSSES[problem.test.spec.evaluation], cfg.TEST.NUM_SPATIAL_CROPS
    trials = [Trial(CLEAN)]
    if "occlusion" in section.WHAT:
        name = f"occlusion, {section.OCCLUSION:g} of each side, {section.FILL}"

        def covered(x_BCTHW: Tensor, batch: Batch) -> Tensor:
            fill = pixels.black(x_BCTHW) if section.FILL == "black" else 0.0
            return cover_center(x_BCTHW, section.OCCLUSION, fill)

        trials.append(Trial(name, covered))
    attacked = model.twin().eval()  # the fast copy that inference runs has no gradients
    for eps in section.EPS:
        if "fgsm" in section.WHAT:
            trials.append(Trial(f"FGSM {eps:g}/255", _Fgsm(attacked, eps / 255, pixels, loss)))
        if "pgd" in section.WHAT:
            steps = f"{section.PGD_STEPS} steps of {PGD_STEP * eps:g}/255"
            attack = _Pgd(attacked, eps / 255, pixels, loss, section.PGD_STEPS, section.SEED)
            trials.append(Trial(f"PGD {eps:g}/255, {steps}", attack))
    if "corruptions" in section.WHAT:
        for name in dict.fromkeys(section.CORRUPTIONS):
            if cfg.DATA.NUM_FRAMES > 1 or not CORRUPTIONS[name].in_time:
                trials += [
                    Trial(name, corrupt=_Corrupted(name, severity, section.SEED, num_crops), severity=severity)
                    for severity in sorted(set(section.SEVERITIES))
                ]
    return trials


@dataclass(frozen=True)
class _Fgsm:
    """Attacks every view by itself."""

    model: VideoModel
    eps: float
    pixels: PixelSpace
    loss: Loss

    def __call__(self, x_BCTHW: Tensor, batch: Batch) -> Tensor:
        return fgsm(self.model, x_BCTHW, batch.labels, eps=self.eps, pixels=self.pixels, loss=self.loss)


@dataclass(frozen=True)
class _Pgd(_Fgsm):
    num_steps: int
    seed: int

    def __call__(self, x_BCTHW: Tensor, batch: Batch) -> Tensor:
        views = zip(batch.videos_B.tolist(), batch.views_B.tolist(), strict=True)
        starts = [
            np.random.default_rng((self.seed, video, view)).random(tuple(x_BCTHW.shape[1:]), dtype=np.float32)
            for video, view in views
        ]
        return pgd(
            self.model,
            x_BCTHW,
            batch.labels,
            eps=self.eps,
            step=PGD_STEP * self.eps,
            num_steps=self.num_steps,
            start_BCTHW=2 * torch.from_numpy(np.stack(starts)).to(x_BCTHW.device) - 1,
            pixels=self.pixels,
            loss=self.loss,
        )


@dataclass(frozen=True)
class _Corrupted:
    """Corrupts every clip by random numbers of its own, which its crops share."""

    name: str
    severity: int
    seed: int
    num_crops: int

    def __call__(self, frames_BTHWC: Tensor, batch: Batch) -> Tensor:
        views = zip(batch.videos_B.tolist(), batch.views_B.tolist(), strict=True)
        clips = [
            corrupt(self.name, self.severity, frames_THWC, (self.seed, video, view // self.num_crops))
            for frames_THWC, (video, view) in zip(frames_BTHWC, views, strict=True)
        ]
        return torch.stack(clips)


def _reference(problem: Problem) -> dict[str, Any] | None:
    """The report that corruption errors are relative to, if one is named."""
    folder = problem.cfg.ROBUSTNESS.REFERENCE
    return read_report(Path(folder)) if folder else None


def read_report(output_dir: Path) -> dict[str, Any]:
    """What `robustness` wrote to an OUTPUT_DIR.

    Raises:
        UserError: there is no report, or it is not one.
    """
    path = output_dir / REPORT
    try:
        report = simplejson.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        raise UserError(f"not a report of robustness: {reason}", where=path) from error
    if not _is_report(report):
        raise UserError("not a report of robustness", where=path)
    return report


def _is_report(report: object) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value has what comparisons read: numbers by test, and by corruption and severity."""

    def numbers(values: object) -> bool:
        return isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values())

    if not isinstance(report, dict) or not {"model", "checkpoint", "measure", "num_videos", "views"} <= report.keys():
        return False
    tests, corruptions = report.get("tests"), report.get("corruptions")
    return (
        isinstance(tests, dict)
        and CLEAN in tests
        and numbers(tests)
        and isinstance(report["num_videos"], int)
        and isinstance(corruptions, dict)
        and all(levels and numbers(levels) for levels in corruptions.values())
    )


def _write(problem: Problem, found: Found) -> None:
    cfg, folder = problem.cfg, Path(problem.cfg.OUTPUT_DIR)
    table = tabulate(found, cfg, reference=_reference(problem), images=problem.test.spec.images)
    write_report(folder / REPORT, table, described(found))
    with replacing(folder / PICTURE) as partial:
        draw_robustness({folder.name: described(found)}).savefig(partial, dpi=100)
    logger.info("\n%s", table)
    logger.info("written: %s and %s", folder / REPORT, folder / PICTURE)


def compare(folders: list[Path], output: Path) -> tuple[Path, Path] | None:
    """Put several models side by side: robustness_compared.json and .png.

    Args:
        folders: OUTPUT_DIR of each; mean corruption errors are relative to the first.
        output: folder of the files; created if absent.

    Returns:
        The files; None for a single model.

    Raises:
        UserError: a report cannot be read, or a file cannot be written.
    """
    if len(folders) < 2:
        return None
    names = [folder.name for folder in folders]
    unique = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    reports = {name: read_report(folder) for name, folder in zip(unique, folders, strict=True)}
    make_folder(output)
    table, picture = output / "robustness_compared.json", output / "robustness_compared.png"
    joined = tabulate_models(reports)
    write_report(table, joined, {})
    with replacing(picture) as partial:
        draw_robustness(reports).savefig(partial, dpi=100)
    logger.info("\n%s", joined)
    return table, picture
