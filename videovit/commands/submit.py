"""Submit a run, as `videovit run` would start it, to a Slurm cluster: one job, or a sweep.

    videovit submit --nodes 2 --gpus-per-node 8 --partition gpu --timeout-hours 24 \\
        --cfg Kinetics/MVIT_B_16x4_CONV DATA.PATH_TO_DATA_DIR /data/k400 OUTPUT_DIR /runs/mvit_b
    videovit submit --cluster local --timeout-hours 2 --cfg Demo/MVIT_TINY OUTPUT_DIR /runs/demo

After a time limit, a preemption, a lost node or a killed process, the job continues by itself from the newest
checkpoint in OUTPUT_DIR. Its config is fixed at submission. Its code must not change until it starts, unless --snapshot
copies the code. Batch sizes are per node (shard), as everywhere. See docs/slurm.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.config import Config
from videovit.engine import slurm
from videovit.errors import UserError
from videovit.messages import plural

SWEEP_HELP = """sweeps:
  --array FILE submits one job per line of FILE. A line holds KEY VALUE pairs, which override those of the command
  line; # starts a comment. Jobs whose line sets no OUTPUT_DIR write to OUTPUT_DIR/<line number>.
    SOLVER.BASE_LR 1e-4
    SOLVER.BASE_LR 2e-4 MVIT.DROPPATH_RATE 0.3

