"""Decoders: exactly the requested frames, bit for bit, from all formats; clear errors for invalid files."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.videos import (
    VIDEO_BACKENDS,
    access_patterns,
    barcode,
    copy_packets,
    read_barcodes,
    rotate,
    show_by,
    write_sound,
    write_video,
)
from videovit.data.decode import DecodeError, decord_backend, open_video, pyav_backend
from videovit.data.decode.bitstream import is_hidden_vp8, is_idr
from videovit.data.decode.frame_table import FrameTable
from videovit.data.decode.orientation import track_orientations
from videovit.errors import UserError

NUM_FRAMES = 60
Numbered = Callable[..., Path]

needs_decord = pytest.mark.skipif(decord_backend.load_decord() is None, reason="decord is not installed")
backends = pytest.mark.parametrize("backend", VIDEO_BACKENDS)

FILES: dict[str, dict[str, Any]] = {
    "closed.mp4": {},
    "closed.mkv": {},
    "closed.mov": {"fps": Fraction(30000, 1001)},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "intra.mp4": {"keyint": 1, "bframes": 0},
    "one_group.mp4": {"keyint": 250},
    "plain.mp4": {"bframes": 0},
    "vfr.mkv": {"pts": [number + number // 7 * 5 for number in range(NUM_FRAMES)]},
    "open.mp4": {"open_gop": True},
    "open.mkv": {"open_gop": True},
    "refresh.mp4": {"options": {"intra-refresh": "1"}},
    "fast_refresh.mp4": {"options": {"intra-refresh": "1"}, "keyint": 2, "bframes": 0},
    "closed_hevc.mp4": {"codec": "libx265"},
    "open_hevc.mp4": {"codec": "libx265", "open_gop": True},
    "layers_hevc.mp4": {"codec": "libx265", "extra": "temporal-layers=3:b-adapt=0"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.ts": {},
    "h264.flv": {},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "100k"}},
    "ffv1.mkv": {"codec": "ffv1"},
}
TO_PYAV = {
    "open.mp4": "key frames that others refer across",
    "open.mkv": "key frames that others refer across",
    "refresh.mp4": "key frames that others refer across",
    "fast_refresh.mp4": "key frames that others refer across",
    "closed_hevc.mp4": "codec hevc",
    "open_hevc.mp4": "codec hevc",
    "layers_hevc.mp4": "codec hevc",
    "mpeg4.mp4": "codec mpeg4",
    "mpeg4.avi": "codec mpeg4",
    "h264.ts": "container or time stamps",
    "h264.flv": "container or time stamps",
    "ffv1.mkv": "codec ffv1",
}


def file(numbered: Numbered, name: str) -> Path:
    return numbered(name, num_frames=NUM_FRAMES, **FILES[name])


def decode_all(path: Path) -> Tensor:
    """Every frame, by decoding the whole file sequentially."""
    with av.open(str(path)) as container:
        images = [frame.to_ndarray(format="rgb24", interpolation="BICUBIC") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(images))


@backends
@pytest.mark.parametrize("name", FILES)
def test_frames_correct(numbered: Numbered, name: str, backend: str) -> None:
    path = file(numbered, name)
    with open_video(path, backend) as video:
        assert video.num_frames == NUM_FRAMES
        for title, wanted in access_patterns(NUM_FRAMES).items():
            frames = video.frames(np.array(wanted))
            assert frames.dtype == torch.uint8 and frames.shape == (len(wanted), 48, 64, 3)
            assert read_barcodes(frames) == wanted, title


@pytest.mark.parametrize("name", FILES)
def test_seek_equals_sequential(numbered: Numbered, name: str) -> None:
    path = file(numbered, name)
    truth = decode_all(path)
    with open_video(path, "pyav") as video:
        for title, wanted in access_patterns(NUM_FRAMES).items():
            assert torch.equal(video.frames(np.array(wanted)), truth[wanted]), title


@pytest.mark.parametrize("name", ["closed.mp4", "open.mkv", "refresh.mp4", "fast_refresh.mp4", "layers_hevc.mp4"])
def test_seek_equals_sequential_with_motion(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    path = write_video(
        tmp_path / name, num_frames=40, size=(128, 96), draw=lambda i: np.roll(noise, (i, 3 * i), (0, 1)), **FILES[name]
    )
    truth = decode_all(path)
    with open_video(path, "pyav") as video:
        for title, wanted in access_patterns(40).items():
            assert torch.equal(video.frames(np.array(wanted)), truth[wanted]), title


@needs_decord
@pytest.mark.parametrize("name", ["closed.mp4", "closed.mkv", "one_group.mp4", "intra.mp4"])
def test_backends_agree(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    path = write_video(
        tmp_path / name, num_frames=40, size=(160, 120), draw=lambda i: np.roll(noise, 3 * i, axis=1), **FILES[name]
    )
    wanted = np.array([0, 3, 17, 17, 39, 20])
    with open_video(path, "decord") as left, open_video(path, "pyav") as right:
        assert type(left) is not type(right)
        assert (left.num_frames, left.fps) == (right.num_frames, right.fps)
        assert torch.equal(left.frames(wanted), right.frames(wanted))


@needs_decord
@pytest.mark.parametrize("name", FILES)
def test_decord_falls_back_to_pyav(numbered: Numbered, name: str) -> None:
    path = file(numbered, name)
    for _ in range(2):  # the second time from the cache
        with open_video(path, "decord") as video:
            assert isinstance(video, pyav_backend.PyavVideo) == (name in TO_PYAV)
            assert video.served_by == (f"pyav ({TO_PYAV[name]})" if name in TO_PYAV else "decord")


@needs_decord
def test_decord_rechecks_changed_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=30)
    with open_video(path) as video:
        assert isinstance(video, decord_backend.DecordVideo)
    write_video(path, num_frames=31, open_gop=True)
    with open_video(path) as video:
        assert isinstance(video, pyav_backend.PyavVideo) and video.num_frames == 31


@backends
def test_lossless_pixels_exact(numbered: Numbered, backend: str) -> None:
    path = numbered("lossless.mp4", num_frames=NUM_FRAMES, lossless=True)
    with open_video(path, backend) as video:
        frames = video.frames(np.array([0, 59, 33]))
    expected = np.stack([barcode(0), barcode(59), barcode(33)])
    assert np.array_equal(frames.numpy(), expected)


@backends
@pytest.mark.parametrize("name", ["closed.mp4", "open.mp4", "h264.ts", "mpeg4.avi"])
def test_consecutive_windows(numbered: Numbered, name: str, backend: str) -> None:
    with open_video(file(numbered, name), backend) as video:
        for start in (0, 10, 20, 30, 40, 50, 5, 6):
            window = list(range(start, start + 10, 3))
            assert read_barcodes(video.frames(np.array(window))) == window


@backends
def test_fps(numbered: Numbered, backend: str) -> None:
    with open_video(file(numbered, "closed.mov"), backend) as video:
        assert video.fps == pytest.approx(30000 / 1001)


@backends
def test_indices_out_of_range_raise(numbered: Numbered, backend: str) -> None:
    with open_video(file(numbered, "closed.mp4"), backend) as video:
        for wrong in (NUM_FRAMES, -1):
            with pytest.raises(IndexError, match=f"frame {wrong} .* frames 0 to 59"):
                video.frames(np.array([0, wrong]))
        with pytest.raises(ValueError, match="no frames"):
            video.frames(np.array([], dtype=np.int64))
        assert read_barcodes(video.frames(np.array([7]))) == [7]


@backends
def test_single_frame_video(numbered: Numbered, backend: str) -> None:
    with open_video(numbered("one.mp4", num_frames=1), backend) as video:
        assert video.num_frames == 1
        assert video.frames(np.array([0, 0])).shape == (2, 48, 64, 3)


@backends
@pytest.mark.parametrize("first_frame", [24, 30])
def test_stream_copy_cut(numbered: Numbered, tmp_path: Path, first_frame: int, backend: str) -> None:
    # A cut at frame 30 keeps the packets from key frame 24 on; the first six are decoded but not shown.
    path = copy_packets(file(numbered, "closed.mp4"), tmp_path / "cut.mp4", first_frame=first_frame)
    with open_video(path, backend) as video:
        assert video.num_frames == NUM_FRAMES - first_frame
        assert read_barcodes(video.frames(np.array([0, 1, 20, 29]))) == [first_frame + i for i in (0, 1, 20, 29)]


@backends
def test_video_with_audio(numbered: Numbered, tmp_path: Path, backend: str) -> None:
    path = copy_packets(file(numbered, "closed.mp4"), tmp_path / "sound.mp4", add_audio=True)
    with open_video(path, backend) as video:
        assert read_barcodes(video.frames(np.arange(0, 60, 5))) == list(range(0, 60, 5))


@backends
@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_rotation(tmp_path: Path, degrees: int, turns: int, backend: str) -> None:
    path = rotate(write_video(tmp_path / "turned.mp4", num_frames=20, lossless=True), degrees)
    with open_video(path, backend) as video:
        frames = video.frames(np.array([3, 14]))
    expected = np.stack([np.rot90(barcode(3), turns), np.rot90(barcode(14), turns)])
    assert np.array_equal(frames.numpy(), expected)


@backends
@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    ],
)
def test_mirrored_rotation(
    tmp_path: Path, matrix: tuple[int, int, int, int], shown: Callable[[Any], Any], backend: str
) -> None:
    path = show_by(write_video(tmp_path / "mirrored.mp4", num_frames=8, lossless=True), matrix)
    with open_video(path, backend) as video:
        frames = video.frames(np.array([3]))
    assert np.array_equal(frames[0].numpy(), shown(barcode(3)))


def test_decoding_frees_frames(numbered: Numbered) -> None:
    """Frames are freed without garbage collection: 200 frames of 1920x1080 would take half a gigabyte."""
    path = file(numbered, "one_group.mp4")
    gc.collect()
    gc.disable()
    try:
        with open_video(path, "pyav") as video:
            video.frames(np.arange(NUM_FRAMES))
        sizes = [(o.width, o.height) for o in gc.get_objects() if type(o) is av.VideoFrame]
    finally:
        gc.enable()
    assert all(max(size) <= 16 for size in sizes) and len(sizes) <= 2, sizes


def test_mirrored_by_header(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=3)

    def is_mirrored() -> bool:
        return any(orientation.mirrored for orientation in track_orientations(str(path)))

    assert not is_mirrored()
    rotate(path, 90)
    assert not is_mirrored() and any(orientation.turned for orientation in track_orientations(str(path)))
    data = show_by(path, (-1, 0, 0, 1)).read_bytes()
    place = data.index(b"tkhd") + 4
    longer = data[:place] + b"\1" + data[place + 1 :]  # times of 8 bytes shift what follows by 12
    longer = longer[: place + 4] + bytes(12) + longer[place + 4 :]
    for content, expected in {
        data: True,
        longer: True,
        data[: data.index(b"moov") + 4]: False,
        b"\0\0\0\1free" + (24).to_bytes(8, "big") + bytes(8) + data: True,
        b"\0\0\0\0free" + data: False,
        b"\0\0\0\3free" + data: False,
        b"": False,
    }.items():
        path.write_bytes(content)
        assert is_mirrored() == expected, content[:20]


@backends
def test_invalid_file_raises(tmp_path: Path, numbered: Numbered, backend: str) -> None:
    whole = file(numbered, "one_group.mp4").read_bytes()
    for name, content in {
        "empty.mp4": b"",
        "text.mp4": b"this is no video\n" * 100,
        "random.mp4": np.random.default_rng(0).bytes(5000),
        "headless.mp4": whole[: len(whole) // 2],
    }.items():
        (tmp_path / name).write_bytes(content)
    write_sound(tmp_path / "sound.wav")
    (tmp_path / "folder.mp4").mkdir()
    for name, reason in {
        "missing.mp4": "file does not exist",
        "folder.mp4": "a folder without images",
        "empty.mp4": "empty file (0 bytes)",
        "text.mp4": "damaged, or not a video file",
        "random.mp4": "damaged, or not a video file",
        "headless.mp4": "damaged, or not a video file",
        "sound.wav": "no video stream",
    }.items():
        with pytest.raises(DecodeError) as caught:
            open_video(tmp_path / name, backend)
        assert caught.value.path == str(tmp_path / name)
        assert caught.value.reason == reason
        assert reason in str(caught.value) and name in str(caught.value)


@backends
def test_urls_not_opened(backend: str) -> None:
    for address in ("http://127.0.0.1:9/a.mp4", "concat:a.mp4|b.mp4", "\0"):
        with pytest.raises(DecodeError):
            open_video(address, backend)


@backends
def test_damaged_middle_never_wrong_frames(numbered: Numbered, tmp_path: Path, backend: str) -> None:
    path = tmp_path / "cut_off.mkv"
    data = file(numbered, "closed.mkv").read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with open_video(path, backend) as video:
        assert 20 < video.num_frames < NUM_FRAMES
        assert read_barcodes(video.frames(np.arange(12))) == list(range(12))


@backends
def test_real_damaged_clip(shared_clips: Path, backend: str) -> None:
    with pytest.raises(DecodeError, match="damaged"), open_video(shared_clips / "corrupted.mp4", backend) as video:
        video.frames(np.arange(video.num_frames))


@needs_decord
@pytest.mark.parametrize(
    ("name", "num_frames"),
    [("arm_wrestling.mp4", 280), ("test.mp4", 300), ("flipping_a_pancake.mkv", 310), ("rotated_90.mov", 3)],
)
def test_backends_agree_on_real_clips(shared_clips: Path, name: str, num_frames: int) -> None:
    wanted = np.linspace(0, num_frames - 1, 7).astype(np.int64)
    with open_video(shared_clips / name, "decord") as left, open_video(shared_clips / name, "pyav") as right:
        assert left.num_frames == right.num_frames == num_frames
        assert torch.equal(left.frames(wanted), right.frames(wanted))


@pytest.mark.parametrize("name", ["arm_wrestling.mp4", "test.mp4", "av1.mkv", "h264_10bits.mp4"])
def test_seek_equals_sequential_on_real_clips(shared_clips: Path, name: str) -> None:
    truth = decode_all(shared_clips / name)
    rng = np.random.default_rng(0)
    with open_video(shared_clips / name, "pyav") as video:
        for _ in range(3):
            wanted = rng.integers(0, len(truth), 8)
            assert torch.equal(video.frames(wanted), truth[wanted])


def test_stretches_stop_early_and_skip(numbered: Numbered, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    monkeypatch.setattr(
        pyav_backend, "to_rgb", lambda *args, real=pyav_backend.to_rgb, **kw: converted.append(1) or real(*args, **kw)
    )
    with open_video(file(numbered, "closed.mp4"), "pyav") as video:
        assert isinstance(video, pyav_backend.PyavVideo)
        video.frames(np.array([2, 50, 52]))
        assert len(converted) == 3
        stretches = video.table.stretches([2, 50, 52])
    # Every twelfth frame is a key frame, so frame 2 is in the first group and the others are in the fifth.
    assert [stretch.first for stretch in stretches] == [0, 48]
    assert all(stretch.last - stretch.first < 12 for stretch in stretches)


def test_stretches_leading_frames() -> None:
    # Decoding order I0 P3 b1 b2 I6 b4 b5 P9 b7 b8: b4 and b5 are stored after I6 but shown before it.
    pts = np.array([0, 3, 1, 2, 6, 4, 5, 9, 7, 8])
    table = FrameTable(pts=pts, dts=np.arange(10), keys=np.array([0, 4]), shown=np.argsort(pts), seekable=True)
    assert table.has_leading_frames and not table.has_hidden_packets
    assert [(s.first, s.last) for s in table.stretches([4])] == [(0, 5)]
    assert [(s.first, s.last) for s in table.stretches([6, 7])] == [(4, 8)]
    assert [(s.first, s.last, s.wanted_pts) for s in table.stretches([5, 8])] == [(0, 9, frozenset({5, 8}))]
    assert [(s.first, s.last) for s in table.stretches([1, 9])] == [(0, 2), (4, 7)]


def test_can_skip(numbered: Numbered) -> None:
    can_skip = {}
    for name in ("closed.mp4", "closed_hevc.mp4", "layers_hevc.mp4", "mpeg4.mp4"):
        with av.open(str(file(numbered, name))) as container:
            context = container.streams.video[0].codec_context
            can_skip[name] = pyav_backend.can_skip(context.name, context.extradata)
    assert can_skip == {"closed.mp4": True, "closed_hevc.mp4": True, "layers_hevc.mp4": False, "mpeg4.mp4": False}


def test_vp8_hidden_frames() -> None:
    assert is_hidden_vp8(memoryview(bytes([0b0000_0001, 0, 0])))
    assert not is_hidden_vp8(memoryview(bytes([0b0001_0001, 0, 0])))


@pytest.mark.parametrize(("length_size", "prefix"), [(4, b"\0\0\0\2"), (2, b"\0\2"), (0, b"\0\0\1")])
def test_is_idr(length_size: int, prefix: bytes) -> None:
    parameters, idr, other = (prefix + bytes([kind, 0x80]) for kind in (0x67, 0x65, 0x61))
    assert is_idr(memoryview(parameters + idr), length_size)
    assert not is_idr(memoryview(parameters + other), length_size)
    assert not is_idr(memoryview(parameters), length_size)


def test_decode_error_pickles() -> None:
    error = DecodeError("/a.mp4", "file does not exist", "decord")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.reason, copy.backend, str(copy)) == (error.path, error.reason, error.backend, str(error))


def test_unknown_backend_raises() -> None:
    with pytest.raises(UserError, match="unknown decoding backend 'pyva'.*one of decord, .*; did you mean pyav"):
        open_video("a.mp4", "pyva")


def test_decord_missing_uses_pyav(numbered: Numbered) -> None:
    program = (
        "import sys, warnings; sys.modules['decord'] = None\n"
        "from videovit.data.decode import open_video\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        f"    kinds = [type(open_video({str(file(numbered, 'closed.mp4'))!r})).__name__ for _ in range(2)]\n"
        "print(kinds, len(told), 'PyAV' in str(told[0].message))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['PyavVideo', 'PyavVideo'] 1 True"


@backends
def test_decoders_print_nothing(
    tmp_path: Path, numbered: Numbered, backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    with pytest.raises(DecodeError):
        open_video(tmp_path / "text.mp4", backend)
    with open_video(file(numbered, "closed.mp4"), backend) as video:
        video.frames(np.array([3]))
    assert capfd.readouterr() == ("", "")
