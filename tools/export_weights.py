#!/usr/bin/env python3
"""Write the weights of a run, or their moving average, to a file of their own, by this or other projects' names."""

from __future__ import annotations

import argparse
import sys

from videovit import cli
from videovit.engine.tasks.export import OWN, export_weights
from videovit.models.convert.export import EXPORTERS


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The file can be given as TRAIN.CHECKPOINT_FILE_PATH, to start from, and as TEST.CHECKPOINT_FILE_PATH. "
        "TEST.USE_EMA True takes the moving average that TRAIN.EMA_DECAY made.",
    )
    parser.add_argument("--cfg", required=True, metavar="FILE", help="the config that the model was trained with")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a checkpoint, or the OUTPUT_DIR of a run")
    parser.add_argument("--output", required=True, metavar="FILE", help=".safetensors, or .pyth and others of PyTorch")
    parser.add_argument("--layout", default=OWN, choices=(OWN, *EXPORTERS), help="whose names (default: own)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    cfg = cli.load(args.cfg, args.opts)
    source = export_weights(cfg, args.checkpoint, args.output, layout=args.layout)
    what = "moving average of the weights" if cfg.TEST.USE_EMA else "weights"
    print(f"{what} of {source} -> {args.output} ({args.layout})")


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
