"""Files of strangers: lists that are no regular files, JSON that is no text."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from videovit.data.files.annotation_files import read_json, read_lines
from videovit.data.files.class_names import read_class_groups, read_class_names
from videovit.data.readers import charades, frame_lists, image_folder, kinetics
from videovit.data.readers.ava import read_annotation
from videovit.data.readers.label_map import read_label_map
from videovit.data.records import AnnotationError
from videovit.preparation.checks import entries_of_lists
from videovit.preparation.lists import read_table

READERS: dict[str, Callable[[Path], object]] = {
    "lines": read_lines,
    "json": read_json,
    "kinetics": lambda path: kinetics.read(path, num_classes=2),
    "frame list": lambda path: frame_lists.read(path, num_classes=2, fps=24.0),
    "images": lambda path: image_folder.read(path.with_suffix(""), num_classes=2),
    "class names": lambda path: read_class_names(str(path), 2),
    "class groups": lambda path: read_class_groups(str(path), ["a", "b"]),
    "charades": lambda path: charades.read(path.parent, "val", num_classes=2),
    "ava": read_annotation,
    "label map": lambda path: read_label_map(path, 2),
    "table": lambda path: read_table(path, ("label",)),
    "check": lambda path: entries_of_lists(path.parent, classes={"a": 0, "b": 1}),
}


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("reader", list(READERS))
def test_list_that_is_no_regular_file_raises(tmp_path: Path, reader: str, kind: str) -> None:
    """A pipe would block for ever, and a link to a device fill the memory."""
    path = tmp_path / "val.csv"
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
    with pytest.raises(AnnotationError, match=r"val.csv"):
        READERS[reader](path)


def test_line_without_end_raises(tmp_path: Path) -> None:
    with open(tmp_path / "val.csv", "w") as file:
        file.write(" ".join(frame_lists.COLUMNS) + "\n")
        file.truncate(10 << 20)
    with pytest.raises(AnnotationError, match=r"val.csv:2: a line without end"):
        READERS["frame list"](tmp_path / "val.csv")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('["a", "\\ud83d"]', r"a.json:1: \\ud83d is half a character"),
        ('["\\ud83d\\ude00",\n"\\udce4 b"]', r"a.json:2: \\udce4 is half a character"),
        ("[" * 100_000, "JSON that cannot be read"),
        (f'{{"a": 0, "b": {"9" * 5000}}}', "JSON that cannot be read"),
        (f'{{"{"9" * 5000}": "a"}}', "expected name: index"),
    ],
)
def test_class_names_that_are_no_text_raise(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(AnnotationError, match=reason):
        read_class_names(str(tmp_path / "a.json"), 2)


def test_whole_characters_as_two_halves_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["\\ud83d\\ude00", "\\\\ud83d"]')
    assert read_class_names(str(tmp_path / "a.json"), 2) == ["\U0001f600", "\\ud83d"]


@pytest.mark.parametrize("name", [r'"\ud83d"', r'"\x"', r'"\N{no such}"'])
def test_label_map_name_that_is_no_text_raises(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.pbtxt").write_text(f"item {{ name: {name} id: 1 }}")
    with pytest.raises(AnnotationError, match=r"a.pbtxt:1: found"):
        read_label_map(tmp_path / "a.pbtxt", 2)


def test_label_of_thousands_of_digits_raises(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(f"a.mp4 {'1' * 5000}\n")
    with pytest.raises(AnnotationError, match="is not a whole number"):
        READERS["kinetics"](tmp_path / "val.csv")


@pytest.mark.parametrize("reader", ["charades", "table"])
def test_csv_field_without_end_raises(tmp_path: Path, reader: str) -> None:
    (tmp_path / "val.csv").write_text('id,actions,label\n"' + "a" * 200_000)
    with pytest.raises(AnnotationError, match=r"val.csv:\d+: not a CSV file"):
        READERS[reader](tmp_path / "val.csv")
