"""Analyze trained models: reach of attention, similarity of its maps, sampling points.

Results are in OUTPUT_DIR/analysis of each model; of several models, one picture shows all curves.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from videovit import cli
from videovit.commands.run import only
from videovit.config import Config, find_shipped
from videovit.config.run_folder import config_of_run
from videovit.config.schema.evaluation import Analyzed
from videovit.config.shipped import shipped_configs
from videovit.errors import UserError
from videovit.messages import did_you_mean, did_you_mean_beside, printable

_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
MODELS_HELP = """models:
  OUTPUT_DIR of a run: its config and its newest checkpoint
  zoo:NAME, such as zoo:mvitv2_s_16x4_k400 (see videovit zoo); results are in output/NAME unless OUTPUT_DIR is given
  a config, by file or by the name of one that comes with videovit: weights as for its test (TEST.CHECKPOINT_FILE_PATH)
Keys follow as KEY VALUE pairs and apply to all models:
"""
HELP = f"""{MODELS_HELP}\
    videovit analyze output/vit output/pit ANALYSIS.NUM_VIDEOS 500 DATA.PATH_TO_DATA_DIR /data/k400
"""


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="runs, published models or configs; KEY VALUE pairs may follow"
    )
    add_what(parser, "ANALYSIS", get_args(Analyzed))
    parser.add_argument("--output", type=Path, help="folder of the picture of several models (default: of the first)")
    args = parser.parse_intermixed_args(argv)
    models, opts = split_models(args.models)
    if not models:
        parser.error("name a model first")
    configs = configs_of(models, "ANALYSIS", [*opts, *opts_of_what("ANALYSIS", args.what)])
    folders = [Path(cfg.OUTPUT_DIR) for cfg in configs]
    from videovit.engine import launch  # imports PyTorch, which --help and mistakes in a config do not need
    from videovit.engine.reporting.json_lines import make_folder
    from videovit.engine.tasks.analyze import FOLDER, compare

    if args.output is not None:
        make_folder(args.output)
    for cfg in configs:
        launch.run(cfg)
    if len(folders) > 1:
        picture = compare(folders, args.output or folders[0] / FOLDER)
        if picture is not None:
            print(f"curves of all models: {printable(picture)}")


def add_what(parser: argparse.ArgumentParser, section: str, known: Sequence[str]) -> None:
    """Add --what, which sets the key WHAT of a section; see `opts_of_what`."""
    # The config checks the names: KEY VALUE pairs may follow.
    text = f"{', '.join(known)} (default: {section}.WHAT)"
    parser.add_argument("--what", nargs="+", default=[], metavar="NAME", help=text)


def opts_of_what(section: str, words: Sequence[str]) -> list[str]:
    """KEY VALUE pairs from the words after --what: names, and pairs that follow them."""
    what, opts = split_models(words)
    return [*opts, f"{section}.WHAT", f"[{','.join(what)}]"] if what else opts


def split_models(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate models, which come first, from KEY VALUE pairs."""
    number = next((i for i, word in enumerate(words) if _KEY.fullmatch(word) and not Path(word).exists()), len(words))
    return list(words[:number]), list(words[number:])


def configs_of(models: Sequence[str], section: str, opts: Sequence[str]) -> list[Config]:
    """The config of every model, whose only task is that of a section.

    Raises:
        UserError: see `config_of`; or two models have one OUTPUT_DIR.
    """
    configs = [config_of(model, [*only(section), *opts]) for model in models]
    folders = [cfg.OUTPUT_DIR for cfg in configs]
    if len(set(folders)) < len(folders):
        raise UserError("two models have one OUTPUT_DIR, where their results would be mixed", found=folders[0])
    return configs


def config_of(model: str, opts: Sequence[str]) -> Config:
    """The config of a run, a file or a published model, and what it is to do.

    Raises:
        UserError: no such folder or model, or a folder that is not the OUTPUT_DIR of a run.
    """
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_file() or find_shipped(model) is not None:
            return cli.load(model, opts)
        from videovit.models import zoo  # imports PyTorch, which mistakes in a config do not need

        # Names of the zoo have no folders.
        if "/" in model:
            near = did_you_mean(model, shipped_configs()) or did_you_mean_beside(folder)
            expected = "" if near else "the OUTPUT_DIR of a run, a config, or zoo:NAME"
            raise UserError("no such folder or config", where=model, expected=expected, near=near)
        entry = zoo.find(model)
        own = ["OUTPUT_DIR", f"output/{entry.name}", "TEST.CHECKPOINT_FILE_PATH", f"{zoo.PREFIX}{entry.name}"]
        return cli.load(entry.config, [*entry.overrides, *own, *opts])
    config = config_of_run(folder)
    # The folder may have been moved, and what training wrote comes before what the test of the run was given.
    own = ["OUTPUT_DIR", str(folder)]
    if any((folder / "checkpoints").glob("checkpoint_epoch_*")):
        own += ["TEST.CHECKPOINT_FILE_PATH", ""]
    return cli.load(str(config), [*own, *opts])
