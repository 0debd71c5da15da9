"""What the first bytes of a packet say about its picture: containers repeat it, and are sometimes wrong."""

from __future__ import annotations

from collections.abc import Iterator

from videovit.data.decode.vp9 import frames_of, written_size

RECOVERY_POINT = 6  # type of the H.264 message that says from which picture on decoding is exact
# Half of the range coder's first interval; FFV1 codes the key flag first.
FFV1_KEY = 0x7F80


def nal_length_size(codec: str, extradata: bytes | None) -> int:
    """Size in bytes of the length before each NAL unit of H.264 or HEVC; 0 for start codes, and in other codecs."""
    # avcC and hvcC of mp4 and Matroska start with version 1.
    place = {"h264": 4, "hevc": 21}.get(codec)
    if place is None or not extradata or len(extradata) <= place or extradata[0] != 1:
        return 0
    return extradata[place] % 4 + 1


def nal_units(packet: memoryview, length_size: int) -> Iterator[memoryview]:
    """The NAL units of an H.264 or HEVC packet, from their header byte to at least their end.

    Args:
        packet: bytes of the packet.
        length_size: see `nal_length_size`.
    """
    place = 0
    if length_size:
        while place + length_size < len(packet):
            begin = place + length_size
            place = begin + int.from_bytes(packet[place:begin], "big")
            yield packet[begin:place]
        return
    data = bytes(packet)
    begin = data.find(b"\0\0\1") + 3
    while 3 <= begin < len(data):
        place = data.find(b"\0\0\1", begin)
        yield packet[begin:] if place < 0 else packet[begin:place]
        begin = place + 3


def is_hidden_vp8(packet: memoryview) -> bool:
    """Whether a VP8 packet only updates a reference frame: the show_frame bit of its first byte is off."""
    return not packet[0] >> 4 & 1


def is_idr(packet: memoryview, length_size: int) -> bool:
    """Whether the first picture of an H.264 packet is an IDR picture, so that nothing after it refers to earlier ones.

    Args:
        packet: bytes of the packet.
        length_size: see `nal_length_size`.
    """
    for unit in nal_units(packet, length_size):
        if len(unit) and 1 <= (kind := unit[0] & 31) <= 5:  # a slice
            return kind == 5
    return False


def is_entry(codec: str, packet: memoryview, length_size: int) -> bool:
    """Whether decoding may start at a packet that its container calls a key packet.

    True in codecs whose packets are not examined here; what is decoded from them shows whether it is true.

    Args:
        codec: name of the codec.
        packet: bytes of the packet.
        length_size: see `nal_length_size`.
    """
    if codec == "h264":
        return is_idr(packet, length_size) or _has_recovery_point(packet, length_size)
    if codec == "hevc":
        kinds = (unit[0] >> 1 & 63 for unit in nal_units(packet, length_size) if len(unit))
        return next((16 <= kind <= 23 for kind in kinds if kind < 32), False)
    if codec == "vp8":
        return not packet[0] & 1
    if codec == "vp9":
        # frame marker (2 bits), profile (2, and 1 more in profile 3), show_existing_frame, frame_type (0: key)
        shift = 1 if packet[0] >> 4 & 3 == 3 else 2
        return packet[0] >> shift & 3 == 0
    if codec == "ffv1":
        return int.from_bytes(packet[:2], "big") >= FFV1_KEY
    if codec == "mpeg4":
        # vop_coding_type (2 bits, 0: intra) follows the start code of a picture
        return _after(packet, b"\0\0\1\xb6", 1)[0] >> 6 == 0
    if codec in ("mpeg1video", "mpeg2video"):
        # temporal_reference (10 bits), picture_coding_type (3 bits, 1: intra)
        return _after(packet, b"\0\0\1\0", 2)[1] >> 3 & 7 == 1
    return True


def _after(packet: memoryview, start_code: bytes, count: int) -> bytes:
    """The `count` bytes after the first start code; zeros beyond the end."""
    data = bytes(packet)
    place = data.find(start_code)
    found = data[place + len(start_code) :][:count] if place >= 0 else b""
    return found.ljust(count, b"\0")


def _has_recovery_point(packet: memoryview, length_size: int) -> bool:
    for unit in nal_units(packet, length_size):
        if not len(unit) or 1 <= unit[0] & 31 <= 5:
            return False
        if unit[0] & 31 == 6 and any(kind == RECOVERY_POINT for kind in _messages(unit[1:])):
            return True
    return False


def _messages(payload: memoryview) -> Iterator[int]:
    """Types of the messages (SEI) in a NAL unit, without its header."""
    # The appended zero ends the last number.
    place, data = 0, bytes(payload).replace(b"\0\0\3", b"\0\0") + b"\0"
    while place + 3 < len(data):
        kind, place = _number(data, place)
        size, place = _number(data, place)
        yield kind
        place += size


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A number coded as any bytes of 255 and a smaller one, all added up, and the place after it."""
    begin = place
    while place < len(data) - 2 and data[place] == 255:
        place += 1
    return 255 * (place - begin) + data[place], place + 1


def picture_setup(codec: str, packet: memoryview, length_size: int) -> bytes:
    """What a packet says about the size of the pictures from it on; empty if nothing.

    Args:
        codec: name of the codec.
        packet: bytes of the packet.
        length_size: see `nal_length_size`.

    Returns:
        The sequence parameters of H.264 and HEVC, the sizes of VP8 and VP9, as coded.
    """
    if codec == "h264":
        return b"".join(bytes(unit) for unit in nal_units(packet, length_size) if len(unit) and unit[0] & 31 == 7)
    if codec == "hevc":
        return b"".join(bytes(unit) for unit in nal_units(packet, length_size) if len(unit) and unit[0] >> 1 == 33)
    if codec == "vp8":
        return b"" if packet[0] & 1 else bytes(packet[6:10])
    if codec == "vp9":
        # Frames of several sizes do not look like any one size.
        return b"".join(dict.fromkeys(map(written_size, frames_of(packet))))
    return b""
