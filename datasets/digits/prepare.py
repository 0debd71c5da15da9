"""Write scikit-learn's handwritten digits as images in class folders, in the layout of ImageNet.

    python datasets/digits/prepare.py --output output/digits/data

These are 1,797 scans of 8x8 pixels by 43 people (the test set of UCI's optical recognition of handwritten digits),
scaled up to 64x64. Every fifth image of each class is held out in val/, the others are in train/. Nothing is
downloaded, because the scans are part of scikit-learn. The output is always the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 64  # side of the images in pixels
HELD_OUT_EVERY = 5


def load_scans() -> tuple[np.ndarray, np.ndarray]:
    """The scans, (N, 8, 8) with values 0 to 16, and their digits, (N,).

    Raises:
        ImportError: scikit-learn is not installed.
    """
    # Imported here, so that --help works without scikit-learn.
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def draw(scan: np.ndarray, size: int = SIZE) -> Image.Image:
    """A scan as a gray image of size x size pixels, smoothly scaled."""
    # The scans have 17 levels of gray.
    small = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def prepare(output: Path, *, most: int | None = None) -> dict[str, int]:
    """Write the images and class names.

    Args:
        output: output folder; existing files are overwritten.
        most: maximum number of images per class, or None for all.

    Returns:
        Number of images per split.
    """
    scans, digits = load_scans()
    counts = {"train": 0, "val": 0}
    for digit in range(len(CLASSES)):
        for place, index in enumerate(np.flatnonzero(digits == digit)[:most].tolist()):
            split = "val" if place % HELD_OUT_EVERY == 0 else "train"
            folder = output / split / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            draw(scans[index]).save(folder / f"{index:04d}.png")
            counts[split] += 1
    (output / "classes.json").write_text(json.dumps({name: i for i, name in enumerate(CLASSES)}) + "\n")
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for train/, val/ and classes.json"
    )
    parser.add_argument("--most", type=int, metavar="N", help="maximum number of images per class (default: all)")
    args = parser.parse_args(argv)
    try:
        counts = prepare(args.output, most=args.most)
    except ImportError as error:
        print(
            f"error: {error}. Install scikit-learn, which contains the scans: pip install scikit-learn", file=sys.stderr
        )
        return 1
    print(f"{counts['train']} training images and {counts['val']} held-out images in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
