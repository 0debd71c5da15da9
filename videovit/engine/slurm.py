"""A run as a job of a cluster, through submitit: what is carried there, how it gives way, and how it comes back.

One Slurm task is one process of the run. A job goes on from the newest checkpoint of its OUTPUT_DIR whenever it starts,
so all that a requeue has to do is start it again:

    time limit, preemption, scancel --signal=USR2    the run saves and asks for the requeue itself
    a process killed (out of memory, by hand)        the batch script asks for it, at most so many times
    a node lost, scontrol requeue                    Slurm does it
    an error of the run                              ends the job

This module is loaded in the first moments of a job, when a signal still kills it: it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import submitit
from submitit.core.utils import DelayedSubmission, JobPaths

import videovit
from videovit.config import Config
from videovit.errors import UserError

CLUSTERS = ("slurm", "local")
PACKAGE = Path(videovit.__file__).parent
LOCAL_REQUEUES = 5  # submitit's local controller starts a job no more than six times
WAIT_FOR_END_S = 600.0  # how long a process that has saved waits for Slurm to end it
SIGNALLED = 128  # exit codes from here on tell of a signal


class SubmitError(UserError):
    """A job could not be submitted, or is not fit to run."""


@dataclass(frozen=True)
class Request:
    """What a job asks of the cluster; None leaves a thing to the cluster.

    Attributes:
        tasks_per_node: processes of a node, one to a GPU where there are GPUs.
        timeout_hours: limit of one stretch; the run goes on after a requeue.
        requeues: how often a job may come back from its time limit, and how often from a crash.
        warn_s: how long before the time limit the run is told.
        mem: of a node, as Slurm writes it, e.g. 64GB; 0 is all of it.
    """

    cluster: str = "slurm"
    job_dir: Path = Path("jobs")
    name: str = "videovit"
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int | None = None
    mem: str | None = None
    timeout_hours: float = 24.0
    warn_s: int = 120
    requeues: int = 10
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    comment: str | None = None

    @property
    def timeout_s(self) -> float:
        """The limit in seconds; Slurm counts whole minutes."""
        seconds = self.timeout_hours * 3600
        return math.ceil(seconds / 60) * 60 if self.cluster == "slurm" else seconds


@dataclass(frozen=True)
class Job:
    """What runs in each process of a job; light, and pickled by name.

    Attributes:
        configs: run one after the other.
        code: fingerprint of the package at submission, see `fingerprint`.
    """

    configs: tuple[Config, ...]
    code: tuple[tuple[str, str], ...]

    def __call__(self) -> list[dict[str, dict[str, float]]]:
        """Run the configs in this process, as one rank of many.

        Returns:
            Per config: task -> its numbers.
        """
        _remove_left_overs()
        _export_environment()
        _check_code(self.code)
        from videovit.engine import launch
        from videovit.engine.distributed import preemption
        from videovit.engine.distributed.group import PeerError

        try:
            with preemption.install() as asked:
                return [launch.run(cfg) for cfg in self.configs]
        except preemption.Preempted as stop:
            print(stop, file=sys.stderr, flush=True)
            give_way(stop.signum, asked.previous[signal.SIGUSR2])
        except PeerError as error:  # no result: the process at fault leaves one, or the state of the job tells
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(1)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise

    def checkpoint(self) -> DelayedSubmission:
        """What submitit runs after a requeue: the same, the checkpoints in OUTPUT_DIR know the rest."""
        return DelayedSubmission(Job(self.configs, self.code))


def fingerprint(package: Path = PACKAGE) -> tuple[tuple[str, str], ...]:
    """(file, digest of its content) for every Python file of the package."""
    files = sorted(package.rglob("*.py"))
    return tuple((str(f.relative_to(package)), hashlib.sha256(f.read_bytes()).hexdigest()[:16]) for f in files)


def _check_code(code: tuple[tuple[str, str], ...]) -> None:
    """What runs is what was there when the job was submitted.

    Raises:
        SubmitError: files have changed since; its message is in the log too.
    """
    changed = sorted({name for name, _ in set(code) ^ set(fingerprint())})
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        problem = (
            f"the code in {PACKAGE} is not what it was when the job was submitted: {', '.join(changed[:5])}{more}. "
            "Submit it again: it goes on from its checkpoints. With --snapshot a job takes a copy of the code along"
        )
        print(f"error: {problem}", file=sys.stderr, flush=True)
        raise SubmitError(problem)


def _remove_left_overs() -> None:
    """What an earlier start of this job may have left, and what submitit would stumble over.

    A half-written pickle makes the next requeue fail; a result of an earlier end would be taken for that of the job.
    """
    environment = submitit.JobEnvironment()
    paths = environment.paths
    paths.result_pickle.unlink(missing_ok=True)
    if environment.global_rank == 0:
        paths.submitted_pickle.with_name(paths.submitted_pickle.name + ".save_tmp").unlink(missing_ok=True)


def _export_environment() -> None:
    """The variables by which the processes find each other; whatever the user's shell had set is replaced."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if submitit.JobEnvironment().cluster == "local":  # a machine need not know itself by its name
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    if cores:
        os.environ.setdefault("OMP_NUM_THREADS", cores)


