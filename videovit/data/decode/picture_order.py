"""In which order the pictures of a stream are shown, by what the stream itself says.

Time stamps of a container may contradict it: two may be exchanged, or all may be those of decoding. Decoders return
pictures in the order of the stream, and players show them in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from videovit.data.decode.bits import Bits
from videovit.data.decode.bitstream import nal_units
from videovit.data.decode.protocol import Indices
from videovit.data.decode.sequence_parameters import (
    SEQUENCE,
    HevcParameters,
    SequenceParameters,
    parse_hevc,
    parse_sequence,
    sequence_units,
)

# Bytes of a slice that contain what is read of its header.
HEADER = 24
LAST = 1 << 40  # after all pictures of a group
# Codecs that store pictures in the order in which they are shown.
STORED_AS_SHOWN = frozenset({"vp8", "vp9", "av1", "libdav1d", "mjpeg", "ffv1", "png", "prores", "dnxhd", "rawvideo"})

Place = tuple[int, int]
"""When a picture is shown: the number of its group, and its place in the group."""
Placing = Callable[[int, memoryview], Place | None]
"""Position and bytes of a packet -> when its picture is shown; None if that cannot be read. Packets come in order."""


def build_placing(codec: str, length_size: int, extradata: bytes) -> Placing | None:
    """What finds when the pictures of a stream are shown; None if its packets are not examined.

    Args:
        codec: name of the codec.
        length_size: see `bitstream.nal_length_size`.
        extradata: codec configuration from the container.
    """
    if codec in STORED_AS_SHOWN:
        return lambda position, _: (0, position)
    if codec in ("mpeg1video", "mpeg2video"):
        return Anchored(b"\0\0\1\0", skip=10, bits=3, b_type=3)
    if codec == "mpeg4":
        return Anchored(b"\0\0\1\xb6", skip=0, bits=2, b_type=2)
    if codec == "h264":
        units = sequence_units(extradata) if length_size else list(map(bytes, nal_units(memoryview(extradata), 0)))
        sequences = [parse_sequence(unit) for unit in units if unit and unit[0] & 31 == SEQUENCE]
        known = sequences[0] if len(sequences) == 1 else None
        # Fields, and orders that depend on the number of the frame, are not examined.
        return H264Counts(length_size, known) if known and known.progressive and known.order_kind != 1 else None
    if codec == "hevc" and length_size:
        parameters = parse_hevc(extradata)
        return HevcCounts(length_size, parameters) if parameters else None
    return None


def contradicts(places: Sequence[Place | None], stamps: Indices) -> bool:
    """Whether time stamps have another order than places.

    Args:
        places: of all pictures that are shown. If one of them is unknown, time stamps are believed.
        stamps: of the same pictures, distinct.
    """
    known = [place for place in places if place is not None]
    if not known or len(known) < len(places):
        return False
    group, place = np.array(known, dtype=np.int64).T
    return bool((np.diff(stamps[np.lexsort((place, group))]) < 0).any())


class Anchored:
    """MPEG-1, 2 and 4 part 2: pictures of type B are shown before the last one of another type, all others in order.

    Args:
        start: bytes before each picture.
        skip: bits between them and the type.
        bits: bits of the type.
        b_type: the type B.
    """

    def __init__(self, start: bytes, *, skip: int, bits: int, b_type: int) -> None:
        self._start, self._skip, self._bits, self._b_type = start, skip, bits, b_type
        self._num_anchors = 0

    def __call__(self, position: int, packet: memoryview) -> Place | None:
        """See `Placing`."""
        data = bytes(packet)
        at = data.find(self._start)
        if at < 0:
            return None
        header = Bits(data[at + len(self._start) :][:4])
        header.read(self._skip)
        if header.read(self._bits) == self._b_type:
            return self._num_anchors, position
        self._num_anchors += 1
        return self._num_anchors, LAST


class OrderCount:
    """Restores picture order counts, of which slices contain the last bits only.

    Args:
        bits: how many.

    Source: ITU-T H.264, 8.2.1.1; ITU-T H.265, 8.3.1.
    """

    def __init__(self, bits: int) -> None:
        self._period = 1 << bits
        self._group = self._high = self._low = 0

    def begin_group(self) -> None:
        """Everything so far is shown before the next picture is decoded, from which counts start again."""
        self._group += 1
        self._high = self._low = 0

    def place(self, low: int, *, is_reference: bool) -> Place:
        """The place of a picture.

        Args:
            low: the last bits of its count.
            is_reference: whether later counts are relative to it.
        """
        high = self._high
        if self._low - low >= self._period // 2:
            high += self._period
        elif low - self._low > self._period // 2:
            high -= self._period
        if is_reference:
            self._high, self._low = high, low
        return self._group, high + low


class H264Counts:
    """H.264: each slice says when its picture is shown.

    Args:
        length_size: see `bitstream.nal_length_size`.
        parameters: those of all pictures.
    """

    def __init__(self, length_size: int, parameters: SequenceParameters) -> None:
        self._length_size, self._parameters = length_size, parameters
        self._count = OrderCount(parameters.order_bits)

    def __call__(self, position: int, packet: memoryview) -> Place | None:
        """See `Placing`.

        Source: ITU-T H.264, 7.3.3.
        """
        for unit in nal_units(packet, self._length_size):
            kind = unit[0] & 31 if len(unit) else 0
            if kind == SEQUENCE and parse_sequence(bytes(unit)) != self._parameters:
                return None
            if 1 <= kind <= 5:
                return self._place(position, unit, is_idr=kind == 5)
        return None

    def _place(self, position: int, slice_: memoryview, *, is_idr: bool) -> Place | None:
        parameters = self._parameters
        if is_idr:
            self._count.begin_group()
        if parameters.order_kind == 2:
            return 0, position
        bits = Bits(bytes(slice_[1:HEADER]).replace(b"\0\0\3", b"\0\0"))
        try:
            for _ in range(3):  # first macroblock, type, picture parameters
                bits.read_golomb()
            bits.read(2 * parameters.separate_planes + parameters.frame_num_bits)
            if is_idr:
                bits.read_golomb()
        except ValueError:
            return None
        return self._count.place(bits.read(parameters.order_bits), is_reference=bool(slice_[0] & 0x60))


class HevcCounts:
    """HEVC: each slice says when its picture is shown.

    Args:
        length_size: see `bitstream.nal_length_size`.
        parameters: those of all pictures.
    """

    def __init__(self, length_size: int, parameters: HevcParameters) -> None:
        self._length_size, self._parameters = length_size, parameters
        self._count = OrderCount(parameters.order_bits)

    def __call__(self, position: int, packet: memoryview) -> Place | None:
        """See `Placing`.

        Source: ITU-T H.265, 7.3.6.1.
        """
        for unit in nal_units(packet, self._length_size):
            kind = unit[0] >> 1 & 63 if len(unit) > 2 else 63
            if kind < 32:
                return self._place(position, unit, kind)
        return None

    def _place(self, position: int, slice_: memoryview, kind: int) -> Place | None:
        parameters = self._parameters
        is_idr, is_random_access = kind in (19, 20), 16 <= kind <= 23
        # Counts start again at IDR and BLA pictures, and at the beginning.
        if position == 0 or (is_random_access and kind != 21):
            self._count.begin_group()
        bits = Bits(bytes(slice_[2:HEADER]).replace(b"\0\0\3", b"\0\0"))
        bits.read(1 + is_random_access)
        low = 0
        try:
            bits.read_golomb()  # picture parameters
            bits.read(parameters.extra_bits)
            bits.read_golomb()  # type
            bits.read(parameters.has_output_flag + 2 * parameters.separate_planes)
            low = 0 if is_idr else bits.read(parameters.order_bits)
        except ValueError:
            return None
        # Leading pictures, and those that nothing refers to in their temporal layer, have even numbers or 6 to 9.
        is_reference = slice_[1] & 7 == 1 and not 6 <= kind <= 9 and (kind > 15 or kind % 2 == 1)
        return self._count.place(low, is_reference=is_reference)
