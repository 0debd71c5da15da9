"""One job at a time per OUTPUT_DIR: a lock file that names the job at work.

The file holds host, process, job and start time, and its modification time is renewed while the owner lives. A lock
is taken over, with a warning, if its owner is certainly gone: its process on this machine has died, the same Slurm job
was requeued, or the file has not been renewed for a while. An owner that was only suspended (a machine asleep, a file
system that hung) then finds that the folder is no longer its own, and stops.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shlex
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from videovit.engine.distributed.collectives import gather, rank
from videovit.engine.reporting.log import logger
from videovit.errors import UserError

NAME = ".videovit.lock"
RENEWAL_S = 20.0
MAX_LETTERS = 10_000  # of a lock file; whatever is longer is damaged
HIDDEN = "alive"  # in place of a start time
SILENT_S = 180.0  # an owner on another machine that has not renewed its lock for this long is considered dead


@dataclass(frozen=True)
class Owner:
    """The process that holds a folder.

    Attributes:
        host: machine, for messages.
        place: machine, its boot, and its process namespace: where `pid` is meaningful.
        pid: process id.
        born: start time of the process in clock ticks; process ids are reused.
        job: Slurm job id; empty elsewhere.
        restart: how often Slurm has requeued that job; 0 elsewhere.
        since: when the process took the folder, for messages.
    """

    host: str
    place: str
    pid: int
    born: str
    job: str
    restart: int
    since: str

    def __str__(self) -> str:
        job = f", Slurm job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


def this_process() -> Owner:
    """This process as an owner."""
    host = socket.gethostname()
    restarts = os.environ.get("SLURM_RESTART_COUNT", "")
    boot = _read_text("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        boot += os.readlink("/proc/self/ns/pid")  # containers number their processes separately
    return Owner(
        host=host,
        place=f"{host} {boot}",
        pid=os.getpid(),
        born=_start_time(os.getpid()),
        job=os.environ.get("SLURM_JOB_ID", ""),
        restart=int(restarts) if restarts.isdecimal() else 0,
        since=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    )


class OutputLock:
    """A folder's lock on one rank; see `output_lock`.

    Args:
        file: the lock file on rank 0; None on the other ranks, which have nothing to check.
    """

    def __init__(self, file: _LockFile | None) -> None:
        self._file = file

    def verify(self) -> None:
        """Read the lock file, and make sure that the folder still belongs to this run.

        Raises:
            UserError: it does not; names the job that has it now.
        """
        if self._file is not None:
            self._file.is_ours()
            self._file.raise_if_lost()

    def check(self) -> None:
        """Do the same from the state at the last renewal, without reading the file: cheap enough for every step.

        Raises:
            UserError: as in `verify`.
        """
        if self._file is not None:
            self._file.raise_if_lost()


@contextlib.contextmanager
def output_lock(folder: Path) -> Iterator[OutputLock]:
    """Hold a folder for this run until the end of the block; a collective call in which rank 0 acts.

    Args:
        folder: created if absent.

    Yields:
        The lock, with which rank 0 checks that the folder is still held.

    Raises:
        UserError: another job holds the folder; on all ranks.
    """
    file, problem = None, ""
    if rank() == 0:
        try:
            file = _LockFile(folder)
        except UserError as error:
            problem = str(error)
    # All ranks must stop together: those that went on would wait for rank 0 until their timeout.
    problem = gather(problem)[0]
    if problem:
        raise UserError(problem)
    try:
        yield OutputLock(file)
    finally:
        if file is not None:
            file.release()


class _LockFile:
    """The lock file of a folder, renewed by a thread.

    Args:
        folder: created if absent.

    Raises:
        UserError: another job holds the folder, or the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._owner = this_process()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            raise UserError(f"OUTPUT_DIR {folder} cannot be locked: {error}") from error
        self._lost = ""
        self._end = threading.Event()
        # A thread, since training may spend minutes in one step or in validation.
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(f"{self._path} is not a file")
        with os.fdopen(handle, "r+", encoding="utf-8", errors="replace") as file:
            # Two jobs that start at once read the file one after the other. File systems without flock lose only that.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if not (self._path.exists() and os.path.samestat(os.fstat(handle), self._path.stat())):
                return self._take()  # its owner removed it between opening and locking
            text = file.read(MAX_LETTERS)
            other = _parse(text)
            if other is not None:
                self._take_over(other)
            elif text:
                logger.warning("%s is damaged; taken over", self._path)
            # Overwritten in place: a new file would have another inode, which the other job's flock does not guard.
            file.seek(0)
            file.truncate()
            file.write(json.dumps(asdict(self._owner)))

    def _take_over(self, other: Owner) -> None:
        """Log a warning if the other owner is certainly gone.

        Raises:
            UserError: it may be alive.
        """
        silent_s = _age_s(self._path)
        ours = self._owner
        if other.job and other.job == ours.job and other.restart < ours.restart:
            why = "it was the same Slurm job before its requeue"
        elif other.place == ours.place and (born := _start_time(other.pid)) != HIDDEN:
            why = "" if born == other.born else "that process is gone"
        else:
            why = f"no sign of life for {silent_s:.0f} s" if silent_s > SILENT_S else ""
        if not why:
            raise UserError(
                f"OUTPUT_DIR {self._path.parent} is in use by {other} (last sign of life {silent_s:.0f} s ago): choose "
                f"another OUTPUT_DIR, or end that job. If it has certainly ended: rm {shlex.quote(str(self._path))}"
            )
        logger.warning("took over OUTPUT_DIR %s from %s: %s", self._path.parent, other, why)

    def raise_if_lost(self) -> None:
        """Raise if the file was found to belong to somebody else."""
        if self._lost:
            raise UserError(
                f"OUTPUT_DIR {self._path.parent} {self._lost}; this run stops, and saves nothing more there"
            )

    def is_ours(self) -> bool:
        """Read the file and remember if it was lost; False also if it cannot be read."""
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read(MAX_LETTERS)
        except FileNotFoundError:
            self._lost = "is no longer locked by this run: its lock was removed, or taken over and released"
            return False
        except OSError:
            # The file system may be down for a moment. If it stays down, the next checkpoint fails with a clear error.
            return False
        owner = _parse(text)
        if owner != self._owner:
            self._lost = f"was taken over by {owner or 'another job'}, which saw no sign of life from this one"
        return owner == self._owner

    def _renew(self) -> None:
        while not self._end.wait(RENEWAL_S):
            if self.is_ours():
                with contextlib.suppress(OSError):
                    os.utime(self._path)

    def release(self) -> None:
        """Stop renewing the file, and remove it if it is still ours."""
        self._end.set()
        self._thread.join()
        if self.is_ours():
            with contextlib.suppress(OSError):
                self._path.unlink()


def _parse(text: str) -> Owner | None:
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    right = all(type(getattr(owner, field.name)).__name__ == field.type for field in fields(owner))
    return owner if right else None


def _age_s(path: Path) -> float:
    """Seconds since the file was touched, by the clock of its file system, which may differ from this machine's."""
    with tempfile.TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _start_time(pid: int) -> str:
    """Start time of a running process; empty if there is none.

    HIDDEN if that cannot be seen: without /proc, or if it is mounted so that it hides the processes of other users.
    """
    line = _read_text(f"/proc/{pid}/stat")
    if line:
        # The program's name, in parentheses, may contain spaces: count words after it. 0 is the state, 19 the start.
        words = line.rpartition(")")[2].split()
        return "" if words[0] in "ZX" else words[19]
    try:
        os.kill(pid, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass
    return HIDDEN


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
