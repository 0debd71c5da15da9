"""Videos stored as images: a folder, a list of files, or a single image (a video of one frame)."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from videovit.data.decode.image_metadata import num_scans, without_metadata
from videovit.data.decode.located import Located, check_file, check_inside, content_of, locate, size_of
from videovit.data.decode.protocol import (
    DEFAULTS,
    BaseVideo,
    DecodeError,
    DecodeOptions,
    Indices,
    check_length,
    check_memory,
    check_size,
    scaled_size,
    shorten,
)
from videovit.messages import printable

SUFFIXES = frozenset(".jpg .jpeg .jfif .png .webp .avif .jp2 .bmp .ppm .pgm .tif .tiff .gif".split())
LIST_SUFFIXES = frozenset({".txt", ".lst"})
LONGEST_LIST = 64 << 20  # bytes
# What Pillow may open, whatever the name of the file. Some of its other formats run programs (EPS is code for
# Ghostscript), and some decode before they state their size.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "BMP", "PPM", "TIFF", "GIF")
NOT_AN_IMAGE = f"not an image, or none of {', '.join(FORMATS)}, or damaged"
# Bytes per pixel of the largest file that is read, uncompressed RGBA of 16 bits, and bytes of metadata.
MOST_BYTES_PER_PIXEL, MOST_METADATA = 8, 16 << 20
TIFF_TILE_WIDTH, TIFF_TILE_LENGTH = 322, 323
LARGEST_REPAIRED = 256 << 20  # bytes
# Every scan of a progressive JPEG goes over the whole picture. Encoders write about ten.
MOST_SCANS = 100
# Pillow raises these for damaged files, depending on the format.
ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def open_image(path: str, options: DecodeOptions = DEFAULTS) -> ImageVideo:
    """Open an image as a video of one frame.

    Raises:
        DecodeError: the file is missing, empty, too large, or not an image.
    """
    return ImageVideo(path, [locate(path, DEFAULTS, "image")], options, "image")


def open_frames(path: str, options: DecodeOptions = DEFAULTS) -> ImageVideo:
    """Open a folder of images, ordered by the numbers in their names, or a list (.txt, .lst) of image files.

    Each line of a list is the path of an image, relative to the folder of the list.

    Raises:
        DecodeError: it does not exist, has no images or too many, or the first is too large or not an image.
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
    """Image files of a folder, in natural order: img_2 precedes img_10."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if Path(e.name).suffix.lower() in SUFFIXES and not e.name.startswith(".")]
    except OSError as error:
        raise DecodeError(folder, shorten(error), "frames") from None
    # Alphabetically, img_10 would precede img_2.
    names.sort(key=lambda name: [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))])
    return [os.path.join(folder, name) for name in names]


def images_of_list(path: str) -> list[str]:
    """Paths of the images in a list, one per line."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DecodeError(path, shorten(error), "frames") from None
    folder = os.path.dirname(path)
    return [os.path.join(folder, line.strip()) for line in lines if line.strip()]


