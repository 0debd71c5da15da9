"""What a process of a job does after a signal, once its run has saved."""

import signal
from collections.abc import Iterator

import pytest

from videovit.engine import slurm

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As they were, afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("cluster", "rank", "signum", "asks", "code"),
    [
        ("slurm", 0, signal.SIGUSR2, True, 140),
        ("slurm", 1, signal.SIGUSR2, False, 140),
        ("slurm", 0, signal.SIGTERM, False, 143),
        ("local", 0, signal.SIGUSR2, True, 140),
        ("local", 0, signal.SIGTERM, False, 143),
        ("slurm", 0, signal.SIGINT, False, 1),  # below 128, so that the batch script asks for no requeue
    ],
)
def test_the_first_process_alone_asks_for_a_requeue(
    cluster: str, rank: int, signum: signal.Signals, asks: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it does, no other signal comes in between; on Slurm all of them then wait to be ended."""
    variable = "SLURM_PROCID" if cluster == "slurm" else "SUBMITIT_LOCAL_GLOBALID"
    monkeypatch.setenv("SUBMITIT_EXECUTOR", cluster)
    monkeypatch.setenv(variable, str(rank))
    asked, waited = [], []
    monkeypatch.setattr(slurm.time, "sleep", waited.append)

    def handler(number: int, frame: None) -> None:
        asked.append(number)
        assert [signal.getsignal(s) for s in SIGNALS] == [signal.SIG_IGN] * 2

    with pytest.raises(SystemExit) as end:
        slurm.give_way(signum, handler)
    assert end.value.code == code
    assert asked == ([signal.SIGUSR2] if asks else [])
    assert waited == ([slurm.WAIT_FOR_END_S] if cluster == "slurm" and signum != signal.SIGINT else [])
