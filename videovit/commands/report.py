"""Write one page about a run: results, curves, classes, confusion, worst mistakes with heat maps, analyses, config.

The page is a single HTML file that opens from disk: no server, no network.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.messages import printable

DETAILS = """examples:
  videovit report output/mine
  videovit report output/mine --output mine.html --mistakes 20 --method occlusion

It shows what the run left in its folder: predictions.csv and errors.json of the test, stats.jsonl, shuffle_eval.json,
analysis/, robustness.json, use_of_time.json, config.yaml. The test videos are opened for the worst mistakes, and once
for their length, resolution and frame rate, which are kept in errors.json.

How to read it: docs/report.md
"""


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=DETAILS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="OUTPUT_DIR of a run")
    parser.add_argument("--output", metavar="FILE", type=Path, help="the page (default: report.html in RUN)")
    parser.add_argument(
        "--mistakes",
        type=int,
        default=8,
        metavar="N",
        help="worst mistakes with moving pictures and heat maps (default: 8; 0 loads no model)",
    )
    parser.add_argument(
        "--method",
        default="gradient",
        metavar="NAME",
        help="of the heat maps, see videovit explain (default gradient)",
    )
    parser.add_argument("--no-videos", action="store_true", help="read the folder of the run alone, and open no video")
    args = parser.parse_args(argv)
    if not 0 <= args.mistakes <= 100:
        parser.error(f"--mistakes: found {args.mistakes}, expected 0 to 100")
    return args


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    from videovit.report.page import write_report  # takes seconds, which --help and wrong arguments do not need

    with cli.plain_warnings():
        path = write_report(
            args.run, args.output, num_mistakes=args.mistakes, method=args.method, open_videos=not args.no_videos
        )
    print(printable(f"{path}  {path.stat().st_size / 1e6:.1f} MB"))
