"""Train, test and shuffle-test a video model: everything that a config enables, in that order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from videovit import cli
from videovit.config import Config
from videovit.errors import UserError

TASK_SECTIONS = (
    "TRAIN",
    "SEARCH",
    "TEST",
    "SHUFFLE_EVAL",
    "USE_OF_TIME",
    "ROBUSTNESS",
    "ANALYSIS",
    "FEATURES",
    "BENCHMARK",
)


def only(section: str) -> list[str]:
    """KEY VALUE pairs that disable all tasks of a config but one; pairs that the user adds come later and win."""
    return [word for name in TASK_SECTIONS for word in (f"{name}.ENABLE", str(name == section))]


def parse(
    argv: Sequence[str] | None = None, *, prog: str | None = None
) -> tuple[argparse.Namespace, list[str], list[str]]:
    """The arguments, the configs, and the KEY VALUE pairs, wherever they stand."""
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=cli.CONFIG_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_config_arguments(parser)
    parser.add_argument("--num_shards", type=int, help="number of machines (NUM_SHARDS)")
    parser.add_argument("--shard_id", type=int, help="which of them this is, from 0 (SHARD_ID)")
    parser.add_argument("--init_method", help="where the machines meet: tcp://HOST:PORT (DIST_INIT_METHOD)")
    return cli.parse_with_config(parser, argv)


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args, files, opts = parse(argv, prog=prog)
    flags = {"NUM_SHARDS": args.num_shards, "SHARD_ID": args.shard_id, "DIST_INIT_METHOD": args.init_method}
    opts += [word for key, value in flags.items() if value is not None for word in (key, str(value))]
    run_all([cli.load(file, opts) for file in files])  # all are loaded first: a typo in the last one shows at once


def run_all(configs: Sequence[Config]) -> None:
    """Run configs one after the other.

    Raises:
        UserError: two of them train in the same OUTPUT_DIR; or a run failed.
    """
    folders = [cfg.OUTPUT_DIR for cfg in configs if cfg.TRAIN.ENABLE]
    if len(set(folders)) < len(folders):
        raise UserError(f"several configs train in one OUTPUT_DIR: {', '.join(folders)}; give each its own")
    from videovit.engine import launch  # imports PyTorch, which --help and mistakes in a config do not need

    for cfg in configs:
        launch.run(cfg)
