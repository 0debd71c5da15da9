"""Jobs on a Slurm cluster that are preempted, killed or lose a node end with the same weights as undisturbed ones.

Jobs run side by side, each on two nodes of its own. One has 2 x 2 processes; the disturbed ones have 2 x 1, since
starting processes takes most of the time. `make test-slurm` starts the cluster.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.project import ROOT
from tests.helpers.runs import freeze

SUBMIT = [sys.executable, str(ROOT / "tools/submit.py"), "--cfg", str(ROOT / "configs/Demo/MVIT_TINY.yaml")]
NUM_STEPS, EPOCHS = 6, 6  # steps per epoch: 96 videos, 2 x 8 per step
OPTS = f"""
TRAIN.BATCH_SIZE 8 TRAIN.EVAL_PERIOD 100 TRAIN.CHECKPOINT_PERIOD 1 TRAIN.CHECKPOINT_KEEP 0 TEST.ENABLE False
SHUFFLE_EVAL.ENABLE False SOLVER.MAX_EPOCH {EPOCHS} MODEL.DROPOUT_RATE 0.1 MVIT.DROPPATH_RATE 0.1 LOG_PERIOD 1
DIST_TIMEOUT_S 240
""".split()
PATIENCE_S = 600.0

pytestmark = pytest.mark.skipif("SLURM_TEST_FOLDER" not in os.environ, reason="needs the cluster of make test-slurm")


@dataclass
class Run:
    """A submitted job, and its history."""

    folder: Path
    job_id: str
    restarts: int = 0

    @property
    def steps(self) -> list[tuple[int, int, float]]:
        """(epoch, step, loss) in the order in which the run reported them; epochs and steps count from 1."""
        path = self.folder / "stats.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return [
            (int(r["epoch"].split("/")[0]), int(r["iter"].split("/")[0]), r["loss"])
            for r in records
            if r["_type"] == "train_iter"
        ]

    @property
    def state(self) -> str:
        return slurm("sacct", "-nXP", "-j", self.job_id, "-o", "State").strip()

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-1500:]}" for p in sorted(self.folder.glob("jobs/*_log.err")))

    def wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < end, f"{what}: not in {PATIENCE_S:g} s; {self.state}\n{self.logs()}"
            time.sleep(0.2)

    def reach(self, num_steps: int) -> None:
        """Wait until a number of steps has been reported."""
        self.wait_for(f"step {num_steps}", lambda: len(self.steps) >= num_steps)

    def finish(self) -> Run:
        """Wait until the job has ended and will not be requeued."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY")
        self.wait_for("the end", lambda: self.state.startswith(over))
        details = slurm("scontrol", "show", "job", self.job_id)
        self.restarts = int(re.findall(r"Restarts=(\d+)", details)[0])
        return self

    def hold(self, num_steps: int) -> int:
        """Wait for a number of steps, then suspend the last process, and the others with it; returns its process id."""
        self.reach(num_steps)
        pid = self.pid_of(1)
        freeze(pid)
        return pid

    def last_node(self) -> str:
        nodes = slurm("squeue", "-h", "-j", self.job_id, "-o", "%N").strip()
        return slurm("scontrol", "show", "hostnames", nodes).split()[-1]

    def pid_of(self, rank: int) -> int:
        """Process id of a rank, outside of the namespaces."""
        wanted = {f"SLURM_JOB_ID={self.job_id}", f"SLURM_PROCID={rank}"}
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                variables = set((process / "environ").read_text(errors="replace").split("\0"))
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if b"submitit.core._submit" in command and wanted <= variables and b"srun" not in command:
                found[int(process.name)] = parent
        first = [pid for pid, parent in found.items() if parent not in found]  # the others are its data loader workers
        assert len(first) == 1, f"processes of rank {rank}: {found}\n{self.logs()}"
        return first[0]


def is_warned(pid: int) -> bool:
    """Whether a suspended process has SIGUSR2 pending; or has ended, because the signal came earlier."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    waiting = int(re.findall(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE)[0], 16)
    return bool(waiting >> (signal.SIGUSR2 - 1) & 1)


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout


def submit(folder: Path, nodes: str, *args: str, opts: list[str] | None = None, tasks: int = 1) -> Run:
    done = subprocess.run(
        [*SUBMIT, "--nodes", "2", "--tasks-per-node", str(tasks), "--timeout-hours", "0.4", *args]
        + (["--nodelist", nodes] if nodes else [])
        + [*OPTS, "OUTPUT_DIR", str(folder), *(opts or [])],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return Run(folder, re.findall(r"^job (\d+)", done.stdout)[0])


def undisturbed(folder: Path, data: list[str]) -> Run:
    return submit(folder, "node[1-2]", opts=data, tasks=2).finish()


def user_signal(folder: Path, data: list[str]) -> Run:
    """Twice, in different epochs."""
    run = submit(folder, "node[3-4]", opts=data)
    for num_steps in (NUM_STEPS - 2, 2 * NUM_STEPS + 1):
        run.reach(num_steps)
        slurm("scancel", "--signal=USR2", run.job_id)
    return run.finish()


def preemption(folder: Path, data: list[str]) -> Run:
    """A job in a higher partition requests the nodes."""
    run = submit(folder, "node[5-6]", "--partition", "scavenge", opts=data)
    run.reach(NUM_STEPS + 2)
    slurm("srun", "-p", "main", "-w", "node[5-6]", "-N2", "--exclusive", "-t1", "sleep", "1")
    return run.finish()


def killed_process(folder: Path, data: list[str]) -> Run:
    run = submit(folder, "node[7-8]", opts=data)
    os.kill(run.hold(2 * NUM_STEPS + 2), signal.SIGKILL)
    return run.finish()


def power_cut(folder: Path, data: list[str]) -> Run:
    """The second node fails; node11 is the spare one."""
    nodes = [f"node{i}" for i in range(1, 14) if i not in (9, 10, 11)]
    run = submit(folder, "", "--exclude", ",".join(nodes), opts=data)
    run.hold(2 * NUM_STEPS + 2)
    os.kill(int((Path(os.environ["SLURM_TEST_PIDS"]) / run.last_node()).read_text()), signal.SIGKILL)
    return run.finish()


def time_limit(folder: Path, data: list[str]) -> Run:
    """The limit is two minutes; the run is suspended until Slurm's signal is pending."""
    run = submit(folder, "node[12-13]", "--timeout-hours", "0.033", "--signal-delay", "20", opts=data)
    pid = run.hold(NUM_STEPS + 2)
    run.wait_for("Slurm's warning", lambda: is_warned(pid))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    return run.finish()


