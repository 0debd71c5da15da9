"""Test how robust trained models are: occlusion, attacks, corruptions of video, and image sets made to mislead.

Results are robustness.json and robustness.png in OUTPUT_DIR of each model; several models also share one table and one
picture, robustness_compared, in which mean corruption errors are relative to the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from videovit import cli
from videovit.commands.analyze import MODELS_HELP, add_what, configs_of, opts_of_what, split_models
from videovit.config.schema.evaluation import RobustnessTest
from videovit.messages import printable

HELP = f"""{MODELS_HELP}\
    videovit robustness output/vit output/pit ROBUSTNESS.EPS [2,4] DATA.PATH_TO_DATA_DIR /data/imagenet

Sets of images are tested if their folders are given:
    ROBUSTNESS.IMAGENET_A, ROBUSTNESS.IMAGENET_R, ROBUSTNESS.BACKGROUNDS (Backgrounds Challenge)
All keys of ROBUSTNESS and what they mean: docs/analysis.md
"""


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="runs, published models or configs; KEY VALUE pairs may follow"
    )
    add_what(parser, "ROBUSTNESS", get_args(RobustnessTest))
    parser.add_argument(
        "--output", type=Path, help="folder of the comparison of several models (default: of the first)"
    )
    args = parser.parse_intermixed_args(argv)
    models, opts = split_models(args.models)
    if not models:
        parser.error("name a model first")
    configs = configs_of(models, "ROBUSTNESS", [*opts, *opts_of_what("ROBUSTNESS", args.what)])
    from videovit.engine import launch  # imports PyTorch, which --help and mistakes in a config do not need
    from videovit.engine.reporting.json_lines import make_folder
    from videovit.engine.tasks.robustness import compare

    if args.output is not None:
        make_folder(args.output)
    for cfg in configs:
        launch.run(cfg)
    folders = [Path(cfg.OUTPUT_DIR) for cfg in configs]
    if (written := compare(folders, args.output or folders[0])) is not None:
        print(f"all models: {', '.join(printable(path) for path in written)}")
