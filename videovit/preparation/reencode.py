"""Re-encode videos so that they decode quickly: a smaller size, frequent key frames, no references across them.

The new files have the same frames at the same times, without sound.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange

from videovit.data.decode import DecodeError
from videovit.data.decode.container import ERRORS, open_container, plain_reason
from videovit.data.decode.opening import find_bytes
from videovit.data.decode.orientation import Orientation, Upright
from videovit.data.decode.probe import Probe, probe_video
from videovit.data.decode.protocol import DEFAULTS, DecodeOptions, scaled_size
from videovit.data.decode.pyav_backend import open_pyav
from videovit.data.decode.remote_videos import locate_remote
from videovit.data.decode.time_limit import call_limited
from videovit.data.files.folders import is_text
from videovit.data.files.listed_paths import quote
from videovit.data.files.video_files import ListedVideo
from videovit.errors import UserError
from videovit.messages import plural

RGB_MATRIX = 0  # FFmpeg's number for frames that hold red, green and blue
# FFmpeg's filters for the steps of an Orientation.
STEPS = (("transpose", "cclock_flip"), ("hflip", None), ("vflip", None))


@dataclass(frozen=True)
class Settings:
    """How videos are encoded.

    Attributes:
        short_side: pixels; larger frames are scaled down to it; 0 keeps the size.
        gop: frames from one key frame to the next.
        crf: x264's constant rate factor; lower is better.
        preset: x264's.
        fastdecode: leave out what is slow to decode; files become larger.
    """

    short_side: int = 256
    gop: int = 32
    crf: int = 20
    preset: str = "medium"
    fastdecode: bool = False


@dataclass(frozen=True)
class Outcome:
    """Outcome for one video: what was measured before and after, or why it failed.

    Attributes:
        kept: the new file was there already.
    """

    path: str
    error: str = ""
    kept: bool = False
    before: Probe | None = None
    after: Probe | None = None


def shown_frames(path: str) -> Iterator[Any]:
    """Yield the frames that a player would show, in order, as PyAV's."""
    container, stream = open_container(path, DEFAULTS)
    with container:
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            yield from packet.decode()


