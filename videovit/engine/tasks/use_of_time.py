"""Does the model use time? The test, repeated with frames reordered, dropped or covered, and at other speeds.

It extends the shuffle evaluation by what else time can lose. Orders, lost and covered frames are changes of the clips
of the test, which are decoded once; at another speed, a clip of as many frames spans another time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from videovit.data.records import Batch, Sample
from videovit.engine import distributed
from videovit.engine.checkpoints.weights import build_seeded_model, load_weights_to_test, test_dtype
from videovit.engine.evaluation.bootstrap import CONFIDENCE, FEW_VIDEOS
from videovit.engine.evaluation.evaluator import ScoreSink
from videovit.engine.evaluation.inference import Inference, Pass, evaluate_split
from videovit.engine.evaluation.view_ensemble import TopK
from videovit.engine.problem import Problem, build_ensembles
from videovit.engine.reporting.json_lines import replacing
from videovit.engine.reporting.log import logger
from videovit.engine.reporting.tables import Cell, Table, write_report
from videovit.engine.run_context import Run
from videovit.engine.tasks.analyze import spread
from videovit.engine.tasks.shuffle_eval import (
    BASELINE,
    check_one_class,
    is_random,
    read_groups,
    reorder_frames,
    summarize,
)
from videovit.engine.tasks.test import check_test
from videovit.engine.tasks.use_of_time_picture import draw_use_of_time
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.convert.checksums import state_crc

REPORT, PICTURE = "use_of_time.json", "use_of_time.png"
REVERSED = "reversed"
PUBLISHED = {"MViT-B 16x4": {"shuffled": 7.1}, "ViT-B": {"shuffled": 0.1}}
"""Drops of top-1 on Kinetics-400 in points. Source: MViT (arXiv 2104.11227), Table 9."""

Change = Callable[[Tensor, Batch], Tensor]


def check_use_of_time(problem: Problem) -> None:
    """Check what the study needs; see `check_test`.

    Raises:
        UserError: a file cannot be used, videos have more than one class, or a clip is a single image.
    """
    check_one_class(problem, "USE_OF_TIME.ENABLE")
    if problem.cfg.DATA.NUM_FRAMES == 1:
        raise UserError(
            "a clip of one frame has no time", where="DATA.NUM_FRAMES", expected="at least 2 for USE_OF_TIME"
        )
    check_test(problem)
    read_groups(problem)


@dataclass
class Evaluated:
    """What a change of the clips led to.

    Attributes:
        ensembles: one per seed.
        still: percent of the frames that equal the one before.
    """

    still: float
    ensembles: list[TopK] = field(default_factory=list)


def use_of_time(problem: Problem, run: Run) -> dict[str, float]:
    """Test with every change of `USE_OF_TIME.*`; writes use_of_time.json and use_of_time.png to `OUTPUT_DIR`.

    Returns:
        `<change>_top1_acc` of every change, in percent (mean over seeds).

    Raises:
        UserError: see `check_use_of_time`.
    """
    cfg, section = problem.cfg, problem.cfg.USE_OF_TIME
    check_use_of_time(problem)
    groups = read_groups(problem)
    samples = spread(problem.test.samples, section.NUM_VIDEOS)
    model = build_seeded_model(cfg, run.device)
    checkpoint, weights = load_weights_to_test(cfg, model), state_crc(model.state_dict())
    inference = problem.inference(model, run, batch_size=cfg.TEST.BATCH_SIZE, dtype=test_dtype(cfg))
    found, skipped = _evaluate(problem, run, inference, samples, orders_of(problem), "use of time")
    for speed, slower in speeds_of(problem).items():
        # The clips that the model knows, from a video that plays at another speed.
        other = Problem(replace(cfg, DATA=replace(cfg.DATA, TARGET_FPS=slower)))
        at_speed, lost = _evaluate(other, run, inference, samples, [BASELINE], speed)
        found[speed], skipped = at_speed[BASELINE], skipped | lost
    summary = summarize(
        {name: one.ensembles for name, one in found.items()},
        names=problem.class_names,
        groups=groups,
        num_resamples=section.NUM_RESAMPLES,
        seed=section.SEED,
    )
    about = {
        "model": cfg.MODEL.MODEL_NAME,
        "checkpoint": checkpoint,
        "weights_crc32": weights,
        "num_videos": len(samples) - len(skipped),
        "num_skipped": len(skipped),
        "views": found[BASELINE].ensembles[0].views,
    }
    if run.rank == 0:
        stills = {name: one.still for name, one in found.items()}
        _write(Path(cfg.OUTPUT_DIR), summary, stills, about, tuple(groups))
    accuracy = {f"{name}_top1_acc": float(one["top1_acc"]) for name, one in summary["orders"].items()}
    run.log.stats("use_of_time", {**accuracy, "checkpoint": checkpoint}, step=cfg.SOLVER.MAX_EPOCH)
    return accuracy


def orders_of(problem: Problem) -> list[str]:
    """The frame orders (see `frame_order`) of a study, in the order of its table."""
    section, num_frames = problem.cfg.USE_OF_TIME, problem.cfg.DATA.NUM_FRAMES
    every = [f"every{k}" for k in section.KEEP_EVERY if k > 1]
    parts = min(section.PARTS, num_frames)
    covered = [f"covered{part}of{parts}" for part in range(1, parts + 1)] if parts > 1 else []
    return list(dict.fromkeys([BASELINE, REVERSED, "shuffled", "static", *every, *covered]))


def speeds_of(problem: Problem) -> dict[str, float]:
    """Name of each speed, and the DATA.TARGET_FPS that makes a video play at it; none if clips have no stride.

    Twice as fast, T frames span twice the time.
    """
    cfg = problem.cfg
    if problem.test.spec.plan(cfg, "test").target_fps is None:
        return {}
    return {f"speed x{speed:g}": cfg.DATA.TARGET_FPS / speed for speed in cfg.USE_OF_TIME.SPEEDS if speed != 1}


class Stillness:
    """A change of clips that counts how many frames equal the one before."""

    def __init__(self, change: Change) -> None:
        self._change, self.still, self.total = change, 0, 0

    def __call__(self, x_BCTHW: Tensor, batch: Batch) -> Tensor:
        changed_BCTHW = self._change(x_BCTHW, batch)
        same_BT = (changed_BCTHW[:, :, 1:] == changed_BCTHW[:, :, :-1]).all(-1).all(-1).all(1)
        self.still += int(same_BT.sum())
        self.total += same_BT.numel()
        return changed_BCTHW

    def percent(self) -> float:
        """Over all ranks; a collective call."""
        parts = distributed.gather((self.still, self.total))
        return 100.0 * sum(still for still, _ in parts) / max(1, sum(total for _, total in parts))


def _evaluate(
    problem: Problem, run: Run, inference: Inference, samples: Sequence[Sample], orders: Sequence[str], name: str
) -> tuple[dict[str, Evaluated], frozenset[int]]:
    """Score all videos in every order; also the numbers of the videos that cannot be read."""
    cfg, section = problem.cfg, problem.cfg.USE_OF_TIME
    loader = problem.test.loader(run, samples=samples)
    new_ensemble = build_ensembles(TopK, cfg, "test")
    variants = [
        (order, section.SEED + k) for order in orders for k in range(section.NUM_SEEDS if is_random(order) else 1)
    ]
    ensembles = [new_ensemble(loader.dataset) for _ in variants]
    changes = [
        Stillness(reorder_frames(order, seed=seed, num_crops=cfg.TEST.NUM_SPATIAL_CROPS)) for order, seed in variants
    ]
    passes = [
        Pass([ScoreSink(ensemble, problem.activation)], change)
        for ensemble, change in zip(ensembles, changes, strict=True)
    ]
    skipped = evaluate_split(inference, loader, passes, run, name=name, log_period=cfg.LOG_PERIOD)
    found: dict[str, Evaluated] = {}
    for (order, _), ensemble, change in zip(variants, ensembles, changes, strict=True):
        ensemble.gather().result(skipped=skipped)  # raises if a view is missing
        found.setdefault(order, Evaluated(change.percent())).ensembles.append(ensemble)
    return found, skipped


def tabulate(
    summary: Mapping[str, Any], stills: Mapping[str, float], about: Mapping[str, object], groups: Sequence[str] = ()
) -> Table:
    """The table of a study: a row per change.

    Args:
        summary: from `summarize`.
        stills: percent of frames that equal the one before, by change.
        about: model, num_videos, num_skipped and views.
        groups: of classes.
    """
    low, high = (f"{CONFIDENCE:.0%} interval of the drop, {end}" for end in ("low", "high"))
    columns = ["clip", "top-1 (%)", "drop (points)", low, high, "frames like the one before (%)", "seeds"]
    columns += [f"top-1 of {group} (%)" for group in groups]
    columns += [f"published drop: {model} (points)" for model in PUBLISHED]
    rows: list[list[Cell]] = []
    for name, one in summary["orders"].items():
        drop = [None] * 3 if name == BASELINE else [one["drop"], *one["drop_interval"]]
        rows.append(
            [
                name,
                one["top1_acc"],
                *drop,
                stills[name],
                len(one["top1_acc_per_seed"]),
                *(one["groups"].get(group) for group in groups),
                *(drops.get(name) for drops in PUBLISHED.values()),
            ]
        )
    notes = [
        f"{plural(int(str(about['num_videos'])), 'video')}, {about['views']}; top-1 in percent, drops in points "
        "against the ordered clips, with intervals of the paired bootstrap over videos.",
        "reversed, shuffled: the frames of the clip in another order. static: its middle frame throughout.",
        "every<k>: only every k-th frame, each shown until the next one. covered<i>of<n>: part i of n of the clip in "
        "the mean color of the data set.",
        "speed x2: the clip spans twice the time, so that everything moves twice as fast; x0.5: half of it. Frames are "
        "those of the video; where it ends, its last frame stays, which the column of equal frames shows.",
        "Published drops: MViT (arXiv 2104.11227), Table 9, Kinetics-400.",
        "A drop of about 0 for reversed and shuffled clips means that the model does not use the order of frames.",
    ]
    title = f"Use of time: {about['model']}"
    return Table(title, columns, rows, notes, "MViT (arXiv 2104.11227), section 4.2 and Table 9, for shuffled frames")


def tabulate_reversal(summary: Mapping[str, Any]) -> Table:
    """A row per class: its accuracy in order and in reverse, and what it is taken for in reverse."""
    forward, backward = summary["orders"][BASELINE], summary["orders"][REVERSED]
    rows: list[list[Cell]] = [
        [name, acc, backward["class_acc"][name], backward["class_drop"][name], *backward["read_as"][name]]
        for name, acc in sorted(forward["class_acc"].items(), key=lambda item: -backward["class_drop"][item[0]])
    ]
    columns = ["class", "ordered (%)", "reversed (%)", "drop (points)", "reversed: taken for", "of its videos (%)"]
    notes = [
        "A class whose reversed videos are taken for its opposite is recognized by the order of frames; one that stays "
        "the same, by what single frames show, or by motion that looks alike in both directions."
    ]
    return Table("Reversal per class", columns, rows, notes)


def _write(
    output_dir: Path,
    summary: Mapping[str, Any],
    stills: Mapping[str, float],
    about: Mapping[str, object],
    groups: Sequence[str],
) -> None:
    table, reversal = tabulate(summary, stills, about, groups), tabulate_reversal(summary)
    path, picture = output_dir / REPORT, output_dir / PICTURE
    write_report(path, table, {**about, "tables": [reversal.as_dict()], "changes": summary["orders"]})
    with replacing(picture) as partial:
        draw_use_of_time(summary, groups).savefig(partial, dpi=100)
    logger.info("\n%s", table)
    if int(str(about["num_videos"])) < FEW_VIDEOS:
        logger.warning("fewer than %d videos: drops and their intervals say little", FEW_VIDEOS)
    if len(reversal.rows) <= 30:
        logger.info("\n%s", reversal)
    logger.info("written: %s and %s", path, picture)
