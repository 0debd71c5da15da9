"""Lists as columns: equal to lists of samples, cached beside the list, shared by workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from videovit.data import list_cache
from videovit.data.class_frequency import classes_of, count_classes
from videovit.data.columns import Columns, DamagedColumnsError, columns_in_memory
from videovit.data.objects import AnnotatedImage
from videovit.data.readers import kinetics, plain_rows
from videovit.data.records import Action, AnnotationError, Box, KeyFrame, Sample
from videovit.data.sample_list import Paths, SampleList, labels_of, sample_columns
from videovit.engine.checkpoints.train_list import list_digest

BOX = Box(0.1, 0.2, 0.3, 0.4, (3, 80), 0.9)
KINDS: dict[str, list[Sample]] = {
    "labels": [Sample("/a/b.mp4", 3), Sample("c.mp4", 0), Sample("/a/ü\u2028.mp4", 2), Sample("/a/b\udcff.mp4", -1)],
    "frames": [Sample("a", 1, num_frames=7), Sample("b", 2)],
    "actions": [
        Sample("a", actions=()),
        Sample("b", actions=(Action(2, 0.5, 1.5), Action(2, 3.0, 4.0))),
        Sample("c", actions=()),
    ],
    "boxes": [
        Sample("m/a.mp4", key=KeyFrame("a", 902.0, (BOX, Box(0.0, 0.0, 1.0, 1.0)))),
        Sample("m/b.mp4", key=KeyFrame("b", 903.5, ())),
        Sample("m/a.mp4", key=KeyFrame("a", 904.0, (BOX,)), num_frames=9),
    ],
    "none": [],
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_equal_samples(kind: str) -> None:
    samples = KINDS[kind]
    columns = SampleList.of(samples)
    assert list(columns) == samples and columns == samples and samples == columns
    assert [columns[i] for i in range(-len(samples), len(samples))] == samples + samples
    assert columns[1:] == samples[1:] and columns[::-1] == samples[::-1]
    assert list(Paths(columns)) == list(Paths(samples)) == [sample.path for sample in samples]
    assert list_digest(columns, ["/a", ""]) == list_digest(samples, ["/a", ""])
    assert labels_of(columns).tolist() == labels_of(samples).tolist()
    assert sorted(classes_of(columns)) == sorted(classes_of(samples))
    assert count_classes(columns, 80).tolist() == count_classes(samples, 80).tolist()
    with pytest.raises(IndexError):
        columns[len(samples)]


def test_columns_other_samples_differ() -> None:
    assert SampleList.of(KINDS["labels"]) != KINDS["labels"][:-1]
    assert SampleList.of(KINDS["frames"]) != [Sample("a", 1, num_frames=8), Sample("b", 2)]
    with pytest.raises(ValueError, match="some samples"):
        SampleList.of([*KINDS["actions"], Sample("a", 1)])
    nothing = np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    with pytest.raises(ValueError, match="objects"):
        SampleList.of([Sample("a", image=AnnotatedImage(1, 2, 3, *nothing))])


def test_columns_in_spawned_process() -> None:
    columns = SampleList(SampleList.of(KINDS["labels"])._columns, ("", "/root"), np.array([0, 1, 0, 1], dtype=np.int8))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(list, (columns,)) == list(columns)
    assert columns[1].path == "/root/c.mp4"


@pytest.fixture
def long_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list that is cached, in a folder of its own."""
    monkeypatch.setattr(list_cache, "LEAST_CACHED", 0)
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "data" / "train.csv"
    path.parent.mkdir()
    path.write_text("".join(f"c{k % 3}/v {k}.mp4 {k % 3}\n" for k in range(50)))
    return path


def read(path: Path, **arguments: object) -> SampleList:
    return kinetics.read(path, num_classes=3, **{"prefix": "/videos", **arguments})  # type: ignore[arg-type]


def no_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(kinetics.ListReader, "_parse", parse)


