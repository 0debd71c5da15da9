"""Pack videos into tar shards with an index, for shared file systems and object stores that are slow with small files.

With DATA.PATH_PREFIX shards:FOLDER the same lists are read from the shards: any video in any order, with the same clips
as from the files. The shards are plain tar files, which GNU tar and WebDataset read, too. Stopped at any moment, the
same command continues.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.errors import UserError
from videovit.messages import plural, printable

LOCK = ".pack.lock"
UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", metavar="LIST", help="lists (.csv, .txt) or folders of videos")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the shards")
    parser.add_argument("--prefix", default="", metavar="FOLDER", help="folder that paths in lists are relative to")
    parser.add_argument("--size", type=size, default="1GB", help="largest size of a shard (default 1GB)")
    return parser.parse_args(argv)


def size(text: str) -> int:
    """Bytes in words: 500MB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(kB|MB|GB|)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500MB or 1GB")
    return int(float(found[1]) * UNITS[found[2]])


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    # These imports take seconds, which --help does not need.
    from filelock import FileLock, Timeout

    from videovit.data.files.video_files import find_videos
    from videovit.engine.reporting.progress import Progress
    from videovit.preparation.pack import members_of, pack, plan_shards, summary, write_index

    with cli.plain_warnings():
        videos = find_videos(args.videos, prefix=args.prefix)
    members, failed = members_of(videos, args.prefix)
    if not members:
        raise UserError(f"none of the {plural(len(videos), 'video')} can be read, first: {': '.join(failed[0])}")
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(members, args.size)
    packed = []
    try:
        with FileLock(folder / LOCK, timeout=0):
            progress = Progress("shards", len(shards))
            for _, (one, unread) in progress.over(pack(shards, folder)):
                packed.append(one)
                failed += unread
                progress.count(1)
            listed = write_index(folder, packed, {member.name: member.label for member in members})
            (folder / LOCK).unlink()
    except Timeout:
        raise UserError("another process packs into this folder", where=folder) from None
    print(f"{summary(packed, folder)}; list: {printable(listed)}")
    for path, why in failed:
        print(printable(f"failed: {path}: {why}"), file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {plural(len(videos), 'video')} were not packed")
