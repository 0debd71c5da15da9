"""Drawing of labels on pictures: a panel with the classes of a window, and boxes with the classes of people.

H W pixels; a patch is RGBA, uint8 (h, w, 4).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pil
from PIL import ImageDraw, ImageFont

from videovit.analysis.lettering import font_path, in_one_font
from videovit.engine.tasks.labels import Labels, Person
from videovit.engine.tasks.prediction import Ranked
from videovit.messages import printable

Image = NDArray[np.uint8]
PANEL = (0, 0, 0, 150)  # RGBA
TEXT = (255, 255, 255, 255)
BAR = (90, 170, 255, 170)
COLORS = ((255, 200, 40), (90, 200, 255), (255, 120, 160), (130, 230, 120), (200, 150, 255), (255, 160, 80))
LEAST_FONT, LINES_PER_SIDE = 12, 22  # the font is as high as 1 / LINES_PER_SIDE of the short side
MOST_LABELS = 3  # classes of a person
LEAST_SCORE = 0.05  # of a class drawn at a person, unless it is the best
LONGEST_NAME = 80


class Patch(NamedTuple):
    """What is drawn at a place of a picture."""

    left: int
    top: int
    rgba: Image


class Painter:
    """Draws labels on pictures of one size.

    Args:
        width, height: in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.font_size = max(LEAST_FONT, min(width, height) // LINES_PER_SIDE)
        self._last: tuple[Labels | None, list[Patch]] = (None, [])

    def paint(self, image_HWC: Image, labels: Labels | None) -> Image:
        """The picture with labels; a copy, unless there are none."""
        if labels is None:
            return image_HWC
        # A window is shown for many pictures.
        if self._last[0] is not labels:
            self._last = labels, self._patches(labels)
        painted = image_HWC.copy()
        for left, top, rgba in self._last[1]:
            place = painted[top : top + rgba.shape[0], left : left + rgba.shape[1]]
            alpha = rgba[..., 3:].astype(np.uint16)
            place[:] = ((place * (255 - alpha) + rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)
        return painted

    def _patches(self, labels: Labels) -> list[Patch]:
        if labels.people is None:
            lines = max(1, int(self.height * 0.6) // self._line)
            return [Patch(0, 0, self._panel(labels.top[:lines], PANEL, self.width, bars=True))]
        patches: list[Patch] = []
        for number, person in enumerate(labels.people):
            patches += self._person(person, COLORS[number % len(COLORS)])
        return patches

    def _person(self, person: Person, color: tuple[int, int, int]) -> list[Patch]:
        x1, y1, x2, y2 = person.corners
        left, right = (min(max(round(x * self.width), 0), self.width) for x in (x1, x2))
        top, bottom = (min(max(round(y * self.height), 0), self.height) for y in (y1, y2))
        width, height = max(right - left, 1), max(bottom - top, 1)
        edge = min(max(2, self.font_size // 8), width, height)
        frame = np.zeros((height, width, 4), dtype=np.uint8)
        frame[..., :3] = color
        frame[:edge, :, 3] = frame[-edge:, :, 3] = frame[:, :edge, 3] = frame[:, -edge:, 3] = 255
        frame = frame[: self.height - top, : self.width - left]
        patches = [Patch(left, top, frame)]
        shown = [pair for place, pair in enumerate(person.top[:MOST_LABELS]) if place == 0 or pair[1] >= LEAST_SCORE]
        if shown:
            panel = self._panel(shown, (*(value // 3 for value in color), 190), max(self.width // 2, width))
            # Beside the box if that would leave the picture.
            place_x = max(0, min(left, self.width - panel.shape[1]))
            place_y = top - panel.shape[0] if top >= panel.shape[0] else top
            patches.append(Patch(place_x, max(0, min(place_y, self.height - panel.shape[0])), panel))
        return patches

    def _panel(self, top: Ranked, background: tuple[int, ...], most: int, *, bars: bool = False) -> Image:
        """Lines of text, cut to a width of `most` pixels."""
        pad = self.font_size // 3
        lines = [self._fitted(*pair, most - 2 * pad) for pair in top]
        width = min(most, max(round(font.getlength(line)) for line, font in lines) + 2 * pad)
        height = min(self.height, len(lines) * self._line + pad)
        panel = pil.new("RGBA", (width, height), tuple(background))
        draw = ImageDraw.Draw(panel)
        for number, ((line, font), (_, score)) in enumerate(zip(lines, top, strict=True)):
            y = pad // 2 + number * self._line
            if bars and 0 < score <= 1:
                draw.rectangle((0, y + self._line - max(2, pad // 2), round(width * score), y + self._line - 1), BAR)
            draw.text((pad, y), line, font=font, fill=TEXT)
        return np.array(panel)

    def _fitted(self, name: str, score: float, width: int) -> tuple[str, ImageFont.FreeTypeFont]:
        """`name score`, the name cut so that the line fits, and a font that has its characters."""
        # Names may come from strangers, and in any script.
        name, family = in_one_font(printable(name)[:LONGEST_NAME])
        font = _load_font(self.font_size, family)
        ending = f"  {100 * score:.0f} %" if 0 <= score <= 1 else f"  {score:.2f}"
        line = name + ending
        while name and font.getlength(line) > width:
            name = name[:-1]
            line = f"{name.rstrip()}…{ending}"
        return line, font

    @property
    def _line(self) -> int:
        return round(self.font_size * 1.35)


@lru_cache(maxsize=32)
def _load_font(size: int, family: str) -> ImageFont.FreeTypeFont:
    # The plain layout needs no library.
    return ImageFont.truetype(str(font_path(family)), size, layout_engine=ImageFont.Layout.BASIC)
