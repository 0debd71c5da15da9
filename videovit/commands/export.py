"""Write the weights of a run, or their moving average, to a file, under this project's or another project's names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from videovit import cli


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog,
        description=__doc__,
        epilog="The file can be given as TRAIN.CHECKPOINT_FILE_PATH, to start training from it, and as "
        "TEST.CHECKPOINT_FILE_PATH. TEST.USE_EMA True selects the moving average that TRAIN.EMA_DECAY maintains.",
    )
    parser.add_argument("--cfg", required=True, metavar="CONFIG", help="the config that the model was trained with")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a checkpoint, or the OUTPUT_DIR of a run")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help=".safetensors, or .pyth, .pth or .pt of PyTorch"
    )
    parser.add_argument(
        "--layout",
        default="own",
        type=_layout,
        help="project whose names the weights get: own (default), timm, torchvision, pytorchvideo, ...",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser.parse_args(argv)


def _layout(text: str) -> str:
    # Not `choices`: the table comes with PyTorch, which --help does not need.
    from videovit.engine.tasks.export import OWN
    from videovit.models.convert.export import EXPORTERS

    if text not in (OWN, *EXPORTERS):
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join((OWN, *EXPORTERS))})")
    return text


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    cfg = cli.load(args.cfg, args.opts)
    from videovit.engine.tasks.export import export_weights

    source = export_weights(cfg, args.checkpoint, args.output, layout=args.layout)
    what = "moving average of the weights" if cfg.TEST.USE_EMA else "weights"
    print(f"{what} of {source} -> {args.output} ({args.layout})")
