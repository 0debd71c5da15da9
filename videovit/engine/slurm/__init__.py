"""A run as a job of a cluster, through submitit.

One Slurm task is one process of the run. Whenever a job starts, it resumes from the newest checkpoint in its
OUTPUT_DIR, so a requeue only has to start it again:

    time limit, preemption, scancel --signal=USR2    the run saves, and requests the requeue itself
    a killed process (out of memory, by hand)        the batch script requests it, a limited number of times
    a lost node, scontrol requeue                    Slurm requeues the job
    an error of the run                              ends the job

`submission` hands jobs to the cluster, `job` runs in their processes, and `snapshot` makes sure that a job runs the
code that it was submitted with.
"""

from videovit.engine.slurm.job import Job
from videovit.engine.slurm.snapshot import PACKAGE, fingerprint, take_snapshot
from videovit.engine.slurm.submission import CLUSTERS, Request, describe, submit

__all__ = ["CLUSTERS", "PACKAGE", "Job", "Request", "describe", "fingerprint", "submit", "take_snapshot"]
