"""Images without their metadata: Pillow rejects some images of which only a block of metadata is damaged."""

from __future__ import annotations

import zlib

PNG = b"\x89PNG\r\n\x1a\n"
PNG_PICTURE = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
PNG_ORIENTATION = b"eXIf"
JPEG = b"\xff\xd8"
# APP2 to APP13, APP15 and comments. APP1 has the orientation.
JPEG_METADATA = frozenset({*range(0xE2, 0xEE), 0xEF, 0xFE})
# Say how colors are coded, if they begin so and are as long as libjpeg expects.
JPEG_COLOR = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
JPEG_SCAN = 0xDA


def num_scans(content: bytes) -> int:
    """The number of scans in a JPEG file: coded data never contain the bytes of their marker."""
    return content.count(bytes([0xFF, JPEG_SCAN]))


def without_metadata(content: bytes) -> bytes:
    """A PNG or JPEG file reduced to its picture and its orientation; other files unchanged."""
    if content.startswith(PNG):
        return _without_chunks(content)
    if content.startswith(JPEG):
        return _without_segments(content)
    return content


def _without_chunks(content: bytes) -> bytes:
    kept, place = [PNG], len(PNG)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        kind, checksum = content[place + 4 : place + 8], content[end - 4 : end]
        is_sound = zlib.crc32(content[place + 4 : end - 4]).to_bytes(4, "big") == checksum
        if kind in PNG_PICTURE or (kind == PNG_ORIENTATION and is_sound):
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def _without_segments(content: bytes) -> bytes:
    kept, place = [JPEG], len(JPEG)
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != JPEG_SCAN:
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        kind, data = content[place + 1], content[place + 4 : end]
        start, size = JPEG_COLOR.get(kind, (b"", 0))
        if kind not in JPEG_METADATA and data.startswith(start) and len(data) >= size:
            kept.append(content[place:end])
        place = end
    return b"".join([*kept, content[place:]])