class ImageVideo(BaseVideo):
    """A sequence of images; each is read when it is requested."""

    def __init__(self, path: str, names: Sequence[str], options: DecodeOptions, backend: str) -> None:
        self._path = path
        self._names = names
        self._options = options
        self.served_by = backend
        self.num_frames = len(names)
        self.fps = options.frames_fps
        # Fail on opening, as video decoders do, not at the first frame.
        self._read(0, header_only=True)

    def _decode(self, wanted: Indices) -> Tensor:
        first = self._read(int(wanted[0]))
        height, width = first.shape[:2]
        try:
            check_memory(len(wanted), width, height, self._options)
        except ValueError as error:
            raise DecodeError(self._path, str(error), self.served_by) from None
        images = np.empty((len(wanted), *first.shape), dtype=np.uint8)
        images[0] = first
        for row, index in enumerate(wanted[1:].tolist(), start=1):
            image = self._read(index)
            # A clip is one tensor, so its frames must have one size.
            if image.shape != first.shape:
                sizes = f"{image.shape[1]} x {image.shape[0]} pixels, others {first.shape[1]} x {first.shape[0]}"
                raise DecodeError(self._path, f"{printable(self._names[index])} has {sizes}", self.served_by)
            images[row] = image
        return torch.from_numpy(images)

    def _read(self, index: int, *, header_only: bool = False) -> NDArray[np.uint8]:
        """An image as upright RGB, (H, W, 3); with `header_only` it is checked but not decoded."""
        name = self._names[index]
        try:
            if isinstance(name, Located):
                size = name.size
            else:
                check_inside(self._path, name, self._options, self.served_by)
                status = os.stat(name)
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError("not a regular file")
                size = status.st_size
            if size > self._options.max_pixels * MOST_BYTES_PER_PIXEL + MOST_METADATA:
                raise ValueError(f"{size:,} bytes, too many for an image of DATA.MAX_PIXELS")
            try:
                file = io.BytesIO(content_of(name)) if isinstance(name, Located) else name
                return self._decode_image(file, header_only=header_only)
            except DecodeError:
                raise
            except ERRORS:
                # Damaged metadata is no reason to reject sound pixels.
                sound = sound_part(name)
                if sound is None:
                    raise
                return self._decode_image(io.BytesIO(sound), header_only=header_only)
        except DecodeError:
            raise
        except (Image.DecompressionBombError, *ERRORS) as error:
            reason = NOT_AN_IMAGE if isinstance(error, UnidentifiedImageError) else shorten(error)
            place = "" if name == self._path else f"{printable(name)}: "
            raise DecodeError(self._path, place + reason, self.served_by) from None

    def _decode_image(self, file: str | io.BytesIO, *, header_only: bool) -> NDArray[np.uint8]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images, which check_size rejects
            image: Image.Image
            with Image.open(file, formats=readable_formats()) as image:
                for width, height in (image.size, tile_size(image)):
                    check_size(self._path, width, height, self._options, self.served_by)
                check_scans(image, file)
                if header_only:
                    return np.empty((0, 0, 3), dtype=np.uint8)
                size = scaled_size(*image.size, self._options.short_side)
                if size != image.size:
                    image.draft("RGB", size)  # JPEG can be decoded at a reduced size
                upright = turn_upright(to_rgb(image))
                # EXIF orientation may have exchanged width and height.
                turned = (upright.width > upright.height) != (image.width > image.height)
                return np.asarray(upright.resize(size[::-1] if turned else size))


def sound_part(name: str) -> bytes | None:
    """An image file without most of its metadata; None if it has none, or is unusually large."""
    if size_of(name) > LARGEST_REPAIRED:
        return None
    content = content_of(name)
    sound = without_metadata(content)
    return sound if sound != content else None


def check_scans(image: Image.Image, file: str | io.BytesIO) -> None:
    """Reject a progressive JPEG that would be decoded for minutes.

    Raises:
        ValueError: more than MOST_SCANS scans.
    """
    if image.info.get("progressive"):
        found = num_scans(Path(file).read_bytes() if isinstance(file, str) else file.getvalue())
        if found > MOST_SCANS:
            raise ValueError(f"a JPEG of {found:,} scans, more than {MOST_SCANS}")


def turn_upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data says, if they can be read."""
    try:
        return ImageOps.exif_transpose(image)
    # Damaged metadata is no reason to reject sound pixels; viewers show them as stored.
    except ERRORS:
        return image


def tile_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the tiles of a TIFF file, which are decoded whole; (0, 0) without tiles."""
    if not isinstance(image, TiffImageFile):
        return 0, 0
    width, height = (int(np.max(image.tag_v2.get(tag, 0))) for tag in (TIFF_TILE_WIDTH, TIFF_TILE_LENGTH))
    return width, height


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to three channels of 8 bits.

    Raises:
        ValueError: the image has 32 bits per pixel, with no standard value for white.
    """
    # Pillow would clip 16-bit gray to white; keep the high byte instead.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        gray = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        gray.info = image.info
        return gray.convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per pixel; convert it to 8 or 16")
    return image.convert("RGB")
