"""Find the videos that are most similar to one, by the features that `videovit features` has written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.messages import printable

DETAILS = """examples:
  videovit similar video.mp4 --features features --picture similar.png    a file; its features are computed first
  videovit similar 17 --features features                                 video 17 of features/index.jsonl
  videovit similar my_videos/a.mp4 --features dense --at 12.5             the window around 12.5 s

Similarity is the cosine of the angle between two vectors. Of each video, the most similar window counts; without --at,
the mean of all windows is searched for. Features are read file by file, however many there are.
"""


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=DETAILS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("video", metavar="VIDEO", help="a file, or the path or number of a video in the index")
    add("--features", required=True, type=Path, metavar="FOLDER", help="the --output of videovit features")
    add("--at", type=float, metavar="S", help="search for the window around this moment, in seconds")
    add("--top", type=int, default=10, metavar="N", help="videos to list (default 10)")
    add("--picture", type=Path, metavar="FILE", help="draw a frame of each (.png, .jpg, .pdf)")
    add("--json", type=Path, metavar="FILE", help="write the list to this file")
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error("--top must be at least 1")
    import simplejson  # these imports take seconds, which --help does not need

    from videovit.engine.reporting.json_lines import replacing
    from videovit.engine.reporting.log import format_table
    from videovit.engine.tasks.similar import draw_similar, find_query, find_similar, open_features

    with cli.plain_warnings():
        features = open_features(args.features)
        query = find_query(features, args.video, args.at)
        found = find_similar(features, query, args.top)
    rows = [[f"{m.similarity:.4f}", m.video, f"{m.start_s:.2f}-{m.end_s:.2f}", printable(m.path)] for m in found]
    print(format_table(["similarity", "video", "seconds", "path"], rows))
    if args.json:
        content = {"query": query.match.as_dict(), "similar": [match.as_dict() for match in found]}
        with replacing(args.json) as partial:
            partial.write_text(simplejson.dumps(content, indent=1) + "\n", encoding="utf-8")
    if args.picture:
        draw_similar(args.picture, features, query, found)
        print(f"picture: {printable(args.picture)}")
