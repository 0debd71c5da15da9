"""Annotated videos: times, orientation, what is drawn, and that a half-written file never has the name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers.runs import TINY, write_config
from tests.helpers.videos import copy_packets, rotate, write_video
from videovit.config import load_config
from videovit.data.decode import DecodeError
from videovit.data.decode.protocol import DEFAULTS
from videovit.engine.tasks.annotate import annotate, enlargement, labels_at, plan_copies
from videovit.engine.tasks.draw import Painter
from videovit.engine.tasks.labels import Labels, Person, VideoLabels
from videovit.errors import UserError

TOP = [("walk", 0.9), ("sit", 0.1)]


def gray(number: int, size: tuple[int, int] = (320, 240)) -> NDArray[np.uint8]:
    return np.full((size[1], size[0], 3), 100, dtype=np.uint8)


def write_copy(source: Path, target: Path, windows: list[Labels]) -> tuple[list[float], float, NDArray[np.uint8]]:
    """Annotate, and read the copy: times of its pictures, its length in seconds, and the pictures."""
    annotate(VideoLabels(str(source), "", TOP, windows), target, DEFAULTS, quiet=True)
    return read(target)


def read(path: Path) -> tuple[list[float], float, NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        assert not container.streams.audio
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        duration_s = float((stream.duration or 0) * stream.time_base) or container.duration / av.time_base
        first = frames[0].pts
        times = [float((frame.pts - first) * stream.time_base) for frame in frames]
        return times, duration_s, np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("fps", [30, Fraction(30000, 1001), "varies"])
def test_copy_has_the_times_of_the_video(tmp_path: Path, suffix: str, fps: int | Fraction | str) -> None:
    pts = [*range(10), *range(25, 40)] if isinstance(fps, str) else None
    rate = 30 if isinstance(fps, str) else fps
    source = write_video(tmp_path / f"a{suffix}", num_frames=25, fps=rate, pts=pts)
    times_s, duration_s, _ = write_copy(source, tmp_path / "b.mp4", [Labels(0, 1, TOP)])
    expected_s, length_s, _ = read(source)
    assert times_s == pytest.approx(expected_s, abs=1e-4) and duration_s == pytest.approx(length_s, abs=0.002)


def test_sound_is_left_out_and_late_pictures_keep_their_labels(tmp_path: Path) -> None:
    source = copy_packets(
        write_video(tmp_path / "a.mp4", num_frames=30, draw=gray, size=(320, 240)),
        tmp_path / "late.mp4", delay=15360, add_audio=True,
    )  # fmt: skip
    _, _, images = write_copy(source, tmp_path / "b.mp4", [Labels(1.0, 1.5, TOP)])
    drawn = [bool((image != image[-1, -1]).any()) for image in np.where(abs(images.astype(int) - 100) > 30, 1, 0)]
    assert drawn == [True] * 16 + [False] * 14  # second 1 is the first picture


def test_copy_is_upright_and_nothing_but_the_panel_changes(tmp_path: Path) -> None:
    source = rotate(write_video(tmp_path / "a.mp4", num_frames=8, size=(320, 240)), 90)
    _, _, plain = write_copy(source, tmp_path / "plain.mp4", [])
    _, _, images = write_copy(source, tmp_path / "b.mp4", [Labels(0, 9, TOP)])
    assert images.shape == plain.shape == (8, 320, 240, 3)
    expected = np.rot90(read(source)[2], k=-1, axes=(1, 2))
    assert abs(plain.astype(int) - expected).mean() < 3
    below = slice(160, None)
    assert abs(images[:, below].astype(int) - expected[:, below]).mean() < 3
    assert abs(images[:, :40, :100].astype(int) - expected[:, :40, :100]).mean() > 10


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (322, 242), (1280, 720), (240, 1000)])
def test_text_has_a_readable_size(tmp_path: Path, size: tuple[int, int]) -> None:
    source = write_video(tmp_path / "a.mkv", codec="ffv1", num_frames=2, size=size, draw=lambda i: gray(i, size))
    _, _, images = write_copy(source, tmp_path / "b.mp4", [Labels(0, 9, TOP)])
    scale = enlargement(*size)
    assert images.shape[1:3] == (size[1] * scale, size[0] * scale) and min(images.shape[1:3]) >= 240
    painter = Painter(images.shape[2], images.shape[1])
    assert painter.font_size >= 12 and painter.font_size >= min(images.shape[1:3]) // 22
    # White letters on the first line, in every size.
    assert (images[0, : round(1.5 * painter.font_size)].min(axis=-1) > 200).sum() > 20


def test_odd_sizes_are_padded(tmp_path: Path) -> None:
    source = write_video(
        tmp_path / "a.mkv",
        codec="ffv1",
        num_frames=2,
        size=(321, 241),
        pix_fmt="yuv444p",
        draw=lambda i: gray(i, (321, 241)),
    )
    _, _, images = write_copy(source, tmp_path / "b.mp4", [])
    assert images.shape[1:] == (242, 322, 3) and abs(images.astype(int) - 100).max() < 12


def test_names_of_strangers_are_drawn_as_text() -> None:
    painter, image = Painter(640, 480), gray(0, (640, 480))
    names = ["\x1b[31mred", "a\nb\nc", "\u202egnp", "\ud800", "日本", "", "long " * 100]
    for name in names:
        people = (Person((0.1, 0.5, 0.4, 0.9), 0.9, [(name, 0.5)]),)
        assert painter.paint(image, Labels(0, 1, [(name, 0.5)])).shape == image.shape
        assert painter.paint(image, Labels(0, 1, [], people)).shape == image.shape
    # An escape is as long as its letters, and stays on one line.
    one, two = (painter.paint(image, Labels(0, 1, [(name, 0.5)])) for name in ("a\nb", "a\\nb"))
    assert np.array_equal(one, two)


def test_boxes_are_drawn_at_their_place_and_clipped() -> None:
    painter, image = Painter(400, 300), gray(0, (400, 300))
    people = (
        Person((0.25, 0.5, 0.5, 0.9), 0.9, []),
        Person((0.9, 0.9, 1.4, 1.2), 0.9, TOP),
        Person((1, 1, 1, 1), 0.9, TOP),
    )
    painted = painter.paint(image, Labels(0, 1, TOP, people))
    assert (painted[150:152, 100:200] != 100).all() and (painted[150:270, 100:102] != 100).all()
    assert (painted[160:260, 110:190] == 100).all() and (painted[:140, :190] == 100).all()
    assert (painted[290, 370:] != 100).any() and (image == 100).all()


def test_window_shown_at_a_moment_is_the_closest() -> None:
    windows = [Labels(0, 2, [("a", 1)]), Labels(1, 3, [("b", 1)]), Labels(5, 6, [("c", 1)])]
    shown = [labels_at(windows, t) for t in (0, 1.4, 1.6, 4, 5.5)]
    assert [labels.top[0][0] if labels else "" for labels in shown] == ["a", "a", "b", "", "c"]


def test_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mov", codec="png", pix_fmt="rgb24", num_frames=20)
    content = bytearray(source.read_bytes())
    place = content.index(b"\x89PNG", len(content) // 2)
    content[place : place + 8] = bytes(8)
    source.write_bytes(content)
    target = tmp_path / "out" / "b.mp4"
    with pytest.raises(DecodeError):
        annotate(VideoLabels(str(source), "", TOP, []), target, DEFAULTS, quiet=True)
    assert list(target.parent.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        annotate(VideoLabels(str(source), "", TOP, []), tmp_path / "file" / "b.mp4", DEFAULTS, quiet=True)


def test_folder_of_frames_is_annotated(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for i in range(6):
        av.VideoFrame.from_ndarray(gray(i), format="rgb24").to_image().save(tmp_path / "frames" / f"{i}.png")
    times_s, _, images = write_copy(tmp_path / "frames", tmp_path / "b.mp4", [Labels(0, 1, TOP)])
    assert times_s == pytest.approx([i / 30 for i in range(6)], abs=1e-3) and images.shape == (6, 240, 320, 3)


def test_names_of_copies(tmp_path: Path) -> None:
    cfg = load_config(write_config(tmp_path, TINY))
    one, two = tmp_path / "x/a.avi", tmp_path / "y/a.mov"
    for path in (one, two):
        path.parent.mkdir()
        path.write_bytes(b"-")
    both, out = [str(one), str(two)], tmp_path / "out"
    assert plan_copies(cfg, str(out), both) == {both[0]: out / "a.mp4", both[1]: out / "a_2.mp4"}
    assert plan_copies(cfg, str(out / "b.mkv"), both[:1]) == {both[0]: out / "b.mkv"}
    for target, videos, message in (
        (str(out / "b.mp4"), both, "2 videos do not fit into one file, expected a folder|2 videos do not fit"),
        (str(out / "b.avi"), both[:1], r"cannot be written; expected .mp4, .mov, .mkv, or a folder"),
        (str(two), [*both[1:]], "would replace"),
    ):
        with pytest.raises(UserError, match=message):
            plan_copies(cfg, target, videos)
    images = load_config(tmp_path / "tiny.yaml", "TEST.DATASET imagenet DATA.NUM_FRAMES 1 MVIT.PATCH_KERNEL [1,7,7] \
        MVIT.PATCH_STRIDE [1,4,4] MVIT.PATCH_PADDING [0,3,3]".split())  # fmt: skip
    with pytest.raises(UserError, match="classifies still images, which are not annotated"):
        plan_copies(images, str(out), both)
