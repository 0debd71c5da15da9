"""Headers of VP9 frames: the size of pictures, which may change at any frame, not only at key frames."""

from __future__ import annotations

from collections.abc import Iterator

from videovit.data.decode.bits import Bits

LONGEST_HEADER = 32  # bytes that hold everything up to the size


def frames_of(packet: memoryview) -> Iterator[memoryview]:
    """The frames of a packet: one, or several (hidden ones first) with an index of their sizes at the end."""
    marker = packet[-1] if len(packet) else 0
    num_frames, num_bytes = (marker & 7) + 1, (marker >> 3 & 3) + 1
    begin = len(packet) - 2 - num_frames * num_bytes
    if marker >> 5 != 0b110 or begin < 0 or packet[begin] != marker:
        yield packet
        return
    place = 0
    for number in range(num_frames):
        at = begin + 1 + number * num_bytes
        size = int.from_bytes(packet[at : at + num_bytes], "little")
        if size:
            yield packet[place : place + size]
        place += size


def written_size(frame: memoryview) -> bytes:
    """Width and height as coded in a frame, 4 bytes; empty if it takes those of an earlier frame.

    Source: VP9 bitstream specification, 6.2.
    """
    bits = Bits(bytes(frame[:LONGEST_HEADER]))
    bits.read(2)
    profile = bits.read(1) | bits.read(1) << 1
    if profile == 3:
        bits.read(1)
    if bits.read(1):  # shows an earlier frame
        return b""
    is_inter, is_shown, is_resilient = bits.read(1), bits.read(1), bits.read(1)
    if not is_inter:
        bits.read(24)
        _skip_color(bits, profile)
        return bits.read(32).to_bytes(4, "big")
    intra_only = not is_shown and bits.read(1)
    bits.read(0 if is_resilient else 2)
    if intra_only:
        bits.read(24)
        if profile > 0:
            _skip_color(bits, profile)
        bits.read(8)
        return bits.read(32).to_bytes(4, "big")
    bits.read(8 + 3 * 4)
    return b"" if bits.read(1) or bits.read(1) or bits.read(1) else bits.read(32).to_bytes(4, "big")


def _skip_color(bits: Bits, profile: int) -> None:
    bits.read(1 if profile >= 2 else 0)  # 10 or 12 bits
    is_rgb = bits.read(3) == 7
    if not is_rgb:
        bits.read(1)  # range
    bits.read((0 if is_rgb else 2) + 1 if profile % 2 else 0)  # subsampling
