"""Images without their metadata and without junk between their parts, either of which makes Pillow reject them."""

from __future__ import annotations

import re
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
JPEG_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xda-\xfe]")  # markers before the first scan; whatever else is junk
PNG_SEARCHED = re.compile(b"PLTE|IDAT|IEND")


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
        elif not _is_chunk(content, end):
            end = _next_of_picture(content, place + 1)  # its length is damaged
        place = end
    return b"".join(kept)


def _is_chunk(content: bytes, place: int) -> bool:
    """Whether a chunk seems to begin at `place`, or the file ends there."""
    kind = content[place + 4 : place + 8]
    return place == len(content) or (len(kind) == 4 and kind.isalpha())


def _next_of_picture(content: bytes, place: int) -> int:
    """Where the next chunk of the picture begins; the end of the file if there is none."""
    for match in PNG_SEARCHED.finditer(content, place + 4):
        begin = match.start() - 4
        if _is_chunk(content, begin + 12 + int.from_bytes(content[begin : begin + 4], "big")):
            return begin
    return len(content)


def _without_segments(content: bytes) -> bytes:
    kept, place, kind = [JPEG], len(JPEG), 0
    while place + 4 <= len(content):
        # After metadata whose length may be damaged, the next bytes may belong to the picture.
        if kind not in JPEG_METADATA:
            match = JPEG_SEGMENT.search(content, place)
            place = match.start() if match else place
        kind = content[place + 1]
        if content[place] != 0xFF or kind == JPEG_SCAN:
            break
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        data = content[place + 4 : end]
        start, size = JPEG_COLOR.get(kind, (b"", 0))
        if kind not in JPEG_METADATA and data.startswith(start) and len(data) >= size:
            kept.append(content[place:end])
        place = end
    return b"".join([*kept, content[place:]])