def test_cache_read_without_parsing(long_list: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(long_list)
    assert sorted(os.listdir(long_list.parent)) == ["train.csv", "train.csv.columns"]
    with monkeypatch.context() as patch:
        no_parsing(patch)
        assert read(long_list) == list(first)
        # The paths are those of the list, so another prefix needs no other cache.
        assert read(long_list, prefix="/elsewhere")[0].path == "/elsewhere/c0/v 0.mp4"
        assert read(long_list, prefix="")[4] == Sample("c1/v 4.mp4", 1)
    # Another list, more skipped rows, fewer classes: each is read again.
    long_list.write_text(long_list.read_text() + "new.mp4 1\n")
    assert len(read(long_list)) == 51 and len(read(long_list, skip_rows=1)) == 50
    with pytest.raises(AnnotationError, match=r"train\.csv:3: c2/v 2\.mp4 2\n .*not in 0\.\.1"):
        kinetics.read(long_list, num_classes=2, prefix="/videos")


def test_cache_in_read_only_folder(long_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: str(long_list.parent) not in str(path))
    first = read(long_list)
    assert os.listdir(long_list.parent) == ["train.csv"]
    no_parsing(monkeypatch)
    assert read(long_list) == list(first)


def test_cache_damaged_or_foreign_is_replaced(long_list: Path) -> None:
    wanted, place = list(read(long_list)), long_list.with_name("train.csv.columns")
    whole = place.read_bytes()
    rng = random.Random(0)
    for _ in range(30):
        damaged = bytearray(whole[: rng.choice([len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.randrange(1, 4)):
            # The header and the numbers; the letters of names cannot be checked.
            damaged[rng.randrange(min(len(damaged), 600)) if damaged else 0 : 1] = bytes([rng.randrange(256)])
        place.write_bytes(damaged)
        found = read(long_list)
        assert len(found) == 50 and {sample.label for sample in found} == {0, 1, 2}
    # A stranger's file must not lead out of the prefix, whatever it claims to be made from.
    place.write_bytes(whole)
    key = Columns(os.open(place, os.O_RDONLY)).key
    for name in ("../etc/passwd", "/etc/passwd", "c0/..", "c0/"):
        place.unlink()
        with open(place, "xb+") as file:
            list_cache.write_columns(file.fileno(), sample_columns([Sample(name, 1)]), key)
        assert read(long_list) == wanted


def test_cache_writer_killed_leaves_nothing_broken(long_list: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed() -> None:
        monkeypatch.setattr(os, "fsync", lambda handle: os.kill(os.getpid(), signal.SIGKILL))
        read(long_list)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [name for name in os.listdir(long_list.parent) if name.endswith(".partial")]
    assert len(read(long_list)) == 50
    assert not [name for name in os.listdir(long_list.parent) if name.endswith(".partial")]


def test_cache_several_processes_parse_once(long_list: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = long_list.with_name("parsed")
    parse = kinetics.ListReader._parse

    def counted(self: kinetics.ListReader, content: bytes) -> object:
        with open(parsed, "a") as file:
            file.write("x")
        return parse(self, content)

    monkeypatch.setattr(kinetics.ListReader, "_parse", counted)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=lambda: read(long_list)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4 and parsed.read_text() == "x"


def test_doubtful_lists_not_cached(long_list: Path) -> None:
    long_list.write_text("a 300 1\nb.mp4 1\n")
    assert read(long_list)[0].path == "/videos/a 300"
    assert os.listdir(long_list.parent) == ["train.csv"]


def test_columns_file_must_be_sound() -> None:
    columns = columns_in_memory(sample_columns(KINDS["labels"]))
    for name, wrong in [("folder", 9), ("name_ends", 99), ("label", None)]:
        arrays = dict(columns)
        arrays[name] = (
            arrays[name][:-1] if wrong is None else np.where(arrays[name] == arrays[name][1], wrong, arrays[name])
        )
        with pytest.raises(DamagedColumnsError):
            SampleList(columns_in_memory(arrays))
    with pytest.raises(DamagedColumnsError):
        Columns(os.open(__file__, os.O_RDONLY))
    assert pickle.loads(pickle.dumps(SampleList.of(KINDS["boxes"]))) == KINDS["boxes"]


PIECES = ["a", "b/", "/", "..", " ", ",", "\t", '"', "0", "12", ".mp4", ";", "\\", "ü", "\u2003", "-", "\r", "x y"]


def test_plain_lists_parsed_as_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    path, num_plain = tmp_path / "train.csv", 0
    for _ in range(400):
        lines = []
        for _ in range(rng.randrange(1, 4)):
            odd = (
                "".join(rng.choices(PIECES, k=rng.randrange(1, 6)))
                + rng.choice([" ", ",", "\t"])
                + rng.choice(["1", "02", "9", "x"])
            )
            lines.append(
                rng.choice(
                    [odd, f"b/a{rng.randrange(9)}.mp4 {rng.randrange(3)}", f"/d e/{rng.randrange(99)}.mp4,2", ""]
                )
            )
        content = rng.choice(["\n", "\r\n"]).join(lines) + rng.choice(["", "\n"])
        path.write_bytes(content.encode())
        arguments = {"skip_rows": rng.choice([0, 0, 1]), "prefix": rng.choice(["", "/videos"])}
        fast = outcome(path, **arguments)
        num_plain += plain_rows.parse_plain(content.encode(), int(arguments["skip_rows"])) is not None
        with monkeypatch.context() as patch:
            patch.setattr(kinetics, "parse_plain", lambda *_: None)
            assert outcome(path, **arguments) == fast, content
    assert num_plain > 50


def outcome(path: Path, **arguments: object) -> Sequence[Sample] | str:
    try:
        return list(read(path, **arguments))
    except AnnotationError as error:
        return str(error)
