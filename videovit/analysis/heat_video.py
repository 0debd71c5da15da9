"""Pictures of heat maps: as a video, as a contact sheet, and as a curve over time.

F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from videovit.analysis.drawing import shown
from videovit.analysis.lettering import plain_text

Images = NDArray[np.uint8]
Heat = NDArray[np.float32]

COLORS = "turbo"
OPACITY = 0.6  # of the hottest pixels; cold ones are not covered
EDGE = (255, 255, 255)  # color of the outline of a box
LEAST_SIDE = 240  # pixels; smaller videos are enlarged
MAX_COLUMNS = 8  # frames on the contact sheet
RATES = (1.0, 60.0)  # lowest and highest frame rate of the video


def overlay(frames_FHW3: Images, heat_FHW: Heat) -> Images:
    """Overlay frames with their heat; the hotter a pixel, the more opaque its color.

    Args:
        frames_FHW3: RGB.
        heat_FHW: from 0 to 1.
    """
    colors_FHW3 = 255 * colormaps[COLORS](heat_FHW)[..., :3]
    cover_FHW1 = OPACITY * heat_FHW[..., None]
    mixed = frames_FHW3 * (1 - cover_FHW1) + colors_FHW3 * cover_FHW1
    rounded: Images = np.round(mixed).astype(np.uint8)
    return rounded


def outline(frames_FHW3: Images, box: tuple[float, float, float, float]) -> Images:
    """Frames with the edge of a box.

    Args:
        frames_FHW3: RGB.
        box: x1, y1, x2, y2 in pixels; what is outside of the frame is not drawn.
    """
    height, width = frames_FHW3.shape[1:3]
    x1, x2 = (min(max(round(x), 0), width - 1) for x in (box[0], box[2] - 1))
    y1, y2 = (min(max(round(y), 0), height - 1) for y in (box[1], box[3] - 1))
    drawn: Images = frames_FHW3.copy()
    for rows, columns in (
        (slice(y1, y2 + 1), [x1, x2]),
        ([y1, y2], slice(x1, x2 + 1)),
    ):
        drawn[:, rows, columns] = EDGE
    return drawn


def write_heat_video(path: Path, frames_FHW3: Images, heat_FHW: Heat, fps: float) -> None:
    """Write the overlay as H.264.

    Args:
        path: of the mp4 file.
        frames_FHW3: RGB.
        heat_FHW: from 0 to 1.
        fps: frames per second; limited to `RATES`.
    """
    height, width = frames_FHW3.shape[1:3]
    times = max(1, -(-LEAST_SIDE // min(height, width)))
    rate = Fraction(min(max(fps, RATES[0]), RATES[1])).limit_denominator(1000)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
        stream.width, stream.height = width * times // 2 * 2, height * times // 2 * 2  # 4:2:0 needs even sides
        stream.pix_fmt = "yuv420p"
        for frame_HW3, heat_HW in zip(frames_FHW3, heat_FHW, strict=True):  # one at a time: they are enlarged
            image_HW3 = overlay(frame_HW3[None], heat_HW[None])[0].repeat(times, axis=0).repeat(times, axis=1)
            image_HW3 = np.ascontiguousarray(image_HW3[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HW3, format="rgb24")))
        container.mux(stream.encode())


def draw_contact_sheet(path: Path, frames_FHW3: Images, heat_FHW: Heat, times_s: Sequence[float], title: str) -> None:
    """Draw frames, and below them their overlays; at most `MAX_COLUMNS`, evenly spaced.

    Args:
        path: of the PNG file.
        frames_FHW3: RGB.
        heat_FHW: from 0 to 1.
        times_s: of the frames.
        title: of the picture.
    """
    number = len(frames_FHW3)
    chosen = sorted({round(i) for i in np.linspace(0, number - 1, min(number, MAX_COLUMNS))})
    warm_FHW3 = overlay(frames_FHW3[chosen], heat_FHW[chosen])
    with plain_text():
        size = (max(1.7 * len(chosen), 4.0), 3.9)
        figure = Figure(figsize=size, layout="constrained")
        table = figure.subplots(2, len(chosen), squeeze=False)
        for column, i in enumerate(chosen):
            for row, image_HW3 in enumerate((frames_FHW3[i], warm_FHW3[column])):
                table[row, column].imshow(image_HW3)
                table[row, column].set(xticks=[], yticks=[])
            if number > 1:
                table[0, column].set_title(f"{times_s[i]:.2f} s", fontsize="small")
        figure.suptitle(title, fontsize="medium")
        figure.savefig(path, dpi=110)


def draw_time_curve(path: Path, times_s: Sequence[float], shares_F: Sequence[float], title: str) -> None:
    """Draw which moments decide: the share of each frame in all heat.

    Args:
        path: of the PNG file.
        times_s: of the frames.
        shares_F: sum to 1, unless there is no heat.
        title: of the picture.
    """
    with plain_text():
        figure = Figure(figsize=(6.4, 3.0), layout="constrained")
        axes = figure.subplots()
        percent = [100 * share for share in shares_F]
        axes.plot(times_s, percent, marker="o", markersize=3)
        axes.axhline(100 / max(len(percent), 1), linestyle=":", color="gray", label="if all frames were alike")
        axes.set(xlabel="seconds", ylabel="% of all heat", ylim=(0, None), title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=110)


def file_title(name: str, class_name: str, method: str) -> str:
    """A title for the pictures of a video; names of strangers are shortened and made printable."""
    return f"{shown(class_name)} by {method}\n{shown(Path(name).name)}"
