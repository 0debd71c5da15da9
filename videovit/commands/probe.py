"""Check videos: which can be read, by which decoder, what they contain, and what decoding them costs."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from videovit import cli
from videovit.errors import UserError
from videovit.messages import plural, printable, table_cell

if TYPE_CHECKING:
    from videovit.data.decode.probe import Probe


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog,
        description=__doc__,
        epilog="The exit code is 1 if some videos cannot be read. The decoding cost is the CPU time for opening the "
        "file and reading a clip of 16 frames, every fourth one, from the middle of the video.",
    )
    parser.add_argument("videos", nargs="+", metavar="LIST", help="lists (.csv, .txt), folders or video files")
    parser.add_argument(
        "--prefix",
        default="",
        metavar="FOLDER",
        help="folder, shards:FOLDER or URL that paths in lists are relative to",
    )
    parser.add_argument(
        "--backend", default="decord", choices=("decord", "pyav"), help="decoder to try first (default decord)"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="time limit per video in seconds (default 60)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write one row per video to this file")
    parser.add_argument("--json", metavar="FILE", help="write all details to this file")
    args = parser.parse_args(argv)
    if args.workers < 1 or args.timeout <= 0:
        parser.error("--workers must be at least 1, --timeout above 0")
    return args


def probe_safely(path: str, *, backend: str, prefix: str, timeout_s: float) -> Probe:
    """`probe_video` with a time limit; videos that cannot be read give a `Probe` with the reason."""
    from videovit.data.decode import DecodeError, DecodeOptions
    from videovit.data.decode.probe import Probe, probe_video
    from videovit.data.decode.protocol import MOST_ELONGATED
    from videovit.data.decode.remote_videos import locate_remote
    from videovit.data.decode.time_limit import call_limited

    options = DecodeOptions(inside=prefix, max_elongation=MOST_ELONGATED)
    try:
        here = locate_remote(path, options, backend)
        probe: Probe = call_limited(probe_video, here, backend, options, path=path, timeout_s=timeout_s)
        return probe
    except DecodeError as error:
        return Probe(path, error=error.reason)


def summary(probes: Sequence[Probe]) -> str:
    """Tables with a row per kind of file, per unusual property, and per reason why files cannot be read."""
    from videovit.engine.reporting.log import format_table

    kinds: dict[tuple[str, str], list[Probe]] = {}
    for probe in probes:
        if not probe.error:
            kinds.setdefault((f"{Path(probe.path).suffix} {probe.codec}", probe.served_by), []).append(probe)
    head = ["kind", "decoder", "videos", "size", "fps", "length s", "GOP", "open GOP", "edit list", "MB", "clip ms"]
    rows = []
    for (kind, decoder), group in sorted(kinds.items(), key=lambda item: -len(item[1])):
        sizes = Counter(f"{probe.width}x{probe.height}" for probe in group).most_common(2)
        size = sizes[0][0] + (" ..." if len(sizes) > 1 else "")
        values = [median([getattr(p, name) for p in group]) for name in ("fps", "duration_s", "gop", "mbytes")]
        fps, length, gop, mbytes = (f"{value:.4g}" for value in values)
        cost = f"{median([probe.clip_ms for probe in group]):.1f}"
        flags = [sum(probe.open_gop for probe in group), sum(probe.edit_list for probe in group)]
        rows.append([kind, decoder, len(group), size, fps, length, gop, *flags, mbytes, cost])
    text = format_table(head, rows) if rows else ""
    unusual = Counter(what for probe in probes if probe.unusual for what in probe.unusual.split("; "))
    if unusual:
        text += "\n\n" + format_table(["unusual", "videos"], [[what, n] for what, n in unusual.most_common()])
    reasons = Counter(probe.error for probe in probes if probe.error)
    if reasons:
        text += "\n\n" + format_table(["unreadable", "videos"], [[r, n] for r, n in reasons.most_common()])
    return text


def write_csv(path: str, probes: Sequence[Probe]) -> None:
    """Write one row per video, with a column per field of `Probe`."""
    from videovit.data.decode.probe import Probe

    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Probe)])
        writer.writeheader()
        writer.writerows({name: table_cell(v) for name, v in asdict(probe).items()} for probe in probes)


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    import simplejson  # these imports take seconds, which --help does not need

    from videovit.data.files.video_files import find_videos
    from videovit.engine.reporting.progress import Progress

    with cli.plain_warnings():
        videos = find_videos(args.videos, prefix=args.prefix, every_suffix=True)
    paths = [video.path for video in videos]
    probes = []
    progress = Progress("videos", len(paths))
    with ProcessPoolExecutor(args.workers) as pool:
        one = partial(probe_safely, backend=args.backend, prefix=args.prefix, timeout_s=args.timeout)
        for _, probe in progress.over(pool.map(one, paths, chunksize=1)):
            probes.append(probe)
            progress.count(1)
    others = {video.path for video in videos if not video.by_suffix}
    for probe in probes:
        if probe.path in others:
            what = probe.error or f"{probe.codec}; folders are searched for other suffixes: list it to use it"
            print(printable(f"left out of folders: {probe.path}: {what}"), file=sys.stderr)
    probes = [probe for probe in probes if probe.path not in others or not probe.error]
    if args.csv:
        write_csv(args.csv, probes)
    if args.json:
        Path(args.json).write_text(simplejson.dumps([asdict(p) for p in probes], indent=1) + "\n", encoding="utf-8")
    print("\n" + summary(probes))
    print("sizes, rates, lengths and costs are medians")
    bad = [probe for probe in probes if probe.error]
    for probe in bad[:20]:
        print(printable(f"unreadable: {probe.path}: {probe.error}"), file=sys.stderr)
    if bad:
        raise UserError(f"{len(bad)} of {plural(len(probes), 'video')} cannot be read")
