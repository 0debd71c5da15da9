"""The end of a job's process after a signal, once the run has saved."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from videovit.engine.slurm import Request, describe, job, snapshot

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore the signal handlers."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("cluster", "rank", "signum", "requeues", "code"),
    [
        ("slurm", 0, signal.SIGUSR2, True, 140),
        ("slurm", 1, signal.SIGUSR2, False, 140),
        ("slurm", 0, signal.SIGTERM, False, 143),
        ("local", 0, signal.SIGUSR2, True, 140),
        ("local", 0, signal.SIGTERM, False, 143),
        ("slurm", 0, signal.SIGINT, False, 1),  # below 128, so that the batch script requests no requeue
    ],
)
def test_only_the_first_process_requests_a_requeue(
    cluster: str, rank: int, signum: signal.Signals, requeues: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile it ignores other signals; on Slurm all processes then wait to be ended."""
    variable = "SLURM_PROCID" if cluster == "slurm" else "SUBMITIT_LOCAL_GLOBALID"
    monkeypatch.setenv("SUBMITIT_EXECUTOR", cluster)
    monkeypatch.setenv(variable, str(rank))
    requested, waited = [], []
    monkeypatch.setattr(job.time, "sleep", waited.append)

    def handler(number: int, frame: None) -> None:
        requested.append(number)
        assert [signal.getsignal(s) for s in SIGNALS] == [signal.SIG_IGN] * 2

    with pytest.raises(SystemExit) as end:
        job.return_to_queue(signum, handler)
    assert end.value.code == code
    assert requested == ([signal.SIGUSR2] if requeues else [])
    assert waited == ([job.WAIT_FOR_END_S] if cluster == "slurm" and signum != signal.SIGINT else [])


def test_finished_job_ignores_the_signal_of_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_remove_leftovers", lambda: None)
    monkeypatch.setattr(job, "_export_environment", lambda: None)
    assert job.Job((), snapshot.fingerprint())() == []
    signal.raise_signal(signal.SIGUSR2)  # would end this process


def test_processes_meet_at_a_port_that_no_outgoing_connection_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alike in all processes, and another one after a restart."""
    variables = {"SLURM_NTASKS": 2, "SLURM_NNODES": 1, "SLURM_NODEID": 0, "SLURM_JOB_NODELIST": "node1"}
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_LOCALID": 0, **variables}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("MASTER_ADDR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # restored afterwards
    ports: dict[tuple[int, int], set[int]] = {}
    for number, restarts, rank in itertools.product((7, 55_890_254), (0, 1, 2), (0, 1)):
        monkeypatch.setenv("SLURM_JOB_ID", str(number))
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        monkeypatch.setenv("MASTER_PORT", "40000")  # from the user's shell
        job._export_environment()
        ports.setdefault((number, restarts), set()).add(int(os.environ["MASTER_PORT"]))
    assert all(len(found) == 1 for found in ports.values())
    assert len(set.union(*ports.values())) == len(ports)
    assert all(1024 < port < 32_768 for port in set.union(*ports.values()))


def test_commands_to_follow_a_job_are_quoted(tmp_path: Path) -> None:
    log = tmp_path / "my jobs" / "1_log.err"
    submitted: Any = SimpleNamespace(job_id="1", paths=SimpleNamespace(stderr=log))
    assert f"tail -F '{log}'" in describe(submitted, [], Request(cluster="local"))
