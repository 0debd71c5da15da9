"""COCO's masks: polygons and run lengths to pixels, and pixels to run lengths. pycocotools does the work.

Shape letters: R objects, H W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videovit.data.objects import Runs, Segmentation
from videovit.errors import UserError


def import_pycocotools() -> Any:
    """The package pycocotools, with its modules coco, cocoeval and mask.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pycocotools.coco
        import pycocotools.cocoeval
        import pycocotools.mask
    except ImportError as error:
        raise UserError(
            f"data in COCO's form need the package pycocotools: {error}", hint="pip install pycocotools"
        ) from error
    return pycocotools


def draw_masks(masks: Sequence[Segmentation], height: int, width: int) -> NDArray[np.uint8]:
    """The pixels of masks.

    Args:
        masks: of one image.
        height, width: of the image.

    Returns:
        (R, H, W) of zeros and ones.

    Raises:
        ValueError: see `check_runs`.
    """
    library = import_pycocotools().mask
    pixels_RHW = np.zeros((len(masks), height, width), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, about pycocotools itself
        for pixels_HW, mask in zip(pixels_RHW, masks, strict=True):
            pixels_HW[:] = library.decode(run_lengths(mask, height, width))
    return pixels_RHW


def run_lengths(mask: Segmentation, height: int, width: int) -> dict[str, Any]:
    """A mask as compressed run lengths, `{"size": [H, W], "counts": bytes}`.

    Raises:
        ValueError: see `check_runs`.
    """
    library = import_pycocotools().mask
    if not isinstance(mask, Runs):
        parts = library.frPyObjects([part.tolist() for part in mask], height, width)
        return dict(library.merge(parts))
    check_runs(mask, height, width)
    if isinstance(mask.counts, str):
        return {"size": [height, width], "counts": mask.counts.encode("ascii")}
    return dict(library.frPyObjects({"size": [height, width], "counts": list(mask.counts)}, height, width))


def check_runs(mask: Runs, height: int, width: int) -> None:
    """Check run lengths before pycocotools reads them, which takes the pixels that they do not cover from anywhere.

    Args:
        mask: run lengths.
        height, width: of the image.

    Raises:
        ValueError: they are of another size, do not cover the image, or are damaged.
    """
    if mask.size != (height, width):
        raise ValueError(f"run lengths of {mask.size[1]} x {mask.size[0]} pixels in an image of {width} x {height}")
    counts = _decompressed(mask.counts) if isinstance(mask.counts, str) else mask.counts
    if min(counts, default=0) < 0:
        raise ValueError(f"a run of {min(counts)} pixels")
    if sum(counts) != height * width:
        raise ValueError(f"run lengths cover {sum(counts):,} of {height * width:,} pixels")


def _decompressed(text: str) -> list[int]:
    """The lengths of runs in COCO's compressed form.

    A length is written 5 bits at a time, the lowest first, in characters from 48 on: 32 is added to all but its last
    character, whose bit 16 is the sign. From the fourth on, each is the difference to the last but one.

    Raises:
        ValueError: the text is damaged.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise ValueError(f"compressed run lengths hold the character {letter!r}")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
        elif shift > 35:
            raise ValueError("compressed run lengths hold a run that is too long")
    if shift:
        raise ValueError("compressed run lengths end within a number")
    return counts


def area(mask: Segmentation, height: int, width: int) -> int:
    """The number of pixels of a mask.

    Raises:
        ValueError: see `check_runs`.
    """
    return int(import_pycocotools().mask.area(run_lengths(mask, height, width)))


def encode_masks(masks_RHW: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Masks as COCO's result files hold them: `{"size": [H, W], "counts": text}`.

    Args:
        masks_RHW: of zeros and ones.
    """
    if not len(masks_RHW):
        return []
    encoded = import_pycocotools().mask.encode(np.asfortranarray(masks_RHW.transpose(1, 2, 0)))
    return [{"size": list(rle["size"]), "counts": _text(rle["counts"])} for rle in encoded]


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
