"""Signals that stop a run: remembered, and turned into exit codes."""

import os
import signal

import pytest

from videovit.cli import exit_code
from videovit.engine.distributed import preemption
from videovit.engine.distributed.preemption import Preempted
from videovit.engine.evaluation.inference import stoppable


@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGTERM])
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


def test_stoppable_ends_after_a_signal() -> None:
    seen = []
    with preemption.install(), pytest.raises(Preempted) as stop:
        for batch in stoppable(range(9), 9):
            seen.append(batch)
            if batch == 3:
                os.kill(os.getpid(), signal.SIGUSR2)
    assert seen == [0, 1, 2, 3] and stop.value.signum == signal.SIGUSR2
    assert list(stoppable(range(3), 3)) == [0, 1, 2]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGUSR2, 75), (signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_exit_codes(signum: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise Preempted(signum, "last.pyth")

    assert exit_code(main, hint="the same command goes on") == code
    assert "saved last.pyth; the same command goes on" in capsys.readouterr().err