"""


def parse(
    argv: Sequence[str] | None = None, *, prog: str | None = None
) -> tuple[argparse.Namespace, list[str], list[str]]:
    """The arguments, the configs, and the KEY VALUE pairs, wherever they stand."""
    parser = cli.Parser(
        prog=prog,
        description=__doc__,
        epilog=SWEEP_HELP + cli.CONFIG_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_config_arguments(parser)
    default = slurm.Request()
    add = parser.add_argument
    clusters = (*slurm.CLUSTERS, "debug")
    add(
        "--cluster",
        choices=clusters,
        default="slurm",
        help="local: processes on this machine; debug: this process, without limits",
    )
    add("--nodes", type=_positive, help="machines (NUM_SHARDS; default: the config's)")
    add("--gpus-per-node", type=_not_negative, help="GPUs, and processes, per node (NUM_GPUS; default: the config's)")
    add("--tasks-per-node", type=_positive, help="on CPU clusters: processes per node (NUM_CPU_PROCS)")
    add("--cpus-per-task", type=_positive, help="cores per process: one, plus DATA_LOADER.NUM_WORKERS")
    add("--mem", help="memory per node, e.g. 64GB; 0: all")
    add(
        "--timeout-hours",
        type=_hours,
        default=default.timeout_hours,
        help="time limit until a requeue (default %(default)g)",
    )
    add(
        "--signal-delay",
        type=_positive,
        default=default.warn_s,
        metavar="S",
        help="seconds before the limit when the run is signaled (default %(default)s)",
    )
    add(
        "--requeues",
        type=_not_negative,
        default=default.requeues,
        help="most requeues after time limits, and after crashes (default %(default)s)",
    )
    for name in ("partition", "account", "qos", "constraint", "exclude", "nodelist", "comment"):
        add(f"--{name}", help="passed to sbatch")
    add("--name", default=default.name, help="of the job (default %(default)s)")
    add("--job-dir", type=Path, help="folder of logs and submitit's files; %%j is the job id (default OUTPUT_DIR/jobs)")
    add("--array", type=Path, metavar="FILE", help="submit a sweep, see below")
    add("--snapshot", action="store_true", help="copy the code to the job folder and run the copy")
    return cli.parse_with_config(parser, argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"found {number}, expected 0 or more")
    return number


def _hours(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected hours above 0")
    return number


def processes(args: argparse.Namespace) -> list[str]:
    """The KEY VALUE pairs for the numbers of nodes and processes."""
    if args.gpus_per_node and args.tasks_per_node not in (None, args.gpus_per_node):
        text = f"--tasks-per-node {args.tasks_per_node} with --gpus-per-node {args.gpus_per_node}"
        raise UserError(f"{text}: there is one process per GPU; leave out --tasks-per-node")
    opts = ["NUM_SHARDS", str(args.nodes)] if args.nodes else []
    if args.tasks_per_node and not args.gpus_per_node:
        opts += ["NUM_GPUS", "0", "NUM_CPU_PROCS", str(args.tasks_per_node)]
    elif args.gpus_per_node is not None:
        opts += ["NUM_GPUS", str(args.gpus_per_node)]
    return opts


def sweep(file: Path | None) -> list[tuple[str, list[str]]]:
    """Name and KEY VALUE pairs of every job. Without a file there is one job, without a name."""
    if file is None:
        return [("", [])]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(error, where=f"--array {file}") from error
    jobs = []
    for number, line in enumerate(lines, start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UserError(error, where=f"{file}:{number}", found=line) from error
        if len(words) % 2:
            what = f"expected KEY VALUE pairs, found {plural(len(words), 'word')}"
            raise UserError(f"{what}: {line!r}", where=f"{file}:{number}")
        if words:
            jobs.append((str(number), words))
    if not jobs:
        raise UserError("no line holds a job", where=f"--array {file}")
    return jobs


def base_folder(file: str, opts: Sequence[str]) -> str:
    """OUTPUT_DIR as the command line or the config sets it, without a line of a sweep."""
    given = [value for key, value in zip(opts[::2], opts[1::2], strict=False) if key == "OUTPUT_DIR"]
    return given[-1] if given else cli.load(file, opts).OUTPUT_DIR


def load_all(files: Sequence[str], opts: Sequence[str], array: Path | None) -> list[list[Config]]:
    """The configs of every job. Loading them now shows mistakes before anything is submitted."""
    loaded = []
    for name, words in sweep(array):
        configs = []
        for file in files:
            extra = []
            if name and "OUTPUT_DIR" not in words[::2]:
                extra = ["OUTPUT_DIR", os.path.join(base_folder(file, opts), name)]
            try:
                configs.append(cli.load(file, [*opts, *words, *extra]))
            except UserError as error:
                raise UserError(f"{array}:{name}: {error}") if name else error from None
        loaded.append(configs)
    _check_all([cfg for configs in loaded for cfg in configs])
    return loaded


def _check_all(configs: Sequence[Config]) -> None:
    """Check that every run has its own OUTPUT_DIR, and that all have the same nodes and processes."""
    folders = [cfg.OUTPUT_DIR for cfg in configs if cfg.TRAIN.ENABLE]
    twice = sorted({folder for folder in folders if folders.count(folder) > 1})
    if twice:
        raise UserError(f"several runs train in one OUTPUT_DIR: {', '.join(twice)}; give each its own")
    shapes = sorted({(cfg.NUM_SHARDS, cfg.NUM_GPUS, cfg.NUM_GPUS or cfg.NUM_CPU_PROCS) for cfg in configs})
    if len(shapes) > 1:
        found = "; ".join(f"{nodes} x {number} ({plural(gpus, 'GPU')})" for nodes, gpus, number in shapes)
        raise UserError(
            f"the runs need different nodes x processes: {found}; set --nodes, --gpus-per-node or --tasks-per-node"
        )


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args, files, opts = parse(argv, prog=prog)
    loaded = load_all(files, [*opts, *processes(args)], args.array)
    first = loaded[0][0]
    if args.cluster == "debug":
        if first.NUM_SHARDS > 1:
            raise UserError(f"--nodes {first.NUM_SHARDS}: --cluster debug is this machine alone; use --nodes 1")
        from videovit.engine import launch  # imports PyTorch, which submitting does not need

        for configs in loaded:
            for cfg in configs:
                launch.run(cfg)
        return
    names = ["cluster", "name", "cpus_per_task", "mem", "timeout_hours", "requeues"]
    names += ["partition", "account", "qos", "constraint", "exclude", "nodelist", "comment"]
    request = slurm.Request(
        **{name: getattr(args, name) for name in names},
        job_dir=args.job_dir or Path(base_folder(files[0], opts) if args.array else first.OUTPUT_DIR) / "jobs",
        warn_s=args.signal_delay,
        nodes=first.NUM_SHARDS,
        tasks_per_node=first.NUM_GPUS or first.NUM_CPU_PROCS,
        gpus_per_node=first.NUM_GPUS,
    )
    code = slurm.take_snapshot(request.job_dir) if args.snapshot else slurm.PACKAGE.parent
    jobs = [slurm.Job(tuple(configs), slurm.fingerprint()) for configs in loaded]
    submitted = slurm.submit(jobs, request, code=code)
    for job, configs in zip(submitted, loaded, strict=True):
        print(slurm.describe(job, configs, request))
