"""Draw the picture at the top of the README: one clip in several frame orders, and what a trained model makes of each.

    make demo
    python docs/pictures/frame_orders.py --demo output/demo

The numbers are those of the demo's own frame-order evaluation. Frames are embedded as JPEG, so the SVG is one file.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from videovit.data.decode import open_video
from videovit.data.transforms.frame_orders import frame_order

ORDERS = {"ordered": "ordered", "reversed": "reversed", "shuffled": "shuffled", "static": "one frame"}
GROUP = "motion"  # classes that differ in the order of their frames alone
VIDEO = "test/move_right_*.mp4"
TILE, GAP, TOP, LEFT = 52, 4, 40, 92  # pixels
BAR = 190  # width of 100 %
STYLE = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:14px"
TEXT, MUTED, BLUE, GRAY = "#57606a", "#8c959f", "#2f6fde", "#d0d7de"  # readable on white and on black


def read_frames(video: Path, number: int) -> list[str]:
    """`number` frames evenly spread over a video, as base64 text of JPEG files."""
    with open_video(str(video), "pyav") as opened:
        indices = np.linspace(0, opened.num_frames - 1, number).round().astype(int)
        frames_THWC = opened.frames(indices).numpy()
    texts = []
    for frame_HWC in frames_THWC:
        file = io.BytesIO()
        Image.fromarray(frame_HWC).resize((TILE, TILE), Image.Resampling.LANCZOS).save(file, "JPEG", quality=80)
        texts.append(base64.b64encode(file.getvalue()).decode())
    return texts


def draw(frames: list[str], accuracy: dict[str, float]) -> str:
    """The SVG.

    Args:
        frames: of one clip, base64 text of JPEG files.
        accuracy: frame order -> top-1 accuracy in percent.
    """
    bars = LEFT + len(frames) * (TILE + GAP) + 16
    width, height = bars + BAR + 64, TOP + len(accuracy) * (TILE + GAP) + 4
    label = ", ".join(f"{ORDERS[order]} {value:.0f} %" for order, value in accuracy.items())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape("Accuracy by frame order: " + label)}" style="{STYLE}">',
        *(f'<symbol id="f{i}"><image width="{TILE}" height="{TILE}" href="data:image/jpeg;base64,{text}"/></symbol>'
          for i, text in enumerate(frames)),
        f'<text x="{LEFT}" y="22" fill="{MUTED}">the frames of one clip: an object moves to the right</text>',
        f'<text x="{bars}" y="22" fill="{MUTED}">top-1 on motion classes</text>',
    ]  # fmt: skip
    for row, (order, value) in enumerate(accuracy.items()):
        y = TOP + row * (TILE + GAP)
        middle = y + TILE / 2 + 5
        parts.append(f'<text x="{LEFT - 12}" y="{middle}" text-anchor="end" fill="{TEXT}">{ORDERS[order]}</text>')
        for column, frame in enumerate(frame_order(len(frames), order, np.random.default_rng(4))):
            parts.append(f'<use href="#f{frame}" x="{LEFT + column * (TILE + GAP)}" y="{y}"/>')
        length = max(2.0, BAR * value / 100)
        parts += [
            f'<rect x="{bars}" y="{y + 14}" width="{BAR}" height="{TILE - 28}" rx="3" fill="{GRAY}" opacity="0.35"/>',
            f'<rect x="{bars}" y="{y + 14}" width="{length:.1f}" height="{TILE - 28}" rx="3" fill="{BLUE}"/>',
            f'<text x="{bars + BAR + 10}" y="{middle}" fill="{TEXT}">{value:.0f} %</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Read the demo's results and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("output/demo"), help="what `make demo` wrote")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".svg"))
    args = parser.parse_args()
    orders = json.loads((args.demo / "run/shuffle_eval.json").read_text(encoding="utf-8"))["orders"]
    accuracy = {order: orders[order]["groups"][GROUP] for order in ORDERS}
    video = min((args.demo / "data").glob(VIDEO))
    args.output.write_text(draw(read_frames(video, 8), accuracy), encoding="utf-8")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
