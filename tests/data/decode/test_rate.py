"""Frame rates and times: from the packets, whatever the header says; in player time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.videos import VIDEO_BACKENDS, barcode, copy_packets, read_barcodes, silence, write_video
from videovit.data.decode import DecodeOptions, open_video, time_limit
from videovit.data.decode.rate import measured_rate

Numbered = Callable[..., Path]
backends = pytest.mark.parametrize("backend", VIDEO_BACKENDS)


def without_rate(path: Path) -> Path:
    """Remove rate and duration from a WebM file in place, as browsers write it: FFmpeg then guesses 1000 frames/s."""
    content = path.read_bytes()
    for element in (b"\x23\xe3\x83", b"\x44\x89"):
        place = content.index(element)
        size = len(element) + 1 + (content[place + len(element)] & 0x7F)
        content = content[:place] + bytes([0xEC, 0x80 | size - 2]) + bytes(size - 2) + content[place + size :]
    path.write_bytes(content)
    return path


def write_late(path: Path, *, late_s: float, num_frames: int = 48, fps: int = 24) -> Path:
    """Write a numbered video whose sound begins `late_s` before its pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"bf": "0", "g": "24"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = number + round(late_s * fps), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for packet in silence(audio):
            container.mux(packet)
    return path


def write_with_gaps(path: Path, pts: Sequence[int], *, fps: int = 25) -> Path:
    """Write a numbered MPEG-4 or FLV file of pictures at pts / fps."""
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    return write_video(path, num_frames=len(pts), fps=fps, codec=codec, bframes=0, pts=pts)


def test_measured_rate() -> None:
    frames = np.arange(100)
    even = frames / 25
    assert measured_rate(frames, even, 25.0) == (25.0, None)
    # Rounding of a container, and a rate of the header that counts the last frame in another way
    assert measured_rate(frames, np.round(even, 2), 25.2) == (25.2, None)
    for wrong in (1000.0, 50.0, 0.0):
        fps, knots = measured_rate(frames, even + 3, wrong)
        assert fps == pytest.approx(25) and knots is not None and np.allclose(knots[1], even)
    held = np.where(frames < 50, even, even + 10)
    fps, knots = measured_rate(frames, held, 25.0)
    assert 100 / fps == pytest.approx(14) and knots is not None
    # What says nothing is not used.
    assert measured_rate(frames, np.zeros(100), 25.0) == (25.0, None)
    assert measured_rate(frames[:1], even[:1], 25.0) == (25.0, None)
    assert measured_rate(frames[:0], even[:0], 0.0) == (0.0, None)


@backends
def test_guessed_rate_not_believed(tmp_path: Path, backend: str) -> None:
    times_ms = np.cumsum([0, *np.random.default_rng(1).integers(20, 47, 59)]).tolist()
    path = write_video(tmp_path / "a.webm", num_frames=60, codec="libvpx", fps=1000, pts=times_ms)
    path = without_rate(path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate in (None, 1000)
    with open_video(path, backend) as video:
        assert video.fps == pytest.approx(59000 / times_ms[-1], abs=0.3) and video.knots is not None
        assert read_barcodes(video.frames(np.array([3, 59]))) == [3, 59]


@backends
@pytest.mark.parametrize("with_limit", [False, True])
@pytest.mark.parametrize(
    ("name", "pts"),
    [
        ("dropped.avi", list(range(0, 120, 3))),
        ("break.flv", [*range(30), *range(200, 230)]),
        ("break.avi", [*range(30), *range(200, 230)]),
        ("break.ts", [*range(30), *range(200, 230)]),
        ("break.mkv", [*range(30), *range(200, 230)]),
    ],
)
def test_gaps_keep_times(tmp_path: Path, name: str, pts: list[int], with_limit: bool, backend: str) -> None:
    time_limit._end_idle()
    path = write_with_gaps(tmp_path / name, pts)
    options = DecodeOptions(timeout_s=30.0 if with_limit else 0.0)
    for _ in range(2):  # the second time from the cache
        with open_video(path, backend, options) as video:
            assert video.num_frames == len(pts) and video.knots is not None
            frames, seconds = video.knots
            assert np.allclose(np.interp(np.arange(len(pts)), frames, seconds), np.array(pts) / 25, atol=2e-3)
            spacing = float(np.median(np.diff(pts)))
            assert video.num_frames / video.fps == pytest.approx((pts[-1] + spacing) / 25, abs=0.01)
            assert read_barcodes(video.frames(np.array([2, len(pts) - 1]))) == [2, len(pts) - 1]
    time_limit._end_idle()


@backends
@pytest.mark.parametrize("with_limit", [False, True])
@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.mov", "late.ts", "late.flv"])
def test_pictures_after_sound(tmp_path: Path, name: str, with_limit: bool, backend: str) -> None:
    time_limit._end_idle()
    path = write_late(tmp_path / name, late_s=2)
    with open_video(path, backend, DecodeOptions(timeout_s=30.0 if with_limit else 0.0)) as video:
        assert video.start_s == pytest.approx(2, abs=0.07)  # encoders of sound start a little before 0
        assert video.fps == pytest.approx(24) and video.knots is None
    time_limit._end_idle()


@backends
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_b_frames_of_avi_begin_at_once(tmp_path: Path, codec: str, backend: str) -> None:
    """AVI has no presentation times; those that FFmpeg makes up begin late by the reordered pictures."""
    pts = [*range(20), *range(60, 80)]
    path = write_video(tmp_path / "a.avi", num_frames=40, codec=codec, bframes=2, keyint=20, pts=pts)
    with open_video(path, backend) as video:
        assert video.start_s == 0 and read_barcodes(video.frames(np.array([0, 39]))) == [0, 39]
        assert video.knots is not None and video.knots[1][-1] == pytest.approx(79 / 30, abs=0.04)


@backends
@pytest.mark.parametrize("target", ["cut.mp4", "late.mp4", "late.mkv", "late.ts"])
def test_alone_begins_at_once(numbered: Numbered, tmp_path: Path, target: str, backend: str) -> None:
    """Edit lists and first times above 0 do not delay a video without sound."""
    source = numbered("rate_source.mp4", num_frames=50)
    cut, delay = (17, 0) if target == "cut.mp4" else (0, 512 * 70)
    path = copy_packets(source, tmp_path / target, first_frame=cut, delay=delay)
    with open_video(path, backend) as video:
        assert video.start_s == pytest.approx(0, abs=0.001)
        assert video.fps == pytest.approx(30, rel=0.01)
