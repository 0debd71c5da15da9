"""Videos whose frames change size, 60 barcodes in each size, and what a decoder must make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.videos import barcode, read_barcodes, write_video
from videovit.data.decode import open_video

NUM_FRAMES = 60  # in each part


def write_parts(folder: Path, name: str, sizes: list[tuple[int, int]], **arguments: Any) -> list[Path]:
    """One video per size (width, height); their barcodes continue from part to part."""
    return [
        write_video(
            folder / f"{place}_{name}",
            num_frames=NUM_FRAMES,
            size=size,
            draw=lambda number, place=place, size=size: barcode(
                number + NUM_FRAMES * place, width=size[0], height=size[1]
            ),
            **arguments,
        )
        for place, size in enumerate(sizes)
    ]


def check_scaled_to_first(path: Path, size: tuple[int, int], backend: str) -> None:
    """Frames of both parts have the size of the first, also if all of them are from the second."""
    for indices in ([10, 59, 60, 119], [70, 119]):
        with open_video(path, backend) as video:
            frames = video.frames(np.array(indices))
        assert frames.shape == (len(indices), size[1], size[0], 3)
        assert read_barcodes(frames) == indices
