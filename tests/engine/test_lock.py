"""One job in a folder at a time."""

import dataclasses
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from videovit.engine.lock import NAME, SILENT_S, LockError, Owner, output_lock, this_process


def write(folder: Path, **changes: object) -> Path:
    """A lock of another owner, beside this process."""
    path = folder / NAME
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(this_process(), **changes))))
    return path


def take(folder: Path) -> None:
    with output_lock(folder):
        assert Owner(**json.loads((folder / NAME).read_text())).pid == os.getpid()
    assert not (folder / NAME).exists()


def hold(folder: Path, seconds: float) -> None:
    with output_lock(folder):
        time.sleep(seconds)


def test_the_second_job_stops_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, 60))
    child.start()
    while not (tmp_path / NAME).exists() or not (tmp_path / NAME).read_text():
        time.sleep(0.005)
    with (
        pytest.raises(LockError, match=rf"in use by process {child.pid} on .*another OUTPUT_DIR.*rm "),
        output_lock(tmp_path),
    ):
        pass
    assert (tmp_path / NAME).exists()
    child.kill()
    child.join()
    take(tmp_path)  # its owner is dead now


def test_a_number_that_another_process_has_got_since_is_no_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, born="1")
    take(tmp_path)
    assert "took over OUTPUT_DIR" in caplog.text and "that process is gone" in caplog.text


def test_an_owner_elsewhere_is_believed_while_it_gives_signs_of_life(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, host="node7", place="node7 boot", pid=1)
    with pytest.raises(LockError, match="process 1 on node7"):
        take(tmp_path)
    long_ago = time.time() - SILENT_S - 5
    os.utime(path, (long_ago, long_ago))
    take(tmp_path)
    assert "no sign of life" in caplog.text


def test_a_requeued_slurm_job_takes_its_folder_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, host="node7", place="node7 boot", job="123", restart=0)
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    with pytest.raises(LockError, match="Slurm job 123"):
        take(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    take(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"host": 1}'])
def test_a_damaged_lock_is_taken_over(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text)
    take(tmp_path)
