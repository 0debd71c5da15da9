"""Spawned processes: results, failures, and signals."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from tests.helpers.project import ROOT
from videovit.engine.distributed import processes
from videovit.engine.distributed.faults import PeerError
from videovit.engine.distributed.processes import run_processes
from videovit.errors import UserError

STUBBORN_S = 100.0
BLOCKED_AT_IMPORT = signal.pthread_sigmask(signal.SIG_BLOCK, ())


def behave(i: int, how: str, folder: Path) -> str:
    """Process 1 does something; the others ignore SIGTERM and would run for a long time."""
    if how == "fine":
        return f"result of {i}"
    if i != 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"{i} {os.getpid()}").touch()
    if i != 1:
        time.sleep(STUBBORN_S)
    while len(list(folder.iterdir())) < 3:
        time.sleep(0.01)
    if how == "mistake":
        raise UserError("no such list")
    if how == "other":
        raise PeerError("rank 2: no such list")
    if how == "bug":
        raise ZeroDivisionError("one by none")
    if how == "exit":
        os._exit(7)
    if how == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(STUBBORN_S)
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def names(number: int) -> list[str]:
    return [f"rank {i}" for i in range(number)]


def is_alive(pid: int) -> bool:
    """Whether a process is running, and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(folder: Path) -> list[int]:
    return [int(path.name.split()[1]) for path in folder.iterdir() if "signalled" not in path.name]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork processes, which saves importing torch; and kill those that ignore SIGTERM soon."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    monkeypatch.setattr(processes, "END_S", 0.3)


def test_result_of_the_first_process_is_returned(tmp_path: Path) -> None:
    assert run_processes(behave, names(2), "fine", tmp_path) == "result of 0"


def blocked_at_import(i: int) -> set[int]:
    return BLOCKED_AT_IMPORT


def test_signals_are_blocked_while_a_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during its imports would print a traceback."""
    for name in ("_fd", "_pid"):  # as in a new program, in which the first process starts this helper too
        monkeypatch.setattr(resource_tracker._resource_tracker, name, None)
    assert run_processes(blocked_at_import, names(1)) >= {signal.SIGINT, signal.SIGTERM}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("mistake", "^rank 1: no such list"),
        ("other", "^rank 2: no such list"),
        ("bug", "^rank 1: ZeroDivisionError: one by none"),
        ("killed", "^rank 1: killed by SIGKILL"),
        ("exit", "^rank 1: ended with exit code 7"),
    ],
)
@pytest.mark.usefixtures("forked")
def test_failure_of_one_process_ends_all(how: str, message: str, tmp_path: Path) -> None:
    """Including those that ignore SIGTERM."""
    with pytest.raises(UserError, match=message):
        run_processes(behave, names(3), how, tmp_path)
    assert len(pids(tmp_path)) == 3 and not any(map(is_alive, pids(tmp_path)))


@pytest.mark.usefixtures("forked")
def test_death_between_two_checks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    check = processes.Child.problem

    def check_and_pause(child: processes.Child) -> str:
        problem = check(child)
        if not problem:
            child.process.join()
        return problem

    monkeypatch.setattr(processes.Child, "problem", check_and_pause)
    monkeypatch.setattr(processes, "wait", lambda sources, limit_s: sources)  # returns at once
    with pytest.raises(UserError, match="^rank 0: killed by SIGKILL"):
        run_processes(die, names(1))


def die(i: int) -> None:
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("forked")
def test_ctrl_c_in_one_process_ends_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_processes(behave, names(3), "interrupt", tmp_path)
    assert not any(map(is_alive, pids(tmp_path)))


@pytest.mark.usefixtures("forked")
def test_processes_that_do_not_end_after_a_signal_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SAVE_S", 0.2)
    monkeypatch.setattr(processes, "LOOK_S", 0.1)

    def signal_when_ready() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=signal_when_ready, daemon=True).start()
    with pytest.raises(UserError, match=r"^rank 0, rank 1: still running 0.2 s after SIGTERM; killed"):
        run_processes(ignore_signals, names(2), tmp_path)
    assert not any(map(is_alive, pids(tmp_path)))


def ignore_signals(i: int, folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"{i} {os.getpid()}").touch()
    time.sleep(STUBBORN_S)


def answer_signal(i: int, folder: Path) -> None:
    signal.signal(signal.SIGUSR2, lambda *_: (folder / f"{i} signalled").touch())
    (folder / f"{i} {os.getpid()}").touch()
    while not (folder / f"{i} signalled").exists():
        time.sleep(0.01)


SCRIPT = """
import sys
from pathlib import Path
from tests.engine.distributed import test_processes
from videovit.engine.distributed.processes import run_processes
if __name__ == "__main__":
    run_processes(getattr(test_processes, sys.argv[1]), ["a", "b"], Path(sys.argv[2]))
"""


def start_script(target: str, folder: Path, tmp_path: Path) -> "subprocess.Popen[bytes]":
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    child = subprocess.Popen([sys.executable, script, target, folder], env={**os.environ, "PYTHONPATH": str(ROOT)})
    while len(list(folder.iterdir())) < 2:
        assert child.poll() is None
        time.sleep(0.01)
    return child


def test_signals_are_forwarded(tmp_path: Path) -> None:
    folder = tmp_path / "pids"
    folder.mkdir()
    child = start_script("answer_signal", folder, tmp_path)
    child.send_signal(signal.SIGUSR2)
    assert child.wait(timeout=60) == 0


def test_no_process_outlives_its_parent(tmp_path: Path) -> None:
    folder = tmp_path / "pids"
    folder.mkdir()
    child = start_script("answer_signal", folder, tmp_path)
    child.kill()
    child.wait()
    end = time.monotonic() + 30
    while any(map(is_alive, pids(folder))):
        assert time.monotonic() < end, "orphans"
        time.sleep(0.05)
