"""Class names and groups from the file formats in circulation."""

import json
import os
from pathlib import Path

import pytest

from videovit.data.files.class_names import read_class_groups, read_class_names
from videovit.data.records import AnnotationError


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(["a", "b c"]),
        json.dumps({"b c": 1, "a": 0}),
        json.dumps({"0": "a", "1": "b c"}),
        json.dumps({'"b c"': 1, '"a"': 0}),
    ],
)
def test_read_class_names_json(tmp_path: Path, content: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    assert read_class_names(str(path), 2) == ["a", "b c"]


def test_read_class_names_text_bom_crlf(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffa\r\nb c\r\n\r\n".encode())
    assert read_class_names(str(path), 2) == ["a", "b c"]


def test_read_class_names_default_and_folder(tmp_path: Path) -> None:
    assert read_class_names("", 2) == ["class 0", "class 1"]
    (tmp_path / "names.txt").write_text("x\ny\n")
    assert read_class_names("names.txt", 2, str(tmp_path)) == ["x", "y"]
    with pytest.raises(
        AnnotationError,
        match=f"^nams.txt .DATA.CLASS_NAMES_FILE.: no such file, nor {tmp_path}/nams.txt",
    ):
        read_class_names("nams.txt", 2, str(tmp_path))


def test_read_class_names_invalid_raises(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('["a"]')
    with pytest.raises(AnnotationError, match="1 class name, but MODEL.NUM_CLASSES is 2"):
        read_class_names(str(path), 2)
    with pytest.raises(AnnotationError, match="did you mean .*classes.json"):
        read_class_names(str(tmp_path / "clases.json"), 2)
    path.write_text('{"a": 0, "b": 0}')
    with pytest.raises(AnnotationError, match="two classes have the same index"):
        read_class_names(str(path), 2)
    path.write_text('["a",\n"b"')
    with pytest.raises(AnnotationError, match="classes.json:2: not JSON"):
        read_class_names(str(path), 2)
    for content, told in (('{"a": -1, "b": 0}', "index -1 of 'a'"), ('{"a": 0, "b": 1e18}', "expected name: index")):
        path.write_text(content)
        with pytest.raises(AnnotationError, match=told):
            read_class_names(str(path), 2)
    for content, told in (
        ('{"a": true, "b": false}', "expected name: index"),
        ('["a", ["b"]]', "found .*b.*expected a name"),
    ):
        path.write_text(content)
        with pytest.raises(AnnotationError, match=told):
            read_class_names(str(path), 2)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(AnnotationError, match="a pipe or a device, expected a file"):
        read_class_names(str(tmp_path / "pipe.json"), 2)
    path.write_text('{"a": 0, "b": 5000000000}')  # more than there are names
    with pytest.raises(AnnotationError, match="index 5000000000 of 'b'"):
        read_class_names(str(path), None)
    path.write_text('{"²": "a"}', encoding="utf-8")
    with pytest.raises(AnnotationError, match="expected name: index"):
        read_class_names(str(path), 1)
    path.with_suffix(".txt").write_bytes("ärgern\n".encode("latin-1"))
    with pytest.raises(AnnotationError, match="classes.txt:1: not UTF-8 text"):
        read_class_names(str(path.with_suffix(".txt")), 1)


@pytest.mark.parametrize("content", [["a", "b"], {"a": 0, "b": 1}, {"0": "a", "1": "b"}])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_read_class_names_other_number_names_the_right_one(content: object, num_classes: int, tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=f"2 class names, but MODEL.NUM_CLASSES is {num_classes}.*NUM_CLASSES 2"):
        read_class_names(str(path), num_classes)
    path.write_text('{"b": 2}')
    assert read_class_names(str(path), 3) == ["class 0", "class 1", "b"]


def test_read_class_groups(tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    path.write_text('{"motion": ["left", 1], "rest": ["ring"]}')
    assert read_class_groups(str(path), ["left", "right", "ring"]) == {"motion": [0, 1], "rest": [2]}
    assert read_class_groups("", ["left"]) == {}
    path.write_text('{"motion": ["lefd"]}')
    with pytest.raises(AnnotationError, match="unknown class 'lefd'; did you mean left"):
        read_class_groups(str(path), ["left", "right"])
