"""Files of strangers: what they may open, where they may lead, and how much memory and time they may take."""

from __future__ import annotations

import http.server
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.decode.test_images import write_images
from tests.helpers.runs import TINY, write_config
from tests.helpers.videos import VIDEO_BACKENDS, barcode, copy_packets, read_barcodes, write_video
from videovit.config import load_config
from videovit.data.build import build_decode_options
from videovit.data.decode import DecodeError, DecodeOptions, open_video
from videovit.engine.problem import Problem

# A program, which Ghostscript would run.
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n(x) print\nshowpage\n%%EOF\n"


def written(kind: str) -> bytes:
    """A valid image in a format of Pillow."""
    file = io.BytesIO()
    Image.fromarray(barcode(5)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("content", [EPS, *map(written, ("ICO", "ICNS", "PCX", "TGA", "SGI", "DDS"))])
def test_image_format_outside_of_the_list_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DecodeError, match="a.jpg': not an image, or none of JPEG, PNG"):
        open_video(tmp_path / "a.jpg", "image")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "JPEG2000", "BMP", "PPM", "TIFF", "GIF", "MPO"])
def test_image_format_of_the_list_is_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(written(kind))
    with open_video(tmp_path / "a.jpg", "image") as video:
        assert read_barcodes(video.frames(np.array([0]))) == [5]


def test_image_file_too_large_raises(tmp_path: Path) -> None:
    """Some formats are read into memory as a whole."""
    (tmp_path / "a.webp").write_bytes(written("WEBP"))
    os.truncate(tmp_path / "a.webp", 1 << 40)
    with pytest.raises(DecodeError, match="bytes, too many for an image of DATA.MAX_PIXELS"):
        open_video(tmp_path / "a.webp", "image")


def test_tiff_tile_too_large_raises(tmp_path: Path) -> None:
    """A small image in one tile of a gigapixel, which the decoder would allocate."""
    data = zlib.compress(bytes(1000))
    # Size 64 x 48, 8 bits, deflated, gray; one tile of 30000 x 30000, its place and length.
    tags = [(256, 64), (257, 48), (258, 8), (259, 8), (262, 1), (277, 1), (322, 30_000), (323, 30_000), (324, 8)]
    tags.append((325, len(data)))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DecodeError, match="30000 x 30000 pixels, more than DATA.MAX_PIXELS"):
        open_video(tmp_path / "a.tif", "image")


def test_image_data_set_has_time_limit(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    opts = "TRAIN.DATASET imagenet TEST.DATASET imagenet DATA.NUM_FRAMES 1 MODEL.NUM_CLASSES 2"
    cfg = load_config(
        write_config(tmp_path, TINY), [*opts.split(), "DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.MAX_VIDEO_MB", "7"]
    )
    decoding = Problem(cfg).train.dataset()._decoding
    assert decoding == build_decode_options(cfg, training=True)
    assert (decoding.timeout_s, decoding.max_mb) == (cfg.DATA.DECODE_TIMEOUT_S, 7)


# ----------------------------------------------------------------------------------------- leading out of the folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Frames and a video beside the folder `in`, which must not be reached."""
    (tmp_path / "in").mkdir()
    write_images(tmp_path / "out", [f"{number}.png" for number in range(3)])
    write_video(tmp_path / "out/a.mp4", num_frames=3)
    return tmp_path / "out"


@pytest.mark.parametrize("entry", ["../../out/1.png", "/absolute", "linked/1.png", "link.png"])
def test_frame_list_leading_out_raises(tmp_path: Path, outside: Path, entry: str) -> None:
    folder = write_images(tmp_path / "in/frames", ["0.png"])
    (folder / "linked").symlink_to(outside)
    (folder / "link.png").symlink_to(outside / "1.png")
    entry = str(outside / "1.png") if entry == "/absolute" else entry
    (folder / "v.txt").write_text(f"0.png\n{entry}\n")
    options = DecodeOptions(inside=str(tmp_path / "in"))
    with open_video(folder / "v.txt", "frames", options) as video:
        assert read_barcodes(video.frames(np.array([0]))) == [0]
        with pytest.raises(DecodeError, match="leads out of DATA.PATH_PREFIX"):
            video.frames(np.array([0, 1]))
    with open_video(folder / "v.txt", "frames") as video:  # any place without a prefix
        video.frames(np.array([0, 1]))


@pytest.mark.parametrize("limited", [False, True])
def test_link_leading_out_raises(tmp_path: Path, outside: Path, limited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "in/frames", ["0.png"])
    (folder / "1.png").symlink_to(outside / "1.png")
    (folder / "2.png").symlink_to("0.png")
    (tmp_path / "in/a.mp4").symlink_to(outside / "a.mp4")
    (tmp_path / "in/folder").symlink_to(outside)
    monkeypatch.chdir(tmp_path)
    for prefix in (str(tmp_path / "in"), "in", "./in/"):
        options = DecodeOptions(inside=prefix, timeout_s=20.0 if limited else 0.0)
        with open_video(os.path.join(prefix, "frames"), "frames", options) as video:
            assert read_barcodes(video.frames(np.array([0, 2]))) == [0, 0]
            with pytest.raises(DecodeError, match=r"1.png leads out of DATA.PATH_PREFIX"):
                video.frames(np.array([1]))
        for name in ("a.mp4", "folder"):
            with pytest.raises(DecodeError, match="leads out of DATA.PATH_PREFIX"):
                open_video(os.path.join(prefix, name), "decord", options)


PLAYLISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile '{name}'\n",
    "a.txt": "/videos/a.mp4 0\n",
    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("backend", VIDEO_BACKENDS)
@pytest.mark.parametrize("name", list(PLAYLISTS))
def test_playlist_raises(tmp_path: Path, outside: Path, name: str, backend: str) -> None:
    """Even one of files beside it, which are read if no demuxer is refused."""
    video = copy_packets(outside / "a.mp4", tmp_path / "in/v.ts")
    (tmp_path / "in" / name).write_text(PLAYLISTS[name].format(video=video, name=video.name) * 100)
    with pytest.raises(DecodeError, match="damaged, or a text such as a playlist"):
        open_video(tmp_path / "in" / name, backend)


@pytest.mark.parametrize("backend", VIDEO_BACKENDS)
def test_pattern_in_a_name_is_one_image(tmp_path: Path, backend: str) -> None:
    folder = write_images(tmp_path / "frames", ["a0.jpg", "a1.jpg", "a%d.jpg"])
    with open_video(folder / "a%d.jpg", backend) as video:
        assert video.num_frames == 1 and read_barcodes(video.frames(np.array([0]))) == [2]


@pytest.fixture
def requests() -> Iterator[tuple[int, list[str]]]:
    """A server on this machine: its port, and the requests it received."""
    found: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, found
        server.shutdown()


@pytest.mark.parametrize("backend", VIDEO_BACKENDS)
def test_file_named_like_an_address_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, requests: tuple[int, list[str]]
) -> None:
    """A folder named `http:` makes a path of a list the address of a server."""
    port, found = requests
    path = f"http://127.0.0.1:{port}/a.mp4"
    (tmp_path / path).parent.mkdir(parents=True)
    write_video(tmp_path / path, num_frames=3)
    monkeypatch.chdir(tmp_path)
    with open_video(path, backend) as video:
        assert read_barcodes(video.frames(np.arange(3))) == [0, 1, 2] and video.served_by == backend
    assert not found


