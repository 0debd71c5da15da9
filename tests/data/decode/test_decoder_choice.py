"""Files that two decoders may read in two ways: flags, streams, sizes, orientation, interlacing, empty samples."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.helpers.size_changes import check_scaled_to_first, write_parts
from tests.helpers.videos import VIDEO_BACKENDS, barcode, read_barcodes, rotate, write_video
from videovit.data.decode import decord_backend, open_video, pyav_backend
from videovit.data.decode.bitstream import is_entry, nal_length_size, nal_units, picture_setup
from videovit.data.decode.frame_index import FrameIndex
from videovit.data.decode.located import check_file
from videovit.data.decode.protocol import Indices
from videovit.data.decode.pyav_backend import open_pyav

Numbered = Callable[..., Path]
NUM_FRAMES = 60
SPREAD = np.array([3, 20, 24, 33, 47, 59])
backends = pytest.mark.parametrize("backend", VIDEO_BACKENDS)
needs_decord = pytest.mark.skipif(decord_backend.load_decord() is None, reason="decord is not installed")
# x264's message: the picture is to be rotated by 180 degrees.
TURNED_BY_MESSAGE = bytes([0, 0, 0, 7, 0x06, 0x2F, 0x03, 0x10, 0x00, 0x09, 0x80])


def numbers(path: Path, backend: str, indices: Indices = SPREAD) -> list[int]:
    with open_video(path, backend) as video:
        return read_barcodes(video.frames(indices))


def remux(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """Copy a video to another container, with changed packets."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.size:
                change(packet)
                packet.stream = copy
                written.mux(packet)
    return target


def store_decoding_time(packet: Any) -> None:
    packet.pts = packet.dts


def join(target: Path, parts: list[Path]) -> Path:
    """Append the packets of videos of two seconds each, with the header of the first."""
    with av.open(str(target), "w") as written:
        copy = None
        for place, part in enumerate(parts):
            with av.open(str(part)) as read:
                stream = read.streams.video[0]
                copy = copy or written.add_stream_from_template(stream)
                for packet in read.demux(stream):
                    if packet.size and packet.time_base is not None:
                        packet.pts += int(2 * place / packet.time_base)
                        packet.dts += int(2 * place / packet.time_base)
                        packet.stream = copy
                        written.mux(packet)
    return target


@backends
def test_header_without_sync_samples(tmp_path: Path, backend: str) -> None:
    """Without a box `stss` all packets of an mp4 file count as key packets."""
    path = write_video(tmp_path / "a.mp4", num_frames=NUM_FRAMES, bframes=0, keyint=250)
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    assert numbers(path, backend) == SPREAD.tolist()


@backends
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.mkv", {"bframes": 0}),
        ("hevc.mkv", {"codec": "libx265"}),
        ("vp8.webm", {"codec": "libvpx"}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}}),
        ("ffv1.mkv", {"codec": "ffv1"}),
        ("mpeg4.mp4", {"codec": "mpeg4", "bframes": 0}),
        ("mpeg2.mkv", {"codec": "mpeg2video"}),
    ],
)
def test_all_packets_flagged_as_key(tmp_path: Path, name: str, arguments: dict[str, Any], backend: str) -> None:
    def flag(packet: Any) -> None:
        packet.is_keyframe = True

    noise = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    source = write_video(
        tmp_path / f"source_{name}",
        num_frames=NUM_FRAMES,
        size=(128, 96),
        draw=lambda number: np.roll(noise, (number, 3 * number), (0, 1)),
        **arguments,
    )
    path = remux(source, tmp_path / name, flag)
    with av.open(str(source)) as container:
        truth = [frame.to_ndarray(format="rgb24", interpolation="BICUBIC") for frame in container.decode(video=0)]
    with open_video(path, backend) as video:
        assert video.num_frames == NUM_FRAMES
        assert np.array_equal(video.frames(SPREAD).numpy(), np.stack(truth)[SPREAD])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@backends