def convert(frame: Any, orientation: Orientation, settings: Settings) -> Any:
    """Scale a frame, turn it upright, convert it to yuv420p of 16 to 235 with even sides, as players need it."""
    width, height = scaled_size(frame.width, frame.height, settings.short_side)
    width, height = max(2, width // 2 * 2), max(2, height // 2 * 2)
    scaled = frame.reformat(
        width, height, "yuv420p", interpolation="BICUBIC", dst_color_range=ColorRange.MPEG, threads=1
    )
    steps = [step for step, needed in zip(STEPS, orientation, strict=True) if needed]
    if not steps:
        return scaled
    graph = av.filter.Graph()
    pixel_format: Any = "yuv420p"  # PyAV accepts names of formats, but its type hints do not
    chain = [graph.add_buffer(width=width, height=height, format=pixel_format, time_base=Fraction(1, 1000))]
    chain += [graph.add(*step) for step in steps]
    chain.append(graph.add("buffersink"))
    graph.link_nodes(*chain).configure()
    graph.push(scaled)
    return graph.pull()


def copy_color_tags(frame: Any, context: Any) -> None:
    """Copy the tags that say which colors the numbers stand for.

    Without them decoders assume standard definition, and all colors of an HD video would change.
    """
    if frame.colorspace != RGB_MATRIX:
        context.colorspace = frame.colorspace
    context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
    context.color_range = ColorRange.MPEG


def encode(source: str, target: str, settings: Settings) -> int:
    """Encode a video; returns its number of frames."""
    container, stream = open_container(source, DEFAULTS)
    rate = stream.average_rate or stream.guessed_rate or Fraction(30)
    time_base = stream.time_base or 1 / rate
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
                copy_color_tags(frame, output.codec_context)
                first_pts = frame.pts or 0
            # Times must rise. Frames without a time, or with the same one twice, advance by the mean frame rate.
            step = max(1, round(1 / (rate * time_base)))
            pts = last_pts + step if frame.pts is None else frame.pts - first_pts
            last_pts = pts if pts > last_pts else last_pts + step
            new.pts, new.time_base, new.pict_type = last_pts, time_base, 0
            written.mux(output.encode(new))
            number += 1
        if output is not None:
            written.mux(output.encode(None))
    return number


def reencode(source: str, target: str, settings: Settings, options: DecodeOptions = DEFAULTS) -> Outcome:
    """Encode one video, check the new file, and only then give it its name.

    Args:
        source: the video.
        target: the new file; its folder is made if absent.
        settings: how it is encoded.
        options: the folder or shards that the source is in.

    Raises:
        DecodeError: the source is damaged, or the new file does not hold the same number of frames.
    """
    source = find_bytes(source, options, "pyav")
    before = probe_video(source, options=options)
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
                raise DecodeError(source, f"the new file is wrong: {counts}", "pyav")
        os.replace(partial_file, target)
    except ERRORS as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(source, plain_reason(error), "pyav") from None
    finally:
        Path(partial_file).unlink(missing_ok=True)
    return Outcome(before.path, before=before, after=probe_video(target))


def reencode_safely(video: tuple[str, str], *, settings: Settings, prefix: str, timeout_s: float) -> Outcome:
    """`reencode` with a time limit. Does nothing if the new file exists; returns failures instead of raising them."""
    source, target = video
    if os.path.exists(target):
        return Outcome(source, kept=True)
    options = DecodeOptions(inside=prefix)
    try:
        here = locate_remote(source, options, "pyav")
        outcome: Outcome = call_limited(reencode, here, target, settings, options, path=source, timeout_s=timeout_s)
        return outcome
    except DecodeError as error:
        return Outcome(source, error=error.reason)


def targets(videos: list[ListedVideo], folder: Path) -> list[tuple[str, str]]:
    """Pairs of source and new file. New files keep the names that the list gives, with the suffix .mp4.

    Raises:
        UserError: two videos would get the same name, a name is not UTF-8, or a new file would replace a source.
    """
    named: dict[str, str] = {}
    for video in videos:
        if not is_text(video.path):
            raise UserError(f"{video.path!r}: its name is not UTF-8; rename it")
        inside = os.path.normpath(video.written).lstrip(os.sep)
        while inside.startswith(os.pardir + os.sep):
            inside = inside[3:]
        target = str(folder / Path(inside).with_suffix(".mp4"))
        if target in named:
            raise UserError(f"{video.path} and {named[target]} would both become {target}")
        named[target] = video.path
    sources = {os.path.realpath(video.path) for video in videos}
    taken = [target for target in named if os.path.realpath(target) in sources]
    if taken:
        raise UserError(f"{taken[0]} is one of the videos to encode; choose another folder for --output")
    return [(source, target) for target, source in named.items()]


def write_list(folder: Path, videos: list[ListedVideo], pairs: list[tuple[str, str]], failed: set[str]) -> Path:
    """Write a list of the new files with the labels of the old ones; its paths are relative to the folder."""
    path = folder / "videos.csv"
    rows = [
        f"{quote(os.path.relpath(target, folder))} {video.label}".rstrip()
        for video, (source, target) in zip(videos, pairs, strict=True)
        if source not in failed
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def report(outcomes: list[Outcome]) -> str:
    """What re-encoding has gained, over the videos of this run."""
    pairs = [(outcome.before, outcome.after) for outcome in outcomes if outcome.before and outcome.after]
    if not pairs:
        return "no videos were encoded in this run"
    before = [sum(getattr(probe, name) for probe, _ in pairs) for name in ("mbytes", "clip_ms")]
    after = [sum(getattr(probe, name) for _, probe in pairs) for name in ("mbytes", "clip_ms")]
    return (
        f"{plural(len(pairs), 'video')} encoded: {before[0]:.1f} MB -> {after[0]:.1f} MB ({after[0] / before[0]:.2f}); "
        f"CPU per 16x4 clip {before[1] / len(pairs):.1f} ms -> {after[1] / len(pairs):.1f} ms "
        f"({before[1] / max(after[1], 0.1):.1f} times as quick)"
    )
