"""Kinetics list files: accepted formats, and invalid lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from videovit.config import load_config
from videovit.data.catalog import find_dataset
from videovit.data.dataset import ActionsShown
from videovit.data.files import annotation_files
from videovit.data.readers import kinetics
from videovit.data.records import AnnotationError, Sample
from videovit.errors import UserError


def read(folder: Path, content: str | bytes, **arguments: object) -> list[tuple[str, int]]:
    path = folder / "train.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    samples = kinetics.read(path, num_classes=10, **arguments)  # type: ignore[arg-type]
    return [(sample.path, sample.label) for sample in samples]


def error(folder: Path, content: str | bytes, **arguments: object) -> str:
    with pytest.raises(AnnotationError) as caught:
        read(folder, content, **arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("/a/b.mp4 3", "/a/b.mp4", 3),
        ("/a/b.mp4,3", "/a/b.mp4", 3),
        ("/a/b.mp4, 3", "/a/b.mp4", 3),
        ("/a/b.mp4\t3", "/a/b.mp4", 3),
        ("/a/b.mp4   3  ", "/a/b.mp4", 3),
        ("/my videos/b 1.mp4 3", "/my videos/b 1.mp4", 3),
        ("/my videos/b, 1.mp4,3", "/my videos/b, 1.mp4", 3),
        ("/my\tvideos/b.mp4\t3", "/my\tvideos/b.mp4", 3),
        ('"/a, b.mp4",3', "/a, b.mp4", 3),
        ('"/a ""b"".mp4" 3', '/a "b".mp4', 3),
        ('"/a/b.mp4","3"', "/a/b.mp4", 3),
        ("/a/ü\u2028.mp4 3", "/a/ü\u2028.mp4", 3),
    ],
)
@pytest.mark.parametrize("separator", [" ", ",", "\t", ""])
def test_read_line_formats(tmp_path: Path, line: str, path: str, label: int, separator: str) -> None:
    assert read(tmp_path, line + "\n", separator=separator) == [(path, label)]


def test_read_custom_separator(tmp_path: Path) -> None:
    assert read(tmp_path, "/a b,c.mp4;3\n/d.mp4 4\n", separator=";") == [("/a b,c.mp4", 3), ("/d.mp4", 4)]


def test_read_bom_crlf_and_empty_lines(tmp_path: Path) -> None:
    content = "\ufeff/a.mp4 0\r\n\r\n   \r\n/b.mp4 1\r\n/c.mp4 2".encode()
    assert read(tmp_path, content) == [("/a.mp4", 0), ("/b.mp4", 1), ("/c.mp4", 2)]


def test_read_skip_rows(tmp_path: Path) -> None:
    assert read(tmp_path, "path label\n/a.mp4 1\n", skip_rows=1) == [("/a.mp4", 1)]


def test_read_keeps_order_and_repeats(tmp_path: Path) -> None:
    rows = [(f"/v{number % 7}.mp4", number % 10) for number in range(30)]
    assert read(tmp_path, "".join(f"{path} {label}\n" for path, label in rows)) == rows


def test_read_invalid_lines_reported_together(tmp_path: Path) -> None:
    message = error(tmp_path, "/a.mp4 1\n/b.mp4\n/c.mp4 x\n\n/d.mp4 10\n/e.mp4 -1\n/f.mp4 2.5\n")
    assert "5 lines cannot be used" in message
    for number, content, why in [
        (2, "/b.mp4", "expected 'path label'"),
        (3, "/c.mp4 x", "label 'x' is not a whole number"),
        (5, "/d.mp4 10", "label 10 is not in 0..9 (MODEL.NUM_CLASSES)"),
        (6, "/e.mp4 -1", "label -1 is not in 0..9"),
        (7, "/f.mp4 2.5", "label '2.5' is not a whole number"),
    ]:
        assert f"{tmp_path / 'train.csv'}:{number}: {content}\n      {why}" in message


def test_read_many_invalid_lines_truncated(tmp_path: Path) -> None:
    message = error(tmp_path, "".join(f"/v{number}.mp4 99\n" for number in range(33)))
    assert "33 lines cannot be used" in message and "and 13 more" in message
    assert "train.csv:20:" in message and "train.csv:21:" not in message


def test_read_header_hint(tmp_path: Path) -> None:
    assert "DATA.SKIP_ROWS" in error(tmp_path, "path label\n/a.mp4 1\n")


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "path label\n"])
def test_read_empty_list_raises(tmp_path: Path, content: str) -> None:
    assert "no videos listed" in error(tmp_path, content, skip_rows=1)


def test_read_binary_raises(tmp_path: Path) -> None:
    message = error(tmp_path, b"/a.mp4 1\n/\xff\xfe.mp4 1\n")
    assert "train.csv:2: not UTF-8" in message


def test_read_null_in_path_raises(tmp_path: Path) -> None:
    assert "null character" in error(tmp_path, "/a\0.mp4 1\n")


def test_read_missing_list_shows_folder(tmp_path: Path) -> None:
    (tmp_path / "training.csv").write_text("x")
    with pytest.raises(AnnotationError, match=r"train\.csv' does not exist.*holds training\.csv"):
        kinetics.read(tmp_path / "train.csv", num_classes=10)
    with pytest.raises(AnnotationError, match=r"the folder .*PATH_TO_DATA_DIR\) does not exist"):
        kinetics.read(tmp_path / "nowhere" / "train.csv", num_classes=10)


def test_prefix_joined(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    (videos / "x").mkdir(parents=True)
    (videos / "x" / "a.mp4").touch()
    rows = read(tmp_path, "x/a.mp4 1\nx/missing.mp4 2\nx/../y.mp4 3\n", prefix=str(videos))
    assert [path for path, _ in rows] == [f"{videos}/x/a.mp4", f"{videos}/x/missing.mp4", f"{videos}/x/../y.mp4"]


def test_prefix_left_raises(tmp_path: Path) -> None:
    videos, outside = tmp_path / "videos", tmp_path / "videos_secret"
    videos.mkdir()
    outside.mkdir()
    (outside / "a.mp4").touch()
    (videos / "a.mp4").touch()
    (videos / "inner.mp4").symlink_to(videos / "a.mp4")
    (videos / "link.mp4").symlink_to(outside / "a.mp4")
    (videos / "folder").symlink_to(outside)
    content = "a.mp4 0\ninner.mp4 0\n/etc/passwd 1\n../videos_secret/a.mp4 2\nlink.mp4 3\nfolder/a.mp4 4\n"
    message = error(tmp_path, content, prefix=str(videos))
    assert "4 lines cannot be used" in message
    assert "train.csv:3: /etc/passwd 1" not in message and "train.csv:3: /etc/passwd\n      absolute path" in message
    assert "train.csv:4: ../videos_secret/a.mp4\n      leads out of" in message
    for number, name in [(5, "link.mp4"), (6, "folder/a.mp4")]:
        assert (
            f"train.csv:{number}: {name}\n      leads out of DATA.PATH_PREFIX {str(videos)!r} through a symb" in message
        )


def test_prefix_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.mp4").touch()
    (tmp_path / "prefix").symlink_to(tmp_path / "real")
    assert read(tmp_path, "a.mp4 1\n", prefix=str(tmp_path / "prefix")) == [(f"{tmp_path}/prefix/a.mp4", 1)]


def test_prefix_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    assert read(tmp_path, "a.mp4 1\n", prefix=".") == [("./a.mp4", 1)]
    assert "leads out" in error(tmp_path, "../a.mp4 1\n", prefix=".")


def test_relative_paths_cwd_then_list_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, lists = tmp_path / "here", tmp_path / "lists"
    for folder, names in [(here, ["both.mp4"]), (lists, ["both.mp4", "only.mp4"])]:
        (folder / "clips").mkdir(parents=True)
        for name in names:
            (folder / "clips" / name).touch()
    (lists / "other").mkdir()
    monkeypatch.chdir(here)
    rows = read(lists, "clips/both.mp4 0\nclips/only.mp4 1\nclips/none.mp4 2\nother/none.mp4 3\n")
    assert [path for path, _ in rows] == [
        "clips/both.mp4",
        f"{lists}/clips/only.mp4",
        "clips/none.mp4",
        f"{lists}/other/none.mp4",
    ]


def test_find_dataset_kinetics(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("/a.mp4 1\n")
    cfg = load_config(opts=["DATA.PATH_TO_DATA_DIR", str(tmp_path), "MODEL.NUM_CLASSES", "2"])
    assert find_dataset("Kinetics").read(cfg, "val") == [Sample("/a.mp4", 1)]
    with pytest.raises(AnnotationError, match=r"test.csv' does not exist. Set TEST.SPLIT val to test on val.csv"):
        find_dataset("kinetics").read(cfg, "test")
    with pytest.raises(ValueError, match=r"unknown data set 'kinetic'.*did you mean kinetics"):
        find_dataset("kinetic")


def test_read_too_large_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation_files, "LARGEST_LIST", 10)
    assert "not a list of videos" in error(tmp_path, "a.mp4 0\nb.mp4 1\n")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (r"run\a.mp4 0", "the path has backslashes; the file exists if they are written as /"),
        ("run/a.mp4 120 3\n", "two numbers follow the path, the first is 120; expected 'path label'"),
        ("run/a.mp4 0,1\n", "two numbers follow the path, the first is 0; expected 'path label'"),
        ("run/a.mp4,0,1\n", "two numbers follow the path, the first is 0; expected 'path label'"),
        ("missing.mp4\t120\t3\n", "two numbers follow the path, the first is 120; expected 'path label'"),
        ("frames 120 3\n", "two numbers follow the path, the first is 120; expected 'path label'"),
        ("/a.mp4 1\n/b.mp4 10\n/c.mp4 10\n", "these seem to count from 1"),
        ("path,label\n/a.mp4,run\n/b.mp4,sit\n", "Labels are class numbers, from 0. For names of classes"),
        ("/a.mp4 playing tennis\n/b.mp4 run\n", "Labels are class numbers, from 0. For names of classes"),
        ("path label\n/a.mp4 1\n", "If line 1 is a header, set DATA.SKIP_ROWS 1"),
    ],
)
@pytest.mark.parametrize("with_prefix", [False, True])
def test_read_list_of_another_form_gives_a_hint(tmp_path: Path, content: str, hint: str, with_prefix: bool) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "frames").mkdir()
    (tmp_path / "run/a.mp4").touch()
    if with_prefix and content.startswith("/"):
        content = content.replace("/", "")
    message = error(tmp_path, content, **({"prefix": str(tmp_path)} if with_prefix else {}))
    assert hint in message


@pytest.mark.parametrize("content", ["/a.mp4 1\n/b.mp4 11\n", "/a.mp4 0\n/b.mp4 10\n", "/a.mp4 1\n/b.mp4 x\n"])
def test_read_wrong_labels_give_no_wrong_hint(tmp_path: Path, content: str) -> None:
    message = error(tmp_path, content)
    assert "count from 1" not in message and "SKIP_ROWS" not in message and "names of classes" not in message


def test_read_odd_paths_that_exist(tmp_path: Path) -> None:
    """Backslashes and numbers at the end are fine in names of files that exist."""
    for name in (r"a\b.mp4", "clip 12", "clip"):
        (tmp_path / name).touch()
    rows = read(tmp_path, "a\\b.mp4 0\nclip 12 3\nmovie.avi 2\n")
    assert rows == [(str(tmp_path / r"a\b.mp4"), 0), (str(tmp_path / "clip 12"), 3), ("movie.avi", 2)]


def read_several(folder: Path, content: str) -> list[tuple[str, list[int]]]:
    path = folder / "train.csv"
    path.write_text(content)
    samples = kinetics.read(path, num_classes=10, several=True)
    assert all(sample.label == -1 and sample.actions is not None for sample in samples)
    return [(sample.path, [action.class_id for action in sample.actions or ()]) for sample in samples]


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_several_labels_per_line(tmp_path: Path, separator: str) -> None:
    lines = [f"/a b.mp4{separator}{labels}" for labels in ("3;7;9", "0", "-", '"4;1"')]
    assert [labels for _, labels in read_several(tmp_path, "\n".join(lines))] == [[3, 7, 9], [0], [], [4, 1]]


def test_every_label_holds_for_the_whole_video(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("/a.mp4 3;7\n")
    (sample,) = kinetics.read(tmp_path / "train.csv", num_classes=10, several=True)
    for shown_s in ((-1.0, -0.5), (0.0, 0.1), (1e6, 1e6 + 1)):  # some videos begin before second 0
        assert ActionsShown(10)(sample, *shown_s).nonzero()[:, 0].tolist() == [3, 7]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/a.mp4 3;10", r"train.csv:2: /a.mp4 3;10\n +label 10 is not in 0\.\.9"),
        ("/a.mp4 3;", "label '' is not a whole number"),
        ("/a.mp4 3;x", "label 'x' is not a whole number"),
        ("/a.mp4 3;7;3", "class 3 is listed twice"),
        ("/a.mp4 -;3", "label '-' is not a whole number"),
        ("/a.mp4 3,7,9", "3 numbers follow the path, the first is 3; .*written 3;7"),
        ("/a.mp4 3; 7", "two numbers follow the path, the first is 3"),
        ("/a.mp4", "expected 'path label'"),
    ],
)
def test_malformed_labels_are_named_with_their_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        read_several(tmp_path, f"/b.mp4 1\n{line}\n")
    assert f"{tmp_path / 'train.csv'}:2" in str(caught.value)


def test_several_labels_in_a_list_of_one_class_are_named(tmp_path: Path) -> None:
    assert "label '3;7' has several classes" in (text := error(tmp_path, "/a.mp4 3;7\n"))
    assert "Several classes per video, such as 3;7, need TRAIN.DATASET multilabel" in text


def test_semicolons_separate_either_classes_or_paths(tmp_path: Path) -> None:
    keys = "TRAIN.DATASET multilabel TEST.DATASET multilabel DATA.MULTI_LABEL True MODEL.LOSS_FUNC bce_logit"
    cfg = load_config(None, f"{keys} MODEL.HEAD_ACT sigmoid DATA.PATH_LABEL_SEPARATOR ;".split())
    with pytest.raises(UserError, match="DATA.PATH_LABEL_SEPARATOR: ; separates the classes of a video"):
        find_dataset("multilabel").read(cfg, "train")


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("/a/b.mp4", "/a/b.mp4"),
        ("/my videos/b, 1.mp4", "/my videos/b, 1.mp4"),
        ('"/my videos/b, 1.mp4"', "/my videos/b, 1.mp4"),
        ("/a/b.mp4 3", "/a/b.mp4"),
        ("/a/b.mp4,999", "/a/b.mp4"),  # not a class of the model, which has none
        ("/a/b.mp4 3;7", "/a/b.mp4"),
        ("/a/b.mp4 -", "/a/b.mp4"),
    ],
)
def test_labels_may_be_left_out_if_none_is_read(tmp_path: Path, line: str, path: str) -> None:
    assert read(tmp_path, f"{line}\n\n", labeled=False) == [(path, -1)]
    with pytest.raises(AnnotationError, match="no videos listed"):
        read(tmp_path, "\n", labeled=False)