@pytest.mark.parametrize("backend", VIDEO_BACKENDS)
def test_escape_sequence_in_a_name_is_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], backend: str
) -> None:
    """decord prints the names of files that only newer decoders can open."""
    path = write_video(tmp_path / "\x1b[2J.mp4", num_frames=3)
    content = bytearray(path.read_bytes())
    place = content.index(b"stco") + 8
    content[place : place + 4] = (2**31).to_bytes(4, "big")  # its length, which newer versions of FFmpeg do not believe
    path.write_bytes(bytes(content))
    with open_video(path, backend) as video:
        assert read_barcodes(video.frames(np.arange(3))) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("backend", [*VIDEO_BACKENDS, "frames"])
def test_frames_that_fill_the_memory_raise(tmp_path: Path, backend: str) -> None:
    """A small file of large frames: 60 of 0.8 MB."""
    if backend == "frames":
        path = write_images(tmp_path / "v", [f"{number}.png" for number in range(60)], size=(640, 432))
    else:
        path = write_video(tmp_path / "v.mp4", num_frames=60, size=(640, 432))
    for _ in range(2):  # decord remembers files
        with open_video(path, backend, DecodeOptions(max_mb=40)) as video:
            assert read_barcodes(video.frames(np.arange(40))) == list(range(40))
        with (
            open_video(path, backend, DecodeOptions(max_mb=40)) as video,
            pytest.raises(
                DecodeError, match="60 frames of 640 x 432 pixels take 50 MB, more than DATA.MAX_VIDEO_MB 40"
            ),
        ):
            video.frames(np.arange(60))
    with open_video(path, backend, DecodeOptions(max_mb=40, short_side=216)) as video:
        assert read_barcodes(video.frames(np.arange(60))) == list(range(60))


@pytest.mark.parametrize("backend", VIDEO_BACKENDS)
def test_long_and_narrow_frames_are_rejected(tmp_path: Path, backend: str) -> None:
    """Scaled for a crop of 224 pixels, 16 frames of 6464 x 64 would take a gigabyte."""
    path = write_video(tmp_path / "a.mp4", num_frames=3, size=(6464, 64))
    with pytest.raises(DecodeError, match="frames of 6464 x 64 pixels: one side is more than 100 times as long as the"):
        open_video(path, backend, DecodeOptions(max_elongation=100))
    with open_video(path, backend) as video:
        assert video.frames(np.array([2])).shape == (1, 64, 6464, 3)


@pytest.mark.parametrize("size", [(4000, 1), (1, 4000)])
def test_long_and_narrow_images_are_rejected(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    for path, backend in ((tmp_path / "a.png", "image"), (tmp_path, "frames")):
        with pytest.raises(DecodeError, match="frames of .*: one side is more than 100 times as long as the other"):
            open_video(path, backend, DecodeOptions(max_elongation=100))
