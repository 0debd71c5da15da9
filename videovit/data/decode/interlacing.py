"""Whether an H.264 stream may contain interlaced pictures: its sequence parameters say so before the first of them."""

from __future__ import annotations

from collections.abc import Iterable

from videovit.data.decode.bits import Bits

SEQUENCE = 7  # type of the NAL unit of sequence parameters
# Profiles whose parameters state the kind of color, and may contain tables of scaling.
HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})


def all_progressive(units: Iterable[bytes | memoryview]) -> bool:
    """Whether all sequence parameters among some NAL units rule out interlaced pictures."""
    return all(_is_progressive(bytes(unit)) for unit in units if len(unit) and unit[0] & 31 == SEQUENCE)


def sequence_units(extradata: bytes) -> list[bytes]:
    """The sequence parameters in the codec configuration of mp4 and Matroska (avcC)."""
    units, place = [], 6
    for _ in range(extradata[5] & 31 if len(extradata) > 5 else 0):
        size = int.from_bytes(extradata[place : place + 2], "big")
        units.append(extradata[place + 2 : place + 2 + size])
        place += 2 + size
    return units


def _is_progressive(unit: bytes) -> bool:
    """The flag frame_mbs_only; False if the parameters are damaged.

    Source: ITU-T H.264, 7.3.2.1.1.
    """
    bits = Bits(unit[1:].replace(b"\0\0\3", b"\0\0"))
    profile = bits.read(8)
    bits.read(16)
    try:
        bits.read_golomb()
        if profile in HIGH_PROFILES:
            _skip_color_and_scaling(bits)
        bits.read_golomb()
        order = bits.read_golomb()
        if order == 0:
            bits.read_golomb()
        elif order == 1:
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
        return False
    return bits.read(1) == 1


def _skip_color_and_scaling(bits: Bits) -> None:
    color = bits.read_golomb()
    bits.read(1 if color == 3 else 0)
    for _ in range(2):
        bits.read_golomb()
    bits.read(1)
    if not bits.read(1):
        return
    for table in range(12 if color == 3 else 8):
        last = following = 8
        for _ in range((16 if table < 6 else 64) if bits.read(1) else 0):
            if following:
                following = (last + bits.read_signed()) % 256
            last = following or last