def give_way(signum: int, previous: Any) -> NoReturn:
    """After the run has saved: have the job requeued, and never return.

    Args:
        signum: what reached the run. SIGUSR2 wants a requeue, which the first process asks for; after SIGTERM Slurm
            ends or requeues the job by itself. SIGINT was somebody's wish to end it.
        previous: submitit's handler of SIGUSR2.
    """
    if signum == signal.SIGINT:
        sys.exit(1)
    environment = submitit.JobEnvironment()
    if signum == signal.SIGUSR2 and environment.global_rank == 0 and callable(previous):
        # the requeue makes Slurm end this process, perhaps before the command that asks for it has returned; and a
        # second SIGUSR2 would begin a second one
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        previous(signal.SIGUSR2, None)
    if environment.cluster == "slurm":
        # Whoever ends now, ends the others with it, perhaps before the requeue is asked for. Slurm ends all of them.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(WAIT_FOR_END_S)
    sys.exit(SIGNALLED + signum)  # no exception that submitit would take for the end of the job


# ------------------------------------------------------------------------------------------------------- submitting


def submit(jobs: Sequence[Job], request: Request, *, code: Path = PACKAGE.parent) -> list[submitit.Job[Any]]:
    """Hand jobs to the cluster; several become one array on Slurm.

    Args:
        jobs: at least one.
        code: folder that holds the package to run.

    Raises:
        SubmitError: there is no such cluster here, or it refuses; with its words.
    """
    executor = build_executor(request, code)
    common_folder(request.job_dir).mkdir(parents=True, exist_ok=True)
    try:
        with _environment(code), _output_kept(request):
            if len(jobs) == 1:
                return [executor.submit(jobs[0])]
            with executor.batch():
                submitted = [executor.submit(job) for job in jobs]
            return submitted
    except submitit.core.utils.FailedJobError as error:
        raise SubmitError(f"the cluster refused the job: {str(error).strip()}") from error


@contextmanager
def _environment(code: Path) -> Iterator[None]:
    """The environment that a job is submitted in: its code comes first, and nothing of a job around this process.

    PYTHONSAFEPATH, since `python -m` would put the working directory, often a checkout, before PYTHONPATH.
    submitit takes SLURM_CONF out too, but without it sbatch may not find the cluster.
    """
    before = dict(os.environ)
    try:
        with submitit.helpers.clean_env():
            kept = {name: before[name] for name in ("SLURM_CONF",) if name in before}
            os.environ.update(kept, PYTHONPATH=_python_path(code), PYTHONSAFEPATH="1")
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _output_kept(request: Request) -> Iterator[None]:
    """A local job goes on when this process has ended: it does not hold its terminal, or the pipe that it writes to."""
    if request.cluster != "local":
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    try:
        with open(common_folder(request.job_dir) / "local.log", "ab") as file:
            for number, _ in kept:
                os.dup2(file.fileno(), number)
        yield
    finally:
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)


def _python_path(code: Path) -> str:
    return os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))


