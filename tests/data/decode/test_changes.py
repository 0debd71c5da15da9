"""Files whose pictures change midway, at places that no key packet announces."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.helpers.size_changes import check_scaled_to_first, write_parts
from tests.helpers.videos import VIDEO_BACKENDS, write_video
from videovit.data.decode import decord_backend, open_video
from videovit.data.decode.bits import Bits
from videovit.data.decode.frame_table import read_frame_table
from videovit.data.decode.sequence_parameters import all_progressive, sequence_units
from videovit.data.decode.vp9 import frames_of, written_size

backends = pytest.mark.parametrize("backend", VIDEO_BACKENDS)
needs_decord = pytest.mark.skipif(decord_backend.load_decord() is None, reason="decord is not installed")


def packets_of(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def extradata_of(path: Path) -> bytes:
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata or b"")


def join(target: Path, parts: list[Path], *, extradata: bytes | None = None) -> Path:
    """Append the packets of videos of 30 frames/s; without `extradata`, only the first one is called a key packet."""
    with av.open(str(parts[0])) as first, av.open(str(target), "w") as written:
        copy = written.add_stream_from_template(first.streams.video[0])
        if extradata is not None:
            copy.codec_context.extradata = extradata
        number = 0
        for part in parts:
            for packet in packets_of(part):
                moved = av.Packet(bytes(packet))
                moved.pts = moved.dts = number
                moved.time_base, moved.stream = Fraction(1, 30), copy
                moved.is_keyframe = number == 0 or (extradata is not None and packet.is_keyframe)
                written.mux(moved)
                number += 1
    return target


@pytest.mark.parametrize("sizes", [[(64, 48), (96, 48)], [(96, 80), (64, 48)]])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.mkv", {"bframes": 0, "extra": "repeat-headers=1"}),
        ("vp8.webm", {"codec": "libvpx", "options": {"auto-alt-ref": "0", "lag-in-frames": "0"}}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "auto-alt-ref": "0", "lag-in-frames": "0"}}),
    ],
)
@backends
def test_size_change_without_key_flag(
    tmp_path: Path, name: str, arguments: dict[str, Any], sizes: list[tuple[int, int]], backend: str
) -> None:
    path = join(tmp_path / name, write_parts(tmp_path, name, sizes, **arguments))
    check_scaled_to_first(path, sizes[0], backend)


def with_size(frame: bytes, width: int, height: int) -> bytes:
    """A VP9 frame that refers to others for its size, with its size written out instead."""
    bits = "".join(f"{byte:08b}" for byte in frame)
    # frame_type, show_frame, error_resilient_mode follow 2 bits of marker, 2 of profile, show_existing_frame.
    assert bits[:6] == "100001", "profile 0, an inter frame"
    at = 8 + (bits[6] == "0") + (0 if bits[7] == "1" else 2) + 8 + 12
    assert bits[at] == "1", "takes the size of its first reference"
    sizes = f"000{width - 1:016b}{height - 1:016b}"
    changed = bits[:at] + sizes + bits[at + 1 :]
    return int(changed.ljust(8 * (len(frame) + 5), "0"), 2).to_bytes(len(frame) + 5, "big")


def test_written_size_of_vp9_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.webm", num_frames=40, codec="libvpx-vp9", options={"cpu-used": "8"}, keyint=20)
    packets = packets_of(path)
    size = (63).to_bytes(2, "big") + (47).to_bytes(2, "big")
    for packet in packets:
        assert list(frames_of(memoryview(packet))) == [bytes(packet)]
        assert written_size(memoryview(packet)) == (size if packet.is_keyframe else b"")
    # Two frames in a packet: an index of 2 sizes of 2 bytes, between 2 markers
    key, other = bytes(packets[0]), bytes(packets[1])
    index = b"\xc9" + len(key).to_bytes(2, "little") + len(other).to_bytes(2, "little") + b"\xc9"
    assert list(frames_of(memoryview(key + other + index))) == [key, other]
    inter = next(p for p in packets if not p.is_keyframe and bytes(p)[0] >> 2 == 0b100001)
    changed = with_size(bytes(inter), 32, 24)
    assert written_size(memoryview(changed)) == (31).to_bytes(2, "big") + (23).to_bytes(2, "big")


@pytest.mark.parametrize(("width", "same"), [(64, True), (32, False)])
def test_resized_vp9_inter_frame_is_seen(tmp_path: Path, width: int, same: bool) -> None:
    path = write_video(tmp_path / "a.webm", num_frames=9, codec="libvpx-vp9", options={"cpu-used": "8"})
    packets = packets_of(path)
    place = next(i for i, p in enumerate(packets) if not p.is_keyframe and bytes(p)[0] >> 2 == 0b100001)
    changed = av.Packet(with_size(bytes(packets[place]), width, 48))
    changed.pts, changed.dts, changed.time_base = (getattr(packets[place], key) for key in ("pts", "dts", "time_base"))
    table = read_frame_table(
        [*packets[:place], changed, *packets[place + 1 :]], codec="vp9", container_format="matroska,webm"
    )
    assert table.seekable and table.one_size == same


def avcc(first: bytes, second: bytes) -> bytes:
    """The configuration of two H.264 streams in one."""

    def sets(extradata: bytes) -> tuple[bytes, bytes]:
        size = int.from_bytes(extradata[6:8], "big")
        pps = 9 + size
        return extradata[6 : 8 + size], extradata[pps : pps + 2 + int.from_bytes(extradata[pps : pps + 2], "big")]

    (sps, pps), (other_sps, other_pps) = sets(first), sets(second)
    return first[:5] + b"\xe2" + sps + other_sps + b"\x02" + pps + other_pps


@needs_decord
def test_interlacing_that_begins_later(tmp_path: Path) -> None:
    lines = np.zeros((48, 64, 3), dtype=np.uint8)
    lines[0::2], lines[1::2] = (200, 40, 40), (40, 40, 200)
    parts = [
        write_video(
            tmp_path / f"{place}.mp4",
            num_frames=6,
            bframes=0,
            draw=lambda number: np.roll(lines, number * 4, axis=1),
            options={"flags": "+ildct+ilme"} if place else {},
            extra=extra,
        )
        for place, extra in enumerate(["qp=4:fake-interlaced=1", "qp=4:interlaced=1:tff=1:sps-id=1"])
    ]
    path = join(tmp_path / "a.mp4", parts, extradata=avcc(*map(extradata_of, parts)))
    with av.open(str(path)) as container:
        assert [bool(frame.interlaced_frame) for frame in container.decode(video=0)] == [False] * 6 + [True] * 6
    with open_video(path, "pyav") as exact, open_video(path, "decord") as video:
        assert np.array_equal(exact.frames(np.arange(12)).numpy(), video.frames(np.arange(12)).numpy())
        assert video.served_by == "pyav (interlaced)"


@pytest.mark.parametrize("profile", ["baseline", "main", "high", "high444"])
def test_sequence_parameters(tmp_path: Path, profile: str) -> None:
    for extra, expected in {"": True, "interlaced=1": False}.items():
        if profile == "baseline" and extra:
            continue
        path = write_video(
            tmp_path / f"{expected}.mp4",
            num_frames=2,
            bframes=0,
            options={"profile": profile},
            extra=f"{extra or 'ref=2'}:cqm={'jvt' if profile.startswith('high') else 'flat'}",
            lossless=profile == "high444",
        )
        units = sequence_units(extradata_of(path))
        assert len(units) == 1 and all_progressive(units) == expected
        assert not all_progressive([units[0][:6]]), "cut off"


def test_bits() -> None:
    bits = Bits(bytes([0b1010_0110, 0b0100_0000]))
    assert (bits.read(1), bits.read_golomb(), bits.read_golomb()) == (1, 1, 2)
    assert bits.read_signed() == 2 and bits.read(20) == 0
    with pytest.raises(ValueError, match="ends too early"):
        Bits(b"\0\0").read_golomb()
