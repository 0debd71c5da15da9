#!/usr/bin/env python3
"""Start a Slurm cluster of virtual nodes on this machine, run a command in it, and stop the cluster.

    python tests/slurm/cluster.py [--nodes N] COMMAND...

Needs root on Debian or Ubuntu. Missing packages are installed (and not removed). Then munge, the accounting database,
the controller and one slurmd per virtual node start as children of this process, in a temporary folder, on free ports.
Every node has process, host name and mount namespaces of its own, so a single SIGKILL acts like a power cut. If
namespaces are not allowed, nodes are plain processes, and SLURM_TEST_POWER_CUT is not set. If the machine cannot run a
cluster, the script prints the reason and exits with 0, or with 1 if SLURM_TEST_REQUIRED is set.

The command gets SLURM_CONF, SLURM_TEST_FOLDER (a folder that the nodes see) and SLURM_TEST_PIDS (a folder with one file
per node, which contains the process to kill for a power cut).

Partitions: `main`, and `scavenge`, whose jobs are preempted by jobs in `main` after 30 s of grace.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = {  # program -> its package
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
}
NAMESPACES = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--mount"]
HOSTS_MARK = "# videovit test node"
SYSTEM_TABLES = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a requeued job starts again only after cred_expire; 5 is the minimum
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPort={controller}
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
# nodes pretend to have more than this machine
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
# refuse impossible requests instead of queueing them forever
EnforcePartLimits=ALL
# submitit finds results by job id: clusters must not reuse ids
FirstJobId={first_job}
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
# otherwise a preempted job gets SIGTERM alone, which submitit ignores
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
TCPTimeout=2
MessageTimeout=20
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/munge/socket
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
PartitionName=scavenge Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 MaxTime=INFINITE State=UP
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
"""

DATABASE_USER = """\
CREATE DATABASE IF NOT EXISTS slurm_acct;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';
"""


class NotPossibleError(Exception):
    """This machine cannot run a cluster."""


class StartError(Exception):
    """A part of the cluster did not start."""


