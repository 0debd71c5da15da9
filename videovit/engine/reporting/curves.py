"""`curves.png`: loss, accuracy and learning rate of a training against its epochs."""

from __future__ import annotations

import math
import time
from pathlib import Path

from videovit.engine.reporting.history import History, number
from videovit.engine.reporting.json_lines import replacing
from videovit.engine.reporting.log import logger
from videovit.errors import UserError

MOST_OFTEN = 20  # times the duration of a picture: pause before the next one


class Curves:
    """Keeps `curves.png` up to date, in at most a twentieth of the time of the run.

    Args:
        path: of the PNG file, replaced as a whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended, self._took_s = -math.inf, 0.0

    def write(self, history: History, *, last: bool = False) -> None:
        """Draw the curves, unless the last picture is too recent, as with epochs of a second.

        A picture that cannot be written is a warning, since the numbers are in `stats.jsonl`.

        Args:
            history: of the run.
            last: draw in any case.
        """
        began = time.monotonic()
        if began - self._ended < MOST_OFTEN * self._took_s and not last:
            return
        try:
            draw_curves(history, self._path)
        except UserError as error:
            logger.warning("%s", error)
        self._ended = time.monotonic()
        self._took_s = self._ended - began


def draw_curves(history: History, path: Path) -> None:
    """Draw the curves.

    Args:
        history: of the run.
        path: of the PNG file, replaced as a whole.

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
    # Margins by hand: matplotlib's layout engines would take twice the time of the picture, after every epoch.
    width = 4.0 * len(panels)
    figure = Figure(figsize=(width, 3.0))
    figure.subplots_adjust(left=0.55 / width, right=1.0 - 0.1 / width, bottom=0.16, top=0.9, wspace=0.22)
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
