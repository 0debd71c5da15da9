"""Measure whether trained models use time: frames reordered, dropped or covered, and videos at other speeds.

Results are use_of_time.json and use_of_time.png in OUTPUT_DIR of each model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from videovit import cli
from videovit.commands.analyze import MODELS_HELP, configs_of, split_models

HELP = f"""{MODELS_HELP}\
    videovit use_of_time output/mvit output/vit USE_OF_TIME.SPEEDS [0.5,2,4]

Accuracy of groups of classes: SHUFFLE_EVAL.CLASS_GROUPS_FILE. All keys and what they mean: docs/analysis.md
"""


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="runs, published models or configs; KEY VALUE pairs may follow"
    )
    args = parser.parse_intermixed_args(argv)
    models, opts = split_models(args.models)
    if not models:
        parser.error("name a model first")
    configs = configs_of(models, "USE_OF_TIME", opts)
    from videovit.engine import launch  # imports PyTorch, which --help and mistakes in a config do not need

    for cfg in configs:
        launch.run(cfg)
