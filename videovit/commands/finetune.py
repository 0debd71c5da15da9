"""Train a classifier of your own videos: from a folder per class, or from a table, to a tested model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.errors import UserError
from videovit.finetuning.request import Request


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and the KEY VALUE pairs, wherever they stand."""
    parser = cli.Parser(
        prog=prog,
        usage="%(prog)s FOLDER | --table FILE [options] [KEY VALUE ...]",
        description=__doc__,
        epilog="FOLDER contains class/video.mp4, or train/class/video.mp4, val/... and test/...; images in place of "
        "videos are images. The same command continues a run that was stopped. What it ran is DIR/config.yaml, an "
        "ordinary config: any of its keys can be set by KEY VALUE pairs. See docs/finetune.md.",
    )
    group = parser.add_argument_group("table, in place of a folder")
    group.add_argument("--table", default="", metavar="FILE", help="CSV or TSV with a header and a row per video")
    group.add_argument("--path-column", default="video", metavar="NAME", help="column of the paths (default video)")
    group.add_argument("--label-column", default="label", metavar="NAME", help="column of the classes (default label)")
    group.add_argument("--split-column", default="", metavar="NAME", help="column of train, val, test (default: none)")
    group.add_argument("--multi-label", action="store_true", help="a video may have several classes: sit|talk")
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="",
        metavar="SOURCE",
        help="zoo:NAME, hf://user/name, the OUTPUT_DIR of a run, the folder of a saved model, or a weight file "
        "(default: MViTv2-S of the zoo; DeiT-S for images)",
    )
    group.add_argument("--cfg", default="", metavar="CONFIG", help="config of the weight file")
    group.add_argument("--from-scratch", action="store_true", help="train a small model without weights")
    group.add_argument("--freeze", default="", metavar="WHAT", help="do not train: backbone, or the first N layers")
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=int, metavar="N", help="epochs (default: the recipe's, more on few videos)")
    group.add_argument("--minutes", type=float, metavar="M", help="as many epochs as fit into about M minutes")
    group.add_argument("--batch-size", type=int, metavar="N", help="videos per step (default: the recipe's)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the split and the training (default 0)")
    group.add_argument("--output", default="", metavar="DIR", help="folder of the run (default: output/FOLDER)")
    group.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    args, others = parser.parse_known_args(argv)
    unknown = [word for word in others if word.startswith("--")]
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}; see --help")
    # The first other word is the folder; argparse would take none for it if options come first. Beside a table, it is
    # a key, unless somebody gave both.
    args.data = others.pop(0) if others and (not args.table or Path(others[0]).exists()) else ""
    return args, [*others, *args.opts]


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args, opts = parse(argv, prog=prog)
    if len(opts) % 2:
        raise UserError(f"{opts[-1]} has no value", where="KEY VALUE", expected="pairs such as SOLVER.BASE_LR 1e-4")
    request = Request(**{**vars(args), "opts": tuple(opts)})
    request.check_source()
    from videovit.finetuning.session import run  # imports PyTorch, which --help and wrong arguments do not need

    run(request)
