"""`curves.png`: loss, accuracy and learning rate of a training against its epochs."""

from __future__ import annotations

from pathlib import Path

from videovit.engine.reporting.history import History, number
from videovit.engine.reporting.json_lines import replacing
from videovit.engine.reporting.log import logger
from videovit.errors import UserError


def write_curves(history: History, path: Path) -> None:
    """Draw the curves; a picture that cannot be written is a warning, since the numbers are in `stats.jsonl`.

    Args:
        history: of the run.
        path: of the PNG file, replaced as a whole.
    """
    try:
        draw_curves(history, path)
    except UserError as error:
        logger.warning("%s", error)


def draw_curves(history: History, path: Path) -> None:
    """See `write_curves`.

    Raises:
        UserError: the file cannot be written.
    """
    # Figure without pyplot: no window system is needed, and nothing is shared with other threads.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = history.epochs
    losses = {
        "training": {e: number(records.train, "loss") for e, records in epochs.items()},
        "validation": {e: number(records.val, "loss") for e, records in epochs.items()},
    }
    measure = history.measure
    panels: list[tuple[str, dict[str, dict[int, float | None]]]] = [("loss", losses)]
    if measure is not None:
        panels.append((f"{measure.title} (%)", {"validation": {**history.measured()}}))
    panels.append(("learning rate", {"": {e: number(records.train, "lr") for e, records in epochs.items()}}))
    figure = Figure(figsize=(4.0 * len(panels), 3.0), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, values in curves.items():
            known = {epoch: value for epoch, value in values.items() if value is not None}
            if known:
                axes.plot(list(known), list(known.values()), marker="." if len(known) <= 50 else None, label=name)
        if len(axes.lines) > 1:
            axes.legend()
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100)
