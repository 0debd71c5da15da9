"""Serve a page in the browser: drop a video, see its classes over time and where the model looks.

Needs the package gradio: pip install "videovit[app]"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.errors import UserError

DETAILS = """examples:
  videovit app --model output/mine
  videovit app --model mvitv2_s_16x4_k400 --port 8000

The page is reached from this machine alone: http://127.0.0.1:7860. With --host 0.0.0.0 everybody who reaches this
machine can use it; there is no password. Uploads are limited by --max-mb, decoded within the limits of the config
(DATA.MAX_PIXELS, DATA.MAX_FRAMES, DATA.MAX_VIDEO_MB, DATA.DECODE_TIMEOUT_S), and deleted after 10 minutes.
"""


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=DETAILS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="to listen on (default: 7860)")
    parser.add_argument("--max-mb", type=int, default=500, metavar="MB", help="of an uploaded file (default: 500)")
    args = parser.parse_args(argv)
    if not 0 <= args.port < 65536 or args.max_mb < 1:
        parser.error("--port must be 0 (any free one) to 65535, --max-mb at least 1")
    return args


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    from videovit.app import import_gradio, serve  # these take seconds, which --help and wrong arguments do not need
    from videovit.loading import load
    from videovit.model import ObjectModel

    import_gradio()  # before the weights are fetched
    with cli.plain_warnings():
        model = load(args.model, args.checkpoint)
    if isinstance(model, ObjectModel):
        raise UserError(
            "finds objects in images", where=args.model, expected="a model that classifies videos or images"
        )
    serve(model, Path(args.model).name, host=args.host, port=args.port, max_mb=args.max_mb)
