"""One job at a time in an OUTPUT_DIR: a lock file that says who is at work.

The file holds host, process, job and start time, and its modification time is renewed while the owner lives. A lock
is taken over, with a warning, when its owner is certainly gone: its process on this machine is dead, the same Slurm job
was requeued, or it has given no sign of life for a while. An owner that comes back from such a silence (a machine
asleep, a file system that hung) finds that the folder is no longer its own, and stops.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from videovit.engine import distributed
from videovit.engine.reporting.log import logger
from videovit.errors import UserError

NAME = ".videovit.lock"
BEAT_S = 20.0
SILENT_S = 180.0  # an owner elsewhere that has been silent for so long is taken for dead


class LockError(UserError):
    """Another job is at work in the folder."""


@dataclass(frozen=True)
class Owner:
    """Who holds a folder.

    Attributes:
        place: machine, its boot and its process-number space: where `pid` means something.
        born: start time of the process in clock ticks, since process numbers are used again.
        job, restart: of Slurm; empty and 0 elsewhere.
        since: when it came, for messages.
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
    """The owner that this process would be."""
    host = socket.gethostname()
    boot = _text("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        boot += os.readlink("/proc/self/ns/pid")
    return Owner(
        host=host,
        place=f"{host} {boot}",
        pid=os.getpid(),
        born=_born(os.getpid()),
        job=os.environ.get("SLURM_JOB_ID", ""),
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        since=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    )


Check = Callable[[bool], None]
"""Raises LockError where the folder is no longer ours: with True by a look at it, with False by the last one."""


@contextlib.contextmanager
def output_lock(folder: Path) -> Iterator[Check]:
    """Hold the folder for this run; a collective call, in which rank 0 acts.

    Yields:
        What makes sure that the folder is still held; on rank 0, while the others have nothing to look after.

    Raises:
        LockError: on all ranks, when another job holds it.
    """
    lock, problem = None, None
    if distributed.rank() == 0:
        try:
            lock = _Lock(folder)
        except LockError as error:
            problem = str(error)
    problem = distributed.gather(problem)[0]
    if problem:
        raise LockError(problem)
    try:
        yield lock.check if lock is not None else lambda look: None
    finally:
        if lock is not None:
            lock.release()


class _Lock:
    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._owner = this_process()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            raise LockError(f"OUTPUT_DIR {folder} cannot be locked: {error}") from error
        self._lost = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(handle, "r+", encoding="utf-8") as file:
            with contextlib.suppress(OSError):  # a file system without such locks; the rest still holds
                fcntl.flock(file, fcntl.LOCK_EX)  # two newcomers look one after the other
            if not (self._path.exists() and os.path.samestat(os.fstat(handle), self._path.stat())):
                return self._take()  # its owner has just left
            text = file.read()
            other = _parse(text)
            if other is not None:
                self._refuse_or_warn(other)
            elif text:
                logger.warning("warning: %s is damaged; taken over", self._path)
            file.seek(0)
            file.truncate()
            file.write(json.dumps(asdict(self._owner)))

    def _refuse_or_warn(self, other: Owner) -> None:
        silent_s = _age_s(self._path)
        ours = self._owner
        if other.job and other.job == ours.job and other.restart < ours.restart:
            why = "it was the same Slurm job before its requeue"
        elif other.place == ours.place:
            why = "" if _born(other.pid) == other.born else "that process is gone"
        else:
            why = f"no sign of life for {silent_s:.0f} s" if silent_s > SILENT_S else ""
        if not why:
            raise LockError(
                f"OUTPUT_DIR {self._path.parent} is in use by {other} (last sign of life {silent_s:.0f} s ago): choose "
                f"another OUTPUT_DIR, or end that job. If it is surely gone: rm {self._path}"
            )
        logger.warning("warning: took over OUTPUT_DIR %s from %s: %s", self._path.parent, other, why)

    def check(self, look: bool) -> None:
        """See `Check`.

        Raises:
            LockError: says who has the folder now.
        """
        if look:
            self._look()
        if self._lost:
            raise LockError(
                f"OUTPUT_DIR {self._path.parent} {self._lost}; this run stops, and saves nothing more there"
            )

    def _look(self) -> bool:
        """Whether the file is ours; false too where that cannot be seen."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            self._lost = "is no longer locked by this run: its lock was removed, or taken over and given back"
            return False
        except OSError:  # a folder that cannot be read is told by the next checkpoint
            return False
        owner = _parse(text)
        if owner != self._owner:
            self._lost = f"was taken over by {owner or 'another job'}, which had no sign of life from this one"
        return owner == self._owner

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            if self._look():
                with contextlib.suppress(OSError):
                    os.utime(self._path)

    def release(self) -> None:
        self._end.set()
        self._thread.join()
        if self._look():
            with contextlib.suppress(OSError):
                self._path.unlink()


def _parse(text: str) -> Owner | None:
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _age_s(path: Path) -> float:
    """Seconds since the file was touched, by the clock of the file system, which may not be that of this machine."""
    with tempfile.TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _born(pid: int) -> str:
    """Start time of a living process; empty for none. Where there is no /proc, whether it lives."""
    stat = _text(f"/proc/{pid}/stat")
    if stat:
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    if os.path.isdir("/proc/self"):
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
