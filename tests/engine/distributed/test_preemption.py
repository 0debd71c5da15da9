"""Signals that stop a run: remembered, and turned into exit codes."""

import os
import signal
import subprocess
import sys

import pytest

from tests.helpers.project import ROOT
from videovit.cli import exit_code
from videovit.engine.distributed import preemption
from videovit.engine.distributed.preemption import Preempted
from videovit.engine.evaluation.inference import stoppable
from videovit.errors import UserError


@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_is_remembered(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with preemption.install() as signals, preemption.install() as inner:
        assert signals.requested() == 0 and inner is signals
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested() == signum
        assert signals.previous[signum] is before
    assert signal.getsignal(signum) is before


def test_second_ctrl_c_ends_at_once() -> None:
    with preemption.install() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.requested() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_second_ctrl_c_after_another_signal() -> None:
    with preemption.install() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.requested() == signal.SIGTERM


def test_hangup_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with preemption.install() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.requested() == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


LEAVE = """
import atexit, os, signal, sys
from videovit.cli import exit_code
from videovit.engine.distributed import preemption

def run():
    with preemption.install() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        raise preemption.Preempted(signals.requested(), "last.pyth")

def late(number):
    # The last thing that the interpreter does before it removes all handlers of Python.
    os.kill(os.getpid(), number)

atexit.register(late, getattr(signal, sys.argv[1]))
sys.exit(exit_code(run))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2", "SIGHUP", "SIGINT"])
def test_second_signal_while_leaving_keeps_exit_code(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVE, name], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 75 and "saved last.pyth" in done.stderr


def test_wait_after_signal_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    preemption.check_wait()
    with preemption.install():
        preemption.check_wait()
        os.kill(os.getpid(), signal.SIGTERM)
        preemption.check_wait()
        monkeypatch.setattr(preemption, "GRACE_S", 0.0)
        with pytest.raises(UserError, match="no batch arrived within 0 s after SIGTERM"):
            preemption.check_wait()


def test_stoppable_ends_after_a_signal() -> None:
    seen = []
    with preemption.install(), pytest.raises(Preempted) as stop:
        for batch in stoppable(range(9), 9):
            seen.append(batch)
            if batch == 3:
                os.kill(os.getpid(), signal.SIGUSR2)
    assert seen == [0, 1, 2, 3] and stop.value.signum == signal.SIGUSR2
    assert list(stoppable(range(3), 3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGUSR2, 75), (signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)]
)
def test_exit_codes(signum: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise Preempted(signum, "last.pyth")

    assert exit_code(main, hint="the same command goes on") == code
    assert "saved last.pyth; the same command goes on" in capsys.readouterr().err
