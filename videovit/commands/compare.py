"""Compare runs on one data set: cost, accuracy, drops by frame order and speed, in one table and one picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.config.run_folder import config_of_run


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog,
        description=__doc__,
        epilog="The numbers come from what runs left in their folders: config.yaml, stats.jsonl, predictions.csv and "
        "shuffle_eval.json. Differences are to the first run, on the same videos, with 95% intervals of a paired "
        "bootstrap. Runs that were tested on different lists are refused.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a run; the first one is the reference")
    parser.add_argument("--output", metavar="FOLDER", help="also write compare.png, compare.csv and compare.json there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    configs = {}
    for folder in dict.fromkeys(map(Path, args.runs)):
        configs[folder] = cli.load(str(config_of_run(folder)), [])
    from videovit.engine.tasks.compare import compare  # imports PyTorch, which --help and missing folders do not need

    table, hints = compare(configs, Path(args.output) if args.output else None)
    print(table)
    for hint in hints:
        cli.say(hint)
