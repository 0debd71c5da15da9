"""What the sequence parameters of H.264 and HEVC say about the pictures that follow them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from videovit.data.decode.bits import Bits

SEQUENCE = 7  # type of H.264's NAL unit of sequence parameters
HEVC_SEQUENCE, HEVC_PICTURE = 33, 34  # and HEVC's, of sequence and of picture parameters
# Profiles whose parameters state the kind of color, and may contain tables of scaling.
HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})


class SequenceParameters(NamedTuple):
    """Parameters of H.264.

    Attributes:
        separate_planes: whether each color plane is coded as a picture of its own.
        frame_num_bits: length of frame_num in the header of a slice.
        order_kind: pic_order_cnt_type, how a slice says when its picture is shown.
        order_bits: length of pic_order_cnt_lsb in the header of a slice; 0 unless `order_kind` is 0.
        progressive: whether no picture can be interlaced.
    """

    separate_planes: bool
    frame_num_bits: int
    order_kind: int
    order_bits: int
    progressive: bool


def all_progressive(units: Iterable[bytes | memoryview]) -> bool:
    """Whether all sequence parameters among some NAL units rule out interlaced pictures; damaged ones do not."""
    parsed = [parse_sequence(bytes(unit)) for unit in units if len(unit) and unit[0] & 31 == SEQUENCE]
    return all(parameters is not None and parameters.progressive for parameters in parsed)


def sequence_units(extradata: bytes) -> list[bytes]:
    """The sequence parameters in the codec configuration of mp4 and Matroska (avcC)."""
    units, place = [], 6
    for _ in range(extradata[5] & 31 if len(extradata) > 5 else 0):
        size = int.from_bytes(extradata[place : place + 2], "big")
        units.append(extradata[place + 2 : place + 2 + size])
        place += 2 + size
    return units


def parse_sequence(unit: bytes) -> SequenceParameters | None:
    """Read sequence parameters of H.264; None if they are damaged.

    Args:
        unit: a NAL unit of type SEQUENCE.

    Source: ITU-T H.264, 7.3.2.1.1.
    """
    bits = Bits(unit[1:].replace(b"\0\0\3", b"\0\0"))
    profile = bits.read(8)
    bits.read(16)
    order_bits, separate_planes = 0, False
    try:
        bits.read_golomb()
        if profile in HIGH_PROFILES:
            separate_planes = _read_color_and_scaling(bits)
        frame_num_bits = bits.read_golomb() + 4
        order_kind = bits.read_golomb()
        if order_kind == 0:
            order_bits = bits.read_golomb() + 4
        elif order_kind == 1:
            bits.read(1)
            for _ in range(2):
                bits.read_signed()
            for _ in range(bits.read_golomb()):
                bits.read_signed()
        bits.read_golomb()
        bits.read(1)
        for _ in range(2):  # width and height
            bits.read_golomb()
    except ValueError:
        return None
    return SequenceParameters(separate_planes, frame_num_bits, order_kind, order_bits, bits.read(1) == 1)


def _read_color_and_scaling(bits: Bits) -> bool:
    """Read on to the end of the scaling tables; whether color planes are coded separately."""
    color = bits.read_golomb()
    separate_planes = color == 3 and bits.read(1) == 1
    for _ in range(2):
        bits.read_golomb()
    bits.read(1)
    if not bits.read(1):
        return separate_planes
    for table in range(12 if color == 3 else 8):
        last = following = 8
        for _ in range((16 if table < 6 else 64) if bits.read(1) else 0):
            if following:
                following = (last + bits.read_signed()) % 256
            last = following or last
    return separate_planes


class HevcParameters(NamedTuple):
    """Parameters of HEVC.

    Attributes:
        separate_planes: whether each color plane is coded as a picture of its own.
        order_bits: length of slice_pic_order_cnt_lsb in the header of a slice.
        extra_bits: bits before the type of a slice in its header.
        has_output_flag: whether the header of a slice says if its picture is shown.
    """

    separate_planes: bool
    order_bits: int
    extra_bits: int
    has_output_flag: bool


def parse_hevc(extradata: bytes) -> HevcParameters | None:
    """Read the parameters in the codec configuration of mp4 and Matroska (hvcC); None if there is not one of each.

    Source: ISO/IEC 14496-15, 8.3.3.1; ITU-T H.265, 7.3.2.2.1 and 7.3.2.3.1.
    """
    units: dict[int, list[bytes]] = {}
    place = 23
    for _ in range(extradata[22] if len(extradata) > 22 else 0):
        kind, count = extradata[place] & 63, int.from_bytes(extradata[place + 1 : place + 3], "big")
        place += 3
        for _ in range(count):
            size = int.from_bytes(extradata[place : place + 2], "big")
            units.setdefault(kind, []).append(extradata[place + 2 : place + 2 + size].replace(b"\0\0\3", b"\0\0"))
            place += 2 + size
    sequences, pictures = units.get(HEVC_SEQUENCE, []), units.get(HEVC_PICTURE, [])
    if len(sequences) != 1 or len(pictures) != 1:
        return None
    try:
        separate_planes, order_bits = _read_hevc_sequence(Bits(sequences[0][2:]))
        bits = Bits(pictures[0][2:])
        for _ in range(2):
            bits.read_golomb()
    except ValueError:
        return None
    bits.read(1)
    has_output_flag = bits.read(1) == 1
    return HevcParameters(separate_planes, order_bits, bits.read(3), has_output_flag)


def _read_hevc_sequence(bits: Bits) -> tuple[bool, int]:
    """Whether color planes are separate, and the length of the picture order count."""
    bits.read(4)
    more_layers = bits.read(3)
    bits.read(1 + 88 + 8)  # profile and level
    flags = [(bits.read(1), bits.read(1)) for _ in range(more_layers)]
    bits.read(2 * (8 - more_layers) if more_layers else 0)
    for has_profile, has_level in flags:
        bits.read(88 * has_profile + 8 * has_level)
    bits.read_golomb()
    separate_planes = bits.read_golomb() == 3 and bits.read(1) == 1
    for _ in range(2):  # width and height
        bits.read_golomb()
    for _ in range(4 if bits.read(1) else 0):  # the part that is shown
        bits.read_golomb()
    for _ in range(2):  # depth of the colors
        bits.read_golomb()
    return separate_planes, bits.read_golomb() + 4
