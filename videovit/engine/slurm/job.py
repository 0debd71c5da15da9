"""The processes of a job: they run its configs, and hand it back to the queue after a signal.

This module is imported in the first moments of a job, when a signal still kills the process: it imports nothing heavy.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import submitit
from submitit.core.utils import DelayedSubmission

from videovit.config import Config
from videovit.engine.slurm.snapshot import Fingerprint, check_code
from videovit.errors import UserError
from videovit.messages import labeled

WAIT_FOR_END_S = 600.0  # how long a process that has saved waits for Slurm to end it
MASTER_PORTS = (10_000, 32_768)  # below Linux's range for outgoing connections, net.ipv4.ip_local_port_range
SIGNALLED = 128  # shells report death by a signal as 128 + its number


@dataclass(frozen=True)
class Job:
    """What runs in each process of a job; small, and pickled by name.

    Args:
        configs: run one after the other.
        code: fingerprint of the package at submission.
    """

    configs: tuple[Config, ...]
    code: Fingerprint

    def __call__(self) -> list[dict[str, dict[str, float]]]:
        """Run the configs in this process, as one rank of many.

        Returns:
            Per config: task -> its numbers.

        Raises:
            UserError: of a run, or the code has changed since the submission; printed too.
        """
        _remove_leftovers()
        _export_environment()
        try:
            check_code(self.code)
            return self._run()
        except UserError as error:
            # Printed, since submitit stores the traceback of an error where users do not look first.
            print(labeled("error", error), file=sys.stderr, flush=True)
            raise

    def _run(self) -> list[dict[str, dict[str, float]]]:
        from videovit.engine import launch
        from videovit.engine.distributed import preemption
        from videovit.engine.distributed.faults import PeerError

        try:
            with preemption.install() as signals:
                results = [launch.run(cfg) for cfg in self.configs]
        except preemption.Preempted as stop:
            print(stop, file=sys.stderr, flush=True)
            return_to_queue(stop.signum, signals.previous[signal.SIGUSR2])
        except PeerError as error:
            # Leaves no result: the process at fault leaves one, or was killed and the job may be requeued.
            print(labeled("error", error), file=sys.stderr, flush=True)
            sys.exit(1)
        # The time limit may come while this process leaves, which takes seconds. A finished job must not fail by it.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        return results

    def checkpoint(self) -> DelayedSubmission:
        """What submitit runs after a requeue: the same job, which resumes from the checkpoints in OUTPUT_DIR."""
        return DelayedSubmission(Job(self.configs, self.code))


def _remove_leftovers() -> None:
    """Remove files of an earlier start of this job that would mislead submitit.

    A half-written pickle makes the next requeue fail; an earlier result would be taken for that of the job.
    """
    environment = submitit.JobEnvironment()
    paths = environment.paths
    paths.result_pickle.unlink(missing_ok=True)
    if environment.global_rank == 0:
        paths.submitted_pickle.with_name(paths.submitted_pickle.name + ".save_tmp").unlink(missing_ok=True)


def _export_environment() -> None:
    """Set the variables by which processes find each other; they replace whatever the user's shell has set."""
    os.environ["MASTER_PORT"] = str(_master_port())
    submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if submitit.JobEnvironment().cluster == "local":  # a machine may be unable to resolve its own name
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    if cores:
        os.environ.setdefault("OMP_NUM_THREADS", cores)


def _master_port() -> int:
    """A port that every process of this start of the job computes alike.

    submitit would choose one that the kernel also gives to outgoing connections, so that a job now and then finds its
    port taken. A restart uses another port, since connections of the earlier start may still linger on the first.
    """
    job, restarts = submitit.JobEnvironment().job_id, os.environ.get("SLURM_RESTART_COUNT", "0")
    return random.Random(f"{job} {restarts}").randrange(*MASTER_PORTS)


def return_to_queue(signum: int, requeue: Any) -> NoReturn:
    """End this process after the run has saved, so that the job is requeued.

    Args:
        signum: the signal that stopped the run. After SIGUSR2 the first process requests a requeue; after SIGTERM Slurm
            ends or requeues the job by itself; after SIGINT a user wants the job to end.
        requeue: submitit's handler of SIGUSR2, which requests the requeue.
    """
    if signum == signal.SIGINT:
        sys.exit(1)
    environment = submitit.JobEnvironment()
    if signum == signal.SIGUSR2 and environment.global_rank == 0 and callable(requeue):
        # The requeue makes Slurm end this process, perhaps before the command that requests it has returned; and a
        # second SIGUSR2 would start a second requeue.
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        requeue(signal.SIGUSR2, None)
    if environment.cluster == "slurm":
        # A process that ends now would end the others (--kill-on-bad-exit), perhaps before the requeue is requested.
        # Wait for Slurm, which ends all of them.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(WAIT_FOR_END_S)
    # Not an exception: submitit would store it as the result of the job.
    sys.exit(SIGNALLED + signum)