def test_default_stream_shown(tmp_path: Path, suffix: str, first: int, backend: str) -> None:
    """Of two video streams, the one that its flag makes the default, of whatever size."""
    path = tmp_path / f"two{suffix}"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=30, options={"bf": "0"}) for _ in range(2)]
        for place, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64 + 32 * place, 48, "yuv420p"
            stream.disposition = Disposition.default if place == first else Disposition(0)
        for number in range(NUM_FRAMES):
            for place, stream in enumerate(streams):
                image = barcode(number + 100 * (place != first), width=stream.width)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    assert numbers(path, backend) == SPREAD.tolist()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.mkv", {"bframes": 0, "extra": "repeat-headers=1"}),
        ("vp8.webm", {"codec": "libvpx"}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}}),
    ],
)
@pytest.mark.parametrize("sizes", [[(64, 48), (96, 48)], [(96, 80), (64, 48)]])
@backends
def test_size_change_scaled_to_first(
    tmp_path: Path, name: str, arguments: dict[str, Any], sizes: list[tuple[int, int]], backend: str
) -> None:
    path = join(tmp_path / name, write_parts(tmp_path, name, sizes, **arguments))
    check_scaled_to_first(path, sizes[0], backend)


def upside_down(number: int) -> Any:
    return barcode(number)[::-1, ::-1]


@backends
@pytest.mark.parametrize(("codec", "target"), [("libx264", "a.mkv"), ("libx264", "a.mov"), ("libvpx-vp9", "a.webm")])
def test_orientation_in_any_container(tmp_path: Path, codec: str, target: str, backend: str) -> None:
    path = write_video(tmp_path / "turned.mp4", num_frames=NUM_FRAMES, codec=codec, bframes=0, draw=upside_down)
    path = remux(rotate(path, 180), tmp_path / target, lambda packet: None)
    assert numbers(path, backend) == SPREAD.tolist()


@backends
@pytest.mark.parametrize("target", ["a.mp4", "a.mkv"])
def test_orientation_in_stream(tmp_path: Path, target: str, backend: str) -> None:
    """A message before each key picture holds until the next one."""
    source = write_video(tmp_path / "source.mp4", num_frames=NUM_FRAMES, bframes=0, draw=upside_down)
    with av.open(str(source)) as read, av.open(str(tmp_path / target), "w") as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.size:
                data = (TURNED_BY_MESSAGE if packet.is_keyframe else b"") + bytes(packet)
                turned = av.Packet(data)
                turned.pts, turned.dts, turned.time_base = packet.pts, packet.dts, packet.time_base
                turned.is_keyframe, turned.duration, turned.stream = packet.is_keyframe, packet.duration, copy
                written.mux(turned)
    assert numbers(tmp_path / target, backend) == SPREAD.tolist()


@backends
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_interlaced_colors(tmp_path: Path, name: str, backend: str) -> None:
    """The lines of interlaced pictures alternate in color; old converters blend neighbors."""
    lines = np.zeros((48, 64, 3), dtype=np.uint8)
    lines[0::2], lines[1::2] = (200, 40, 40), (40, 40, 200)
    path = write_video(
        tmp_path / name,
        num_frames=6,
        bframes=0,
        draw=lambda number: np.roll(lines, number * 4, axis=1),
        options={"flags": "+ildct+ilme"},
        extra="interlaced=1:tff=1:qp=4",
    )
    with open_video(path, "pyav") as exact, open_video(path, backend) as video:
        assert np.array_equal(exact.frames(np.arange(6)).numpy(), video.frames(np.arange(6)).numpy())


