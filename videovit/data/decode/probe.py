"""Properties of a video file, the decoder that will read it, and the cost of decoding."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from videovit.data.decode import decord_backend, open_video
from videovit.data.decode.decoder_choice import reason_against
from videovit.data.decode.opening import find_bytes
from videovit.data.decode.protocol import DEFAULTS, DecodeError, DecodeOptions
from videovit.data.decode.pyav_backend import PyavVideo, open_pyav

LATE_S = 0.1  # encoders of sound begin a little early


@dataclass(frozen=True)
class Probe:
    """Properties of one video file.

    Attributes:
        path: the file.
        codec: name of the codec, for example h264.
        width, height: pixels as stored, before rotation.
        num_frames, fps, duration_s: length and rate.
        gop: mean distance of key frames, in frames.
        open_gop: frames refer across key frames.
        edit_list: some packets are decoded but not shown.
        start_s: time at which players show the first frame, in seconds; above 0 if the sound begins before.
        variable_fps: the frames are not evenly spaced at the rate that the header states; `fps` is their mean rate.
        unusual: why decoders may disagree about the file, or times differ from frame / fps; empty if nothing is known.
        mbytes: file size in 10^6 bytes.
        served_by: the decoder that reads it, and why if another one was requested.
        clip_ms: CPU time in milliseconds to open it and decode a 16x4 clip from its middle.
        error: why it cannot be read; if set, the other fields are empty.
    """

    path: str
    codec: str = ""
    width: int = 0
    height: int = 0
    num_frames: int = 0
    fps: float = 0.0
    duration_s: float = 0.0
    gop: float = 0.0
    open_gop: bool = False
    edit_list: bool = False
    start_s: float = 0.0
    variable_fps: bool = False
    unusual: str = ""
    mbytes: float = 0.0
    served_by: str = ""
    clip_ms: float = 0.0
    error: str = ""


def probe_video(path: str, backend: str = "decord", options: DecodeOptions = DEFAULTS) -> Probe:
    """Examine a video file and decode one clip.

    Args:
        path: a file, or a member of shards.
        backend: the decoder to use.
        options: options and limits of the decoder.

    Returns:
        A Probe, with `error` set if the file cannot be read.
    """
    name = str.__str__(path)  # what `Located` knows may keep memory
    try:
        video_file = find_bytes(path, options, "pyav")
        with open_pyav(video_file, options) as exact:
            middle = exact.num_frames // 2
            # A 16x4 clip is the most common input of the shipped models.
            indices = np.minimum(middle + np.arange(16) * 4, exact.num_frames - 1)
            exact.frames(indices[:1])  # reads the table of a long file around the middle
            table, num_packets = exact.table, len(exact.table.pts)
            found = Probe(
                name,
                codec=exact.codec,
                width=exact.size[0],
                height=exact.size[1],
                num_frames=exact.num_frames,
                fps=round(exact.fps, 3),
                duration_s=round(exact.num_frames / exact.fps, 3),
                gop=round(num_packets / len(table.keys), 1) if table.seekable else 0.0,
                open_gop=table.seekable and (table.has_leading_frames or not table.entries_whole),
                edit_list=table.seekable and table.has_hidden_packets,
                start_s=round(exact.start_s, 3),
                variable_fps=exact.knots is not None,
                unusual="; ".join(unusual_in(exact, options)),
                mbytes=round(video_file.size / 1e6, 3),
            )
        decord_backend.load_decord()  # so that importing it is not measured
        start = time.process_time()
        with open_video(video_file, backend, options) as video:
            video.frames(indices)
            cost = time.process_time() - start
            return Probe(**{**vars(found), "served_by": video.served_by, "clip_ms": round(1000 * cost, 1)})
    except DecodeError as error:
        # Tools print a row for every file, also for unreadable ones.
        return Probe(name, error=error.reason)


def unusual_in(video: PyavVideo, options: DecodeOptions) -> Iterator[str]:
    """What is unusual in a video, each in a few words."""
    reason = reason_against(video, options)
    if reason:
        yield reason
    if video.knots is not None:
        yield "frames not evenly spaced at the header's rate"
    if video.start_s > LATE_S:
        yield "pictures begin after the sound"
