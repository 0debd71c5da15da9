"""Measure how fast a model, its training, or a part of it is; a shortcut to BENCHMARK.ENABLE with all else off."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import get_args

from videovit import cli
from videovit.commands.run import only, run_all
from videovit.config.schema.run import Measured


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=cli.CONFIG_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_config_arguments(parser)
    parser.add_argument("--what", choices=get_args(Measured), help="what to measure (default: BENCHMARK.WHAT)")
    args, files, opts = cli.parse_with_config(parser, argv)
    what = ["BENCHMARK.WHAT", args.what] if args.what else []
    run_all([cli.load(file, [*only("BENCHMARK"), *opts, *what]) for file in files])
