"""The order of frames in a video file, from one pass over its packets without decoding.

A file stores packets in decoding order, but frames are counted in presentation order. The table has both:

    decoding order   I0  P3  B1  B2  P6  B4  B5        position 0..6
    presentation     I0  B1  B2  P3  B4  B5  P6        frame index 0..6
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from videovit.data.decode.protocol import Indices

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

# In these containers, seeking to a time stamp does not reliably lead to its packet.
UNSEEKABLE_FORMATS = frozenset({"avi", "mpegts", "mpeg", "mpegvideo", "h264", "hevc", "flv", "gif", "m4v"})
# Stands for a time stamp that the container lacks, or that was not read.
UNKNOWN = int(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class Stretch:
    """Packets to decode in one go, from position `first` (a key frame) to `last`, for the frames at `wanted_pts`."""

    first: int
    last: int
    wanted_pts: frozenset[int]


@dataclass(frozen=True)
class FrameTable:
    """Time stamps of packets, in stream units.

    Attributes:
        pts: presentation time stamp by position (decoding order); UNKNOWN for packets that were not read.
        dts: decoding time stamp by position; UNKNOWN if the container lacks it.
        keys: positions of key packets, ascending.
        shown: position by frame index, that is, in presentation order; hidden packets are left out.
        seekable: False if frames can only be told apart by decoding from the start; then `pts`, `dts` and `keys` are
            empty.
        entries_whole: whether every key packet of an H.264 stream is an IDR picture; True for other codecs.
    """

    pts: Indices
    dts: Indices
    keys: Indices
    shown: Indices
    seekable: bool
    entries_whole: bool = True

    @cached_property
    def has_leading_frames(self) -> bool:
        """Whether frames stored after a key frame are shown before it (open GOP)."""
        groups = np.searchsorted(self.keys, np.arange(len(self.pts)), side="right") - 1
        return bool(((self.pts < self.pts[self.keys[groups]]) & (self.pts != UNKNOWN)).any())

    @property
    def has_hidden_packets(self) -> bool:
        """Whether some packets are decoded but not shown, because of an edit list or a stream copy."""
        return len(self.shown) < len(self.pts)

    def position_of(self, pts: int | None) -> int | None:
        """Position of the packet with this time stamp, or None."""
        if pts is None:
            return None
        order, stamps = self._by_pts
        place = int(np.searchsorted(stamps, pts))
        return int(order[place]) if place < len(stamps) and stamps[place] == pts else None

    @cached_property
    def _by_pts(self) -> tuple[NDArray[np.intp], Indices]:
        known = np.flatnonzero(self.pts != UNKNOWN)
        order = known[np.argsort(self.pts[known])]
        return order, self.pts[order]

    def stretches(self, wanted: Sequence[int]) -> list[Stretch]:
        """Plan which packets to decode for a set of frames.

        Every frame is decoded from the last key packet that precedes it in decoding order and is not shown after it.
        A frame stored after a key frame but shown before it refers to the previous group, so decoding starts there.
        Groups without wanted frames are skipped, and adjacent stretches are joined.

        Args:
            wanted: frame indices, sorted and distinct.

        Returns:
            Disjoint stretches in decoding order.
        """
        key_pts = self.pts[self.keys]
        groups: dict[int, list[int]] = {}
        for position in self.shown[np.asarray(wanted)].tolist():
            place = int(np.searchsorted(self.keys, position, side="right")) - 1
            # A leading frame refers to the group before its key frame.
            while place > 0 and key_pts[place] > self.pts[position]:
                place -= 1
            groups.setdefault(int(self.keys[place]), []).append(position)
        joined: list[tuple[int, int, list[int]]] = []
        for first in sorted(groups):
            positions = groups[first]
            # Decoding on is cheaper than seeking to the next packet.
            if joined and first <= joined[-1][1] + 1:
                before_first, before_last, before = joined[-1]
                joined[-1] = before_first, max(before_last, *positions), before + positions
            else:
                joined.append((first, max(positions), positions))
        return [Stretch(first, last, frozenset(self.pts[positions].tolist())) for first, last, positions in joined]


def read_frame_table(
    packets: Iterable[Packet[VideoStream]],
    *,
    codec: str,
    container_format: str,
    extradata: bytes | None = None,
    max_frames: int | None = None,
) -> FrameTable:
    """Build the table of one video stream.

    Args:
        packets: PyAV packets in the order of the file, e.g. `container.demux(stream)`.
        codec: name of the codec, e.g. "h264".
        container_format: name of the container format, or several joined by commas.
        extradata: codec configuration from the container.
        max_frames: stop reading after max_frames + 1 packets.

    Returns:
        The table. It is not seekable if time stamps are missing or repeat, if the first packet is not a key frame or
        is not shown first, or if seeking is inexact in this container.
    """
    pts: list[int | None] = []
    dts: list[int] = []
    keys: list[int] = []
    visible: list[int] = []
    entries_whole = True
    # avcC of mp4 and Matroska starts with version 1 and gives the size of the length before each NAL unit.
    nal_length_size = extradata[4] % 4 + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else 0
    for packet in packets:
        if not packet.size:  # the empty packet at the end of the file
            continue
        if packet.is_keyframe:
            keys.append(len(pts))
            # Containers also mark recovery points as key packets, after which frames may refer to earlier ones.
            entries_whole = entries_whole and (codec != "h264" or is_idr(memoryview(packet), nal_length_size))
        # VP8 marks hidden packets in the bitstream only, not in the container.
        if not packet.is_discard and not (codec == "vp8" and is_hidden_vp8(packet)):
            visible.append(len(pts))
        pts.append(packet.pts)
        dts.append(UNKNOWN if packet.dts is None else packet.dts)
        if max_frames is not None and len(pts) > max_frames:
            break
    # Seeking needs every packet to have its own time stamp, and decoding to start with the first packet.
    known_pts = [value for value in pts if value is not None]
    seekable = (
        len(set(known_pts)) == len(pts)
        and keys[:1] == [0]
        and known_pts[0] == min(known_pts)
        and UNSEEKABLE_FORMATS.isdisjoint(container_format.split(","))
    )
    positions = np.array(visible, dtype=np.int64)
    if not seekable:
        nothing = np.empty(0, dtype=np.int64)
        return FrameTable(nothing, nothing, nothing, positions, seekable=False)
    stamps = np.array(known_pts, dtype=np.int64)
    return FrameTable(
        stamps,
        np.array(dts, dtype=np.int64),
        np.array(keys, dtype=np.int64),
        positions[np.argsort(stamps[positions])],
        seekable=True,
        entries_whole=entries_whole,
    )


def is_hidden_vp8(packet: Packet[VideoStream]) -> bool:
    """Whether a VP8 packet only updates a reference frame: the show_frame bit of its first byte is off."""
    return not memoryview(packet)[0] >> 4 & 1


def is_idr(packet: memoryview, nal_length_size: int) -> bool:
    """Whether the first picture of an H.264 packet is an IDR picture, so that nothing after it refers to earlier ones.

    Args:
        packet: bytes of the packet.
        nal_length_size: size in bytes of the length before each NAL unit, as in mp4 and Matroska; 0 for start codes.
    """
    place = 0
    while place + nal_length_size < len(packet):
        if nal_length_size:
            header = place + nal_length_size
            place = header + int.from_bytes(packet[place:header], "big")
        else:
            header = bytes(packet).find(b"\0\0\1", place) + 3
            if header < 3 or header >= len(packet):
                return False
            place = header
        if 1 <= (kind := packet[header] & 31) <= 5:  # a slice
            return kind == 5
    return False
