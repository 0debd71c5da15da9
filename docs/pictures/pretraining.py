"""Draw the picture of docs/pretraining.md: clips of a run of masked pre-training, from its `reconstructions` folder.

python docs/pictures/pretraining.py output/demo/mae/reconstructions/00030.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

SCALE = 4  # pixels of the reconstruction per square of the picture
COLORS = 32


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reconstruction", type=Path, help="a file that validation wrote")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pretraining.svg")
    args = parser.parse_args()
    with Image.open(args.reconstruction) as image:
        small = image.convert("RGB").resize((image.width // SCALE, image.height // SCALE), Image.Resampling.BOX)
    args.output.write_text(as_svg(small), encoding="utf-8")
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")


def as_svg(image: Image.Image) -> str:
    """An image of few colors as runs of squares: text, as everything in this repository."""
    numbered = image.quantize(COLORS, dither=Image.Dither.NONE)
    palette = np.array(numbered.getpalette()).reshape(-1, 3)
    runs: dict[int, list[str]] = defaultdict(list)
    for y, row in enumerate(np.asarray(numbered)):
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
        for start, end in pairwise(edges):
            runs[int(row[start])].append(f"M{start} {y}h{end - start}")
    paths = [f'<path stroke="#{bytes(palette[i].tolist()).hex()}" d="{"".join(d)}"/>' for i, d in sorted(runs.items())]
    size = f'width="{3 * image.width}" viewBox="0 -0.5 {image.width} {image.height}"'
    body = "\n".join(paths)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} shape-rendering="crispEdges">\n{body}\n</svg>\n'


if __name__ == "__main__":
    main()
