"""Mistakes to look at: small moving pictures of what the model saw, beside its heat maps.

Still images cost nothing while the page is read; they move when they are clicked. F frames, S side of a crop.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videovit.analysis.heat_video import overlay
from videovit.engine.reporting.log import logger
from videovit.engine.reporting.progress import Progress
from videovit.engine.tasks.explain import Explanation
from videovit.errors import UserError
from videovit.messages import printable
from videovit.model import Model
from videovit.report.blocks import Clip
from videovit.report.run_files import VideoOutcome

Images = NDArray[np.uint8]

MOST_FRAMES = 24  # of a moving picture
SIDE = (112, 160)  # pixels of a panel; smaller crops are enlarged, larger ones reduced
GAP = 3  # pixels between panels
QUALITY = 60
MOST_BYTES = 6_000_000  # of all moving pictures together
PERIOD_MS = (60, 500)  # shortest and longest time that a frame is shown


def draw_mistakes(
    model: Model, mistakes: Sequence[VideoOutcome], paths: Mapping[int, str], names: Sequence[str], *, method: str
) -> list[Clip]:
    """A clip per mistake: the frames that the model saw, heat for the class that it predicted, and for the true one.

    Args:
        model: that made them.
        mistakes: the worst first.
        paths: of the videos, by number.
        names: of the classes.
        method: of the heat maps, see `videovit.analysis.explain.METHODS`.
    """
    clips, room = [], MOST_BYTES
    progress = Progress("heat maps of mistakes", len(mistakes))
    for _, row in progress.over(mistakes):
        facts = [
            ("predicted", f"{names[row.predicted]} ({100 * row.score:.1f} %)"),
            ("true", "; ".join(names[k] for k in row.true) + f" ({100 * row.true_score:.1f} %)" if row.true else "-"),
        ]
        name = printable(row.path.replace("\\", "/").rpartition("/")[2])
        try:
            found = explain_both(model, paths[row.video], row, method=method)
            still, moving = draw_clip(found)
        except (UserError, LookupError) as error:
            note = "is not in the list, or has other classes" if isinstance(error, LookupError) else str(error)
            logger.warning("no picture of %s: %s", name, note)
            clips.append(Clip(name, facts, note=printable(note)))
        else:
            note = ""
            if len(moving) > room:
                moving, note = "", "not moving: the page would become too large"
            room -= len(moving)
            panels = ["seen by the model", *(f"heat: {printable(one.class_name)}" for one in found)]
            clips.append(Clip(name, facts, still, moving, panels, note))
        progress.count(1)
    return clips


def explain_both(model: Model, path: str, row: VideoOutcome, *, method: str) -> list[Explanation]:
    """Why the predicted class, and why the true one (of several, the best)."""
    classes = [row.predicted, *(k for k in row.true[:1] if k != row.predicted)]
    return [model.explain(path, class_name=model.class_names[k], method=method) for k in classes]


def draw_clip(found: Sequence[Explanation]) -> tuple[str, str]:
    """The still and the moving picture, as data URIs; the still one shows the moment with most heat.

    Args:
        found: explanations of one video, at least one.
    """
    first = found[0]
    number = len(first.times_s)
    chosen = sorted({round(i) for i in np.linspace(0, number - 1, min(number, MOST_FRAMES))})
    panels = [first.frames_FSS3[chosen], *(overlay(one.frames_FSS3[chosen], one.heat_FSS[chosen]) for one in found)]
    images = [_side_by_side(row) for row in zip(*panels, strict=True)]
    peak = int(np.argmax([first.shares[i] for i in chosen]))
    still = _uri(images[peak : peak + 1], 0)
    period_ms = 1000 * first.duration_s / len(images)
    moving = _uri(images, round(min(max(period_ms, PERIOD_MS[0]), PERIOD_MS[1]))) if len(images) > 1 else ""
    return still, moving


def _side_by_side(panels: Sequence[Images]) -> Image.Image:
    height, width = panels[0].shape[:2]
    side = min(max(min(height, width), SIDE[0]), SIDE[1])
    size = round(width * side / min(height, width)), round(height * side / min(height, width))
    joined = Image.new("RGB", ((size[0] + GAP) * len(panels) - GAP, size[1]), "white")
    for i, panel in enumerate(panels):
        joined.paste(Image.fromarray(panel).resize(size, Image.Resampling.BICUBIC), (i * (size[0] + GAP), 0))
    return joined


def _uri(images: Sequence[Image.Image], period_ms: int) -> str:
    file = io.BytesIO()
    motion = {"save_all": True, "append_images": images[1:], "duration": period_ms, "loop": 0}
    images[0].save(file, format="WEBP", quality=QUALITY, **(motion if len(images) > 1 else {}))
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
