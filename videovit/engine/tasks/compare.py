"""The comparison of runs on one data set, from what they left in their folders.

Whether runs were tested on the same videos follows from their `predictions.csv`; differences between runs are taken
video by video.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from videovit.config import Config
from videovit.data.catalog import find_dataset
from videovit.engine.checkpoints.weights import model_cost
from videovit.engine.evaluation.bootstrap import CONFIDENCE, NUM_RESAMPLES, Interval, bootstrap_mean
from videovit.engine.evaluation.class_report import write_csv
from videovit.engine.evaluation.outcomes import Outcomes, check_same_list, read_outcomes
from videovit.engine.reporting.history import number
from videovit.engine.reporting.json_lines import read_records, replacing
from videovit.engine.reporting.log import format_table
from videovit.engine.tasks.compare_picture import draw_comparison
from videovit.engine.tasks.shuffle_eval import BASELINE
from videovit.errors import UserError
from videovit.messages import plural, printable

MEASURES = {"top1_acc": "top-1", "map": "mAP", "box_ap": "box AP"}
"""Main measure in a `test_final` record -> its title."""


@dataclass(frozen=True)
class RunSummary:
    """What is known about a run; None for what its folder does not hold.

    Attributes:
        name: of the run, different from those of the others.
        model: MODEL.MODEL_NAME.
        params, gmacs: of the model and one training clip.
        views: clips and crops of the test.
        num_videos, num_skipped: evaluated, and left out as unreadable.
        measure: title of the main measure.
        value: main measure in percent.
        mask_ap: AP of masks in percent, of a detector that finds them.
        interval: of top-1 over videos.
        difference: of top-1 to the first run, in points, over the videos of both.
        drops: order of frames -> points lost; the limits are NaN if the run did not compute them.
        clips_per_s, precision: of the fastest row of `videovit benchmark`.
        outcomes: hits video by video.
        noun: what a sample of the test is, see `DatasetSpec.noun`.
    """

    name: str
    model: str
    params: int
    gmacs: float
    views: str | None = None
    num_videos: int | None = None
    num_skipped: int = 0
    measure: str | None = None
    value: float | None = None
    mask_ap: float | None = None
    interval: Interval | None = None
    difference: Interval | None = None
    drops: Mapping[str, Interval] = field(default_factory=dict)
    clips_per_s: float | None = None
    precision: str = ""
    outcomes: Outcomes | None = None
    noun: str = "video"


def compare(configs: Mapping[Path, Config], output: Path | None = None) -> tuple[str, list[str]]:
    """Compare runs; the first one is the reference of differences.

    Args:
        configs: OUTPUT_DIR -> config of the run.
        output: folder for compare.png, compare.csv and compare.json, created if absent; None writes nothing.

    Returns:
        The table, and hints how to get what is missing.

    Raises:
        UserError: the runs were tested on different data, or a file cannot be used.
    """
    _check_same_data(configs)
    runs = [summarize(folder, cfg, name) for (folder, cfg), name in zip(configs.items(), _names(configs), strict=True)]
    hints = [
        hint for run, (folder, cfg) in zip(runs, configs.items(), strict=True) for hint in _hints(run, folder, cfg)
    ]
    runs, notes = _with_differences(runs)
    if output is not None:
        write_comparison(runs, output)
        notes.append(f"written: {', '.join(str(output / f'compare.{kind}') for kind in ('png', 'csv', 'json'))}")
    return format_comparison(runs), hints + notes


def _names(folders: Mapping[Path, object]) -> list[str]:
    """Names of the folders; whole paths, if two have the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _check_same_data(configs: Mapping[Path, Config]) -> None:
    first, cfg = next(iter(configs.items()))
    for folder, other in configs.items():
        one, two = ((c.TEST.DATASET, c.MODEL.NUM_CLASSES) for c in (cfg, other))
        if one != two:
            raise UserError(
                f"{first} was tested on {one[0]!r} with {plural(one[1], 'class', 'classes')}, "
                f"{folder} on {two[0]!r} with {two[1]:,}",
                expected="runs on one data set",
            )


