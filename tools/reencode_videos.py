#!/usr/bin/env python3
"""Re-encode videos so that they decode quickly: short side 256, a key frame every 32 frames, nothing refers across it.

Same frames in the same number at the same times; sound is left out. Stopped at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange

from videovit import cli
from videovit.data.decode import DecodeError
from videovit.data.decode.limited import call_limited
from videovit.data.decode.orientation import Orientation, Upright
from videovit.data.decode.probe import Probe, probe_video
from videovit.data.decode.protocol import DEFAULTS, scaled_size
from videovit.data.decode.pyav_backend import ERRORS, open_container, open_pyav, plain_reason
from videovit.data.files.folders import is_text
from videovit.data.files.video_files import ListedVideo, find_videos
from videovit.data.files.listed_paths import quote
from videovit.engine.reporting.log import Progress

RGB_MATRIX = 0  # FFmpeg's number for "red, green, blue and nothing else"
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
STEPS = (("transpose", "cclock_flip"), ("hflip", None), ("vflip", None))  # FFmpeg's names for those of Orientation
EXPECTED = """Measured on Kinetics videos (340x256, a key frame every 250 frames), clips of 16 frames, every fourth:
with a key frame every 32 frames decoding takes half the CPU time and files grow by 4 %; with --fastdecode less than
a third, and files grow by 18 %. Scaling down to a short side of 256 makes larger sources smaller and quicker."""


@dataclass(frozen=True)
class Settings:
    """How videos are encoded."""

    short_side: int = 256
    gop: int = 32
    crf: int = 20
    preset: str = "medium"
    fastdecode: bool = False


@dataclass(frozen=True)
class Done:
    """What became of a video: bytes and CPU time per clip before and after, or the reason why it failed."""

    path: str
    error: str = ""
    kept: bool = False
    before: Probe | None = None
    after: Probe | None = None


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXPECTED, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", metavar="LIST", help="lists (.csv, .txt), folders or video files")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the new files and lists go")
    parser.add_argument("--prefix", default="", metavar="FOLDER", help="folder of the paths in lists")
    parser.add_argument("--short-side", type=int, default=256, metavar="N", help="0 keeps the size (default 256)")
    parser.add_argument("--gop", type=int, default=32, metavar="N", help="frames per key frame (default 32)")
    parser.add_argument("--crf", type=int, default=20, metavar="N", help="x264's quality, lower is better (default 20)")
    parser.add_argument("--preset", default="medium", choices=PRESETS, help="of x264 (default medium)")
    parser.add_argument("--fastdecode", action="store_true", help="leave out what is slow to decode; larger files")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="seconds a video may take")
    args = parser.parse_args(argv)
    if args.gop < 1 or args.short_side < 0 or args.workers < 1 or args.timeout <= 0 or not 0 <= args.crf <= 51:
        parser.error("--gop and --workers start at 1, --short-side at 0, --timeout above 0; --crf goes from 0 to 51")
    return args


def shown_frames(path: str) -> Iterator[Any]:
    """All frames of a video that are shown, in order, as PyAV's."""
    container, stream = open_container(path, DEFAULTS)
    with container:
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            yield from packet.decode()


def convert(frame: Any, orientation: Orientation, settings: Settings) -> Any:
    """A frame scaled, turned upright, in yuv420p of 16 to 235 with even sides, as x264 and every player want it."""
    width, height = scaled_size(frame.width, frame.height, settings.short_side)
    width, height = max(2, width // 2 * 2), max(2, height // 2 * 2)
    scaled = frame.reformat(
        width, height, "yuv420p", interpolation="BICUBIC", dst_color_range=ColorRange.MPEG, threads=1
    )
    steps = [step for step, needed in zip(STEPS, orientation, strict=True) if needed]
    if not steps:
        return scaled
    graph = av.filter.Graph()
    chain = [graph.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 1000))]
    chain += [graph.add(*step) for step in steps]
    chain.append(graph.add("buffersink"))
    graph.link_nodes(*chain).configure()
    graph.push(scaled)
    return graph.pull()


def note_colours(frame: Any, context: Any) -> None:
    """Note in the new file which colours its numbers stand for, as the source says of its frames.

    Without the note decoders take them for those of standard definition, and all colours of an HD video would change.
    """
    if frame.colorspace != RGB_MATRIX:
        context.colorspace = frame.colorspace
    context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
    context.color_range = ColorRange.MPEG


def encode(source: str, target: str, settings: Settings) -> int:
    """Write a video anew; returns its number of frames."""
    container, stream = open_container(source, DEFAULTS)
    rate = stream.average_rate or stream.guessed_rate or Fraction(30)
    time_base = stream.time_base
    container.close()
    params = f"keyint={settings.gop}:min-keyint={settings.gop}:scenecut=0:open-gop=0:threads=1:log-level=none"
    options = {"crf": str(settings.crf), "preset": settings.preset, "x264-params": params}
    if settings.fastdecode:
        options["tune"] = "fastdecode"
    number, last_pts, first_pts, upright = 0, -1, None, Upright()
    with av.open(target, "w", format="mp4", options={"movflags": "+faststart"}) as written:
        output: Any = None
        for frame in shown_frames(source):
            new = convert(frame, upright.of(frame), settings)
            if output is None:
                output = written.add_stream("libx264", rate=rate, options=options)
                output.width, output.height, output.pix_fmt = new.width, new.height, "yuv420p"
                output.codec_context.thread_count = 1
                output.codec_context.time_base = time_base
                note_colours(frame, output.codec_context)
                first_pts = frame.pts or 0
            # Times must rise: a file that tells none, or the same twice, gets steps of the mean frame rate.
            step = max(1, round(1 / (rate * time_base)))
            pts = last_pts + step if frame.pts is None else frame.pts - first_pts
            last_pts = pts if pts > last_pts else last_pts + step
            new.pts, new.time_base, new.pict_type = last_pts, time_base, 0
            written.mux(output.encode(new))
            number += 1
        if output is not None:
            written.mux(output.encode(None))
    return number


