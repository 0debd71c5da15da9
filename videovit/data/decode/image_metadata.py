"""Images without their metadata: Pillow rejects some images of which only a block of metadata is damaged."""

from __future__ import annotations

PNG = b"\x89PNG\r\n\x1a\n"
# With the orientation, whose damage Pillow forgives.
PNG_PICTURE = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf"})
JPEG = b"\xff\xd8"
# APP2 to APP13, APP15 and comments. APP14 says how colors are coded, APP1 has the orientation.
JPEG_METADATA = frozenset({*range(0xE2, 0xEE), 0xEF, 0xFE})
JPEG_SCAN = 0xDA


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
        if content[place + 4 : place + 8] in PNG_PICTURE:
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def _without_segments(content: bytes) -> bytes:
    kept, place = [JPEG], len(JPEG)
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != JPEG_SCAN:
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if content[place + 1] not in JPEG_METADATA:
            kept.append(content[place:end])
        place = end
    return b"".join([*kept, content[place:]])
