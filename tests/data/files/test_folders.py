"""Files below a folder, by their suffixes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from videovit.data.files.folders import VIDEO_SUFFIXES, files_below


def test_files_passed_over_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    for name in ("b.MP4", "inside/a.mkv", "inside/notes.txt", "read\x1bme.txt", "LICENSE"):
        (tmp_path / name).touch()
    expected = r"3 files left out: \.txt \(2: inside/notes\.txt\), no suffix \(1: LICENSE\)$"
    with pytest.warns(UserWarning, match=expected):
        found = files_below(tmp_path, VIDEO_SUFFIXES)
    assert [Path(path).name for path in found] == ["b.MP4", "a.mkv"]


def test_nothing_passed_over_is_no_warning(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(files_below(tmp_path, VIDEO_SUFFIXES)) == 1