def mistake(folder: Path, data: list[str]) -> Run:
    """The data do not exist."""
    return submit(folder, "node[1-2]", opts=["DATA.PATH_TO_DATA_DIR", str(folder / "nowhere")]).finish()


def spawned(folder: Path, data: list[str], number: int = 4) -> Run:
    """The same ranks without Slurm."""
    command = [sys.executable, str(ROOT / "tools/run_net.py"), *SUBMIT[2:], *OPTS, *data, "OUTPUT_DIR", str(folder)]
    command += ["NUM_CPU_PROCS", str(number), "TRAIN.BATCH_SIZE", "16"]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    return Run(folder, "")


def spawned_two(folder: Path, data: list[str]) -> Run:
    """The reference for disturbed runs."""
    return spawned(folder, data, 2)


LOSSES = (time_limit, power_cut, preemption, killed_process, user_signal)
SCENARIOS = (*LOSSES[:3], spawned_two, *LOSSES[3:], mistake, undisturbed, spawned)  # the long ones first


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    """All runs that the selected tests need, started at once."""
    names = " ".join(item.name for item in request.session.items)
    impossible = () if "SLURM_TEST_POWER_CUT" in os.environ else (power_cut,)
    wanted = [s for s in SCENARIOS if (s not in LOSSES or s.__name__ in names) and s not in impossible]
    folder = tmp_path_factory.mktemp("runs")
    prepare = [sys.executable, str(ROOT / "datasets/demo/prepare.py"), "--output", str(folder / "data")]
    subprocess.run([*prepare, "--train", "96", "--val", "12", "--test", "12"], check=True, capture_output=True)
    data = ["DATA.PATH_TO_DATA_DIR", str(folder / "data"), "DATA_LOADER.NUM_WORKERS", "0"]
    with ThreadPoolExecutor(4) as pool:  # more would only compete for processors
        yield {s.__name__: pool.submit(s, folder / s.__name__, data) for s in wanted}


def weights(run: Run) -> dict[str, torch.Tensor]:
    path = run.folder / f"checkpoints/checkpoint_epoch_{EPOCHS:05d}.pyth"
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return dict(state["model_state"])


def assert_same(run: Run, reference: Run) -> None:
    """Weights equal bit for bit; and the loss in every step, so the samples too."""
    ours, theirs = weights(run), weights(reference)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    expected = {(epoch, step): loss for epoch, step, loss in reference.steps}
    for epoch, step, loss in run.steps:
        assert loss == expected[epoch, step], (epoch, step)


ALL_STEPS = [(epoch, step) for epoch in range(1, EPOCHS + 1) for step in range(1, NUM_STEPS + 1)]


def test_job_equals_spawned_processes(runs: dict[str, Future[Run]]) -> None:
    run = runs["undisturbed"].result()
    assert run.state == "COMPLETED" and run.restarts == 0, run.logs()
    assert [step[:2] for step in run.steps] == ALL_STEPS
    assert_same(runs["spawned"].result(), run)


@pytest.mark.parametrize("name", ["user_signal", "preemption", "time_limit"])
def test_signalled_job_repeats_no_step(name: str, runs: dict[str, Future[Run]]) -> None:
    """It saves and is requeued."""
    run = runs[name].result()
    assert run.state == "COMPLETED", run.logs()
    assert run.restarts >= (2 if name == "user_signal" else 1)
    assert [step[:2] for step in run.steps] == ALL_STEPS
    assert_same(run, runs["spawned_two"].result())


@pytest.mark.parametrize("name", ["killed_process", "power_cut"])
def test_killed_job_resumes_from_its_checkpoint(name: str, runs: dict[str, Future[Run]]) -> None:
    """Steps after the checkpoint are repeated with the same samples."""
    if name not in runs:
        pytest.skip("the nodes share a process namespace on this machine")
    run = runs[name].result()
    assert run.state == "COMPLETED", run.logs()
    assert run.restarts == 1
    done = [step[:2] for step in run.steps]
    assert sorted(set(done)) == ALL_STEPS
    assert 0 < len(done) - len(set(done)) < NUM_STEPS + 1
    assert_same(run, runs["spawned_two"].result())


def test_job_with_an_error_is_not_requeued(runs: dict[str, Future[Run]]) -> None:
    run = runs["mistake"].result()
    assert run.state == "FAILED" and run.restarts == 0, run.logs()
    (log,) = run.folder.glob("jobs/*_0_log.err")
    assert re.search(r"^error: .*nowhere", log.read_text(), re.MULTILINE) and "Traceback" not in run.logs()
