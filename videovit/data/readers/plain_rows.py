"""Lists of a million plain lines, `path label`, parsed as one array of bytes.

A plain line has one blank, comma or tab before a label of up to nine digits, no quotes, and no blanks at its ends. A
list with any other line is parsed line by line (`kinetics.parse_rows`), which takes ten times as long.

N lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videovit.data.columns import Array
from videovit.data.sample_list import path_columns

LONGEST_LABEL = 9  # digits
SEPARATORS = b" ,\t"
# Bytes that white space beyond ASCII begins with; Python strips it from the ends of lines.
MAYBE_BLANK = bytes((0xC2, 0xE1, 0xE2, 0xE3))

Places = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class PlainRows:
    """The paths and labels of a list.

    Attributes:
        columns: of the samples, with paths as listed.
        doubtful: rows whose paths may have been meant otherwise: a number or a semicolon ends them, or they have a
            backslash.
    """

    columns: dict[str, Array]
    doubtful: list[int]


def parse_plain(content: bytes, skip: int) -> PlainRows | None:
    """Parse a list of plain lines.

    Args:
        content: valid UTF-8, without byte order mark.
        skip: number of lines to skip at the top.

    Returns:
        The rows, of which there is at least one; None if a line is not plain.
    """
    if not content or b"\0" in content:
        return None
    bytes_ = np.frombuffer(content, dtype=np.uint8)
    line_ends = np.append(np.flatnonzero(bytes_ == ord("\n")), len(bytes_))[skip:]
    if not len(line_ends):
        return None
    first = 0 if not skip else content_start(bytes_, skip)
    starts_N = np.append(first, line_ends[:-1] + 1)
    ends_N = line_ends - ((line_ends > starts_N) & (bytes_[np.maximum(line_ends - 1, 0)] == ord("\r")))
    filled_N = ends_N > starts_N
    starts_N, ends_N = starts_N[filled_N], ends_N[filled_N]
    if not len(starts_N):
        return None
    path_ends_N = before_digits(bytes_, starts_N, ends_N, LONGEST_LABEL)
    last_N = bytes_[np.maximum(path_ends_N - 1, 0)]
    first_N = bytes_[starts_N]
    plain_N = (path_ends_N > starts_N) & (first_N > ord(" ")) & (first_N != ord('"')) & ~is_in(first_N, MAYBE_BLANK)
    plain_N &= (last_N > ord(" ")) & (last_N < 0x80) & (last_N != ord(","))
    if not plain_N.all():
        return None
    label_N = numbers_in(bytes_, path_ends_N + 1, ends_N)
    columns = columns_of(content, bytes_, starts_N, path_ends_N, label_N)
    return PlainRows(columns, doubtful(bytes_, starts_N, path_ends_N))


def content_start(bytes_: Bytes, skip: int) -> int:
    """Where the first line begins that is not skipped."""
    return int(np.flatnonzero(bytes_ == ord("\n"))[skip - 1]) + 1


def is_in(values_N: Bytes, kinds: bytes) -> NDArray[np.bool_]:
    """Whether each byte is one of some kinds."""
    table = np.zeros(256, dtype=np.bool_)
    table[list(kinds)] = True
    found: NDArray[np.bool_] = table[values_N]
    return found


def before_digits(bytes_: Bytes, starts_N: Places, ends_N: Places, longest: int) -> Places:
    """The separator before the digits at the end of each part; the start of the part if there is none.

    Args:
        bytes_: all parts.
        starts_N, ends_N: where they begin and end.
        longest: most digits.
    """
    places_N = ends_N - 1
    going_N = places_N >= starts_N
    for _ in range(longest):
        kind_N = bytes_[np.maximum(places_N, 0)]
        going_N &= (kind_N >= ord("0")) & (kind_N <= ord("9")) & (places_N >= starts_N)
        if not going_N.any():
            break
        places_N = places_N - going_N
    has_N = (places_N < ends_N - 1) & (places_N >= starts_N)
    has_N &= is_in(bytes_[np.maximum(places_N, 0)], SEPARATORS)
    return np.where(has_N, places_N, starts_N)


def numbers_in(bytes_: Bytes, starts_N: Places, ends_N: Places) -> Places:
    """The numbers whose digits are between `starts_N` and `ends_N`."""
    number_N = np.zeros(len(starts_N), dtype=np.int64)
    for place in range(int((ends_N - starts_N).max())):
        at_N = np.minimum(starts_N + place, ends_N - 1)
        digit_N = bytes_[at_N].astype(np.int64) - ord("0")
        number_N = np.where(starts_N + place < ends_N, 10 * number_N + digit_N, number_N)
    return number_N


def columns_of(content: bytes, bytes_: Bytes, starts_N: Places, ends_N: Places, label_N: Places) -> dict[str, Array]:
    """The columns of the paths between `starts_N` and `ends_N`."""
    slashes = np.flatnonzero(bytes_ == ord("/"))
    last_N = np.searchsorted(slashes, ends_N) - 1
    slash_N = slashes[np.maximum(last_N, 0)] if len(slashes) else np.zeros_like(starts_N)
    names_N = np.where((last_N >= 0) & (slash_N >= starts_N), slash_N + 1, starts_N)
    numbers: dict[bytes, int] = {}
    parts = zip(starts_N.tolist(), names_N.tolist(), strict=True)
    folder_N = np.array([numbers.setdefault(content[a:b], len(numbers)) for a, b in parts], dtype=np.int32)
    folders = np.frombuffer(b"".join(numbers), dtype=np.uint8), np.cumsum([len(one) for one in numbers], dtype=np.int64)
    # Every byte between the start and the end of a name.
    steps = np.zeros(len(bytes_) + 1, dtype=np.int8)
    steps[names_N] += 1
    steps[ends_N] -= 1
    kept = np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
    return path_columns(folders, (bytes_[kept], np.cumsum(ends_N - names_N)), folder_N, label_N)


def doubtful(bytes_: Bytes, starts_N: Places, ends_N: Places) -> list[int]:
    """See `PlainRows.doubtful`."""
    longest = int((ends_N - starts_N).max())
    found_N = (before_digits(bytes_, starts_N, ends_N, longest) > starts_N) | (bytes_[ends_N - 1] == ord(";"))
    backslashes = np.flatnonzero(bytes_ == ord("\\"))
    found_N |= np.searchsorted(backslashes, ends_N) > np.searchsorted(backslashes, starts_N)
    rows: list[int] = np.flatnonzero(found_N).tolist()
    return rows
