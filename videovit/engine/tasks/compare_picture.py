"""The picture of a comparison: accuracy against cost, and drops by frame order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from videovit.engine.evaluation.bootstrap import CONFIDENCE, Interval
from videovit.engine.evaluation.class_report import plain_names, short_name


class Shown(Protocol):
    """What the picture shows of a run; see `RunSummary`."""

    @property
    def name(self) -> str: ...
    @property
    def params(self) -> int: ...
    @property
    def gmacs(self) -> float: ...
    @property
    def measure(self) -> str | None: ...
    @property
    def value(self) -> float | None: ...
    @property
    def interval(self) -> Interval | None: ...
    @property
    def drops(self) -> Mapping[str, Interval]: ...


@plain_names()
def draw_comparison(runs: Sequence[Shown], orders: Sequence[str], path: Path) -> None:
    """Draw accuracy against multiply-adds, with areas that grow with the parameters; and drops, if there are any.

    Args:
        runs: one color each.
        orders: of frames.
        path: of the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * (2 if orders else 1), 4.8), layout="constrained")
    axes = figure.subplots(1, 2 if orders else 1, squeeze=False)[0]
    largest = max(run.params for run in runs)
    for i, run in enumerate(runs):
        color, label = f"C{i % 10}", short_name(run.name)
        if run.value is not None:
            area = 40.0 + 260.0 * run.params / largest
            axes[0].scatter([run.gmacs], [run.value], s=area, color=color, label=label, alpha=0.8)
            if run.interval is not None:
                axes[0].errorbar([run.gmacs], [run.value], yerr=_bars([run.interval]), color=color, capsize=4)
        width = 0.8 / len(runs)
        places = np.arange(len(orders)) + (i - (len(runs) - 1) / 2) * width
        known = [(x, run.drops[order]) for x, order in zip(places, orders, strict=True) if order in run.drops]
        if known:
            axes[1].bar(
                [x for x, _ in known],
                [drop.mean for _, drop in known],
                width,
                yerr=_bars([drop for _, drop in known]),
                color=color,
                label=label if run.value is None else None,
                capsize=3,
            )
    measure = next((run.measure for run in runs if run.measure), "top-1")
    axes[0].set(xlabel="GMACs per clip", ylabel=f"{measure} (%)", title="accuracy and cost (area: parameters)")
    axes[0].grid(alpha=0.3)
    if orders:
        axes[1].set_xticks(range(len(orders)), [short_name(order) for order in orders])
        axes[1].axhline(0.0, color="black", linewidth=0.8)
        axes[1].set(
            xlim=(-0.6, len(orders) - 0.4),
            ylabel="points of top-1 lost",
            title=f"drop by frame order, {CONFIDENCE:.0%} interval",
        )
    if any(one.get_legend_handles_labels()[0] for one in axes):
        figure.legend(loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def _bars(intervals: Sequence[Interval]) -> np.ndarray:
    """(2, N): how far limits are from their means; NaN, which is not drawn, without limits."""
    below = [max(0.0, one.mean - one.low) if one.low == one.low else np.nan for one in intervals]
    above = [max(0.0, one.high - one.mean) if one.high == one.high else np.nan for one in intervals]
    return np.array([below, above])
