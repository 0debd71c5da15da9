"""Videos that are stored as images: a folder, a list of files, or a single image (a video of one frame)."""

from __future__ import annotations

import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from videovit.data.decode.protocol import (
    DEFAULTS,
    ClosingVideo,
    DecodeError,
    DecodeOptions,
    Indices,
    check_file,
    check_indices,
    check_length,
    check_size,
    scaled_size,
    shorten,
)

SUFFIXES = frozenset(".jpg .jpeg .jfif .png .webp .avif .jp2 .bmp .ppm .pgm .tif .tiff .gif".split())
LIST_SUFFIXES = frozenset({".txt", ".lst"})
LONGEST_LIST = 64 << 20  # bytes
# What Pillow raises about damaged files, by format.
ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def open_image(path: str, options: DecodeOptions = DEFAULTS) -> ImageVideo:
    """Open an image as a video of one frame.

    Raises:
        DecodeError: the file is missing, empty, too large, or not an image.
    """
    check_file(path, "image")
    return ImageVideo(path, [path], options, "image")


def open_frames(path: str, options: DecodeOptions = DEFAULTS) -> ImageVideo:
    """Open a folder of images, in the order of the numbers in their names, or a list (.txt, .lst) of image files.

    A line of a list is the path of an image, relative to the folder of the list.

    Raises:
        DecodeError: nothing there, no images in it, too many or too large ones, or the first is not an image.
    """
    if os.path.isdir(path):
        names = images_in(path)
        reason = "a folder without images"
    else:
        version = check_file(path, "frames")
        if Path(path).suffix.lower() not in LIST_SUFFIXES:
            raise DecodeError(path, "neither a folder of images nor a list of them (.txt, .lst)", "frames")
        if version[1] > LONGEST_LIST:
            raise DecodeError(path, f"a list of {version[1]} bytes, more than {LONGEST_LIST}", "frames")
        names = images_of_list(path)
        reason = "a list without images"
    if not names:
        raise DecodeError(path, reason, "frames")
    check_length(path, len(names), options, "frames")
    return ImageVideo(path, names, options, "frames")


def images_in(folder: str) -> list[str]:
    """Image files of a folder, sorted so that the numbers in their names rise: img_2 stands before img_10."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if Path(e.name).suffix.lower() in SUFFIXES and not e.name.startswith(".")]
    except OSError as error:
        raise DecodeError(folder, shorten(error), "frames") from None
    names.sort(key=lambda name: [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))])
    return [os.path.join(folder, name) for name in names]


def images_of_list(path: str) -> list[str]:
    """Paths of the images that a list names, one a line."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DecodeError(path, shorten(error), "frames") from None
    folder = os.path.dirname(path)
    return [os.path.join(folder, line.strip()) for line in lines if line.strip()]


class ImageVideo(ClosingVideo):
    """Images one after the other; each is read when it is asked for."""

    def __init__(self, path: str, names: Sequence[str], options: DecodeOptions, backend: str) -> None:
        self._path = path
        self._names = names
        self._options = options
        self.served_by = backend
        self.num_frames = len(names)
        self.fps = options.frames_fps
        self._read(0, header_only=True)

    def frames(self, indices: Indices) -> Tensor:
        """See `Video.frames`.

        Raises:
            IndexError, DecodeError: see there; also images of different sizes.
        """
        check_indices(indices, self.num_frames)
        wanted, places = np.unique(indices, return_inverse=True)
        if len(wanted) == 0:
            raise ValueError("no frames were asked for")
        first = self._read(int(wanted[0]))
        images = np.empty((len(wanted), *first.shape), dtype=np.uint8)
        images[0] = first
        for row, index in enumerate(wanted[1:].tolist(), start=1):
            image = self._read(index)
            if image.shape != first.shape:
                sizes = f"{image.shape[1]} x {image.shape[0]} pixels, others {first.shape[1]} x {first.shape[0]}"
                raise DecodeError(self._path, f"{self._names[index]} has {sizes}", self.served_by)
            images[row] = image
        frames = torch.from_numpy(images)
        return frames if np.array_equal(wanted, indices) else frames[torch.from_numpy(places.reshape(-1))]

    def _read(self, index: int, *, header_only: bool = False) -> NDArray[np.uint8]:
        """(H, W, 3) RGB of an image, turned upright; nothing of it is decoded for `header_only`."""
        name = self._names[index]
        try:
            if not stat.S_ISREG(os.stat(name).st_mode):
                raise ValueError("not a plain file")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, about sizes: checked here
                image: Image.Image
                with Image.open(name) as image:
                    check_size(self._path, *image.size, self._options, self.served_by)
                    if header_only:
                        return np.empty((0, 0, 3), dtype=np.uint8)
                    size = scaled_size(*image.size, self._options.short_side)
                    if size != image.size:
                        image.draft("RGB", size)  # JPEG: decodes less
                    upright = ImageOps.exif_transpose(to_rgb(image))
                    turned = (upright.width > upright.height) != (image.width > image.height)
                    return np.asarray(upright.resize(size[::-1] if turned else size))
        except DecodeError:
            raise
        except (Image.DecompressionBombError, *ERRORS) as error:
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else shorten(error)
            place = "" if name == self._path else f"{name}: "
            raise DecodeError(self._path, place + reason, self.served_by) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """The image with three channels of 8 bits; of 16 bits of grey the higher ones, where Pillow would give white.

    Raises:
        ValueError: numbers of 32 bits, of which nobody says which is white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        grey = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        grey.info = image.info
        return grey.convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel; convert it to 8 or 16")
    return image.convert("RGB")
