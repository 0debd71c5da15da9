"""Files of JSON records, also after a write was cut off."""

import json
from pathlib import Path

import pytest

from videovit.engine.reporting.json_lines import append_record, read_records
from videovit.errors import UserError


def test_incomplete_line_loses_only_its_own_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_records(path) == []
    append_record(path, {"a": 1, "text": "für"})
    with path.open("ab") as file:
        file.write(b'{"a": 2, "te')
    append_record(path, {"a": 3, "loss": float("nan")})
    append_record(path, {"a": 4})
    assert read_records(path) == [{"a": 1, "text": "für"}, {"a": 3, "loss": None}, {"a": 4}]
    assert [json.loads(line) for line in path.read_text().splitlines()[2:]] == [{"a": 3, "loss": None}, {"a": 4}]
    assert read_records(path, word='"loss"') == [{"a": 3, "loss": None}]
    path.write_bytes(b'\x00\xff\x00\n{"a": 5}\n[6]\n{"a": 5}{"a": 6}\n')
    assert read_records(path) == [{"a": 5}]


def test_unwritable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"taken: could not be written: Is a directory"):
        (tmp_path / "taken").mkdir()
        append_record(tmp_path / "taken", {})
    with pytest.raises(UserError, match=r"full: could not be written, .*: No space left on device"):
        (tmp_path / "full").symlink_to("/dev/full")
        append_record(tmp_path / "full", {})
