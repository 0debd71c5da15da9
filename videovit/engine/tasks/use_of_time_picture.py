"""The picture of a study of the use of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from videovit.engine.evaluation.bootstrap import CONFIDENCE
from videovit.engine.evaluation.class_report import plain_names, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CLASSES = 20


@plain_names()
def draw_use_of_time(summary: Mapping[str, Any], groups: Sequence[str] = ()) -> Figure:
    """Accuracy under every change of the clips, and the classes that reversal costs most.

    Args:
        summary: from `shuffle_eval.summarize`, with the order "reversed".
        groups: of classes, which have bars of their own.
    """
    from matplotlib.figure import Figure

    changes = summary["orders"]
    names = list(changes)
    figure = Figure(figsize=(11.0, max(4.2, 0.38 * len(names) + 1.2)), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars = ["all", *groups]
    height = 0.8 / len(bars)
    for i, group in enumerate(bars):
        widths = [one["top1_acc"] if group == "all" else one["groups"].get(group, np.nan) for one in changes.values()]
        places = np.arange(len(names)) + (i - (len(bars) - 1) / 2) * height
        left.barh(places, widths, height, label="all classes" if group == "all" else short_name(group))
        if group == "all":
            errors = [
                (max(0.0, one["drop_interval"][1] - one["drop"]), max(0.0, one["drop"] - one["drop_interval"][0]))
                for one in changes.values()
            ]
            left.errorbar(widths, places, xerr=np.array(errors).T, fmt="none", ecolor="black", capsize=2, linewidth=1)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(xlim=(0, 105), xlabel="top-1 (%)", title=f"with less of time, {CONFIDENCE:.0%} interval of the drop")
    if groups:
        left.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    forward, backward = changes["ordered"]["class_acc"], changes["reversed"]["class_acc"]
    classes = sorted(forward, key=lambda name: backward[name] - forward[name])[:MAX_CLASSES]
    rows = np.arange(len(classes))
    right.barh(rows - 0.2, [forward[name] for name in classes], 0.4, label="ordered")
    right.barh(rows + 0.2, [backward[name] for name in classes], 0.4, label="reversed")
    right.set_yticks(rows, [short_name(name, 24) for name in classes])
    right.invert_yaxis()
    right.set(xlim=(0, 105), xlabel="accuracy (%)", title="classes, those that reversal costs most first")
    right.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return figure
