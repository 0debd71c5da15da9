"""The code of a job: recorded at submission, checked at the start, and copied on request."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from submitit.core.utils import JobPaths

import videovit
from videovit.errors import UserError

PACKAGE = Path(videovit.__file__).parent
MAX_LISTED = 5  # files per message

Fingerprint = tuple[tuple[str, str], ...]
"""(file, digest of its content) of every Python file."""


def fingerprint(package: Path = PACKAGE) -> Fingerprint:
    """The fingerprint of a package's code.

    Args:
        package: its folder.
    """
    files = sorted(package.rglob("*.py"))
    return tuple((str(f.relative_to(package)), hashlib.sha256(f.read_bytes()).hexdigest()[:16]) for f in files)


def check_code(submitted: Fingerprint) -> None:
    """Make sure that this process runs the code of the submission: a job may wait in the queue for days.

    Args:
        submitted: fingerprint at submission.

    Raises:
        UserError: files have changed since.
    """
    changed = sorted({name for name, _ in set(submitted) ^ set(fingerprint())})
    if changed:
        others = len(changed) - MAX_LISTED
        more = f" and {others} more" if others > 0 else ""
        raise UserError(
            f"the code in {PACKAGE} is not what it was when the job was submitted: "
            f"{', '.join(changed[:MAX_LISTED])}{more}. Submit it again: it resumes from its checkpoints. "
            "With --snapshot a job brings a copy of the code along"
        )


def take_snapshot(job_dir: Path) -> Path:
    """Copy the package to `job_dir/code-<digest>`; all jobs with the same code share one copy.

    Args:
        job_dir: see `Request`.

    Returns:
        That folder, with the package in it.
    """
    digest = hashlib.sha256(repr(fingerprint()).encode()).hexdigest()[:12]
    folder = common_folder(job_dir) / f"code-{digest}"
    if not folder.exists():
        # Copied aside, then renamed: another submission must not find half a copy.
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial)
            if not folder.exists():  # otherwise another submission was faster
                raise
    return folder


def common_folder(job_dir: Path) -> Path:
    """The part of a job folder that all jobs share: `runs` for `runs/%j`."""
    return Path(JobPaths.get_first_id_independent_folder(job_dir.absolute()))
