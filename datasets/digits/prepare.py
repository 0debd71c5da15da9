"""Write scikit-learn's handwritten digits as a folder of images, one folder per class, in the layout of ImageNet.

    python datasets/digits/prepare.py --output output/digits/data

1,797 scans of 8x8 pixels by 43 people (UCI's optical recognition of handwritten digits, the test part), scaled up to
64x64. Every fifth image of each class, from the first on, is held out in val/, the others are in train/. Nothing is
downloaded: the scans come with scikit-learn. The same files come out each time.
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
SIZE = 64  # pixels a side
HELD_OUT_EVERY = 5


def load_scans() -> tuple[np.ndarray, np.ndarray]:
    """(N, 8, 8) scans with values 0 to 16, and their digits (N,).

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def draw(scan: np.ndarray, size: int = SIZE) -> Image.Image:
    """A scan as a grey picture of `size` pixels a side, smoothly scaled."""
    small = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def prepare(output: Path, *, most: int | None = None) -> dict[str, int]:
    """Write the images and class names.

    Args:
        output: folder; files of an earlier run are written again.
        most: images per class at most (for a quick look), or None for all.

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
    parser.add_argument("--output", type=Path, required=True, help="folder for train/, val/ and classes.json")
    parser.add_argument("--most", type=int, metavar="N", help="images per class at most (default: all)")
    args = parser.parse_args(argv)
    try:
        counts = prepare(args.output, most=args.most)
    except ImportError as error:
        print(f"error: {error}; the scans come with scikit-learn: pip install scikit-learn", file=sys.stderr)
        return 1
    print(f"{counts['train']} images to train on, {counts['val']} held out: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
