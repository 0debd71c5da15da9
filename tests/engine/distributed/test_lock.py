"""The lock of OUTPUT_DIR: one job per folder at a time."""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import time
from pathlib import Path

import pytest

from videovit.engine.distributed import lock
from videovit.engine.distributed.lock import NAME, SILENT_S, Owner, output_lock, this_process
from videovit.errors import UserError


def write(folder: Path, **changes: object) -> Path:
    """Write the lock file of another owner: this process with `changes`."""
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


def test_second_job_in_a_folder_is_refused(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, 60))
    child.start()
    while not (tmp_path / NAME).exists() or not (tmp_path / NAME).read_text():
        time.sleep(0.005)
    with (
        pytest.raises(UserError, match=rf"in use by process {child.pid} on .*another OUTPUT_DIR.*rm "),
        output_lock(tmp_path),
    ):
        pass
    assert (tmp_path / NAME).exists()
    child.kill()
    child.join()
    take(tmp_path)  # the owner is dead now


def test_reused_process_id_is_not_the_owner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, born="1")
    take(tmp_path)
    assert "took over OUTPUT_DIR" in caplog.text and "that process is gone" in caplog.text


def test_owner_on_another_machine_is_respected_until_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, host="node7", place="node7 boot", pid=1)
    with pytest.raises(UserError, match="process 1 on node7"):
        take(tmp_path)
    long_ago = time.time() - SILENT_S - 5
    os.utime(path, (long_ago, long_ago))
    take(tmp_path)
    assert "no sign of life" in caplog.text


def test_requeued_slurm_job_takes_over_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, host="node7", place="node7 boot", job="123", restart=0)
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    with pytest.raises(UserError, match="Slurm job 123"):
        take(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    take(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"host": 1}', "[" * 9_000, "\udcff\udcfe", "null", "9" * 9_000])
def test_damaged_lock_is_taken_over(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text, encoding="utf-8", errors="surrogateescape")
    take(tmp_path)


@pytest.mark.parametrize("changes", [{"pid": "x"}, {"restart": "x"}, {"born": 7}, {"pid": None}, {"pid": 10**30}])
def test_lock_with_wrong_types_is_taken_over(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, job="123", **changes)
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "one")
    take(tmp_path)


def test_lock_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(UserError, match="is not a file"):
        take(tmp_path)


def test_hidden_process_is_respected_until_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """/proc may hide the processes of other users (hidepid)."""
    child = subprocess.Popen(["sleep", "60"])
    born = lock._start_time(child.pid)
    path = write(tmp_path, pid=child.pid, born=born)
    read, hidden = lock._read_text, f"/proc/{child.pid}/stat"
    monkeypatch.setattr(lock, "_read_text", lambda path: "" if path == hidden else read(path))
    with pytest.raises(UserError, match=f"in use by process {child.pid}"):
        take(tmp_path)
    long_ago = time.time() - SILENT_S - 5
    os.utime(path, (long_ago, long_ago))
    take(tmp_path)
    assert "no sign of life" in caplog.text
    write(tmp_path, pid=child.pid, born=born)
    child.kill()
    child.wait()
    take(tmp_path)
    assert "that process is gone" in caplog.text


def test_command_to_remove_lock_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    write(folder, host="node7", place="node7 boot", pid=1)
    with pytest.raises(UserError, match=rf"rm '{folder}/{NAME}'"):
        take(folder)


@pytest.mark.parametrize("removed", [False, True])
def test_owner_notices_lost_folder(removed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` at once, `check` after the next renewal; the lock of the new owner stays."""
    monkeypatch.setattr(lock, "RENEWAL_S", 0.01)
    with output_lock(tmp_path) as held:
        held.verify()
        other = write(tmp_path, host="node7", place="node7 boot", pid=1)
        if removed:
            other.unlink()
        problem = "its lock was removed" if removed else "was taken over by process 1 on node7"
        with pytest.raises(UserError, match=f"{problem}.*saves nothing more"):
            held.verify()
    assert other.exists() is not removed
    other.unlink(missing_ok=True)
    with output_lock(tmp_path) as held:
        other.unlink()
        end = time.monotonic() + 30
        with pytest.raises(UserError, match="its lock was removed"):
            while time.monotonic() < end:
                held.check()


def test_unreadable_folder_is_not_lost(tmp_path: Path) -> None:
    with output_lock(tmp_path) as held:
        (tmp_path / NAME).rename(tmp_path / "aside")
        (tmp_path / NAME).mkdir()  # reading a folder is an error, for root too
        held.verify()
        (tmp_path / NAME).rmdir()
        (tmp_path / "aside").rename(tmp_path / NAME)
        held.verify()
    assert not list(tmp_path.iterdir())
