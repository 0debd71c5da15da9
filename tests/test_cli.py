"""How files and KEY VALUE pairs are told apart, and what errors become."""

from pathlib import Path

import pytest

from videovit.cli import exit_code, split_config_arguments
from videovit.config import ConfigError


@pytest.mark.parametrize(
    ("words", "opts", "files", "pairs"),
    [
        (["a.yaml"], [], ["a.yaml"], []),
        (["a.yaml", "b.yml"], [], ["a.yaml", "b.yml"], []),
        (["a.yaml", "NUM_GPUS", "0"], [], ["a.yaml"], ["NUM_GPUS", "0"]),
        (["a.yaml"], ["NUM_GPUS", "0"], ["a.yaml"], ["NUM_GPUS", "0"]),
        (["a.yaml", "NUM_GPUS", "0"], ["--opts", "X", "1"], ["a.yaml"], ["NUM_GPUS", "0", "X", "1"]),
        (["a.yaml", "OUTPUT_DIR", "b.yaml"], [], ["a.yaml"], ["OUTPUT_DIR", "b.yaml"]),
        (["odd"], ["X", "1"], ["odd"], ["X", "1"]),  # the config loader says what is wrong with it
    ],
)
def test_files_come_first(words: list[str], opts: list[str], files: list[str], pairs: list[str]) -> None:
    assert split_config_arguments(words, opts) == (files, pairs)


def test_a_config_without_suffix_is_still_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.touch()
    assert split_config_arguments(["a.yaml", str(path), "X", "1"], []) == (["a.yaml", str(path)], ["X", "1"])


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def user_error() -> None:
        raise ConfigError(["a is b"])

    def interrupt() -> None:
        raise KeyboardInterrupt

    def bug() -> None:
        raise ZeroDivisionError

    assert exit_code(lambda: None) == 0
    assert exit_code(user_error) == 1
    assert "a is b" in capsys.readouterr().err
    assert exit_code(interrupt, hint="go on") == 130
    assert "go on" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        exit_code(bug)


def test_a_disk_or_folder_that_takes_nothing_is_no_bug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write_to_a_folder() -> None:
        tmp_path.write_text("")

    def write_to_a_full_disk() -> None:
        Path("/dev/full").write_text("text")

    def look_for_a_file() -> None:
        (tmp_path / "absent").read_text()

    assert exit_code(write_to_a_folder) == exit_code(write_to_a_full_disk) == 1
    told = capsys.readouterr().err
    assert f"error: [Errno 21] Is a directory: '{tmp_path}'" in told and "error: [Errno 28] No space left" in told
    with pytest.raises(FileNotFoundError):
        exit_code(look_for_a_file)
