#!/usr/bin/env python3
"""Submit a run of tools/run_net.py to a Slurm cluster, as one job or as a sweep.

    python tools/submit.py --nodes 2 --gpus-per-node 8 --partition gpu --timeout-hours 24 \\
        --cfg configs/Kinetics/MVIT_B_16x4_CONV.yaml DATA.PATH_TO_DATA_DIR /data/k400 OUTPUT_DIR /runs/mvit_b
    python tools/submit.py --cluster local --timeout-hours 2 --cfg configs/Demo/MVIT_TINY.yaml OUTPUT_DIR /runs/demo

The job goes on by itself after its time limit, a preemption, a lost node or a killed process, from the newest
checkpoint in OUTPUT_DIR. Its config is the one at submission; its code must still be that of the submission when it
starts, unless --snapshot takes a copy along. As everywhere, batch sizes are those of one node (a shard). All about it:
docs/slurm.md
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.config import Config
from videovit.engine import slurm
from videovit.errors import UserError

SWEEP_HELP = """sweeps:
  --array FILE makes one job of every line of FILE: KEY VALUE pairs on top of those of the command line, # for remarks.
  Jobs whose line sets no OUTPUT_DIR write to OUTPUT_DIR/<number of the line>.
    SOLVER.BASE_LR 1e-4
    SOLVER.BASE_LR 2e-4 MVIT.DROPPATH_RATE 0.3

"""


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str], list[str]]:
    """The arguments, the config files, and the KEY VALUE pairs, wherever they stand."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=SWEEP_HELP + cli.CONFIG_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_config_arguments(parser)
    default = slurm.Request()
    add = parser.add_argument
    clusters = (*slurm.CLUSTERS, "debug")
    add(
        "--cluster", choices=clusters, default="slurm", help="local: processes here; debug: by this one, with no limits"
    )
    add("--nodes", type=_positive, help="machines (NUM_SHARDS; default: the config's)")
    add("--gpus-per-node", type=_not_negative, help="GPUs, and processes, of a node (NUM_GPUS; default: the config's)")
    add("--tasks-per-node", type=_positive, help="on CPU clusters: processes of a node (NUM_CPU_PROCS)")
    add("--cpus-per-task", type=_positive, help="cores of a process: one and its DATA_LOADER.NUM_WORKERS")
    add("--mem", help="memory of a node, e.g. 64GB; 0: all")
    add("--timeout-hours", type=_hours, default=default.timeout_hours, help="of one stretch (default %(default)g)")
    add("--signal-delay", type=_positive, default=default.warn_s, metavar="S", help="told so long before (%(default)s)")
    add(
        "--requeues",
        type=_not_negative,
        default=default.requeues,
        help="after time limits, after crashes (%(default)s)",
    )
    for name in ("partition", "account", "qos", "constraint", "exclude", "nodelist", "comment"):
        add(f"--{name}", help="as of sbatch")
    add("--name", default=default.name, help="of the job (default %(default)s)")
    add("--job-dir", type=Path, help="logs and submitit's files; %%j is the job id (default OUTPUT_DIR/jobs)")
    add("--array", type=Path, metavar="FILE", help="a sweep, see below")
    add("--snapshot", action="store_true", help="copy the code to the job folder and run that")
    return cli.parse_with_config(parser, argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def _hours(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time")
    return number


def processes(args: argparse.Namespace) -> list[str]:
    """The KEY VALUE pairs that say which processes there are."""
    if args.gpus_per_node and args.tasks_per_node not in (None, args.gpus_per_node):
        text = f"--tasks-per-node {args.tasks_per_node} with --gpus-per-node {args.gpus_per_node}"
        raise cli.ArgumentError(f"{text}: there is one process to a GPU; leave --tasks-per-node out")
    opts = ["NUM_SHARDS", str(args.nodes)] if args.nodes else []
    if args.tasks_per_node and not args.gpus_per_node:
        opts += ["NUM_GPUS", "0", "NUM_CPU_PROCS", str(args.tasks_per_node)]
    elif args.gpus_per_node is not None:
        opts += ["NUM_GPUS", str(args.gpus_per_node)]
    return opts


def sweep(file: Path | None) -> list[tuple[str, list[str]]]:
    """(name, KEY VALUE pairs) of every job; without a file one job without a name."""
    if file is None:
        return [("", [])]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise cli.ArgumentError(f"--array {file}: {error}") from error
    jobs = []
    for number, line in enumerate(lines, start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise cli.ArgumentError(f"{file}:{number}: {error}: {line!r}") from error
        if len(words) % 2:
            raise cli.ArgumentError(f"{file}:{number}: expected KEY VALUE pairs, found {len(words)} words: {line!r}")
        if words:
            jobs.append((str(number), words))
    if not jobs:
        raise cli.ArgumentError(f"--array {file}: no line names a job")
    return jobs


def base_folder(file: str, opts: Sequence[str]) -> str:
    """OUTPUT_DIR before a line of a sweep has its say."""
    given = [value for key, value in zip(opts[::2], opts[1::2], strict=False) if key == "OUTPUT_DIR"]
    return given[-1] if given else cli.load(file, opts).OUTPUT_DIR


def load_all(files: Sequence[str], opts: Sequence[str], array: Path | None) -> list[list[Config]]:
    """The configs of every job; every mistake in them is told now, not when the job starts."""
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
                raise cli.ArgumentError(f"{array}:{name}: {error}") if name else error from None
        loaded.append(configs)
    _check_all([cfg for configs in loaded for cfg in configs])
    return loaded


def _check_all(configs: Sequence[Config]) -> None:
    """What must differ between runs differs, and what must be the same is."""
    folders = [cfg.OUTPUT_DIR for cfg in configs if cfg.TRAIN.ENABLE]
    twice = sorted({folder for folder in folders if folders.count(folder) > 1})
    if twice:
        raise cli.ArgumentError(f"several runs train in one OUTPUT_DIR: {', '.join(twice)}; give each its own")
    shapes = sorted({(cfg.NUM_SHARDS, cfg.NUM_GPUS, cfg.NUM_GPUS or cfg.NUM_CPU_PROCS) for cfg in configs})
    if len(shapes) > 1:
        told = "; ".join(f"{nodes} x {number} ({gpus} GPUs)" for nodes, gpus, number in shapes)
        raise cli.ArgumentError(
            f"the runs want different nodes x processes: {told}; --nodes, --gpus-per-node and --tasks-per-node set them"
        )


def main() -> None:
    args, files, opts = parse()
    loaded = load_all(files, [*opts, *processes(args)], args.array)
    first = loaded[0][0]
    if args.cluster == "debug":
        if first.NUM_SHARDS > 1:
            raise cli.ArgumentError(f"--nodes {first.NUM_SHARDS}: --cluster debug is this machine alone; use --nodes 1")
        from videovit.engine import launch  # brings torch, which submitting can do without

        for configs in loaded:
            for cfg in configs:
                launch.run(cfg)
        return
    names = ("cluster", "name", "cpus_per_task", "mem", "timeout_hours", "requeues")
    names += ("partition", "account", "qos", "constraint", "exclude", "nodelist", "comment")
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


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
