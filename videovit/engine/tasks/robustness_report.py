"""The report of robustness: its tables, with published numbers beside, and its picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from videovit.analysis.corruptions import CORRUPTIONS, mean_corruption_error
from videovit.config import Config
from videovit.engine.evaluation.class_report import plain_names, short_name
from videovit.engine.reporting.tables import Cell, Table
from videovit.engine.tasks.robustness_sets import CHALLENGE, ONE_THOUSAND, SetResult
from videovit.messages import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLEAN = "clean"
PUBLISHED = {
    "PiT-S": {CLEAN: 80.8, "occlusion": 74.6, "ImageNet-A": 21.7, CHALLENGE: 21.0, "FGSM": 29.5},
    "ViT-S": {CLEAN: 79.8, "occlusion": 73.0, "ImageNet-A": 19.1, CHALLENGE: 17.6, "FGSM": 27.2},
    "ResNet-50": {CLEAN: 76.0, "occlusion": 52.2, "ImageNet-A": 0.0, CHALLENGE: 22.3, "FGSM": 7.1},
    "ResNet-50, timm's recipe": {CLEAN: 79.0, "occlusion": 67.1, "ImageNet-A": 5.4, CHALLENGE: 32.7, "FGSM": 24.7},
}
"""Top-1 in percent on ImageNet. Source: PiT (arXiv 2103.16302), Table 6; it does not state the eps of FGSM."""
IN9_PUBLISHED = {
    "ImageNet-9 original": 95.6,
    "ImageNet-9 mixed_same": 86.2,
    "ImageNet-9 mixed_rand": 78.9,
    "BG-gap": 7.3,
}
"""Of a ResNet-50. Source: Xiao et al. (arXiv 2006.09994)."""


@dataclass
class Found:
    """What was measured of a model; accuracies in percent.

    Attributes:
        weights: their checksum.
        measure: its title.
        num_videos, num_skipped: evaluated, and left out as unreadable.
        tests: clean, occlusion and attacks, by name.
        corruptions: name -> severity -> percent.
        sets: of images that mislead.
    """

    model: str
    checkpoint: str
    weights: str
    measure: str
    num_videos: int
    num_skipped: int
    views: str
    tests: dict[str, float]
    corruptions: dict[str, dict[int, float]] = field(default_factory=dict)
    sets: list[SetResult] = field(default_factory=list)


def described(found: Found) -> dict[str, Any]:
    """JSON values, besides the table."""
    return {
        "model": found.model,
        "checkpoint": found.checkpoint,
        "weights_crc32": found.weights,
        "measure": f"{found.measure} (%)",
        "num_videos": found.num_videos,
        "num_skipped": found.num_skipped,
        "views": found.views,
        "tests": {**found.tests, **{one.name: one.percent for one in found.sets}},
        "corruptions": {
            name: {str(severity): value for severity, value in levels.items()}
            for name, levels in found.corruptions.items()
        },
    }


def errors_of(report: Mapping[str, Any]) -> dict[str, list[float]]:
    """Corruption -> error per severity, in percent."""
    return {
        name: [100.0 - levels[severity] for severity in sorted(levels)]
        for name, levels in report["corruptions"].items()
    }


def relative_errors(
    report: Mapping[str, Any], reference: Mapping[str, Any] | None
) -> tuple[dict[str, float], float | None]:
    """Corruption errors relative to another report, as far as both have them, and their mean."""
    if reference is None:
        return {}, None
    mine, others = errors_of(report), errors_of(reference)
    shared = [
        name
        for name in mine
        if name in others and report["corruptions"][name].keys() == reference["corruptions"][name].keys()
    ]
    if not shared:
        return {}, None
    relative, mean = mean_corruption_error({k: mine[k] for k in shared}, {k: others[k] for k in shared})
    return relative, mean


def tabulate(found: Found, cfg: Config, *, reference: Mapping[str, Any] | None, images: bool) -> Table:
    """The table of a model: a row per test.

    Args:
        found: what was measured.
        cfg: with the settings.
        reference: report that corruption errors are relative to, if any.
        images: the model is one of images.
    """
    report, clean = described(found), found.tests[CLEAN]
    severities = sorted({severity for levels in found.corruptions.values() for severity in levels})
    published = PUBLISHED if images and cfg.MODEL.NUM_CLASSES == ONE_THOUSAND else {}
    relative, mean = relative_errors(report, reference)
    columns = ["input", f"{found.measure} (%)", "drop (points)", *(f"severity {s} (%)" for s in severities)]
    columns += ["error relative to the reference (%)"] if reference else []
    columns += [f"published: {name} (%)" for name in published]
    columns += ["published: ResNet-50, ImageNet-9 (%)"] if published and cfg.ROBUSTNESS.BACKGROUNDS else []

    def row(name: str, value: float, levels: Mapping[int, float] | None = None, *, drop: bool = True) -> list[Cell]:
        cells: list[Cell] = [name, value, clean - value if drop and name != CLEAN else None]
        cells += [(levels or {}).get(severity) for severity in severities]
        cells += [mean if name == MEAN else relative.get(name)] if reference else []
        cells += [numbers.get(_key(name)) for numbers in published.values()]
        return cells + ([IN9_PUBLISHED.get(name)] if published and cfg.ROBUSTNESS.BACKGROUNDS else [])

    rows = [row(name, value) for name, value in found.tests.items()]
    means = {name: float(np.mean(list(levels.values()))) for name, levels in found.corruptions.items()}
    rows += [row(name, means[name], levels) for name, levels in found.corruptions.items()]
    if means:
        per_severity = {s: float(np.mean([levels[s] for levels in found.corruptions.values()])) for s in severities}
        rows.append(row(MEAN, float(np.mean(list(means.values()))), per_severity))
    rows += [row(one.name, one.percent, drop=False) for one in found.sets]
    where = f"{plural(found.num_videos, 'image' if images else 'video')}, {found.views}"
    notes = [
        f"{where}; {found.measure} in percent, drops in points against clean input.",
        *_notes(found, cfg, images),
        *(one.note for one in found.sets if one.note),
    ]
    if reference:
        notes.append(
            f"Error relative to the reference: errors summed over severities, divided by those of {reference['model']} "
            f"({reference['checkpoint']}); their mean is the mean corruption error (mCE)."
        )
    if published:
        notes.append("Published: PiT (arXiv 2103.16302), Table 6, on ImageNet; the eps of its FGSM is not stated.")
    return Table(f"Robustness: {found.model}", columns, rows, notes, "PiT (arXiv 2103.16302), Table 6")


MEAN = "mean over corruptions"


def _key(name: str) -> str:
    """The published column that a row belongs to."""
    return next((key for key in ("occlusion", "FGSM") if name.startswith(key)), name)


def _notes(found: Found, cfg: Config, images: bool) -> list[str]:
    section, notes = cfg.ROBUSTNESS, []
    if any(name.startswith("occlusion") for name in found.tests):
        fill = "the mean color of the data set (zero after normalization)" if section.FILL == "mean" else "black"
        side = round(section.OCCLUSION * cfg.DATA.TEST_CROP_SIZE)
        shape = f"{side} x {side} pixels in the middle" + ("" if images else " of every frame")
        notes.append(f"Occlusion: {shape} of {cfg.DATA.TEST_CROP_SIZE} x {cfg.DATA.TEST_CROP_SIZE} covered by {fill}.")
    if any("GSM" in name or "PGD" in name for name in found.tests):
        notes.append(
            "Attacks: FGSM is one step of eps along the sign of the gradient, PGD several of half of eps from a random "
            "start; eps is the largest change of a pixel, pixels stay in range, every view is attacked by itself, in "
            "full precision, also where the answer is wrong already."
        )
    notes += [f"{name}: {CORRUPTIONS[name].levels}." for name in found.corruptions]
    return notes


def tabulate_models(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Several models side by side: a row per model; corruptions are means over severities.

    Args:
        reports: name -> report; mean corruption errors are relative to the first.
    """
    first = next(iter(reports))
    tests = list(dict.fromkeys(name for report in reports.values() for name in report["tests"]))
    corruptions = list(dict.fromkeys(name for report in reports.values() for name in report["corruptions"]))
    columns = ["model", *(f"{name} (%)" for name in [*tests, *corruptions])]
    columns += [f"mCE relative to {first} (%)"] if corruptions else []
    rows: list[list[Cell]] = []
    for name, report in reports.items():
        levels = [report["corruptions"].get(corruption) for corruption in corruptions]
        cells: list[Cell] = [name, *(report["tests"].get(test) for test in tests)]
        cells += [float(np.mean(list(one.values()))) if one else None for one in levels]
        rows.append(cells + ([relative_errors(report, reports[first])[1]] if corruptions else []))
    notes = [
        f"{name}: {report['model']}, {report['measure']}, {report['num_videos']:,} videos or images, {report['views']}."
        for name, report in reports.items()
    ]
    notes.append("Corruptions: mean over severities. How each was measured is in the report of each model.")
    return Table("Robustness of several models", columns, rows, notes, "PiT (arXiv 2103.16302), Table 6")


