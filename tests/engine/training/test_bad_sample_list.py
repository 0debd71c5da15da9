"""The list of unreadable videos, and the limit on their number."""

import json
import shutil
from pathlib import Path

import pytest

from videovit.data.records import Failure
from videovit.engine.training.bad_sample_list import BadSamples
from videovit.errors import UserError


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "bad_samples.jsonl").read_text().splitlines()]


def test_record_writes_at_once_and_sync_counts(tmp_path: Path) -> None:
    bad = BadSamples(tmp_path, num_samples=10, max_fraction=0.5)
    bad.record([])
    assert not (tmp_path / "bad_samples.jsonl").exists()
    bad.record([Failure("a.mp4", "empty file", "decord"), Failure("b.mp4", "no video stream", "decord")])
    assert [entry["path"] for entry in lines(tmp_path)] == ["a.mp4", "b.mp4"]
    bad.record([Failure("a.mp4", "empty file", "decord")])
    bad.sync()
    assert lines(tmp_path) == [
        {"path": "a.mp4", "reason": "empty file", "backend": "decord", "count": 2},
        {"path": "b.mp4", "reason": "no video stream", "backend": "decord", "count": 1},
    ]


def test_counts_continue_after_a_restart_and_half_a_line(tmp_path: Path) -> None:
    first = BadSamples(tmp_path, num_samples=10, max_fraction=0.5)
    first.record([Failure("a.mp4", "empty file", "decord")])
    with open(tmp_path / "bad_samples.jsonl", "a") as file:
        file.write('{"path": "b.m')
    second = BadSamples(tmp_path, num_samples=10, max_fraction=0.5)
    second.record([Failure("a.mp4", "empty file", "decord"), Failure("c.mp4", "empty file", "decord")])
    third = BadSamples(tmp_path, num_samples=10, max_fraction=0.5)  # the second was killed before its end
    third.record([Failure("a.mp4", "empty file", "decord")])
    third.sync()
    assert [(entry["path"], entry["count"]) for entry in lines(tmp_path)] == [("a.mp4", 2), ("c.mp4", 1)]


def test_failures_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    first = BadSamples(tmp_path, num_samples=4, max_fraction=0.5)
    first.record([Failure("a.mp4", "x", "decord"), Failure("b.mp4", "x", "decord")])
    second = BadSamples(tmp_path, num_samples=4, max_fraction=0.5)
    second.record([Failure("c.mp4", "x", "decord")])
    second.sync()
    assert len(second) == 3


def test_exceeding_the_limit_is_an_error(tmp_path: Path) -> None:
    bad = BadSamples(tmp_path, num_samples=4, max_fraction=0.25)
    bad.record([Failure("a.mp4", "x", "decord")] * 3)
    with pytest.raises(UserError, match="2 of 4 .* DATA.MAX_BAD_FRACTION 0.25"):
        bad.record([Failure("b.mp4", "x", "decord")])


def test_damaged_list_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.jsonl"
    damaged = ['{"count": 1}', '{"path": 3, "count": 1}', '{"path": "a.mp4", "count": "x"}', '{"count":' * 9000]
    path.write_text("\n".join(damaged))
    bad = BadSamples(tmp_path, num_samples=10, max_fraction=0.5)
    assert len(bad) == 0
    bad.record([Failure("a.mp4", "empty file", "decord")])
    bad.sync()
    assert [(entry["path"], entry["count"]) for entry in lines(tmp_path)] == [("a.mp4", 1)]


def test_removed_folder_is_named(tmp_path: Path) -> None:
    bad = BadSamples(tmp_path / "run", num_samples=10, max_fraction=0.5)
    with pytest.raises(UserError, match=r"run/bad_samples.jsonl: could not be written: No such file"):
        bad.record([Failure("a.mp4", "empty file", "decord")])
    (tmp_path / "run").mkdir()
    bad.record([Failure("b.mp4", "empty file", "decord")])
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match=r"run/bad_samples.jsonl: could not be written: No such file"):
        bad.sync()
