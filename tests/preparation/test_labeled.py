"""Own videos in class folders and tables: what is read, what is left out, and how the rest is divided."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.videos import write_video
from videovit.data.records import AnnotationError
from videovit.preparation.labeled import LabeledVideos, leave_out_unusable, read_class_folders, read_labels_table
from videovit.preparation.splits import SPLITS, stratified_split

Write = Callable[[str], Path]
SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("walk/a.mp4")`: a video in the folder of the test, each with other pixels."""
    number = iter(range(1000))

    def one(name: str) -> Path:
        color = np.full((16, 16, 3), 7 * next(number), np.uint8)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_video(path, num_frames=2, size=(16, 16), draw=lambda _: color)

    return one


def usable(read: LabeledVideos) -> LabeledVideos:
    leave_out_unusable(read, workers=1, quiet=True)
    return read


def left_out(read: LabeledVideos) -> dict[str, str]:
    return {os.path.basename(finding.path): finding.kind for finding in read.left_out}


def test_class_folders_hostile_names(tmp_path: Path, write: Write) -> None:
    names = ["a, b", '"quoted"', "naïve 走る", "..", "a b "]
    names.remove("..")  # no folder can have it
    for name in names:
        write(f"{name}/one.mp4")
        write(f"{name}/two, of 2 .mp4")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    read = usable(read_class_folders(tmp_path))
    assert read.classes == sorted(names) and len(read.videos) == 8 and not read.left_out
    assert any("'empty' holds no videos" in notice for notice in read.notices)
    assert any("notes.txt" in notice for notice in read.notices)


def test_class_folders_unusable_videos_left_out(tmp_path: Path, write: Write) -> None:
    for name in ("walk/a.mp4", "run/b.mp4", "run/c.mp4", "loose.mp4"):
        write(name)
    (tmp_path / "walk/broken.mp4").write_bytes(b"\0" * 5000)
    write("run/line\nbreak.mp4")
    os.rename(write("run/x.mp4"), os.fsencode(tmp_path / "run") + b"/\xff.mp4")
    shutil.copy(tmp_path / "run/b.mp4", tmp_path / "run/copy.mp4")
    for name in ("walk", "run"):
        shutil.copy(tmp_path / "walk/a.mp4", tmp_path / f"{name}/both.mp4")
    os.remove(tmp_path / "walk/both.mp4")
    read = usable(read_class_folders(tmp_path))
    kinds = {
        path.encode("utf-8", "surrogateescape").decode("utf-8", "replace"): k for path, k in left_out(read).items()
    }
    assert kinds == {
        "loose.mp4": "bad row",
        "line\nbreak.mp4": "bad row",
        "\ufffd.mp4": "bad row",
        "broken.mp4": "unreadable",
        "copy.mp4": "duplicate",
        "a.mp4": "mislabeled",
        "both.mp4": "mislabeled",
    }
    detail = next(finding.detail for finding in read.left_out if finding.kind == "mislabeled")
    assert "is 'walk'" in detail and "is 'run'" in detail
    assert read.classes == ["run"]


def test_class_folders_same_ends_different_middle_kept(tmp_path: Path, write: Write) -> None:
    """The cheap fingerprint sees the size and both ends of a file; the whole file decides."""
    head, tail = write("walk/a.mp4").read_bytes(), bytes(1 << 17)
    for name, middle in (("walk/a.mp4", b"1"), ("walk/b.mp4", b"2")):
        (tmp_path / name).write_bytes(head + tail + middle + tail)
    read = usable(read_class_folders(tmp_path))
    assert [len(read.videos), read.left_out] == [2, []]


