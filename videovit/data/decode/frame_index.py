"""Frames of long mp4 files found through the index in their header, without reading the files.

The header of an mp4 file lists where every packet lies and which are key packets, but not when they are shown. That
is read from the packets around the wanted frames only. No codec shows a packet more than MOST_MOVED places away from
where it is stored, so the frame of rank r among the packets from position p on is frame p + r of the file, away from
the ends of the part that was read:

    position       ... 900 (key)              1040          1090 ...
    read                |-----------------------|-------------|
    frames known             916 ....................... 1074
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videovit.data.decode.frame_table import UNKNOWN, FrameTable
from videovit.data.decode.protocol import Indices, Version

MOST_MOVED = 16  # pictures that H.264 and HEVC may hold back; other codecs hold back fewer
MARGIN = 2 * MOST_MOVED
INDEXED_FORMATS = frozenset({"mov", "mp4"})
# Packets between two wanted frames that are worth seeking over.
SEEK_OVER = 512


class NotReached(Exception):
    """Seeking did not lead to the packets or frames it should have; the file must be read or decoded from the start."""


@dataclass(frozen=True)
class FrameIndex:
    """Where the packets of a file lie.

    Attributes:
        places: byte offset of each packet, by position.
        keys: positions of key packets, ascending.
        dts: of the key packets, in stream units.
        last_dts: of the last packet.
    """

    places: Indices
    keys: Indices
    dts: Indices
    last_dts: int

    def __len__(self) -> int:
        return len(self.places)

    def unread(self) -> FrameTable:
        """A table in which nothing is known but the number of frames."""
        unknown = np.full(len(self), UNKNOWN, dtype=np.int64)
        return FrameTable(unknown, unknown, self.keys, np.full(len(self), -1, dtype=np.int64), seekable=True)

    def read_around(self, container: Any, stream: Any, wanted: Indices) -> FrameTable:
        """A table of the packets around wanted frames.

        Args:
            container, stream: PyAV's; where the container stands is changed.
            wanted: frame indices, sorted and distinct.

        Raises:
            NotReached: the packets are not what the index says, or are shown in an order that needs the whole table.
        """
        table = self.unread()
        pts, dts = table.pts, table.dts.copy()
        for part in np.split(wanted, np.flatnonzero(np.diff(wanted) > SEEK_OVER) + 1):
            last = min(int(part[-1]) + MARGIN, len(self) - 1)
            key = int(np.searchsorted(self.keys, max(int(part[0]) - MARGIN, 0), side="right")) - 1
            first = int(self.keys[key])
            self._read(container, stream, key, last, pts, dts)
            stamps = pts[first : last + 1]
            order = np.argsort(stamps)
            if UNKNOWN in stamps or len(np.unique(stamps)) < len(stamps):
                raise NotReached
            if np.abs(order - np.arange(len(order))).max() > MOST_MOVED:
                raise NotReached
            begin = 0 if first == 0 else MOST_MOVED
            end = len(order) if last == len(self) - 1 else len(order) - MOST_MOVED
            table.shown[first + begin : first + end] = first + order[begin:end]
        return FrameTable(pts, dts, self.keys, table.shown, seekable=True)

    def _read(self, container: Any, stream: Any, key: int, last: int, pts: Indices, dts: Indices) -> None:
        """Fill in the time stamps of the packets from a key packet (counted among key packets) to position `last`."""
        container.seek(int(self.dts[key]), stream=stream, backward=True, any_frame=False)
        position: int | None = None
        for packet in container.demux(stream):
            if not packet.size:
                break
            if position is None:
                position = int(np.searchsorted(self.places, packet.pos))
                if position > self.keys[key]:
                    break
            if position >= len(self) or packet.pos != self.places[position] or packet.is_discard:
                raise NotReached
            if packet.pts is not None:
                pts[position] = packet.pts
            if packet.dts is not None:
                dts[position] = packet.dts
            if position >= last:
                return
            position += 1
        raise NotReached


def read_frame_index(container: Any, stream: Any, path: str) -> FrameIndex | None:
    """The index of an open mp4 file; None for files without a complete one that can be relied on.

    Fragmented files, files with packets that are not shown, and files cut short are such.
    """
    entries = stream.index_entries
    if INDEXED_FORMATS.isdisjoint(container.format.name.split(",")) or not 0 < len(entries) == stream.frames:
        return None
    rows: NDArray[np.int64] = np.array(
        [(e.pos, e.size, e.timestamp, e.is_keyframe, e.is_discard) for e in entries], dtype=np.int64
    )
    places, sizes, dts, key, discard = rows.T
    whole = (
        key[0]
        and not discard.any()
        and (np.diff(places) > 0).all()
        and (sizes > 0).all()
        and places[-1] + sizes[-1] <= os.path.getsize(path)
    )
    keys = np.flatnonzero(key)
    return FrameIndex(places.copy(), keys, dts[keys], int(dts[-1])) if whole else None


class RememberedTables:
    """What was read about files, by path, while they do not change; the least recently used is forgotten first.

    Args:
        max_packets: packets that all of them may describe together; a packet takes about 24 bytes.
    """

    def __init__(self, max_packets: int) -> None:
        self._max_packets = max_packets
        self._num_packets = 0
        self._kept: OrderedDict[str, tuple[Version, FrameTable | FrameIndex]] = OrderedDict()

    def find(self, path: str, version: Version) -> FrameTable | FrameIndex | None:
        """What is known about a file, if it is still that file."""
        if path not in self._kept or self._kept[path][0] != version:
            return None
        self._kept.move_to_end(path)
        return self._kept[path][1]

    def keep(self, path: str, version: Version, table: FrameTable | FrameIndex) -> None:
        """Remember what was read about a file."""
        self.forget(path)
        self._kept[path] = version, table
        self._num_packets += _size(table)
        while self._num_packets > self._max_packets:
            self.forget(next(iter(self._kept)))

    def forget(self, path: str) -> None:
        """Leave out a file."""
        if path in self._kept:
            self._num_packets -= _size(self._kept.pop(path)[1])


def _size(table: FrameTable | FrameIndex) -> int:
    return len(table.places) if isinstance(table, FrameIndex) else len(table.pts)
