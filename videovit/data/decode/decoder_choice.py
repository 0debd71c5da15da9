"""Which files other decoders than PyAV read as PyAV does.

They contain an FFmpeg of their own, often an older one, which may take other packets for key packets, find another
stream, or ignore an orientation. So a file is theirs only if nothing in it is read in two ways.
"""

from __future__ import annotations

from videovit.data.decode.protocol import DecodeOptions, scaled_size
from videovit.data.decode.pyav_backend import PyavVideo


def reason_against(video: PyavVideo, options: DecodeOptions) -> str:
    """Why another decoder would read a video wrongly or slowly; empty if it would not."""
    table = video.table
    # It would read all packets of the file, and without limit ahead.
    if video.is_long:
        return "long file"
    # Frames are sorted by time stamps, which may be missing or repeat here.
    if not table.seekable:
        return "container or time stamps"
    if table.has_hidden_packets:
        return "packets that are not shown"
    if not table.entries_whole:
        return "key frames that others refer across"
    if video.num_streams > 1:
        return "several video streams"
    return _reason_in_pictures(video, options)


def _reason_in_pictures(video: PyavVideo, options: DecodeOptions) -> str:
    look = video.look
    if look is None:
        return "first frame"
    if not video.table.one_size or look.size != video.size:
        return "frame size changes"
    # All decoders apply an orientation in the header of an mp4 file.
    if look.orientation.mirrored or any(orientation.mirrored for orientation in video.header_orientations):
        return "mirrored"
    if ({look.orientation} if look.orientation.turned else set()) != video.header_orientations:
        return "orientation"
    # Colors of interlaced pictures belong to every second line.
    if look.interlaced or not video.table.progressive:
        return "interlaced"
    # Others cannot scale before the conversion to RGB.
    if scaled_size(*video.size, options.short_side) != video.size:
        return "scaled while decoding"
    return ""