def test_class_folders_given_parts(tmp_path: Path, write: Write) -> None:
    for part in ("Train", "validation", "test"):
        write(f"{part}/walk/{part}.mp4")
    shutil.copy(tmp_path / "test/walk/test.mp4", tmp_path / "Train/walk/leak.mp4")
    read = usable(read_class_folders(tmp_path))
    assert {Path(video.path).stem: video.split for video in read.videos} == {
        "Train": "train",
        "validation": "val",
        "test": "test",
    }
    assert left_out(read) == {"leak.mp4": "duplicate"}


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_table_forms(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tables/a, b.mp4", "here.mp4", "../up.mp4", "last.mp4"):
        write(name)
    rows = [
        ["id", "video", "action"],
        ["1", '"a, b.mp4"', "10"],
        ["2", "here.mp4", "9"],
        ["3", "../../up.mp4", '"10"'],
        ["4", str(tmp_path / "last.mp4"), "9"],
        ["5", "gone.mp4", "9"],
        ["6", "", "9"],
        ["7", "here.mp4", ""],
    ]
    text = "\r\n".join(mark.join(row) for row in rows) + "\r\n\r\n"
    (tmp_path / "tables/my.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    read = usable(read_labels_table(tmp_path / "tables/my.csv", path_column="video", label_column="action"))
    assert [os.path.basename(video.path) for video in read.videos] == ["a, b.mp4", "here.mp4", "up.mp4", "last.mp4"]
    assert read.classes == ["9", "10"]  # numbers in their order
    assert [(finding.kind, finding.place) for finding in read.left_out] == [
        ("bad row", "my.csv:7"),
        ("bad row", "my.csv:8"),
        ("missing", "my.csv:6"),
    ]


def test_table_multi_label(tmp_path: Path, write: Write) -> None:
    for name in ("a.mp4", "b.mp4"):
        write(name)
    table = tmp_path / "my.tsv"
    table.write_text("video\tlabel\na.mp4\tsit; talk, laugh\nb.mp4\tstand\nb.mp4\ttalk, laugh\n")
    read = usable(read_labels_table(table, path_column="video", label_column="label", multi_label=True))
    assert [video.labels for video in read.videos] == [("sit", "talk, laugh"), ("stand", "talk, laugh")]


def test_table_missing_column_named(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("vidoe,label\na.mp4,1\n")
    with pytest.raises(AnnotationError, match="did you mean vidoe"):
        read_labels_table(tmp_path / "my.csv", path_column="video", label_column="label")


def test_split_every_class_in_every_part() -> None:
    classes = [[name] for name, number in (("a", 40), ("b", 12), ("c", 4), ("d", 3)) for _ in range(number)]
    names = [f"{number}" for number in range(len(classes))]
    parts = stratified_split(names, classes, SHARES, seed=0)
    counts = {name: Counter(p for p, c in zip(parts, classes, strict=True) if c == [name]) for name in "abcd"}
    assert {name: [count[split] for split in SPLITS] for name, count in counts.items()} == {
        "a": [28, 6, 6],
        "b": [8, 2, 2],
        "c": [2, 1, 1],
        "d": [1, 1, 1],
    }
    assert stratified_split(names, classes, SHARES, seed=0) == parts
    assert stratified_split(names, classes, SHARES, seed=1) != parts


def test_split_new_videos_move_few() -> None:
    names = [f"{number}" for number in range(100)]
    before = dict(zip(names, stratified_split(names, [["a"]] * 100, SHARES, seed=0), strict=True))
    more = [*names, "new", "newer"]
    after = dict(zip(more, stratified_split(more, [["a"]] * 102, SHARES, seed=0), strict=True))
    assert sum(before[name] != after[name] for name in names) <= 2


def test_split_few_videos() -> None:
    parts = stratified_split(["1", "2", "3"], [["two"], ["two"], ["one"]], SHARES, seed=0)
    assert sorted(parts[:2]) == ["test", "train"] and parts[2] == "train"


def test_split_multi_label_rare_class_in_every_part() -> None:
    classes = [["common"] + (["rare"] if number % 10 == 0 else []) for number in range(40)]
    parts = stratified_split([str(number) for number in range(40)], classes, SHARES, seed=0)
    assert {part for part, names in zip(parts, classes, strict=True) if "rare" in names} == set(SPLITS)
    assert Counter(parts) == {"train": 28, "val": 6, "test": 6}


def test_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("video,label,label\na.mp4,x,y\n")
    with pytest.raises(AnnotationError, match="the column label occurs twice"):
        read_labels_table(table, path_column="video", label_column="label")


def test_video_that_rows_put_into_train_and_test_is_only_tested(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("video,label,split\na.mp4,x,test\na.mp4,y,train\nb.mp4,x,train\n")
    read = read_labels_table(table, path_column="video", label_column="label", split_column="split", multi_label=True)
    assert [(video.labels, video.split) for video in read.videos] == [(("x", "y"), "test"), (("x",), "train")]
    table.write_text("video,label,split\na.mp4,x,train\na.mp4,y,test\n")
    read = read_labels_table(table, path_column="video", label_column="label", split_column="split", multi_label=True)
    assert [(video.labels, video.split) for video in read.videos] == [(("x", "y"), "test")]
    assert read.notices == ["rows put 1 video into more than one split; test goes before val, and val before train"]


def test_class_written_in_two_ways_of_unicode_is_one(tmp_path: Path, write: Write) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for name in (composed, decomposed, "bar"):
        write(f"own/{name}/1.mp4")
    assert usable(read_class_folders(tmp_path / "own")).classes == ["bar", composed]
    (tmp_path / "a.csv").write_text(f"video,label\n1.mp4,{composed}\n2.mp4,{decomposed} \n")
    assert read_labels_table(tmp_path / "a.csv", path_column="video", label_column="label").classes == [composed]


def test_mixed_separators_of_classes_are_refused(tmp_path: Path) -> None:
    def read(*cells: str) -> list[str]:
        (tmp_path / "a.tsv").write_text("video\tlabel\n" + "".join(f"{n}.mp4\t{c}\n" for n, c in enumerate(cells)))
        return read_labels_table(
            tmp_path / "a.tsv", path_column="video", label_column="label", multi_label=True
        ).classes

    assert read("sit, down|talk", "talk") == ["sit, down", "talk"]  # a comma in a name is no separator
    for cells in (("sit|talk", "sit;talk"), ("sit|talk", "run, talk"), ("a;b", "b,a")):
        with pytest.raises(AnnotationError, match=r"a.tsv:3: '.*' would be one class, although '.*' is a class by it"):
            read(*cells)