def summarize(folder: Path, cfg: Config, name: str) -> RunSummary:
    """Read what a run left in its folder.

    Args:
        folder: OUTPUT_DIR of the run.
        cfg: of the run.
        name: that tables show.

    Raises:
        UserError: a file is not what a run writes.
    """
    params, gmacs = model_cost(cfg)
    run = RunSummary(
        name,
        cfg.MODEL.MODEL_NAME,
        params,
        gmacs,
        drops=_read_drops(folder / "shuffle_eval.json"),
        noun=find_dataset(cfg.TEST.DATASET).noun,
    )
    rows = {str(r.get("row")): r for r in read_records(folder / "stats.jsonl", word='"benchmark"')}
    speeds = {row: number(r, "clips_per_s") or 0.0 for row, r in rows.items() if r.get("what") == "model"}
    if speeds:
        fastest = max(speeds, key=lambda row: speeds[row])
        run = replace(run, clips_per_s=speeds[fastest], precision=fastest)
    tests = [r for r in read_records(folder / "stats.jsonl", word='"test_final"') if r.get("_type") == "test_final"]
    keys = [key for key in MEASURES if tests and number(tests[-1], key) is not None]
    if not keys:
        return run
    test, key = tests[-1], keys[0]
    num_videos = int(number(test, "num_videos") or 0)
    run = replace(
        run,
        views=str(test.get("views")),
        num_videos=num_videos,
        num_skipped=int(number(test, "num_skipped") or 0),
        measure=MEASURES[key],
        value=number(test, key),
        mask_ap=number(test, "mask_ap"),
        outcomes=read_outcomes(folder, num_videos=num_videos, top1=number(test, "top1_acc")),
    )
    if run.outcomes is not None and key == "top1_acc":
        run = replace(run, interval=bootstrap_mean(100.0 * run.outcomes.hits()))
    return run


def _read_drops(path: Path) -> dict[str, Interval]:
    if not path.is_file():
        return {}
    try:
        orders: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["orders"]
        nothing = [float("nan")] * 2  # written by an earlier version
        return {
            printable(order): Interval(float(e["drop"]), *map(float, e.get("drop_interval", nothing)))
            for order, e in orders.items()
            if order != BASELINE
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"not the report of a frame-order test: {error!r}", where=path, hint="Run that test again"
        ) from error


def _with_differences(runs: Sequence[RunSummary]) -> tuple[list[RunSummary], list[str]]:
    """The runs with their differences to the first one, and what could not be checked."""
    first, result, notes = runs[0], [runs[0]], []
    for run in runs[1:]:
        tested = [r for r in (first, run) if r.num_videos is not None]
        if first.outcomes is None or run.outcomes is None:
            totals = {(r.num_videos or 0) + r.num_skipped for r in tested}
            if len(totals) > 1:
                raise UserError(
                    f"{first.name} was tested on {first.num_videos} {run.noun}s, {run.name} on {run.num_videos}",
                    expected="runs that were tested on the same list",
                )
            if len(tested) == 2:
                notes.append(f"not checked, for lack of predictions: whether {run.name} and {first.name} share a list")
            result.append(run)
            continue
        shared = check_same_list(
            first.name, first.outcomes, run.name, run.outcomes, (first.num_skipped, run.num_skipped)
        )
        if run.measure == "top-1":
            differences = run.outcomes.hits(shared) - first.outcomes.hits(shared)
            run = replace(run, difference=bootstrap_mean(100.0 * differences))
        result.append(run)
    if len({run.views for run in runs if run.views}) > 1:
        notes.append("the tests differ in their numbers of views, which change accuracy")
    return result, [f"note: {printable(note)}" for note in notes]


def _hints(run: RunSummary, folder: Path, cfg: Config) -> list[str]:
    """How to get what is shown as "-"."""
    place = shlex.quote(str(folder))
    config = f"--cfg {shlex.quote(str(folder / 'config.yaml'))}"
    lines = []
    if run.value is None:
        lines.append(("accuracy", f"videovit run {config} TRAIN.ENABLE False OUTPUT_DIR {place}"))
    elif run.outcomes is None and not cfg.DETECTION.ENABLE and not cfg.DETECTOR.NAME:
        lines.append((f"predictions per {run.noun}", f"videovit run {config} TRAIN.ENABLE False OUTPUT_DIR {place}"))
    if not run.drops and not cfg.DATA.MULTI_LABEL and not cfg.DETECTION.ENABLE and cfg.DATA.NUM_FRAMES > 1:
        opts = "TRAIN.ENABLE False TEST.ENABLE False SHUFFLE_EVAL.ENABLE True"
        lines.append(("drops by frame order", f"videovit run {config} {opts} OUTPUT_DIR {place}"))
    if run.clips_per_s is None:
        lines.append(("clips/s", f"videovit benchmark {config} --what model OUTPUT_DIR {place}"))
    return [printable(f"{run.name} has no {what}: {command}") for what, command in lines]


