"""Frames of long mp4 files located through the index in their header, without reading the whole file.

The header of an mp4 file lists the place of every packet and which are key packets, but PyAV does not expose when they
are shown. That is read from the packets around the wanted frames only. No codec shows a packet more than MOST_MOVED
places away from where it is stored. So, among the packets from position p on, the one of rank r in presentation order
is frame p + r of the file, except near the ends of the part that was read:

    position       ... 900 (key)              1040          1090 ...
    read                |-----------------------|-------------|
    frames known             916 ....................... 1074
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from videovit.data.decode.bitstream import is_entry, nal_length_size
from videovit.data.decode.frame_table import UNKNOWN, FrameTable
from videovit.data.decode.located import size_of
from videovit.data.decode.picture_order import Place, build_placing, contradicts
from videovit.data.decode.protocol import Indices, Version

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MOST_MOVED = 16  # most pictures that H.264 and HEVC may reorder; other codecs reorder fewer
MARGIN = 2 * MOST_MOVED
INDEXED_FORMATS = frozenset({"mov", "mp4"})
# Gaps between wanted frames, in packets, above which seeking is cheaper than reading.
SEEK_OVER = 512


class NotReached(Exception):
    """Seeking led to other packets or frames than expected; the file must be read or decoded from the start."""


@dataclass(frozen=True)
class FrameIndex:
    """The place of every packet in a file.

    Attributes:
        places: byte offset of each packet, by position.
        keys: positions of key packets, ascending.
        dts: decoding time stamps of the key packets, in stream units.
        last_dts: decoding time stamp of the last packet.
    """

    places: Indices
    keys: Indices
    dts: Indices
    last_dts: int

    def __len__(self) -> int:
        return len(self.places)

    def unread(self) -> FrameTable:
        """A table of which only the number of frames is known."""
        unknown = np.full(len(self), UNKNOWN, dtype=np.int64)
        return FrameTable(unknown, unknown, self.keys, np.full(len(self), -1, dtype=np.int64), seekable=True)

    def read_around(self, container: InputContainer, stream: VideoStream, wanted: Indices) -> FrameTable:
        """A table of the packets around the wanted frames.

        Args:
            container, stream: open in PyAV; their position changes.
            wanted: frame indices, sorted and distinct.

        Raises:
            NotReached: the packets differ from the index, or their order requires the whole table.
        """
        table = self.unread()
        pts, dts = table.pts, table.dts.copy()
        # Clips far apart are read separately.
        for part in np.split(wanted, np.flatnonzero(np.diff(wanted) > SEEK_OVER) + 1):
            last = min(int(part[-1]) + MARGIN, len(self) - 1)
            key = int(np.searchsorted(self.keys, max(int(part[0]) - MARGIN, 0), side="right")) - 1
            first = int(self.keys[key])
            places = self._read(container, stream, key, last, pts, dts)
            stamps = pts[first : last + 1]
            order = np.argsort(stamps)
            # Without distinct time stamps, the packets have no order of presentation.
            if UNKNOWN in stamps or len(np.unique(stamps)) < len(stamps):
                raise NotReached
            if np.abs(order - np.arange(len(order))).max() > MOST_MOVED or contradicts(places, stamps):
                raise NotReached
            # Near the ends of the part, packets that were not read could still rank between the ones that were.
            begin = 0 if first == 0 else MOST_MOVED
            end = len(order) if last == len(self) - 1 else len(order) - MOST_MOVED
            table.shown[first + begin : first + end] = first + order[begin:end]
        return FrameTable(pts, dts, self.keys, table.shown, seekable=True)

    def _read(
        self, container: InputContainer, stream: VideoStream, key: int, last: int, pts: Indices, dts: Indices
    ) -> list[Place | None]:
        """Fill in the time stamps of the packets from key packet number `key` to position `last`.

        Returns:
            When the pictures of these packets are shown, according to the stream.
        """
        container.seek(int(self.dts[key]), stream=stream, backward=True, any_frame=False)
        position: int | None = None
        codec = stream.codec_context.name
        extradata = stream.codec_context.extradata or b""
        length_size = nal_length_size(codec, extradata)
        places: list[Place | None] = []
        placing = build_placing(codec, length_size, extradata)
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.pos is None:
                raise NotReached
            if position is None:
                position = int(np.searchsorted(self.places, packet.pos))
                # Seeking went too far; the packets before are needed, too.
                if position > self.keys[key]:
                    break
            if position >= len(self) or packet.pos != self.places[position] or packet.is_discard:
                raise NotReached
            # Headers may call packets key packets that are none.
            if position > 0 and packet.is_keyframe and not is_entry(codec, memoryview(packet), length_size):
                raise NotReached
            if packet.pts is not None:
                pts[position] = packet.pts
            if packet.dts is not None:
                dts[position] = packet.dts
            if position >= self.keys[key]:
                places.append(placing(len(places), memoryview(packet)) if placing else None)
            if position >= last:
                return places
            position += 1
        raise NotReached


def read_frame_index(container: InputContainer, stream: VideoStream, path: str) -> FrameIndex | None:
    """The index of an open mp4 file; None if it is absent or unreliable.

    It is unreliable in fragmented files, truncated files, and files with packets that are not shown.
    """
    entries = stream.index_entries
    if INDEXED_FORMATS.isdisjoint(container.format.name.split(",")) or not 0 < len(entries) == stream.frames:
        return None
    rows: NDArray[np.int64] = np.array(
        [(e.pos, e.size, e.timestamp, e.is_keyframe, e.is_discard) for e in entries], dtype=np.int64
    )
    places, sizes, dts, key, discard = rows.T
    # The header of a truncated file may be complete, so the last packet must be inside the file.
    whole = (
        key[0]
        and not discard.any()
        and (np.diff(places) > 0).all()
        and (sizes > 0).all()
        and places[-1] + sizes[-1] <= size_of(path)
    )
    keys = np.flatnonzero(key)
    return FrameIndex(places.copy(), keys, dts[keys], int(dts[-1])) if whole else None


class TableCache:
    """A cache of tables by path, valid while the file does not change; the least recently used are dropped.

    Args:
        max_packets: packets in all tables together; each takes about 24 bytes.
    """

    def __init__(self, max_packets: int) -> None:
        self._max_packets = max_packets
        self._num_packets = 0
        self._tables: OrderedDict[str, tuple[Version, FrameTable | FrameIndex]] = OrderedDict()

    def find(self, path: str, version: Version) -> FrameTable | FrameIndex | None:
        """The table of a file, if it is cached and the file has not changed."""
        if path not in self._tables or self._tables[path][0] != version:
            return None
        # Makes it the most recently used.
        self._tables.move_to_end(path)
        return self._tables[path][1]

    def add(self, path: str, version: Version, table: FrameTable | FrameIndex) -> None:
        """Add the table of a file."""
        path = str.__str__(path)  # what `Located` knows may keep memory
        self.drop(path)
        self._tables[path] = version, table
        self._num_packets += _size(table)
        while self._num_packets > self._max_packets:
            self.drop(next(iter(self._tables)))

    def drop(self, path: str) -> None:
        """Drop the table of a file."""
        if path in self._tables:
            self._num_packets -= _size(self._tables.pop(path)[1])


def _size(table: FrameTable | FrameIndex) -> int:
    return len(table.places) if isinstance(table, FrameIndex) else max(len(table.pts), len(table.shown))