class Cluster:
    """A cluster whose processes are children of this one.

    Args:
        folder: for all its files.
        num_nodes: number of nodes: node1, node2, ...
        isolated: give every node namespaces of its own.
    """

    def __init__(self, folder: Path, num_nodes: int, *, isolated: bool) -> None:
        self.folder, self.isolated = folder, isolated
        self.names = [f"node{i + 1}" for i in range(num_nodes)]
        self.children: list[subprocess.Popen[bytes]] = []
        self.ports = free_ports(3 + num_nodes)
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Start all parts in the order in which they depend on each other.

        Raises:
            StartError: a part did not start; with its log.
        """
        self._write_files()
        self._start_munge()
        self._start_accounting()
        self._spawn("slurmctld", "-D", "-i")
        self._wait("slurmctld", lambda: self._works("scontrol", "ping"))
        for name in self.names:
            self._start_node(name)
        self._wait("the nodes", self._all_idle, seconds=60)
        self._run("srun", f"-N{len(self.names)}", "-t1", "true")
        # submitit gets the final state of a job from accounting alone
        self._wait("accounting", lambda: "COMPLETED" in self._run("sacct", "-nXP", "-o", "State"))

    def stop(self) -> None:
        """End every process that was started, the youngest first; then remove the lines in /etc/hosts."""
        if not self.isolated:
            with contextlib.suppress(subprocess.SubprocessError):
                self._run("scancel", "--user=root", "--signal=KILL", "--full")
        for child in reversed(self.children):
            if child.poll() is None:  # with the first process of a namespace the kernel ends all others
                child.send_signal(signal.SIGKILL if self.isolated and child.args[0] == "unshare" else signal.SIGTERM)
        for child in reversed(self.children):
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        hosts = Path("/etc/hosts")
        if not self.isolated and HOSTS_MARK in hosts.read_text():
            lines = hosts.read_text().splitlines(keepends=True)
            hosts.write_text("".join(line for line in lines if HOSTS_MARK not in line))

    def _write_files(self) -> None:
        for name in ("log", "run", "spool", "state", "pids", "munge", "database"):
            (self.folder / name).mkdir()
        (self.folder / "munge").chmod(0o711)
        address = {name: f"127.0.1.{i + 1}" for i, name in enumerate(self.names)}
        host = socket.gethostname().split(".")[0]
        controller, self.accounting, self.database, *ports = self.ports
        nodes = [
            f"NodeName={name} NodeHostname={name if self.isolated else host} NodeAddr={address[name]} Port={port} "
            f"CPUs=64 RealMemory=1000000 Feature={name} State=UNKNOWN"
            for name, port in zip(self.names, ports, strict=True)
        ]
        values = {
            "folder": self.folder,
            "host": host,
            "controller": controller,
            "accounting": self.accounting,
            "database": self.database,
            "first_job": int(time.time()) % 60_000_000 + 1,
            "nodes": "\n".join(nodes),
        }
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
        with open(os.open(self.folder / "slurmdbd.conf", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(SLURMDBD_CONF.format(**values))
        # slurmd requires a cgroup plugin even if unused; this one works without a mounted cgroup file system
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        lines = [f"{number} {name} {HOSTS_MARK}\n" for name, number in address.items()]
        (self.folder / "hosts").write_text("".join(["127.0.0.1 localhost\n", f"127.0.0.1 {host}\n", *lines]))
        if not self.isolated:
            with open("/etc/hosts", "a") as file:
                file.writelines(lines)

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        with open(os.open(folder / "key", os.O_WRONLY | os.O_CREAT, 0o400), "wb") as file:
            file.write(secrets.token_bytes(1024))
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        self._spawn("munged", "--foreground", "--force", *options)
        self._wait("munged", lambda: self._works("munge", "-S", str(folder / "socket"), "-n"))

    def _start_accounting(self) -> None:
        """Create an empty database, and start slurmdbd."""
        options = ["--no-defaults", "--user=root", f"--datadir={self.folder / 'database'}"]
        options += ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"]
        tables = [Path("/usr/share/mysql", name).read_text() for name in SYSTEM_TABLES]
        opening = "CREATE DATABASE mysql;\nUSE mysql;\nSET @skip_auth_anonymous=NULL;\nSET @auth_root_socket=NULL;"
        done = subprocess.run(
            ["mariadbd", *options, "--bootstrap", "--enforce-storage-engine=", "--max-allowed-packet=8M"],
            input="\n".join([opening, *tables]),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise StartError(f"the accounting database could not be created: {done.stderr[-800:]}")
        (self.folder / "user.sql").write_text(DATABASE_USER)
        self._spawn(
            "mariadbd",
            *options,
            f"--socket={self.folder / 'run/mariadb.socket'}",
            f"--pid-file={self.folder / 'run/mariadb.pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.database}",
            "--skip-name-resolve",
            f"--init-file={self.folder / 'user.sql'}",
        )
        self._wait("mariadbd", lambda: listens(self.database))
        self._spawn("slurmdbd", "-D")
        self._wait("slurmdbd", lambda: self._works("sacctmgr", "-n", "show", "cluster"))
        for what in (["cluster", "test"], ["account", "test"], ["user", "root", "account=test"]):
            self._run("sacctmgr", "--immediate", "add", *what)

    def _start_node(self, name: str) -> None:
        (self.folder / "spool" / name).mkdir()
        command = ["slurmd", "-D", "-N", name]
        if self.isolated:
            # the first process of a PID namespace inherits orphans, which a shell reaps
            script = 'hostname "$1" && mount --bind "$2" /etc/hosts || exit 1; slurmd -D -N "$1" & wait $!; wait'
            command = [*NAMESPACES, "bash", "-c", script, "node", name, str(self.folder / "hosts")]
        child = self._spawn(*command, log=name)
        (self.folder / "pids" / name).write_text(str(child.pid))

    def _all_idle(self) -> bool:
        return len(self._run("sinfo", "-hN", "-p", "main", "-t", "idle").split("\n")) > len(self.names)

    def _spawn(self, *command: str, log: str = "") -> subprocess.Popen[bytes]:
        """Start a child that dies with this process, even if this process is killed."""
        with open(self.folder / "log" / f"{log or command[0]}.out", "ab") as file:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.env,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.children.append(child)
        return child

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise StartError(f"{' '.join(command)}: {done.stderr}{done.stdout}")
        return done.stdout

    def _works(self, *command: str) -> bool:
        return subprocess.run(command, env=self.env, capture_output=True, timeout=60).returncode == 0

    def _wait(self, what: str, ready: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not ready():
            dead = [child.args for child in self.children if child.poll() is not None]
            if dead or time.monotonic() > end:
                logs = [f"== {path.name}\n{path.read_text()[-600:]}" for path in (self.folder / "log").iterdir()]
                raise StartError(f"{what}: did not start within {seconds:g} s; ended: {dead}\n" + "\n".join(logs))
            time.sleep(0.05)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; called between fork and exec."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def install() -> None:
    """Install the packages of missing programs, without starting their services.

    Raises:
        NotPossibleError: not root, or apt is missing or fails.
    """
    if os.geteuid() != 0:
        raise NotPossibleError("starting one needs root")
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise NotPossibleError(f"no apt-get to install {', '.join(missing)}")
    print(f"installing {', '.join(missing)}", file=sys.stderr)
    options = ["-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with no_services():
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", *options, *missing]):
            done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise NotPossibleError(f"apt-get could not install {', '.join(missing)}: {done.stderr[-500:].strip()}")


@contextlib.contextmanager
def no_services() -> Iterator[None]:
    """Keep Debian from starting the services of installed packages until the end of the block."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4, help="number of virtual nodes (default 4)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command to run in the cluster")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by an exception, so that `finally` stops the cluster
    try:
        install()
    except NotPossibleError as error:
        print(f"skipped: no cluster for the Slurm tests: {error}", file=sys.stderr)
        return 1 if os.environ.get("SLURM_TEST_REQUIRED") else 0
    isolated = subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode == 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="videovit-slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        cluster = Cluster(folder, args.nodes, isolated=isolated)
        try:
            cluster.start()
            kind = "isolated" if isolated else "plain (namespaces are not allowed: no power cuts)"
            print(f"{args.nodes} {kind} nodes up after {time.monotonic() - began:.1f} s", file=sys.stderr)
            env = {**cluster.env, "SLURM_TEST_FOLDER": name, "SLURM_TEST_PIDS": str(folder / "pids")}
            env |= {"SLURM_TEST_POWER_CUT": "1"} if isolated else {}
            return subprocess.run(args.command, env=env).returncode
        finally:
            cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
