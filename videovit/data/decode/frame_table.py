"""The order of frames in a video file, from one pass over its packets without decoding.

A file stores packets in decoding order, but frames are counted in presentation order. The table has both:

    decoding order   I0  P3  B1  B2  P6  B4  B5        position 0..6
    presentation     I0  B1  B2  P3  B4  B5  P6        frame index 0..6
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from videovit.data.decode.bitstream import (
    is_entry,
    is_hidden_vp8,
    is_idr,
    nal_length_size,
    nal_units,
    picture_setup,
)
from videovit.data.decode.picture_order import Place, build_placing, contradicts
from videovit.data.decode.protocol import Indices
from videovit.data.decode.sequence_parameters import all_progressive, sequence_units

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
        keys: positions of key packets at which decoding can start, ascending.
        shown: position by frame index, that is, in presentation order; hidden packets are left out.
        seekable: False if frames can only be told apart by decoding from the start; then `pts`, `dts` and `keys` are
            empty.
        entries_whole: whether no picture after a packet that the container calls a key packet refers across it.
        one_size: whether no packet announces pictures of another size.
        progressive: whether H.264 pictures cannot be interlaced anywhere in the file; True in other codecs.
        stamps: presentation time stamp by frame index; empty if unknown.
    """

    pts: Indices
    dts: Indices
    keys: Indices
    shown: Indices
    seekable: bool
    entries_whole: bool = True
    one_size: bool = True
    progressive: bool = True
    stamps: Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))

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

    def for_counting(self) -> FrameTable:
        """The table of the same file if its time stamps do not say in which order frames are shown."""
        nothing = np.empty(0, dtype=np.int64)
        return replace(self, pts=nothing, dts=nothing, keys=nothing, seekable=False, stamps=nothing)

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
        The table. It is not seekable if time stamps are missing, repeat or contradict the stream, if the first packet
        is not a key frame or is not shown first, or if seeking is inexact in this container. Then its `stamps` are
        decoding time stamps, which the caller must check against the number of frames.
    """
    pts: list[int | None] = []
    dts: list[int] = []
    visible: list[int] = []
    length_size = nal_length_size(codec, extradata)
    keys = KeyPackets(codec, length_size, extradata if length_size else None)
    places: list[Place | None] = []
    placing = build_placing(codec, length_size, extradata or b"")
    for packet in packets:
        # An empty packet is no picture: it ends the file, or the recorder had none to store.
        if not packet.size:
            continue
        data = memoryview(packet)
        keys.look(len(pts), data, new_setup=packet.has_sidedata("new_extradata"))
        if packet.is_keyframe:
            keys.add(len(pts), data)
        # VP8 marks hidden packets in the bitstream only, not in the container.
        if not packet.is_discard and not (codec == "vp8" and is_hidden_vp8(data)):
            visible.append(len(pts))
        places.append(placing(len(pts), data) if placing else None)
        pts.append(packet.pts)
        dts.append(UNKNOWN if packet.dts is None else packet.dts)
        if max_frames is not None and len(pts) > max_frames:
            break
    # Seeking needs every packet to have its own time stamp, and decoding to start with the first packet.
    known_pts = [value for value in pts if value is not None]
    seekable = (
        len(set(known_pts)) == len(pts)
        and keys.places[:1] == [0]
        and known_pts[0] == min(known_pts)
        and UNSEEKABLE_FORMATS.isdisjoint(container_format.split(","))
    )
    positions = np.array(visible, dtype=np.int64)
    decoding = np.array(dts, dtype=np.int64)
    if seekable:
        times = np.array(known_pts, dtype=np.int64)
        seekable = not contradicts([places[position] for position in visible], times[positions])
    if not seekable:
        nothing = np.empty(0, dtype=np.int64)
        stamps = nothing if UNKNOWN in decoding else np.sort(decoding[positions])
        return FrameTable(nothing, nothing, nothing, positions, seekable=False, one_size=keys.one_size, stamps=stamps)
    shown = positions[np.argsort(times[positions])]
    return FrameTable(
        times,
        decoding,
        np.array(keys.places, dtype=np.int64),
        shown,
        seekable=True,
        entries_whole=keys.whole,
        one_size=keys.one_size,
        progressive=keys.progressive,
        stamps=times[shown],
    )


class KeyPackets:
    """Collects the key packets of a stream at which decoding can start, and whether its pictures stay of one kind.

    Args:
        codec, length_size: see `bitstream.is_entry`.
        extradata: codec configuration that applies to the first packet, if it has the form of packets.

    Attributes:
        places: their positions.
        whole: see `FrameTable.entries_whole`.
        one_size, progressive: see `FrameTable`.
    """

    def __init__(self, codec: str, length_size: int, extradata: bytes | None) -> None:
        self.places: list[int] = []
        self.whole = True
        self.one_size = True
        self._codec = codec
        self._length_size = length_size
        self._setup = extradata or b""
        self.progressive = codec != "h264" or all_progressive(sequence_units(self._setup))

    def look(self, position: int, packet: memoryview, *, new_setup: bool) -> None:
        """Look for another picture size in any packet: VP9 may change it anywhere, and key packets may lack a flag.

        Args:
            position: place of the packet in decoding order.
            packet: its bytes.
            new_setup: whether the container changes the codec configuration with it.
        """
        setup = picture_setup(self._codec, packet, self._length_size)
        # Repeating the configuration changes nothing.
        if position > 0 and (new_setup or (self._setup and setup not in self._setup)):
            self.one_size = False
        if setup and self._codec == "h264" and setup not in self._setup:
            self.progressive = self.progressive and all_progressive(nal_units(packet, self._length_size))
        self._setup = self._setup or setup

    def add(self, position: int, packet: memoryview) -> None:
        """Add a packet that the container calls a key packet.

        Args:
            position: its place in decoding order.
            packet: its bytes.
        """
        # There is nothing to decode before the first packet.
        entry = position == 0 or is_entry(self._codec, packet, self._length_size)
        if entry:
            self.places.append(position)
        # Containers also mark recovery points as key packets, after which frames may refer to earlier ones.
        self.whole = self.whole and entry and (self._codec != "h264" or is_idr(packet, self._length_size))
