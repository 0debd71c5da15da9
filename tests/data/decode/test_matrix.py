"""All formats, access patterns and backends: the requested frames or a DecodeError, never a wrong frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.videos import VIDEO_BACKENDS, access_patterns, copy_packets, read_barcodes, rotate, write_video
from videovit.data.dataset import ClipDataset, FixedCrops
from videovit.data.decode import DecodeError, DecodeOptions, open_video, pyav_backend, time_limit
from videovit.data.decode.frame_index import FrameIndex, TableCache
from videovit.data.decode.frame_table import UNKNOWN
from videovit.data.decode.located import check_file
from videovit.data.decode.protocol import DEFAULTS
from videovit.data.records import Sample
from videovit.data.sampling import EvenSpans

NUM_FRAMES = 50
Numbered = Callable[..., Path]
backends = pytest.mark.parametrize("backend", VIDEO_BACKENDS)

AV1 = {"codec": "libsvtav1", "options": {"preset": "5", "crf": "1", "svtav1-params": "lp=1:tune=0:enable-tf=0"}}
VP9 = {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}}
TEN_BITS = {"pix_fmt": "yuv420p10le"}
FILES: dict[str, dict[str, Any]] = {
    "av1.mp4": AV1,
    "av1.mkv": AV1,
    "av1.webm": {**AV1, **TEN_BITS},
    "vp9.mp4": VP9,
    "ten_bits.mp4": TEN_BITS,
    "ten_bits_open.mkv": {**TEN_BITS, "open_gop": True},
    "hevc_ten_bits.mkv": {"codec": "libx265", **TEN_BITS},
    "hevc.ts": {"codec": "libx265"},
    "odd.mp4": {"size": (67, 51), "pix_fmt": "yuv444p"},
    "odd.webm": {**VP9, "size": (67, 51)},
    "narrow.mp4": {"size": (18, 130)},
    "vfr.mp4": {"pts": [number * number // 9 + 2 * number for number in range(NUM_FRAMES)]},
    "vfr_open.mp4": {"pts": [number + number // 7 * 5 for number in range(NUM_FRAMES)], "open_gop": True},
    "open.ts": {"open_gop": True},
    "open.mov": {"open_gop": True},
    "open_fragments.mp4": {"open_gop": True, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "short_fragments.mp4": {"container_options": {"movflags": "frag_every_frame+empty_moov"}},
    "pyramid.mp4": {"bframes": 7, "extra": "b-pyramid=normal:b-adapt=0:ref=6"},
    "h264.avi": {"bframes": 2},
    "one.mp4": {"num_frames": 1},
    "one.avi": {"num_frames": 1, "codec": "mpeg4"},
    "two.webm": {**VP9, "num_frames": 2},
}


def check_all_patterns(path: Path, backend: str, expected: list[int], options: DecodeOptions = DEFAULTS) -> None:
    """Check that frame i shows expected[i], for all access patterns."""
    with open_video(path, backend, options) as video:
        assert video.num_frames == len(expected)
        for title, wanted in access_patterns(len(expected)).items():
            assert read_barcodes(video.frames(np.array(wanted))) == [expected[i] for i in wanted], title


@backends
@pytest.mark.parametrize("name", FILES)
def test_formats_frames_correct(numbered: Numbered, name: str, backend: str) -> None:
    arguments = {"num_frames": NUM_FRAMES, **FILES[name]}
    path = numbered(f"matrix_{name}", **arguments)
    check_all_patterns(path, backend, list(range(arguments["num_frames"])))


@backends
def test_title_not_utf8(tmp_path: Path, backend: str) -> None:
    path = write_video(tmp_path / "a.mkv", num_frames=NUM_FRAMES, title="café")
    content = path.read_bytes()
    assert content.count("café".encode()) == 1
    path.write_bytes(content.replace("café".encode(), "café!".encode("latin-1")))
    check_all_patterns(path, backend, list(range(NUM_FRAMES)))


@backends
@pytest.mark.parametrize("target", ["late.mp4", "late.mkv", "late.ts"])
@pytest.mark.parametrize("open_gop", [False, True])
def test_first_frame_delayed(numbered: Numbered, tmp_path: Path, target: str, open_gop: bool, backend: str) -> None:
    source = numbered(f"matrix_source_{open_gop}.mp4", num_frames=NUM_FRAMES, open_gop=open_gop)
    path = copy_packets(source, tmp_path / target, delay=512 * 70)
    check_all_patterns(path, backend, list(range(NUM_FRAMES)))


@backends
@pytest.mark.parametrize("first_frame", [12, 17, 29])
@pytest.mark.parametrize("open_gop", [False, True])
def test_edit_list(numbered: Numbered, tmp_path: Path, first_frame: int, open_gop: bool, backend: str) -> None:
    source = numbered(f"matrix_source_{open_gop}.mp4", num_frames=NUM_FRAMES, open_gop=open_gop)
    path = copy_packets(source, tmp_path / "cut.mp4", first_frame=first_frame)
    check_all_patterns(path, backend, list(range(first_frame, NUM_FRAMES)))


@backends
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_and_scaled(tmp_path: Path, degrees: int, backend: str) -> None:
    path = rotate(write_video(tmp_path / "turned.mp4", num_frames=20, size=(128, 96)), degrees)
    for short_side, shape in ((0, (96, 128)), (48, (48, 64)), (200, (96, 128))):
        with open_video(path, backend, DecodeOptions(short_side=short_side)) as video:
            frames = video.frames(np.array([19, 3, 3]))
        height, width = shape if degrees == 180 else shape[::-1]
        assert frames.shape == (3, height, width, 3)
        assert read_barcodes(np.rot90(frames.numpy(), degrees // 90, axes=(1, 2))) == [19, 3, 3]


@backends
def test_scaled_frames_close_to_full_size(tmp_path: Path, backend: str) -> None:
    path = write_video(tmp_path / "large.mp4", num_frames=30, size=(256, 192))
    check_all_patterns(path, backend, list(range(30)), DecodeOptions(short_side=48))
    with open_video(path, backend) as whole, open_video(path, backend, DecodeOptions(short_side=96)) as scaled:
        large = whole.frames(np.array([9]))[0].float().unflatten(0, (96, 2)).unflatten(2, (128, 2)).mean((1, 3))
        assert (scaled.frames(np.array([9]))[0] - large).abs().mean() < 6


@backends
def test_video_shorter_than_clip(numbered: Numbered, backend: str) -> None:
    path = numbered("matrix_five.mp4", num_frames=5)
    plan = EvenSpans(8, 4, 30.0)
    dataset = ClipDataset([Sample(str(path), 0)], plan=plan, crops=FixedCrops(lambda f: [f]), backend=backend)
    item = dataset[0, 0]
    assert item.served_by == backend
    assert read_barcodes(item.clips[0].frames_THWC) == [0, 4, 4, 4, 4, 4, 4, 4]


# ------------------------------------------------------------------------------------------------- damaged files

DAMAGED = {
    "head_first.mp4": {"container_options": {"movflags": "faststart"}},
    "head_last.mp4": {},
    "open.mp4": {"open_gop": True, "container_options": {"movflags": "faststart"}},
    "a.mkv": {},
    "a.webm": VP9,
    "a.ts": {},
    "a.avi": {"codec": "mpeg4"},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
}


@backends
@pytest.mark.parametrize("name", DAMAGED)
def test_truncated_never_wrong_frames(numbered: Numbered, tmp_path: Path, name: str, backend: str) -> None:
    data = numbered(f"matrix_damaged_{name}", num_frames=NUM_FRAMES, **DAMAGED[name]).read_bytes()
    path = tmp_path / name
    read = 0
    for tenth in range(10):
        path.write_bytes(data[: len(data) * (2 * tenth + 1) // 20])
        try:
            with open_video(path, backend) as video:
                assert video.num_frames <= NUM_FRAMES
                whole = list(range(max(1, video.num_frames - 5)))
                assert read_barcodes(video.frames(np.array(whole))) == whole
                read += 1
                # The number of the last frames depends on the cut; a frame at the cut may be incomplete.
                video.frames(np.arange(video.num_frames))
        except DecodeError as error:
            assert error.path == str(path) and error.reason
    assert read >= (0 if name == "head_last.mp4" else 2)


@backends
@pytest.mark.parametrize("name", ["head_first.mp4", "a.mkv"])
def test_flipped_bytes_never_wrong_frames(numbered: Numbered, tmp_path: Path, name: str, backend: str) -> None:
    data = numbered(f"matrix_damaged_{name}", num_frames=NUM_FRAMES, **DAMAGED[name]).read_bytes()
    path = tmp_path / name
    rng = np.random.default_rng(0)
    for _ in range(6):
        damaged = np.frombuffer(data, dtype=np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 60)] ^= rng.integers(1, 256, 60).astype(np.uint8)
        path.write_bytes(damaged.tobytes())
        try:
            with open_video(path, backend, DecodeOptions(timeout_s=20.0)) as video:
                frames = video.frames(np.arange(0, video.num_frames, 5))
            assert frames.shape[0] == len(range(0, video.num_frames, 5))
        except DecodeError as error:
            assert error.path == str(path) and "20 s" not in error.reason


# --------------------------------------------------------------------------------------- long files with an index

LONG = {
    "long.mp4": {},
    "long_open.mp4": {"open_gop": True},
    "long_pyramid.mp4": {"bframes": 7, "extra": "b-pyramid=normal:b-adapt=0", "keyint": 100},
    "long_vfr.mp4": {"pts": [number + number // 7 * 5 for number in range(620)]},
    "long_front.mp4": {"container_options": {"movflags": "faststart"}},
}


def long_file(numbered: Numbered, name: str) -> Path:
    return numbered(f"matrix_{name}", num_frames=620, fps=4, size=(32, 32), **LONG[name])


def known(path: Path) -> object:
    return pyav_backend.TABLES.find(str(path), check_file(str(path), "pyav"))


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize("name", LONG)
def test_long_file_read_partially(numbered: Numbered, name: str, backend: str) -> None:
    path = long_file(numbered, name)
    pyav_backend.TABLES.drop(str(path))
    for _ in range(2):  # the second time from the cache
        check_all_patterns(path, backend, list(range(620)))
        assert isinstance(known(path), FrameIndex)
    with open_video(path, backend) as video:
        assert isinstance(video, pyav_backend.PyavVideo)
        video.frames(np.array([400, 420]))
        read = np.flatnonzero(video.table.pts != UNKNOWN)
        assert 190 < read[0] < 400 and 420 < read[-1] < 480
        assert read_barcodes(video.frames(np.array([3, 610]))) == [3, 610]


@pytest.mark.parametrize("with_limit", [False, True])
@pytest.mark.parametrize("limit_s", [0.5, 1e9], ids=["long", "short"])
def test_knots_variable_fps(
    numbered: Numbered, monkeypatch: pytest.MonkeyPatch, limit_s: float, with_limit: bool
) -> None:
    """Exact if the whole file was read, and within a few frames if only the header was."""
    time_limit._end_idle()
    monkeypatch.setattr(pyav_backend, "LONG_S", limit_s)
    monkeypatch.setattr(pyav_backend, "TABLES", TableCache(10_000))
    options = DecodeOptions(timeout_s=20.0 if with_limit else 0.0)
    for name in ("long.mp4", "long_pyramid.mp4"):
        with open_video(long_file(numbered, name), "pyav", options) as video:
            assert video.knots is None
    frames = np.arange(620)
    places = np.where(frames < 310, 2 * frames, 310 + frames)  # 15 fps, then 30
    path = numbered("matrix_two_rates.mp4", num_frames=620, fps=30, size=(32, 32), pts=places.tolist())
    with open_video(path, "pyav", options) as video:
        assert video.knots is not None and np.abs(places / 30 * video.fps - frames).max() > 50
        shown, seconds = video.knots
    assert len(shown) == 620 if limit_s > 1 else len(shown) < 100
    assert np.abs(np.interp(places / 30, seconds, shown) - frames).max() <= (1e-6 if limit_s > 1 else 3)
    time_limit._end_idle()


def test_long_file_truncated(numbered: Numbered, tmp_path: Path) -> None:
    data = long_file(numbered, "long_front.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 3 // 4])
    with open_video(path) as video:
        assert 300 < video.num_frames < 620
        assert not isinstance(known(path), FrameIndex)
        assert read_barcodes(video.frames(np.array([7, 290]))) == [7, 290]


def test_long_file_wrong_index(numbered: Numbered) -> None:
    path = long_file(numbered, "long.mp4")
    with open_video(path, "pyav") as video:
        index = known(path)
    assert isinstance(index, FrameIndex)
    wrong = index.places.copy()
    wrong[300:] += 1
    version = check_file(str(path), "pyav")
    pyav_backend.TABLES.add(str(path), version, dataclasses.replace(index, places=wrong))
    try:
        with open_video(path, "pyav") as video:
            assert read_barcodes(video.frames(np.array([7, 290, 610]))) == [7, 290, 610]
    finally:
        pyav_backend.TABLES.drop(str(path))


def test_tables_limited_in_size(numbered: Numbered) -> None:
    tables = pyav_backend.TableCache(max_packets=100)
    with open_video(numbered("matrix_five.mp4", num_frames=5), "pyav") as video:
        assert isinstance(video, pyav_backend.PyavVideo)
        for number in range(30):
            tables.add(str(number), (number, 5), video.table)
            tables.find("0", (0, 5))
    kept = [number for number in range(30) if tables.find(str(number), (number, 5)) is not None]
    assert kept == [0, *range(11, 30)]
    assert tables.find("12", (13, 5)) is None