def build_executor(request: Request, code: Path = PACKAGE.parent) -> submitit.AutoExecutor:
    """submitit's executor with everything that `request` asks for.

    Raises:
        SubmitError: the cluster is not there, or cannot do that.
    """
    if request.cluster == "slurm" and shutil.which("sbatch") is None:
        raise SubmitError(
            "no Slurm here: sbatch is not in PATH. On a machine of the cluster it is; --cluster local runs the job in "
            "processes of this machine, with the same time limit and requeues"
        )
    if request.cluster != "slurm" and request.nodes > 1:
        raise SubmitError(f"--nodes {request.nodes}: --cluster {request.cluster} is this machine alone; use --nodes 1")
    if request.warn_s >= request.timeout_s:
        raise SubmitError(
            f"--signal-delay {request.warn_s}: the time limit is {request.timeout_s:g} s; the run is told so long "
            "before it, and saves"
        )
    executor = submitit.AutoExecutor(
        request.job_dir,
        cluster=request.cluster,
        slurm_max_num_timeout=request.requeues,
        local_max_num_timeout=min(request.requeues, LOCAL_REQUEUES),
    )
    parameters: dict[str, Any] = {
        "name": request.name,
        "timeout_min": math.ceil(request.timeout_s / 60),
        "nodes": request.nodes,
        "tasks_per_node": request.tasks_per_node,
        "gpus_per_node": request.gpus_per_node or None,
    }
    if request.cluster == "slurm":
        parameters |= _slurm_parameters(request, code)
    executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
    if request.cluster == "local":
        # not by update_parameters, which knows neither the delay nor fractions of minutes
        executor.parameters |= {"signal_delay_s": request.warn_s, "timeout_min": request.timeout_s / 60}
    return executor


def _slurm_parameters(request: Request, code: Path) -> dict[str, Any]:
    names = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "comment", "mem")
    srun = ["--kill-on-bad-exit=1"]  # one process gone: the others must not wait for it
    if request.cpus_per_task:
        srun.append(f"--cpus-per-task={request.cpus_per_task}")  # srun does not inherit it since Slurm 22.05
    return {
        **{f"slurm_{name}": getattr(request, name) for name in names},
        "cpus_per_task": request.cpus_per_task,
        "slurm_signal_delay_s": request.warn_s,
        "slurm_srun_args": srun,
        "slurm_setup": [
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            "export PYTHONSAFEPATH=1",
        ],
        "slurm_teardown": _teardown(request),
        "slurm_additional_parameters": {"requeue" if request.requeues else "no-requeue": True},
    }


def _teardown(request: Request) -> list[str]:
    """After srun: a crash (a signal ended a process) asks for a requeue, an error of the run does not.

    The exit code alone cannot tell: srun ends the other processes after an error, which looks like a crash where it
    finds them already leaving. But a process with an error has left a result before. Crashes are counted in a file:
    Slurm's own count holds preemptions too.
    """
    if not request.requeues:
        return []
    parts = str(request.job_dir.absolute()).split("%j")
    folder = '"$job"'.join(map(shlex.quote, parts))
    return [
        "code=$?",
        'job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"',
        f'crashes={folder}/"$job"_crashes.txt',
        f'if [ "$code" -ge {SIGNALLED} ] && ! ls {folder}/"$job"_*_result.pkl >/dev/null 2>&1 &&',
        f'  [ "$(cat "$crashes" 2>/dev/null | wc -l)" -lt {request.requeues} ]; then',
        '  echo "exit code $code at $(date)" >> "$crashes"',
        '  scontrol requeue "$job"',
        "  sleep 120",
        "fi",
        'exit "$code"',
    ]


def take_snapshot(job_dir: Path) -> Path:
    """Copy the package to `job_dir/code-<digest>`; returns that folder. One copy serves all jobs with this code."""
    digest = hashlib.sha256(repr(fingerprint()).encode()).hexdigest()[:12]
    folder = common_folder(job_dir) / f"code-{digest}"
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial)
            if not folder.exists():  # made by another submission meanwhile
                raise
    return folder


def common_folder(job_dir: Path) -> Path:
    """The part of a job folder that is the same for all jobs: `runs` for `runs/%j`."""
    return Path(JobPaths.get_first_id_independent_folder(job_dir.absolute()))


def describe(job: submitit.Job[Any], configs: Sequence[Config], request: Request) -> str:
    """What the user wants to know after submitting: which job, where its log is, how to follow and how to stop it."""
    log = job.paths.stderr
    size = f"{request.nodes} x {request.tasks_per_node} processes"
    lines = [
        f"job {job.job_id} ({size}): {', '.join(cfg.OUTPUT_DIR for cfg in configs)}",
        f"  log:      {log}",
        f"  follow:   tail -F {log}",
    ]
    if request.cluster == "slurm":
        lines += [
            f"  state:    squeue -j {job.job_id}    (after its end: sacct -j {job.job_id})",
            f"  cancel:   scancel {job.job_id}",
            f"  pause:    scancel --signal=USR2 {job.job_id}    (saves, and goes back to the queue)",
        ]
    else:
        lines += [f"  stop:     kill {job.job_id}    (saves; submitted again it goes on)"]
    return "\n".join(lines)
