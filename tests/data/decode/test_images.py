"""Videos stored as images: folders, lists, single files."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.videos import barcode, read_barcodes
from videovit.data.decode import DecodeError, DecodeOptions, open_video


def write_images(folder: Path, names: list[str], size: tuple[int, int] = (64, 48)) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(barcode(number, width=size[0], height=size[1])).save(folder / name)
    return folder


@pytest.mark.parametrize("pattern", ["img_{:05d}.png", "{}.jpg", "clip7_{}.bmp", "a{:03d}_x.PNG"])
def test_open_folder(tmp_path: Path, pattern: str) -> None:
    folder = write_images(tmp_path / "frames", [pattern.format(number) for number in range(12)])
    (folder / "notes.md").write_text("not an image")
    (folder / ".hidden.png").write_text("not an image")
    with open_video(folder, "frames", DecodeOptions(frames_fps=12.0)) as video:
        assert (video.num_frames, video.fps, video.served_by) == (12, 12.0, "frames")
        for wanted in ([0], [11, 2, 2, 10], list(range(12))):
            assert read_barcodes(video.frames(np.array(wanted))) == wanted
        with pytest.raises(IndexError, match="frames 0 to 11"):
            video.frames(np.array([12]))


def test_open_list(tmp_path: Path) -> None:
    write_images(tmp_path / "frames", [f"{number}.png" for number in range(5)])
    text = "frames/4.png\n\nframes/0.png\n" + str(tmp_path / "frames" / "2.png") + "\n"
    (tmp_path / "video.txt").write_text(text)
    (tmp_path / "windows.txt").write_text(text, encoding="utf-8-sig", newline="\r\n")
    for name in ("video.txt", "windows.txt"):
        with open_video(tmp_path / name, "frames") as video:
            assert read_barcodes(video.frames(np.arange(3))) == [4, 0, 2]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif"])
def test_open_image(tmp_path: Path, name: str) -> None:
    Image.fromarray(barcode(0x1234)).save(tmp_path / name)
    with open_video(tmp_path / name, "image") as video:
        assert video.num_frames == 1
        frames = video.frames(np.array([0, 0]))
    assert frames.shape == (2, 48, 64, 3) and read_barcodes(frames) == [0x1234] * 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_image_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(barcode(0x1234)).convert(mode).save(path)
    with open_video(path, "image") as video:
        assert np.array_equal(video.frames(np.array([0]))[0], barcode(0x1234))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_gray(tmp_path: Path, name: str) -> None:
    shades = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 64 48 65535\n" + shades.astype(">u2").tobytes())
    else:
        Image.fromarray(shades).save(tmp_path / name)
    with open_video(tmp_path / name, "image") as video:
        image = video.frames(np.array([0]))[0].numpy()
    assert np.array_equal(image, np.repeat((shades // 256).astype(np.uint8)[..., None], 3, axis=-1))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_gray_raises(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "a.tif")
    with pytest.raises(DecodeError, match="32 bits"), open_video(tmp_path / "a.tif", "image") as video:
        video.frames(np.array([0]))


@pytest.mark.parametrize("short_side", [0, 24])
def test_rotation(tmp_path: Path, short_side: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # display it rotated by 90 degrees clockwise
    Image.fromarray(barcode(5)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    with open_video(tmp_path / "a.jpg", "image", DecodeOptions(short_side=short_side)) as video:
        frames = video.frames(np.array([0])).numpy()
    assert frames.shape == ((1, 32, 24, 3) if short_side else (1, 64, 48, 3))
    assert read_barcodes(np.rot90(frames, axes=(1, 2))) == [5]


def test_invalid_image_raises(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", [f"{number}.png" for number in range(5)])
    data = (folder / "3.png").read_bytes()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "video.mp4").write_bytes(data)
    for name, reason in {
        "missing": "file does not exist",
        "empty": "a folder without images",
        "empty.txt": "a list without images",
        "video.mp4": "neither a folder of images nor a list",
    }.items():
        with pytest.raises(DecodeError, match=reason):
            open_video(tmp_path / name, "frames")
    with pytest.raises(DecodeError, match="5 frames, more than DATA.MAX_FRAMES 4"):
        open_video(folder, "frames", DecodeOptions(max_frames=4))
    with pytest.raises(DecodeError, match="64 x 48 pixels, more than DATA.MAX_PIXELS 3000"):
        open_video(folder, "frames", DecodeOptions(max_pixels=3000))
    for content, reason in {data[: len(data) // 2]: "3.png: ", b"text": "3.png: not an image"}.items():
        (folder / "3.png").write_bytes(content)
        with open_video(folder, "frames") as video:
            assert read_barcodes(video.frames(np.array([2, 4]))) == [2, 4]
            with pytest.raises(DecodeError, match=reason):
                video.frames(np.array([2, 3]))
    write_images(folder, [f"{number}.png" for number in range(2)], size=(32, 48))
    with open_video(folder, "frames") as video, pytest.raises(DecodeError, match="64 x 48 pixels, others 32 x 48"):
        video.frames(np.array([1, 2]))


def test_video_as_image_raises(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"this is no image" * 9)
    with pytest.raises(DecodeError, match=r"'.*a.png': not an image"):
        open_video(tmp_path / "a.png", "image")


@pytest.mark.parametrize("exif", [bytes(range(64, 128)), b"", b"II*\0\x08\0\0\0\x05\0", b"II*\0\xff\xff\xff\xff"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_damaged_exif_keeps_pixels(tmp_path: Path, name: str, exif: bytes) -> None:
    """Viewers show the picture as stored."""
    options = {"lossless": True} if name == "a.webp" else {"quality": 95}
    Image.fromarray(barcode(5)).save(tmp_path / name, exif=b"Exif\0\0" + exif, **options)
    with open_video(tmp_path / name, "image") as video:
        assert read_barcodes(video.frames(np.array([0]))) == [5]


def chunk(kind: bytes, data: bytes, *, valid: bool = True) -> bytes:
    checksum = zlib.crc32(kind + data) if valid else 5
    return len(data).to_bytes(4, "big") + kind + data + checksum.to_bytes(4, "big")


def segment(number: int, data: bytes) -> bytes:
    return bytes([0xFF, 0xE0 + number]) + (len(data) + 2).to_bytes(2, "big") + data


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("a.png", chunk(b"tEXt", b"a\0b", valid=False)),
        ("a.png", chunk(b"pHYs", b"\0")),
        ("a.png", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5 << 20)))),
        ("a.png", chunk(b"acTL", b"\0")),
        *[
            ("a.png", chunk(kind, b"\0", valid=valid))
            for kind in (b"gAMA", b"cHRM", b"tRNS")
            for valid in (True, False)
        ],
        ("a.jpg", segment(0, b"JFIF")),
        ("a.jpg", segment(0, b"JFIF\0\1")),
        ("a.jpg", segment(14, b"Adobe")),
        ("a.jpg", segment(14, b"Adobe\0d")),
        ("a.jpg", segment(2, b"ICC_PROFILE\0")),
        ("a.jpg", segment(13, b"Photoshop 3.0\08BIM")),
    ],
)
def test_damaged_metadata_keeps_pixels(tmp_path: Path, name: str, damaged: bytes) -> None:
    path = tmp_path / name
    exif = Image.Exif()
    exif[0x0112] = 3  # display it upside down
    Image.fromarray(barcode(5)[::-1, ::-1]).save(path, exif=exif, quality=95)
    content = path.read_bytes()
    place = 33 if name == "a.png" else 2
    path.write_bytes(content[:place] + damaged + content[place:])
    with open_video(path, "image") as video:
        assert read_barcodes(video.frames(np.array([0]))) == [5]
    # What is cut off is not made up.
    path.write_bytes(content[:place] + damaged + content[place : len(content) // 2])
    with pytest.raises(DecodeError), open_video(path, "image") as video:
        video.frames(np.array([0]))


@pytest.mark.parametrize("junk", [b"junk", b"\xff\x01", b"\xff\x02ab", b"\0\xffz", b"\xff\xd0"])
@pytest.mark.parametrize("before", [b"", segment(13, b"Photoshop 3.0\08BIM")])
@pytest.mark.parametrize("marker", [b"\xff\xdb", b"\xff\xda"])
def test_junk_between_markers_of_jpeg_keeps_pixels(tmp_path: Path, junk: bytes, before: bytes, marker: bytes) -> None:
    """libjpeg skips it; markers that JPEG reserves or that have no content are junk too."""
    Image.fromarray(barcode(5)).save(tmp_path / "a.jpg", quality=95)
    content = (tmp_path / "a.jpg").read_bytes()
    place = content.index(marker)
    (tmp_path / "a.jpg").write_bytes(content[:2] + before + content[2:place] + junk + content[place:])
    with open_video(tmp_path / "a.jpg", "image") as video:
        assert read_barcodes(video.frames(np.array([0]))) == [5]


@pytest.mark.parametrize("kind", [b"tEXt", b"pHYs", b"eXIf"])
@pytest.mark.parametrize("length", [3, 50, 100_000, 2**31, 2**32 - 1])
def test_damaged_length_of_png_chunk_keeps_pixels(tmp_path: Path, kind: bytes, length: int) -> None:
    """The picture begins inside of the chunk, or the chunk seems to end after the file."""
    Image.fromarray(barcode(5)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    damaged = length.to_bytes(4, "big") + chunk(kind, b"a\0b c")[4:]
    (tmp_path / "a.png").write_bytes(content[:33] + damaged + content[33:])
    with open_video(tmp_path / "a.png", "image") as video:
        assert read_barcodes(video.frames(np.array([0]))) == [5]
    # What is cut off is not made up.
    (tmp_path / "a.png").write_bytes(content[:33] + damaged + content[33 : content.index(b"IDAT") + 20])
    with pytest.raises(DecodeError), open_video(tmp_path / "a.png", "image") as video:
        video.frames(np.array([0]))


def test_damaged_orientation_of_png_keeps_pixels(tmp_path: Path) -> None:
    Image.fromarray(barcode(5)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:33] + chunk(b"eXIf", b"II*\0", valid=False) + content[33:])
    with open_video(tmp_path / "a.png", "image") as video:
        assert read_barcodes(video.frames(np.array([0]))) == [5]


def test_color_transform_is_kept_when_metadata_are_removed(tmp_path: Path) -> None:
    """A JPEG of RGB says so in APP14 only."""
    path = tmp_path / "a.jpg"
    picture = np.full((48, 64, 3), (200, 40, 90), dtype=np.uint8)
    Image.fromarray(picture).save(path, keep_rgb=True, quality=95)
    content = path.read_bytes()
    path.write_bytes(content[:2] + segment(13, b"Photoshop 3.0\08BIM") + segment(0, b"JFIF") + content[2:])
    with open_video(path, "image") as video:
        assert np.abs(video.frames(np.array([0]))[0].numpy().astype(int) - picture).max() <= 2


def test_many_scans_raise(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(barcode(5)).save(path, progressive=True, quality=95)
    with open_video(path, "image") as video:
        assert read_barcodes(video.frames(np.array([0]))) == [5]
    content = path.read_bytes()
    # The last scan again and again: 2 bytes of marker, and no other marker behind it but the end
    last = content[content.rindex(b"\xff\xda") : -2]
    path.write_bytes(content[:-2] + last * 2000 + content[-2:])
    with pytest.raises(DecodeError, match="a JPEG of 2,0.. scans, more than 100"):
        open_video(path, "image")


def test_error_names_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"this is no image" * 9)
    with pytest.raises(DecodeError, match=r"cannot read image '.*a.jpg'"):
        open_video(tmp_path / "a.jpg", "image")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_image_as_video_has_one_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (16, 8), (200, 100, 50)).save(path)
    with open_video(str(path), "pyav", DecodeOptions()) as video:
        assert video.num_frames == 1
        for _ in range(2):
            frames = video.frames(np.zeros(1, dtype=np.int64))
            assert frames.shape == (1, 8, 16, 3) and abs(int(frames[0, 4, 8, 0]) - 200) < 8
