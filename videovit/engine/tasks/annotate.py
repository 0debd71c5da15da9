"""Annotated videos: the classes of each window, and the people in it, drawn into a copy of the video.

Every picture is decoded, turned upright, drawn on, and encoded as H.264 with its own time, so frame rate and length
stay those of the source, variable or not. Sound is left out.

H W pixels.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from videovit.config import Config
from videovit.data.catalog import find_dataset
from videovit.data.decode import DecodeError, DecodeOptions, open_video
from videovit.data.decode.container import ERRORS, decode_all, open_container, plain_reason
from videovit.data.decode.orientation import Upright
from videovit.data.decode.pyav_backend import to_rgb
from videovit.data.files.folders import VIDEO_SUFFIXES
from videovit.engine.reporting.json_lines import writing
from videovit.engine.tasks.draw import Painter
from videovit.engine.tasks.labels import Labels, VideoLabels
from videovit.errors import UserError
from videovit.messages import printable

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Image = NDArray[np.uint8]
Paint = Callable[[Image, float], Image]
"""A picture and its player time in seconds -> what is written in its place, of one size for the whole video."""

SUFFIXES = (".mp4", ".mov", ".mkv")
LEAST_SHORT_SIDE = 240  # pixels; smaller videos are enlarged, because text would not be readable
MOST_ENLARGED = 4096  # pixels; a strip of one row would fill the memory
CRF = "20"  # quality of x264: hardly any visible loss
BT709, TV_RANGE = 1, 1  # numbers of FFmpeg; what players expect of H.264


class TimedImage(NamedTuple):
    """A picture of a video.

    Attributes:
        image_HWC: uint8 (H, W, 3), RGB, upright.
        pts: time stamp, counted from the first picture.
        duration: 0 if unknown.
    """

    image_HWC: Image
    pts: int
    duration: int


class Pictures(NamedTuple):
    """All pictures of a video, in order.

    Attributes:
        time_base: unit of time stamps, in seconds.
        rate: mean frame rate.
        start_s: player time of the first picture.
        total: number of pictures; 0 if unknown.
        images: the pictures, decoded one by one.
    """

    time_base: Fraction
    rate: Fraction
    start_s: float
    total: int
    images: Iterator[TimedImage]


def plan_copies(cfg: Config, target: str, videos: Sequence[str]) -> dict[str, Path]:
    """Where the labeled copy of each video goes.

    Args:
        cfg: of the model.
        target: a file with a suffix of SUFFIXES, for one video; or a folder, in which copies have the names of their
            videos.
        videos: files, or folders of frames.

    Raises:
        UserError: one file cannot hold all videos, or a copy would replace a video, or the model is one of images.
    """
    where = f"--annotate {target}"
    if find_dataset(cfg.TEST.DATASET).images:
        raise UserError("this model classifies still images, which are not annotated", where=where)
    path = Path(target)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        if len(videos) > 1:
            raise UserError(f"{len(videos)} videos do not fit into one file", where=where, expected="a folder")
        copies = {video: path for video in videos}
    elif path.suffix.lower() in VIDEO_SUFFIXES or path.is_file():
        raise UserError("cannot be written", where=where, expected=f"{', '.join(SUFFIXES)}, or a folder")
    else:
        copies, taken = {}, set[str]()
        for video in videos:
            name, number = Path(os.path.abspath(video)).stem, 1
            while name in taken:
                number += 1
                name = f"{Path(os.path.abspath(video)).stem}_{number}"
            taken.add(name)
            copies[video] = path / f"{name}.mp4"
    for video, copy in copies.items():
        if copy.exists() and any(os.path.exists(other) and os.path.samefile(copy, other) for other in videos):
            raise UserError(f"the copy of {printable(video)} would replace {printable(copy)}", where=where)
    return copies


def annotate(video: VideoLabels, target: Path, options: DecodeOptions, *, quiet: bool = False) -> None:
    """Write a copy of a video with its labels drawn in; the file gets its name when it is complete.

    Args:
        video: labels; its path is a video file, or a folder of frames.
        target: file to write, with a suffix of SUFFIXES.
        options: limits of the decoder.
        quiet: show no progress bar.

    Raises:
        DecodeError: the video cannot be read.
        UserError: the file cannot be written.
    """
    painters: dict[tuple[int, ...], Painter] = {}  # one, unless the size changes

    def paint(image_HWC: Image, time_s: float) -> Image:
        height, width = image_HWC.shape[:2]
        scale = enlargement(width, height)
        large = image_HWC.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else image_HWC
        painter = painters.setdefault((height, width), Painter(width * scale, height * scale))
        return painter.paint(large, labels_at(video.windows, time_s))

    copy_video(video.path, target, paint, options, quiet=quiet)


def copy_video(path: str, target: Path, paint: Paint, options: DecodeOptions, *, quiet: bool = False) -> None:
    """Write a copy of a video with every picture painted; the file gets its name when it is complete.

    Args:
        path: a video file, or a folder of frames.
        target: file to write, with a suffix of SUFFIXES.
        paint: what becomes of a picture.
        options: limits of the decoder.
        quiet: show no progress bar.

    Raises:
        DecodeError: the video cannot be read.
        UserError: the file cannot be written.
    """
    partial = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    with writing(target):
        target.resolve().parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_pictures(path, options) as pictures, partial_file(partial) as container:
                progress = tqdm(
                    pictures.images,
                    total=pictures.total or None,
                    desc=target.name,
                    unit="frame",
                    leave=False,
                    disable=True if quiet else None,  # None: shown on terminals
                )
                _encode(container, pictures, progress, paint)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[OutputContainer]:
    """A video file open for writing."""
    try:
        with av.open(str(path), "w") as container:
            yield container
    except av.error.FFmpegError as error:
        raise UserError(f"could not be written: {error.strerror or error}", where=path) from error


@contextlib.contextmanager
def open_pictures(path: str, options: DecodeOptions) -> Iterator[Pictures]:
    """Open a video file, or a folder of frames, to read all its pictures.

    Raises:
        DecodeError: it cannot be opened; or, while it is read, decoded.
    """
    if os.path.isdir(path):
        with open_video(path, "frames", options) as video:
            rate = Fraction(video.fps).limit_denominator(1001)
            images = (
                TimedImage(video.frames(np.array([number]))[0].numpy(), number, 1) for number in range(video.num_frames)
            )
            yield Pictures(1 / rate, rate, 0.0, video.num_frames, images)
        return
    container, stream = open_container(path, options)
    with container:
        rate = stream.average_rate or stream.guessed_rate or Fraction(30)
        time_base = stream.time_base or 1 / rate
        start_s = 0.0
        if stream.start_time is not None and container.start_time is not None:
            # Players begin with the stream that begins first.
            start_s = max(0.0, float(stream.start_time * time_base) - container.start_time / av.time_base)
        yield Pictures(
            time_base, rate, start_s, stream.frames, _read(path, decode_all(container, stream), time_base, rate)
        )


def _read(path: str, frames: Iterator[Any], time_base: Fraction, rate: Fraction) -> Iterator[TimedImage]:
    upright, first, last = Upright(), 0, -1
    step = max(1, round(1 / (rate * time_base)))
    while True:
        try:
            frame = next(frames, None)
        except ERRORS as error:
            raise DecodeError(path, plain_reason(error), "pyav") from None
        if frame is None:
            return
        orientation = upright.of(frame)
        pts = last + step if frame.pts is None else frame.pts - first
        if last < 0:
            first, pts = frame.pts or 0, 0
        # Time stamps of damaged files stand still or go back.
        last = max(pts, last + 1)
        yield TimedImage(to_rgb(frame, orientation, (frame.width, frame.height)), last, frame.duration or step)


def _encode(container: OutputContainer, pictures: Pictures, images: Iterable[TimedImage], paint: Paint) -> None:
    encoder: _Encoder | None = None
    for picture in images:
        painted = paint(picture.image_HWC, pictures.start_s + float(picture.pts * pictures.time_base))
        if encoder is None:
            encoder = _Encoder(container, pictures, painted)
        encoder.write(picture._replace(image_HWC=painted))
    if encoder is None:
        raise UserError("the video has no pictures")
    encoder.finish()


class _Encoder:
    """Writes pictures of the size of the first one."""

    def __init__(self, container: OutputContainer, pictures: Pictures, first: Image) -> None:
        height, width = first.shape[:2]
        self._container, self._time_base, self._size = container, pictures.time_base, (height, width)
        self._durations: dict[int, int] = {}
        options = {"crf": CRF, "preset": "veryfast"}
        self._stream: VideoStream = container.add_stream("libx264", rate=pictures.rate, options=options)
        stream = self._stream
        stream.width, stream.height = (side + side % 2 for side in (width, height))
        stream.pix_fmt = "yuv420p"
        context: Any = stream.codec_context
        context.time_base = pictures.time_base
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = TV_RANGE

    def write(self, picture: TimedImage) -> None:
        """Encode a picture."""
        image = picture.image_HWC
        if image.shape[:2] != self._size:
            raise UserError("the size of the pictures changes within the video, which one file cannot show")
        frame = av.VideoFrame.from_ndarray(_even(image), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = picture.pts, self._time_base
        self._durations[picture.pts] = picture.duration
        self._mux(frame)

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._mux(None)

    def _mux(self, frame: VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            # Without it, the last picture would be shown for no time.
            if packet.pts in self._durations:
                packet.duration = self._durations.pop(packet.pts)
            self._container.mux(packet)


def _even(image: Image) -> Image:
    """The picture with even sides, which 4:2:0 needs; the last row or column is repeated."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(image)


def enlargement(width: int, height: int) -> int:
    """The factor by which a video or image is enlarged, so that text on it can be read."""
    return max(1, min(-(-LEAST_SHORT_SIDE // min(width, height)), MOST_ENLARGED // max(width, height)))


def labels_at(windows: Sequence[Labels], time_s: float) -> Labels | None:
    """The window whose middle is closest to a moment, of those that contain it; None if none does."""
    inside = [window for window in windows if window.start_s - 1e-6 <= time_s <= window.end_s + 1e-6]
    return min(inside, key=lambda window: abs(time_s - (window.start_s + window.end_s) / 2), default=None)
