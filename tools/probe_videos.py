#!/usr/bin/env python3
"""Look through videos: which can be read, with which decoder, what they are, and what decoding them costs."""

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

import numpy as np
import simplejson

from videovit import cli
from videovit.data.decode import DecodeError
from videovit.data.decode.limited import call_limited
from videovit.data.decode.probe import Probe, probe_video
from videovit.data.files.video_files import find_videos
from videovit.engine.reporting.log import Progress, format_table


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The exit code is 1 when some videos cannot be read. Decoding cost is CPU time, opening included, of a "
        "clip of 16 frames, every fourth, from the middle of the video.",
    )
    parser.add_argument("videos", nargs="+", metavar="LIST", help="lists (.csv, .txt), folders or video files")
    parser.add_argument("--prefix", default="", metavar="FOLDER", help="folder of the paths in lists")
    parser.add_argument("--backend", default="decord", choices=("decord", "pyav"), help="decoder to ask for")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds a video may take (default 60)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write a row per video here")
    parser.add_argument("--json", metavar="FILE", help="write everything here")
    args = parser.parse_args(argv)
    if args.workers < 1 or args.timeout <= 0:
        parser.error("--workers starts at 1, --timeout above 0")
    return args


def probe_safely(path: str, *, backend: str, timeout_s: float) -> Probe:
    """probe_video, ended when it takes too long."""
    try:
        probe: Probe = call_limited(probe_video, path, backend, path=path, timeout_s=timeout_s)
        return probe
    except DecodeError as error:
        return Probe(path, error=error.reason)


def summary(probes: Sequence[Probe]) -> str:
    """A table with a row for each kind of file, and one with a row for each reason why some cannot be read."""
    kinds: dict[tuple[str, str], list[Probe]] = {}
    for probe in probes:
        if not probe.error:
            kinds.setdefault((f"{Path(probe.path).suffix} {probe.codec}", probe.served_by), []).append(probe)
    head = ["kind", "decoder", "videos", "size", "fps", "length s", "GOP", "open GOP", "edit list", "MB", "clip ms"]
    rows = []
    for (kind, decoder), group in sorted(kinds.items(), key=lambda item: -len(item[1])):
        sizes = Counter(f"{probe.width}x{probe.height}" for probe in group).most_common(2)
        size = sizes[0][0] + (" ..." if len(sizes) > 1 else "")
        values = [np.median([getattr(p, name) for p in group]) for name in ("fps", "duration_s", "gop", "mbytes")]
        fps, length, gop, mbytes = (f"{value:.4g}" for value in values)
        cost = f"{np.median([probe.clip_ms for probe in group]):.1f}"
        flags = [sum(probe.open_gop for probe in group), sum(probe.edit_list for probe in group)]
        rows.append([kind, decoder, len(group), size, fps, length, gop, *flags, mbytes, cost])
    text = format_table(head, rows) if rows else ""
    reasons = Counter(probe.error for probe in probes if probe.error)
    if reasons:
        text += "\n\n" + format_table(["unreadable", "videos"], [[r, n] for r, n in reasons.most_common()])
    return text


def write_csv(path: str, probes: Sequence[Probe]) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Probe)])
        writer.writeheader()
        writer.writerows(asdict(probe) for probe in probes)


def main() -> None:
    args = parse()
    paths = [video.path for video in find_videos(args.videos, prefix=args.prefix)]
    probes = []
    progress = Progress("videos", len(paths))
    with ProcessPoolExecutor(args.workers) as pool:
        one = partial(probe_safely, backend=args.backend, timeout_s=args.timeout)
        for _, probe in progress.over(pool.map(one, paths, chunksize=1)):
            probes.append(probe)
            progress.count(1)
    if args.csv:
        write_csv(args.csv, probes)
    if args.json:
        Path(args.json).write_text(simplejson.dumps([asdict(p) for p in probes], indent=1) + "\n", encoding="utf-8")
    print("\n" + summary(probes))
    print("sizes, rates, lengths and costs are medians")
    bad = [probe for probe in probes if probe.error]
    for probe in bad[:20]:
        print(f"unreadable: {probe.path}: {probe.error}", file=sys.stderr)
    if bad:
        raise cli.SomeFailedError(f"{len(bad)} of {len(probes)} videos cannot be read")


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
