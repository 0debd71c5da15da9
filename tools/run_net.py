#!/usr/bin/env python3
"""Train, test and shuffle-test a video model: everything that a config enables, in that order."""

from __future__ import annotations

import argparse
import sys

from videovit import cli


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str], list[str]]:
    """The arguments, the config files, and the KEY VALUE pairs, wherever they stand."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=cli.CONFIG_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_config_arguments(parser)
    parser.add_argument("--num_shards", type=int, help="number of machines (NUM_SHARDS)")
    parser.add_argument("--shard_id", type=int, help="which of them this is, from 0 (SHARD_ID)")
    parser.add_argument("--init_method", help="where the machines meet: tcp://HOST:PORT")
    return cli.parse_with_config(parser, argv)


def main() -> None:
    args, files, opts = parse()
    flags = {"NUM_SHARDS": args.num_shards, "SHARD_ID": args.shard_id, "DIST_INIT_METHOD": args.init_method}
    opts += [word for key, value in flags.items() if value is not None for word in (key, str(value))]
    configs = [cli.load(file, opts) for file in files]  # a typo in the last file is told before the first one runs
    folders = [cfg.OUTPUT_DIR for cfg in configs if cfg.TRAIN.ENABLE]
    if len(set(folders)) < len(folders):
        raise cli.ArgumentError(f"several configs train in one OUTPUT_DIR: {', '.join(folders)}; give each its own")
    from videovit.engine import launch  # brings torch, which --help and a mistake in a config can do without

    for cfg in configs:
        launch.run(cfg)


if __name__ == "__main__":
    sys.exit(cli.exit_code(main, hint="the same command goes on from the newest checkpoint (TRAIN.AUTO_RESUME)"))
