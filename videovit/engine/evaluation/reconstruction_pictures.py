"""Pictures of masked pre-training: rows of frames, as they are, as the model sees them, and as it completes them.

Histograms of gradients are drawn as strokes: along the edges of each cell, brighter if an edge is stronger.

B clips, C channels, T H W pixels, D values per token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from videovit.engine.reporting.json_lines import replacing
from videovit.models.masked.model import Reconstruction, stretched
from videovit.models.masked.targets import BINS, CELL, HogTarget, PixelTarget, Target

MAX_COLUMNS = 8  # frames in a picture
LEAST_SIDE = 112  # pixels that frames are enlarged to
GAP = 4  # pixels
GRAY = 0.5  # of hidden patches

Pixels = NDArray[np.uint8]


class Pictures:
    """Writes `<folder>/<number of the video>.png` for some videos; later ones replace earlier ones.

    Args:
        folder: is made when there is a picture.
        videos: numbers of those that are drawn.
        mean, std: of the clips, on a scale from 0 to 1, per channel.

    Attributes:
        files: written by this process.
    """

    def __init__(self, folder: Path, videos: Sequence[int], *, mean: Sequence[float], std: Sequence[float]) -> None:
        self._folder, self._videos = folder, frozenset(videos)
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (mean, std))
        self.files: list[Path] = []

    def add(self, videos: Sequence[int], x_BCTHW: Tensor, reconstruction: Reconstruction, target: Target) -> None:
        """Draw those clips of a batch that are to be drawn.

        Args:
            videos: number of the video of each clip.
            x_BCTHW: what the model got.
            reconstruction: of the clips.
            target: of the model.
        """
        for place, video in enumerate(videos):
            if video not in self._videos:
                continue
            here = slice(place, place + 1)
            parts = Reconstruction(*(part[here].float().cpu() for part in reconstruction))
            rows = self._rows(x_BCTHW[here].float().cpu(), parts, target)
            path = self._folder / f"{video:05d}.png"
            with replacing(path) as partial:
                self._folder.mkdir(parents=True, exist_ok=True)
                sheet(rows).save(partial, format="png")
            if path not in self.files:
                self.files.append(path)

    def _rows(self, x_BCTHW: Tensor, parts: Reconstruction, target: Target) -> list[list[Pixels]]:
        hidden_BTHW = parts.hidden_BTHW > 0
        values = torch.where(hidden_BTHW[..., None], parts.predicted_BTHWD, parts.target_BTHWD)
        every_frame = isinstance(target, PixelTarget) and target.frames > 1
        shown_BCTHW = x_BCTHW if every_frame else x_BCTHW[:, :, :: target.stride[0]]
        mask_THW = stretched(hidden_BTHW, shown_BCTHW.shape[2:])[0]
        original = self._colors(shown_BCTHW[0])
        rows = [original, torch.where(mask_THW, GRAY, original)]
        if isinstance(target, PixelTarget):
            completed = torch.where(mask_THW, target.pixels(values, x_BCTHW)[0], shown_BCTHW[0])
            rows.append(self._colors(completed))
        images = [_images(row) for row in rows]
        if isinstance(target, HogTarget):
            images += [_strokes(target.cells(of)[0]) for of in (parts.target_BTHWD, values)]
        return images

    def _colors(self, x_CTHW: Tensor) -> Tensor:
        """Three channels from 0 to 1."""
        x_CTHW = x_CTHW * self._std + self._mean
        return x_CTHW.clamp(0, 1).expand(3, -1, -1, -1)


def _images(x_CTHW: Tensor) -> list[Pixels]:
    pixels: Pixels = (x_CTHW * 255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    return list(pixels[:MAX_COLUMNS])


def _strokes(cells_CTHWK: Tensor) -> list[Pixels]:
    """One image per frame: in each cell a stroke per orientation, at a right angle to the gradient."""
    strength_THWK = cells_CTHWK.mean(0).clamp(min=0)
    strength_THWK = (strength_THWK / max(float(strength_THWK.max()), 1e-6) * 255).round()
    angles = [math.radians((k + 0.5) * 180.0 / BINS + 90.0) for k in range(BINS)]
    scale = 4  # drawn larger, then reduced: thin lines
    radius = CELL * scale / 2
    images = []
    for frame_HWK in strength_THWK[:MAX_COLUMNS].int().tolist():
        height, width = len(frame_HWK), len(frame_HWK[0])
        image = Image.new("L", (width * CELL * scale, height * CELL * scale))
        draw = ImageDraw.Draw(image)
        for row, cells in enumerate(frame_HWK):
            for column, strengths in enumerate(cells):
                x, y = (2 * column + 1) * radius, (2 * row + 1) * radius
                for strength, angle in sorted(zip(strengths, angles, strict=True)):  # strong ones on top
                    dx, dy = 0.9 * radius * math.cos(angle), 0.9 * radius * math.sin(angle)
                    draw.line((x - dx, y - dy, x + dx, y + dy), fill=strength, width=scale)
        small = image.resize((width * CELL, height * CELL), Image.Resampling.BOX)
        images.append(np.asarray(small.convert("RGB")))
    return images


def sheet(rows: Sequence[Sequence[Pixels]]) -> Image.Image:
    """Images of one size in rows, enlarged if they are small."""
    height, width = rows[0][0].shape[:2]
    factor = max(1, -(-LEAST_SIDE // height))
    height, width = height * factor, width * factor
    columns = max(map(len, rows))
    whole = Image.new("RGB", (columns * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP), "white")
    for row, images in enumerate(rows):
        for column, pixels in enumerate(images):
            image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            whole.paste(image, (column * (width + GAP), row * (height + GAP)))
    return whole