def reencode(source: str, target: str, settings: Settings) -> Done:
    """Write one video anew, check it, and only then give it its name.

    Raises:
        DecodeError: the source is damaged, or the new file does not hold the same number of frames.
    """
    before = probe_video(source)
    if before.error:
        raise DecodeError(source, before.error, "pyav")
    partial_file = f"{target}.part"
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        written = encode(source, partial_file, settings)
        with open_pyav(partial_file) as video:
            video.frames(np.array([0, video.num_frames - 1]))
            closed = not (video.table.seekable and video.table.has_leading_frames)
            if not written == video.num_frames == before.num_frames or not closed:
                counts = f"{before.num_frames} frames, {written} decoded, {video.num_frames} written"
                raise DecodeError(source, f"the new file is not right: {counts}", "pyav")
        os.replace(partial_file, target)
    except ERRORS as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(source, plain_reason(error), "pyav") from None
    finally:
        Path(partial_file).unlink(missing_ok=True)
    return Done(source, before=before, after=probe_video(target))


def reencode_safely(video: tuple[str, str], *, settings: Settings, timeout_s: float) -> Done:
    """reencode, unless the new file is there; ended when it takes too long."""
    source, target = video
    if os.path.exists(target):
        return Done(source, kept=True)
    try:
        done: Done = call_limited(reencode, source, target, settings, path=source, timeout_s=timeout_s)
        return done
    except DecodeError as error:
        return Done(source, error=error.reason)


def targets(videos: list[ListedVideo], folder: Path) -> list[tuple[str, str]]:
    """(source, new file) pairs; new files keep the names that the list gives, as mp4.

    Raises:
        SomeFailedError: two videos would get one name, a name is not UTF-8, or one would take the place of a source.
    """
    named: dict[str, str] = {}
    for video in videos:
        if not is_text(video.path):
            raise cli.SomeFailedError(f"{video.path!r}: its name is not UTF-8; rename it")
        inside = os.path.normpath(video.written).lstrip(os.sep)
        while inside.startswith(os.pardir + os.sep):
            inside = inside[3:]
        target = str(folder / Path(inside).with_suffix(".mp4"))
        if target in named:
            raise cli.SomeFailedError(f"{video.path} and {named[target]} would both become {target}")
        named[target] = video.path
    sources = {os.path.realpath(video.path) for video in videos}
    taken = [target for target in named if os.path.realpath(target) in sources]
    if taken:
        raise cli.SomeFailedError(f"{taken[0]} is one of the videos to encode: choose another folder for --output")
    return [(source, target) for target, source in named.items()]


def write_list(folder: Path, videos: list[ListedVideo], pairs: list[tuple[str, str]], failed: set[str]) -> Path:
    """A list of the new files with the labels of the old ones; paths relative to the folder."""
    path = folder / "videos.csv"
    rows = [
        f"{quote(os.path.relpath(target, folder))} {video.label}".rstrip()
        for video, (source, target) in zip(videos, pairs, strict=True)
        if source not in failed
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def report(done: list[Done]) -> str:
    """What was won, on the videos encoded in this run."""
    pairs = [(d.before, d.after) for d in done if d.before and d.after]
    if not pairs:
        return "nothing was encoded in this run"
    before = [sum(getattr(b, name) for b, _ in pairs) for name in ("mbytes", "clip_ms")]
    after = [sum(getattr(a, name) for _, a in pairs) for name in ("mbytes", "clip_ms")]
    return (
        f"{len(pairs)} videos encoded: {before[0]:.1f} MB -> {after[0]:.1f} MB ({after[0] / before[0]:.2f}); "
        f"CPU per 16x4 clip {before[1] / len(pairs):.1f} ms -> {after[1] / len(pairs):.1f} ms "
        f"({before[1] / max(after[1], 0.1):.1f} times as quick)"
    )


def main() -> None:
    args = parse()
    videos = find_videos(args.videos, prefix=args.prefix)
    folder = Path(args.output)
    pairs = targets(videos, folder)
    settings = Settings(args.short_side, args.gop, args.crf, args.preset, args.fastdecode)
    print(EXPECTED + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    done: list[Done] = []
    progress = Progress("videos", len(pairs))
    with ProcessPoolExecutor(args.workers) as pool:
        one = partial(reencode_safely, settings=settings, timeout_s=args.timeout)
        for _, result in progress.over(pool.map(one, pairs, chunksize=1)):
            done.append(result)
            progress.count(1)
    failed = {result.path for result in done if result.error}
    path = write_list(folder, videos, pairs, failed)
    print(f"\n{report(done)}; {sum(result.kept for result in done)} were there already; list: {path}")
    for result in done:
        if result.error:
            print(f"failed: {result.path}: {result.error}", file=sys.stderr)
    if failed:
        raise cli.SomeFailedError(f"{len(failed)} of {len(pairs)} videos were not encoded")


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
