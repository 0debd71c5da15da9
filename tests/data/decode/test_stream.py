"""Streams: what counts as one, pipes, addresses, and what cannot be opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.rtsp_server import serve_rtsp
from tests.helpers.streams import feed, serve
from tests.helpers.videos import read_barcodes, rotate, write_video
from videovit.data.decode import DecodeError
from videovit.data.decode.protocol import DEFAULTS, DecodeOptions
from videovit.data.decode.stream import StreamReader, is_stream, shown_name


def test_names_of_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    names = ["-", "0", "12", "rtsp://cam/1", "RTSPS://cam", "http://a/b.m3u8", "https://a", "pipe"]
    assert all(map(is_stream, names))
    assert not any(map(is_stream, ["video.mp4", "1.mp4", "absent", ".", "ftp://a", "-1", "²"]))
    Path("0").mkdir()  # a folder of that name comes first
    assert not is_stream("0")


def test_password_is_not_shown() -> None:
    assert shown_name("rtsp://me:secret@cam:554/a@b") == "rtsp://***@cam:554/a@b"
    assert shown_name("http://a/b@c") == "http://a/b@c" and shown_name("-") == "stdin"
    with pytest.raises(DecodeError) as error:
        StreamReader("http://me:secret@127.0.0.1:9/a", DEFAULTS)
    assert "***@127.0.0.1:9/a" in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".h264"])
def test_pipe_has_the_frames_of_the_file(tmp_path: Path, suffix: str) -> None:
    content = write_video(tmp_path / f"a{suffix}", num_frames=30, fps=25).read_bytes()
    with StreamReader(feed(tmp_path, content), DEFAULTS) as reader:
        frames = list(reader.frames())
    assert not reader.live and reader.fps == 25 and reader.num_damaged == 0
    assert read_barcodes([frame.image_HWC for frame in frames]) == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(30)], abs=1e-3)


def test_pictures_are_upright_and_scaled(tmp_path: Path) -> None:
    content = rotate(write_video(tmp_path / "a.mp4", num_frames=3, size=(64, 48)), 90).read_bytes()
    with StreamReader(feed(tmp_path, content), DecodeOptions(short_side=24)) as reader:
        assert next(reader.frames()).image_HWC.shape == (32, 24, 3)


def test_address_without_length_is_live(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.ts", num_frames=30)
    with serve(video, seconds=0.0) as url, StreamReader(url, DEFAULTS) as reader:
        assert reader.live and len(list(reader.frames())) == 30


def test_rtsp_is_live_and_hides_its_password(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.ts", num_frames=30)
    with serve_rtsp(video, password="secret") as url, StreamReader(url, DEFAULTS) as reader:
        # The packet that comes last, of the picture before the last, has no successor that would end it.
        assert reader.live and read_barcodes([frame.image_HWC for frame in reader.frames()])[:28] == list(range(28))
    with pytest.raises(DecodeError, match=r"\*\*\*@127.0.0.1.*Connection refused") as error:
        StreamReader(url, DEFAULTS)
    assert "secret" not in str(error.value)


def test_damaged_packets_are_counted(tmp_path: Path) -> None:
    first = {"movflags": "faststart"}
    video = write_video(tmp_path / "a.mov", codec="png", num_frames=30, pix_fmt="rgb24", container_options=first)
    content = bytearray(video.read_bytes())
    place = content.index(b"\x89PNG", len(content) // 2)
    content[place : place + 8] = bytes(8)
    with StreamReader(feed(tmp_path, bytes(content)), DEFAULTS) as reader:
        assert len(list(reader.frames())) == 29
    assert reader.num_damaged == 1


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    playlist = f"#EXTM3U\n#EXTINF:1,\n{write_video(tmp_path / 'a.ts', num_frames=9)}\n".encode()
    for content, reason in (
        (b"", r"no data: the stream is empty \[stream\]"),
        (b"no video " * 99, "a pipe can carry MPEG-TS and Matroska, but not an mp4 file whose index comes last"),
        (playlist, "stdin|pipe"),
        (write_video(tmp_path / "b.ts", num_frames=9).read_bytes(), "64 x 48 pixels, more than DATA.MAX_PIXELS 100"),
    ):
        with pytest.raises(DecodeError, match=reason):
            StreamReader(feed(tmp_path, content), DecodeOptions(max_pixels=100))
    if not Path("/dev/video987").exists():
        with pytest.raises(DecodeError, match="cannot read video '987': camera number 987 cannot be opened: "):
            StreamReader("987", DEFAULTS)
    with serve(tmp_path / "a.ts", seconds=0, times=0) as url, pytest.raises(DecodeError, match="404 Not Found"):
        StreamReader(url, DEFAULTS)