@backends
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"qscale": "2"}}),
        ("a.mp4", {"keyint": 1, "bframes": 0}),
    ],
)
def test_empty_samples_skipped(tmp_path: Path, name: str, arguments: dict[str, Any], backend: str) -> None:
    """A sample of no bytes shows nothing new; the pictures after it are still there, at their times."""
    path = write_video(tmp_path / name, num_frames=NUM_FRAMES, **arguments)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places, sizes = ([int(getattr(packet, key) or 0) for packet in packets] for key in ("pos", "size"))
    emptied = (10, 30, 31)
    for place in emptied:
        sizes[place] = 0

    # One chunk per sample, so that the sizes do not move the samples.
    content = path.read_bytes()
    for kind, rows in {
        b"stsz": [0, NUM_FRAMES, *sizes],
        b"stsc": [1, 1, 1, 1],
        b"stco": [NUM_FRAMES, *places],
    }.items():
        content = _replace_box(content, kind, bytes(4) + b"".join(row.to_bytes(4, "big") for row in rows))
    path.write_bytes(content)
    expected = [number for number in range(NUM_FRAMES) if number not in emptied]
    with open_video(path, backend) as video:
        assert video.num_frames == len(expected)
        for wanted in ([0, 9, 10, 40, 56], [12], [56]):
            assert read_barcodes(video.frames(np.array(wanted))) == [expected[index] for index in wanted]
        assert video.num_frames / video.fps == pytest.approx(2, abs=0.04)


def _replace_box(content: bytes, kind: bytes, body: bytes) -> bytes:
    """An mp4 file, its header last, with another content of one box of the sample table."""
    place = content.index(kind) - 4
    size = int.from_bytes(content[place : place + 4], "big")
    grown = 8 + len(body) - size
    content = content[:place] + (8 + len(body)).to_bytes(4, "big") + kind + body + content[place + size :]
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = content.rindex(parent) - 4
        whole = int.from_bytes(content[at : at + 4], "big") + grown
        content = content[:at] + whole.to_bytes(4, "big") + content[at + 4 :]
    return content


@needs_decord
def test_decord_reads_ordinary_files(numbered: Numbered) -> None:
    for name in ("a.mp4", "a.mkv", "a.mov"):
        with open_video(numbered(f"guard_{name}", num_frames=NUM_FRAMES)) as video:
            assert video.served_by == "decord"


def test_is_entry() -> None:
    def unit(*data: int) -> bytes:
        return bytes([0, 0, 0, len(data), *data])

    recovery, other_message = unit(6, 6, 1, 0xC4, 0x80), unit(6, 5, 2, 6, 1, 0x80)
    for packet, expected in {
        unit(0x65, 0x80): True,
        recovery + unit(0x41, 0x80): True,
        other_message + unit(0x41, 0x80): False,
        unit(0x41, 0x80) + recovery: False,
        unit(6, 5, 255, 1) + unit(0x41): False,
        b"": False,
    }.items():
        assert is_entry("h264", memoryview(packet), 4) == expected, packet
    assert is_entry("hevc", memoryview(unit(0x40, 1) + unit(0x26, 1)), 4)
    assert not is_entry("hevc", memoryview(unit(0x40, 1) + unit(0x02, 1)), 4)
    # frame marker 10, profile 0 or 3, no existing frame shown, frame type
    for first, expected in {0b1000_0010: True, 0b1000_0110: False, 0b1011_0001: True, 0b1011_0011: False}.items():
        assert is_entry("vp9", memoryview(bytes([first, 0])), 0) == expected
    assert is_entry("prores", memoryview(b""), 0)


def test_picture_setup_and_nal_units() -> None:
    assert nal_length_size("h264", bytes([1, 0, 0, 0, 0xFF])) == 4 and nal_length_size("h264", b"\0\0\1") == 0
    assert nal_length_size("hevc", bytes([1, *[0] * 20, 0xFD])) == 2 and nal_length_size("vp9", bytes(30)) == 0
    stream = memoryview(b"\0\0\1\x67abc\0\0\1\x65x")
    assert [bytes(unit) for unit in nal_units(stream, 0)] == [b"\x67abc", b"\x65x"]
    assert picture_setup("h264", stream, 0) == b"\x67abc"
    # VP9 key frame of 640 x 480, coded as 639 and 479 after 36 bits
    header = (0b1000_0010 << 64 | 0x498342 << 40 | 0b0010 << 36 | 639 << 20 | 479 << 4).to_bytes(9, "big")
    assert picture_setup("vp9", memoryview(header), 0) == (639 << 16 | 479).to_bytes(4, "big")