def _orders(runs: Sequence[RunSummary]) -> list[str]:
    return list(dict.fromkeys(order for run in runs for order in run.drops))


def _shown(interval: Interval | None) -> str | None:
    if interval is None:
        return None
    return f"{interval.mean:.2f}" if np.isnan(interval.low) else str(interval)


def format_comparison(runs: Sequence[RunSummary]) -> str:
    """Format a table with one row per run; intervals in brackets."""
    measure = next((run.measure for run in runs if run.measure), "top-1")
    orders = _orders(runs)
    masks = any(run.mask_ap is not None for run in runs)
    header = ["run", "model", "params (M)", "GMACs", "views", f"{runs[0].noun}s", measure]
    header += [*(["mask AP"] if masks else []), f"to {runs[0].name}"]
    rows = [
        [
            *(run.name, run.model, f"{run.params / 1e6:.2f}", f"{run.gmacs:.3f}", run.views, run.num_videos),
            None if run.value is None else (_shown(run.interval) or f"{run.value:.2f}"),
            *([None if run.mask_ap is None else f"{run.mask_ap:.2f}"] if masks else []),
            _shown(run.difference),
            *(_shown(run.drops.get(order)) for order in orders),
            None if run.clips_per_s is None else f"{run.clips_per_s:.4g} ({run.precision})",
        ]
        for run in runs
    ]
    return format_table([*header, *(f"drop, {order}" for order in orders), "clips/s"], rows)


def write_comparison(runs: Sequence[RunSummary], folder: Path) -> None:
    """Write compare.json, compare.csv and compare.png.

    Args:
        runs: at least one.
        folder: created if absent.

    Raises:
        UserError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be created: {error.strerror}", where=folder) from error
    plain = [_plain(run, _orders(runs)) for run in runs]
    with replacing(folder / "compare.json") as partial:
        bootstrap = {"confidence": CONFIDENCE, "num_resamples": NUM_RESAMPLES, "seed": 0}
        text = json.dumps({"reference": runs[0].name, "bootstrap": bootstrap, "runs": plain}, indent=1)
        partial.write_text(text + "\n", encoding="utf-8")
    with replacing(folder / "compare.csv") as partial:
        write_csv(partial, list(plain[0]), (["" if v is None else v for v in row.values()] for row in plain))
    with replacing(folder / "compare.png") as partial:
        draw_comparison(runs, _orders(runs), partial)


def _plain(run: RunSummary, orders: Sequence[str]) -> dict[str, Any]:
    """Numbers of a run by name, the same names for every run; None for what is missing."""
    intervals = {
        "accuracy": run.interval,
        "difference": run.difference,
        **{f"drop_{order}": run.drops.get(order) for order in orders},
    }
    return {
        "run": run.name,
        "model": run.model,
        "params": run.params,
        "gmacs": run.gmacs,
        "views": run.views,
        "num_videos": run.num_videos,
        "measure": run.measure,
        "value": run.value,
        "mask_ap": run.mask_ap,
        **{
            name: None if interval is None or np.isnan(value) else value
            for key, interval in intervals.items()
            for name, value in _limits(key, interval).items()
        },
        "clips_per_s": run.clips_per_s,
        "clips_per_s_row": run.precision or None,
    }


def _limits(key: str, interval: Interval | None) -> dict[str, float]:
    nan = float("nan")
    mean, low, high = (interval.mean, interval.low, interval.high) if interval else (nan, nan, nan)
    limits = {f"{key}_low": low, f"{key}_high": high}
    return limits if key == "accuracy" else {key: mean, **limits}  # the accuracy itself is `value`
