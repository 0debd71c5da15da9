"""Small videos whose frame i shows the number i, so that a test can check which frame it got.

A frame is a 4 x 4 grid of black and white blocks: the bits of its number, highest first. They can be read back after
any codec, and lossless codecs keep them exactly.
"""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from videovit.data.decode.torchcodec_backend import load_torchcodec
from videovit.errors import UserError


def _has_torchcodec() -> bool:
    try:
        load_torchcodec()
    except UserError:
        return False
    return True


# Every backend that reads video files, for parametrize.
VIDEO_BACKENDS = [
    "decord",
    "pyav",
    pytest.param("torchcodec", marks=pytest.mark.skipif(not _has_torchcodec(), reason="torchcodec cannot be used")),
]
ROWS = COLUMNS = 4
X264 = "bframes={bframes}:keyint={keyint}:min-keyint={keyint}:scenecut=0:open-gop={open_gop}:threads=1:log-level=none"
X265 = X264.replace("threads=1", "pools=none:frame-threads=1:wpp=0").replace("log-level=none", "log-level=-1")
# The upper left 2 x 2 of the display matrix, row by row.
ROTATIONS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def barcode(number: int, *, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Image of a number below 2 ** 16, uint8 (H, W, 3)."""
    bits = np.array([number >> bit & 1 for bit in reversed(range(ROWS * COLUMNS))], dtype=np.uint8)
    blocks = bits.reshape(ROWS, COLUMNS) * np.uint8(255)
    image = blocks[np.arange(height) * ROWS // height][:, np.arange(width) * COLUMNS // width]
    return np.repeat(image[:, :, None], 3, axis=2)


def read_barcodes(frames_THWC: Any) -> list[int]:
    """The numbers shown by frames (T, H, W, 3)."""
    frames = np.asarray(frames_THWC)
    _, height, width, _ = frames.shape
    rows = (np.arange(ROWS) * 2 + 1) * height // (2 * ROWS)
    columns = (np.arange(COLUMNS) * 2 + 1) * width // (2 * COLUMNS)
    bits = frames[:, rows][:, :, columns].mean(axis=-1).reshape(len(frames), -1) > 127
    return [int("".join("1" if bit else "0" for bit in row), 2) for row in bits]


def write_video(
    path: Path,
    *,
    num_frames: int = 40,
    fps: int | Fraction = 30,
    codec: str = "libx264",
    keyint: int = 12,
    bframes: int = 3,
    open_gop: bool = False,
    lossless: bool = False,
    size: tuple[int, int] = (64, 48),
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    extra: str = "",
    container_options: dict[str, str] | None = None,
    draw: Callable[[int], NDArray[np.uint8]] | None = None,
    title: str = "",
) -> Path:
    """Write a numbered video; the suffix of `path` chooses the container.

    Args:
        path: file to write.
        num_frames: number of frames.
        fps: frame rate.
        codec: an FFmpeg encoder, e.g. libx264, libx265, ffv1, mpeg4, libvpx-vp9, libsvtav1.
        keyint: distance of key frames, in frames.
        bframes: consecutive B frames, 0 for none.
        open_gop: let frames refer across key frames (x264 and x265).
        lossless: keep every pixel (libx264, ffv1).
        size: width and height in pixels.
        pix_fmt: pixel format, e.g. yuv420p10le.
        pts: time of every frame in units of 1 / fps, for a variable frame rate.
        options: additional encoder options.
        extra: additional x264 or x265 settings, joined by colons.
        container_options: options of the muxer.
        draw: draws frame i instead of its number.
        title: title in the metadata.

    Returns:
        `path`.
    """
    width, height = size
    settings = dict(options or {})
    if codec in ("libx264", "libx265"):
        template = X264 if codec == "libx264" else X265
        params = template.format(bframes=bframes, keyint=keyint, open_gop=int(open_gop))
        params += f":{extra}" if extra else ""
        settings[codec[3:] + "-params"] = params
        settings.setdefault("preset", "ultrafast" if codec == "libx265" else "veryfast")
        if lossless:
            settings["qp"] = "0"
    with av.open(str(path), "w", options=container_options or {}) as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=fps, options=settings)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = keyint
        if codec == "mpeg4":
            stream.codec_context.max_b_frames = bframes
        stream.codec_context.thread_count = 1
        for number in range(num_frames):
            image = draw(number) if draw else barcode(number, width=width, height=height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def access_patterns(num_frames: int) -> dict[str, list[int]]:
    """Lists of frame indices to request, by name."""
    rng = np.random.default_rng(0)
    last = num_frames - 1
    return {
        "all": list(range(num_frames)),
        "first": [0],
        "last": [last],
        "backwards": list(range(num_frames))[::-1],
        "strided": list(range(min(3, last), num_frames, 7)),
        "in a row": [i for i in (10, 11, 12, 13) if i < num_frames] or [0],
        "far apart": sorted({min(1, last), num_frames // 2, max(last - 1, 0)}),
        "repeated": [min(5, last), min(5, last), min(4, last), min(5, last), last, last],
        **{f"random {number}": rng.integers(0, num_frames, 9).tolist() for number in range(6)},
    }


def copy_packets(source: Path, target: Path, *, first_frame: int = 0, delay: int = 0, add_audio: bool = False) -> Path:
    """Copy the packets of a video to another container, like a cut without re-encoding.

    Args:
        source: video to copy.
        target: file to write.
        first_frame: number of the first frame to show. The packets before it, back to a key frame, stay in the file at
            negative times; they are decoded but not shown.
        delay: delay of the first frame, in units of the source's time base.
        add_audio: add an audio stream with one second of silence.

    Returns:
        `target`.
    """
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        audio = written.add_stream("aac", rate=16000) if add_audio else None
        packets = [packet for packet in read.demux(stream) if packet.size]
        shift = sorted(packet.pts for packet in packets)[first_frame]
        keys = [place for place, packet in enumerate(packets) if packet.is_keyframe and packet.pts <= shift]
        for packet in packets[keys[-1] :]:
            packet.pts += delay - shift
            packet.dts += delay - shift
            packet.stream = copy
            written.mux(packet)
        if audio is not None:
            for packet in silence(audio):
                written.mux(packet)
    return target


def silence(stream: Any) -> Iterable[Any]:
    """Packets of one second of silence for an audio stream."""
    samples = np.zeros((1, 1024), dtype=np.float32)
    for place in range(16):
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, place * 1024
        yield from stream.encode(frame)
    yield from stream.encode(None)


def rotate(path: Path, degrees: int) -> Path:
    """Set the rotation of an mp4 file in place: players rotate it by `degrees` clockwise."""
    return show_by(path, ROTATIONS[degrees])


def show_by(path: Path, matrix_2x2: tuple[int, int, int, int]) -> Path:
    """Set the display matrix (a, b, c, d) of an mp4 file in place: (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    a, b, c, d = matrix_2x2
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(bytes(data))
    return path


def write_sound(path: Path) -> Path:
    """Write a WAV file of one second of silence."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    return path


def write_list(path: Path, rows: Iterable[tuple[str | Path, int]]) -> Path:
    """Write a Kinetics list file of (video, label) rows."""
    path.write_text("".join(f"{video} {label}\n" for video, label in rows), encoding="utf-8")
    return path
