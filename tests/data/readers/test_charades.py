"""Charades: official lists, PySlowFast's frame lists, and invalid input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videovit.data.dataset import ActionsShown, seconds_of
from videovit.data.files.annotation_files import VideoFolder
from videovit.data.readers import charades, frame_lists
from videovit.data.records import Action, AnnotationError, Sample

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
ROWS = [
    '46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking.",food,"She ""hi"".",c092 11.90 21.20;c147 0.00 12.60,24.83',
    "N11GT,0KZ7,Stairs,6,7,Yes,A person.,,,,18.33",
]
FRAMES = "original_vido_id video_id frame_id path labels"


def write(folder: Path, rows: list[str], name: str = "Charades_v1_train.csv", end: str = "\n") -> Path:
    (folder / name).write_bytes((end.join([HEADER, *rows]) + end).encode())
    return folder


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_read_official_lists(end: str, tmp_path: Path) -> None:
    write(tmp_path, ROWS, end=end)
    write(tmp_path, ROWS[1:], "Charades_v1_test.csv")
    if end == "\r\n":
        file = tmp_path / "Charades_v1_train.csv"
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    (tmp_path / "Charades_v1_480").mkdir()
    (tmp_path / "Charades_v1_480" / "46GP8.mkv").touch()
    samples = charades.read(tmp_path, "train", num_classes=157)
    assert samples == [
        Sample(f"{tmp_path}/Charades_v1_480/46GP8.mkv", actions=(Action(92, 11.9, 21.2), Action(147, 0.0, 12.6))),
        Sample(f"{tmp_path}/Charades_v1_480/N11GT.mp4", actions=()),
    ]
    assert charades.read(tmp_path, "val", num_classes=157, prefix="/v") == [Sample("/v/N11GT.mp4", actions=())]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("a,b,c", "3 fields, expected 11"),
        (ROWS[0], "already listed in line 2"),
        ("X,,,,,,,,,c157 0 1,9", r"class c157 is not in c000..c156 \(MODEL.NUM_CLASSES\)"),
        ("X,,,,,,,,,k001 0 1,9", "expected class, start and end like 'c092 11.90 21.20'"),
        ("X,,,,,,,,,c001 0,9", "expected class, start and end"),
        ("X,,,,,,,,,c001 5 1,9", "expected 0 <= start <= end"),
        ("X,,,,,,,,,c001 1.2.3 4,9", "times are not numbers"),
        ("../X,,,,,,,,,,9", "not the name of a video"),
    ],
)
def test_read_invalid_row_raises(row: str, told: str, tmp_path: Path) -> None:
    write(tmp_path, [*ROWS, row])
    with pytest.raises(AnnotationError, match=rf"train.csv:4: .*\n.*{told}"):
        charades.read(tmp_path, "train", num_classes=157)


def test_invalid_file_raises(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="found no Charades_v1_train.csv or train.csv"):
        charades.read(tmp_path, "train", num_classes=157)
    write(tmp_path, [])
    with pytest.raises(AnnotationError, match="no videos listed"):
        charades.read(tmp_path, "train", num_classes=157)
    (tmp_path / "Charades_v1_train.csv").write_text("id;actions\n")
    with pytest.raises(AnnotationError, match=r"csv:1: id;actions\n +expected a header"):
        charades.read(tmp_path, "train", num_classes=157)


def frames(rows: list[str]) -> str:
    return "\n".join([FRAMES, *rows]) + "\n"


def test_read_frame_lists(tmp_path: Path) -> None:
    labels = ['"5"', '"5,3"', '"3,5"', '"3"', '""', '"3"']
    rows = [f"001YG 0 {i} 001YG/001YG-{i + 1:06d}.jpg {text}" for i, text in enumerate(labels)]
    (tmp_path / "val.csv").write_text(frames([*rows, 'B 1 0 B/B-000001.jpg ""']))
    first, second = charades.read(tmp_path, "val", num_classes=6, prefix="/images", frames_fps=24.0)
    runs = [(5, 0, 3), (3, 1, 4), (3, 5, 6)]
    assert first == Sample("/images/001YG", actions=tuple(Action(k, a / 24, b / 24) for k, a, b in runs), num_frames=6)
    assert second == Sample("/images/B", actions=(), num_frames=1)
    shown = ActionsShown(6)
    per_frame = [shown(first, *seconds_of(_indices(i, i), 24.0)).nonzero()[:, 0].tolist() for i in range(6)]
    assert per_frame == [[5], [3, 5], [3, 5], [3], [], [3]]
    assert shown(first, *seconds_of(_indices(4, 5), 24.0)).nonzero()[:, 0].tolist() == [3]


def _indices(first: int, last: int) -> np.ndarray:
    return np.array([first, last])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("A 0 1 A/2.jpg", "4 fields, expected 5"),
        ('A 0 x A/2.jpg ""', "frame_id 'x' is not a whole number"),
        ('A 0 1 A/2.jpg "6"', "label 6 is not in 0..5"),
        ('A 0 1 A/2.jpg "a"', "label 'a' is not a whole number"),
        ('A 0 1 B/2.jpg ""', r"folder 'B', but video 'A' started in 'A' \(line 2\)"),
        ('A 0 0 A/1.jpg ""', "duplicate, or out of order"),
    ],
)
def test_frame_list_invalid_line_raises(row: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(frames(['A 0 0 A/1.jpg ""', row]))
    with pytest.raises(AnnotationError, match=rf"train.csv:3: .*\n.*{told}"):
        frame_lists.read(file, num_classes=6, fps=24.0)


def test_frame_list_bom_and_crlf(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_bytes(
        b"\xef\xbb\xbf" + frames(['A 0 0 A/1.jpg "5"', "", 'A 0 1 A/2.jpg "5"']).replace("\n", "\r\n").encode()
    )
    assert frame_lists.is_frame_list(file)
    read = frame_lists.read(file, num_classes=6, fps=1.0, prefix="/images")
    assert read == {"A": Sample("/images/A", actions=(Action(5, 0.0, 2.0),), num_frames=2)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist"),
        (FRAMES.encode() + b'\nA 0 0 A/\xff.jpg ""\n', "not UTF-8 text, after line"),
        (FRAMES.encode(), "no frames listed below the header"),
    ],
)
def test_frame_list_invalid_file_raises(content: bytes | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(AnnotationError, match=f"train.csv.*{told}"):
        frame_lists.read(tmp_path / "train.csv", num_classes=6, fps=24.0)


def test_frame_list_outside_prefix_raises(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(frames(['A 0 0 ../../A/1.jpg ""']))
    with pytest.raises(AnnotationError, match=r"csv:2: .*\n.*leads out of DATA.PATH_PREFIX"):
        frame_lists.read(file, num_classes=6, fps=24.0, prefix=str(tmp_path))
    file.write_text("path label\n")
    with pytest.raises(AnnotationError, match="expected the header 'original_vido_id"):
        frame_lists.read(file, num_classes=6, fps=24.0)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ""])
def test_video_folder_path_as_name_raises(name: str, tmp_path: Path) -> None:
    folder = VideoFolder(str(tmp_path), tmp_path, released=(), suffix=".mp4")
    assert folder.path_of("A") == str(tmp_path / "A.mp4")
    with pytest.raises(AnnotationError, match="leads out of the folder"):
        folder.path_of(name)