@plain_names()
def draw_robustness(reports: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Accuracy in every test, and under each corruption by severity.

    Args:
        reports: name of the model -> what `described` returns.
    """
    from matplotlib.figure import Figure

    tests = list(dict.fromkeys(name for report in reports.values() for name in report["tests"]))
    corruptions = list(dict.fromkeys(name for report in reports.values() for name in report["corruptions"]))
    columns = 2 if len(corruptions) == 4 else min(3, max(1, len(corruptions)))
    lines = math.ceil(len(corruptions) / columns)
    height = 0.6 + (0.25 + 0.17 * len(reports)) * len(tests)
    figure = Figure(figsize=(9.0, height + 2.3 * lines), layout="constrained")
    top, *rest = figure.subfigures(
        2 if lines else 1, 1, height_ratios=[height, 2.3 * lines][: 1 + bool(lines)], squeeze=False
    )[:, 0]
    axes = top.subplots()
    width = 0.8 / len(reports)
    for i, (name, report) in enumerate(reports.items()):
        places = np.arange(len(tests)) + (i - (len(reports) - 1) / 2) * width
        bars = axes.barh(places, [report["tests"].get(test, np.nan) for test in tests], width, label=short_name(name))
        axes.bar_label(bars, fmt="%.1f", fontsize="x-small", padding=2)
    measure = next(iter(reports.values()))["measure"]
    axes.set_yticks(range(len(tests)), tests)
    axes.invert_yaxis()
    axes.set(xlim=(0, 108), xlabel=measure)
    if len(reports) > 1:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    for below in rest:
        panels = below.subplots(lines, columns, squeeze=False, sharey=True).flat
        for panel, corruption in zip(
            panels, [*corruptions, *[None] * (lines * columns - len(corruptions))], strict=True
        ):
            if corruption is None:
                panel.set_axis_off()
            else:
                _draw_severities(panel, corruption, reports, measure)
    return figure


def _draw_severities(axes: Axes, corruption: str, reports: Mapping[str, Mapping[str, Any]], measure: str) -> None:
    for name, report in reports.items():
        levels = report["corruptions"].get(corruption, {})
        values = [report["tests"][CLEAN], *levels.values()]
        axes.plot([0, *map(int, levels)], values, marker="o", markersize=3, label=short_name(name))
    axes.set(title=corruption, xlabel="severity (0: clean)", ylabel=measure, ylim=(0, 105), xticks=range(6))
    axes.label_outer()
    axes.grid(alpha=0.3)
