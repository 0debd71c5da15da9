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
        ValueError: run lengths of another size, or that are damaged.
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
        ValueError: run lengths of another size, or that do not cover it.
    """
    library = import_pycocotools().mask
    if not isinstance(mask, Runs):
        parts = library.frPyObjects([part.tolist() for part in mask], height, width)
        return dict(library.merge(parts))
    if mask.size != (height, width):
        raise ValueError(f"a mask of {mask.size[0]} x {mask.size[1]} in an image of {height} x {width}")
    if isinstance(mask.counts, str):
        return {"size": [height, width], "counts": mask.counts.encode("ascii", "replace")}
    if min(mask.counts, default=0) < 0 or sum(mask.counts) != height * width:
        raise ValueError(f"run lengths of {sum(mask.counts):,} pixels in an image of {height * width:,}")
    return dict(library.frPyObjects({"size": [height, width], "counts": list(mask.counts)}, height, width))


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