@backends
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_decoding_times_as_presentation_times(tmp_path: Path, codec: str, backend: str) -> None:
    """Some recorders store them; players show the pictures in the order in which they leave the decoder."""
    source = write_video(tmp_path / "source.mp4", num_frames=NUM_FRAMES, codec=codec, bframes=2)
    path = remux(source, tmp_path / "a.mkv", store_decoding_time)
    assert numbers(path, backend) == SPREAD.tolist()
    assert numbers(path, backend, SPREAD[1:2]) == SPREAD[1:2].tolist()


@backends
@pytest.mark.parametrize(("first", "second"), [(10, 11), (12, 14), (13, 21)])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bframes": 2}),
        ("libx264", {"bframes": 0}),
        ("libx265", {"bframes": 3}),
        ("libx265", {"bframes": 0}),
        ("mpeg4", {"bframes": 2}),
        ("mpeg2video", {"bframes": 2}),
        ("libvpx", {"options": {"auto-alt-ref": "0", "lag-in-frames": "0"}}),
        ("libvpx-vp9", {"options": {"cpu-used": "8"}}),
    ],
)
def test_exchanged_time_stamps(
    tmp_path: Path, codec: str, options: dict[str, Any], first: int, second: int, backend: str
) -> None:
    """Two pictures have each other's time stamps; they are shown in the order in which the decoder returns them."""
    source = write_video(tmp_path / "source.mkv", num_frames=NUM_FRAMES, codec=codec, keyint=16, **options)
    with av.open(str(source)) as container:
        stamps = sorted(packet.pts for packet in container.demux(video=0) if packet.size)
    exchanged = {stamps[first]: stamps[second], stamps[second]: stamps[first]}

    positions = count(-NUM_FRAMES)

    def exchange(packet: Any) -> None:
        packet.dts = next(positions)  # Matroska does not store it, but the muxer refuses earlier presentation times
        packet.pts = exchanged.get(packet.pts, packet.pts)

    path = remux(source, tmp_path / "a.mkv", exchange)
    everything = np.arange(NUM_FRAMES)
    assert numbers(path, backend, everything) == everything.tolist()
    for wanted in ([first], [second]):
        assert numbers(path, backend, np.array(wanted)) == wanted
    # Sound files are still read by seeking.
    assert numbers(source, backend, everything) == everything.tolist()
    with open_pyav(str(source)) as video:
        assert video.table.seekable


def test_exchanged_time_stamps_of_long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of long files only the packets around the wanted frames are read."""
    monkeypatch.setattr(pyav_backend, "LONG_S", 0.5)
    source = write_video(tmp_path / "source.mp4", num_frames=4 * NUM_FRAMES, bframes=2)
    with av.open(str(source)) as container:
        stamps = sorted(packet.pts for packet in container.demux(video=0) if packet.size)
    exchanged = {stamps[150]: stamps[151], stamps[151]: stamps[150]}

    def exchange(packet: Any) -> None:
        packet.pts = exchanged.get(packet.pts, packet.pts) + 4 * (stamps[1] - stamps[0])

    path = remux(source, tmp_path / "a.mp4", exchange)
    with open_video(path, "pyav") as video:
        assert isinstance(pyav_backend.TABLES.find(str(path), check_file(str(path), "pyav")), FrameIndex)
        for wanted in ([20, 40], [150], [151], [20, 149, 150, 151, 152, 239]):
            assert read_barcodes(video.frames(np.array(wanted))) == wanted
