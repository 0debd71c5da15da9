"""Hand jobs to a cluster."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from videovit.config import Config
from videovit.engine.slurm.job import SIGNALLED, Job
from videovit.engine.slurm.snapshot import PACKAGE, common_folder
from videovit.errors import UserError
from videovit.messages import plural

CLUSTERS = ("slurm", "local")
LOCAL_REQUEUES = 5  # submitit's local controller starts a job six times at most


@dataclass(frozen=True)
class Request:
    """The resources of a job; None leaves the choice to the cluster.

    Attributes:
        cluster: one of CLUSTERS.
        job_dir: logs and submitit's files; `%j` stands for the job id.
        name: of the job.
        nodes: machines.
        tasks_per_node: processes per node; on GPU nodes one per GPU.
        gpus_per_node: GPUs per node.
        cpus_per_task: cores per process.
        mem: memory per node in Slurm's notation, e.g. 64GB; 0 requests all of it.
        timeout_hours: time limit until a requeue, after which the run resumes.
        warn_s: how long before the time limit the run is signalled, in seconds.
        requeues: limit of requeues after time limits, and separately after crashes.
        partition, account, qos, constraint, exclude, nodelist, comment: passed to sbatch.
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
        """The time limit in seconds; Slurm counts whole minutes."""
        seconds = self.timeout_hours * 3600
        return math.ceil(seconds / 60) * 60 if self.cluster == "slurm" else seconds


def submit(jobs: Sequence[Job], request: Request, *, code: Path = PACKAGE.parent) -> list[submitit.Job[Any]]:
    """Submit jobs; on Slurm several become one array.

    Args:
        jobs: at least one.
        request: resources of each job.
        code: folder that contains the package to run.

    Returns:
        submitit's handles.

    Raises:
        UserError: there is no such cluster here, or it refuses; with its own words.
    """
    executor = build_executor(request, code)
    common_folder(request.job_dir).mkdir(parents=True, exist_ok=True)
    try:
        with _submission_environment(code), _detached_output(request):
            if len(jobs) == 1:
                return [executor.submit(jobs[0])]
            with executor.batch():  # one array, which Slurm's queue shows as one entry
                submitted = [executor.submit(job) for job in jobs]
            return submitted
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"the cluster refused the job: {str(error).strip()}") from error


@contextmanager
def _submission_environment(code: Path) -> Iterator[None]:
    """Put the code first in the environment, and hide any job that this process itself is part of."""
    before = dict(os.environ)
    try:
        with submitit.helpers.clean_env():
            # submitit removes SLURM_CONF too, but sbatch may need it to find the cluster.
            kept = {name: before[name] for name in ("SLURM_CONF",) if name in before}
            # PYTHONSAFEPATH: `python -m` puts the working directory, often a checkout, in front of PYTHONPATH.
            os.environ.update(kept, PYTHONPATH=_python_path(code), PYTHONSAFEPATH="1")
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _detached_output(request: Request) -> Iterator[None]:
    """Redirect stdout and stderr while a local job starts: it outlives this process, whose terminal or pipe it would
    keep open otherwise."""
    if request.cluster != "local":
        yield
        return
    # Lines still buffered would end up in the log of the job.
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
    """Build submitit's executor for a request.

    Args:
        request: resources of each job.
        code: folder that contains the package to run.

    Raises:
        UserError: the cluster is not available, or cannot do this.
    """
    if request.cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "no Slurm here: sbatch is not in PATH",
            hint="Submit from a login node of the cluster, or use --cluster local, which runs the job in processes of "
            "this machine with the same time limit and requeues",
        )
    if request.cluster != "slurm" and request.nodes > 1:
        raise UserError(f"--nodes {request.nodes}: --cluster {request.cluster} is this machine alone; use --nodes 1")
    if request.warn_s >= request.timeout_s:
        raise UserError(
            f"--signal-delay {request.warn_s}: the time limit is {request.timeout_s:g} s; the run is signalled "
            f"{request.warn_s} s before it, to save",
            expected="less than the time limit",
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
        "gpus_per_node": request.gpus_per_node or None,  # clusters without GPUs refuse even a request for none
    }
    if request.cluster == "slurm":
        parameters |= _slurm_parameters(request, code)
    executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
    if request.cluster == "local":
        # Set directly: update_parameters of the local executor accepts neither the delay nor fractions of minutes.
        executor.parameters |= {"signal_delay_s": request.warn_s, "timeout_min": request.timeout_s / 60}
    return executor


def _slurm_parameters(request: Request, code: Path) -> dict[str, Any]:
    srun = ["--kill-on-bad-exit=1"]  # if one process dies, the others must not wait for it
    if request.cpus_per_task:
        srun.append(f"--cpus-per-task={request.cpus_per_task}")  # srun has not inherited it since Slurm 22.05
    return {
        "slurm_partition": request.partition,
        "slurm_account": request.account,
        "slurm_qos": request.qos,
        "slurm_constraint": request.constraint,
        "slurm_exclude": request.exclude,
        "slurm_nodelist": request.nodelist,
        "slurm_comment": request.comment,
        "slurm_mem": request.mem,
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
    """Lines of the batch script after srun: requeue the job after a crash (a process died of a signal).

    After an error of the run, srun ends the other processes, which gives the exit code of a crash too if they were
    leaving already. But a process with an error has stored a result before, and a crashed one has not. Crashes are
    counted in a file, since Slurm's own count includes preemptions.
    """
    if not request.requeues:
        return []
    # In the script the shell fills in the job id, so everything around it is quoted.
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
        "  sleep 120",  # Slurm ends the script meanwhile; if it exited first, the job would count as failed
        "fi",
        'exit "$code"',
    ]


def describe(job: submitit.Job[Any], configs: Sequence[Config], request: Request) -> str:
    """Describe a submitted job to its user: id, log, and how to follow and stop it."""
    log = job.paths.stderr
    size = f"{request.nodes} x {plural(request.tasks_per_node, 'process', 'processes')}"
    lines = [
        f"job {job.job_id} ({size}): {', '.join(cfg.OUTPUT_DIR for cfg in configs)}",
        f"  log:      {log}",
        f"  follow:   tail -F {shlex.quote(str(log))}",
    ]
    if request.cluster == "slurm":
        lines += [
            f"  state:    squeue -j {job.job_id}    (after it has ended: sacct -j {job.job_id})",
            f"  cancel:   scancel {job.job_id}",
            f"  pause:    scancel --signal=USR2 {job.job_id}    (saves, and returns to the queue)",
        ]
    else:
        lines += [f"  stop:     kill {job.job_id}    (saves; submit it again to resume)"]
    return "\n".join(lines)
