"""AVA: boxes of people on key frames, and what each person does there.

    video_id,time stamp,x1,y1,x2,y2,action_id,person_id       ground truth: one line per box and action
    1j20qq1JyX4,0902,0.002,0.118,0.714,0.977,12,0
    1j20qq1JyX4,0902,0.002,0.118,0.714,0.977,80,0

    video_id,time stamp,x1,y1,x2,y2,action_id,score           proposals of a person detector; the action may be empty
    1j20qq1JyX4,0902,0.054,0.049,0.478,0.869,,0.995518

Corners are fractions of the frame. The same boxes on the same key frame are one box with several actions. Any data in
this format can be read: time window, classes and files are arguments.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videovit.data.files.annotation_files import WHOLE_NUMBER, Problem, csv_rows, read_lines, refuse
from videovit.data.records import AnnotationError, Box, KeyFrame, Sample
from videovit.messages import plural

Key = tuple[str, float]
Corners = tuple[float, float, float, float]

# Rounding may move proposals of a detector over the edge of the frame; they are clipped to it.
OVERHANG = 1e-3
NUM_FIELDS = {True: (8,), False: (7, 8)}  # the first releases of AVA have no person_id


@dataclass(frozen=True, slots=True)
class BoxRow:
    """A line of a box file: key frame, corners as fractions, action (from 1) or None, and score (1 if it has none)."""

    key: Key
    corners: Corners
    class_id: int | None
    score: float = 1.0


@dataclass(frozen=True)
class BoxRules:
    """What is valid in a box file.

    Attributes:
        num_classes: actions are 1..num_classes (MODEL.NUM_CLASSES).
        window_s: first and last allowed time stamp, in seconds (AVA.KEY_FRAMES_S).
        videos: allowed names; None for any.
        min_score: proposals with a lower score are dropped (AVA.DETECTION_SCORE_THRESH).
    """

    num_classes: int
    window_s: tuple[float, float]
    videos: Collection[str] | None = None
    min_score: float = 0.0


def read_boxes(path: str | Path, rules: BoxRules, *, scored: bool, skip_bad: bool = False) -> list[BoxRow]:
    """Read a box file.

    It may begin with a byte order mark, have line ends of either kind, and contain empty lines.

    Args:
        path: the file.
        rules: what is valid in it.
        scored: whether it has proposals, with a score in the last column, instead of ground truth.
        skip_bad: skip invalid lines with a warning instead of raising an error (AVA.SKIP_BAD_ROWS).

    Returns:
        The rows in the order of the file, without proposals below the minimum score.

    Raises:
        AnnotationError: the file is missing or has invalid or duplicate lines; shows the first of them.
    """
    rows, problems = check_boxes(path, rules, scored=scored)
    if skip_bad and problems:
        number, text, why = problems[0]
        count = f"{plural(len(problems), 'invalid line')} skipped (AVA.SKIP_BAD_ROWS)"
        warnings.warn(f"{path}: {count}, first: {path}:{number}: {text}: {why}", stacklevel=2)
    elif problems:
        refuse(Path(path), problems)
    return rows


def check_boxes(path: str | Path, rules: BoxRules, *, scored: bool) -> tuple[list[BoxRow], list[Problem]]:
    """Like `read_boxes`, but returns invalid lines as (line number, content, reason)."""
    rows: list[BoxRow] = []
    problems: list[Problem] = []
    seen: dict[int, int] = {}  # hashes of rows: unlike the rows themselves, millions of them fit into memory
    # Millions of rows name a few hundred videos.
    names: dict[str, str] = {}
    for number, fields in _fields(path):
        row = _parse(fields, rules, scored=scored)
        if isinstance(row, str):
            problems.append((number, ",".join(fields), row))
            continue
        first = seen.setdefault(hash((row, fields[7:])), number)
        if first != number:
            problems.append((number, ",".join(fields), f"duplicate of line {first}"))
        elif row.score >= rules.min_score:
            name = names.setdefault(row.key[0], row.key[0])  # one string per video, not one per line
            rows.append(BoxRow((name, row.key[1]), row.corners, row.class_id, row.score))
    return rows, problems


def _fields(path: str | Path) -> Iterable[tuple[int, tuple[str, ...]]]:
    """(line number, fields) of the non-empty lines of a CSV file."""
    # Not split(","): names may be quoted.
    reader = csv.reader(read_annotation(Path(path)))
    for fields in csv_rows(reader, Path(path)):
        stripped = tuple(field.strip() for field in fields)
        if any(stripped):
            yield reader.line_num, stripped


def read_annotation(path: Path) -> list[str]:
    """The lines of an annotation file, without line ends and byte order mark.

    Raises:
        AnnotationError: the file does not exist or is not UTF-8.
    """
    check_exists(path)
    return read_lines(path)


def check_exists(path: Path) -> None:
    """Check that a file exists.

    Raises:
        AnnotationError: it does not; shows the content of its folder.
    """
    if not path.is_file() and not path.parent.is_dir():
        raise AnnotationError(f"{path} does not exist, nor does its folder (AVA.ANNOTATION_DIR, AVA.FRAME_LIST_DIR)")
    if not path.is_file():
        names = ", ".join(sorted(entry.name for entry in path.parent.iterdir())[:10])
        raise AnnotationError(f"{path} does not exist; its folder holds {names or 'nothing'}")


def _parse(fields: Sequence[str], rules: BoxRules, *, scored: bool) -> BoxRow | str:
    """The row of a line, or why the line is invalid."""
    if len(fields) not in NUM_FIELDS[scored]:
        last = "score" if scored else "person_id"
        return f"found {plural(len(fields), 'column')}, expected 8: video_id,time stamp,x1,y1,x2,y2,action_id,{last}"
    key = _parse_key(fields, rules)
    if isinstance(key, str):
        return key
    corners = _parse_corners(fields[2:6])
    if isinstance(corners, str):
        return corners
    action, score = fields[6], _number(fields[7]) if scored else 1.0
    if score is None:
        return f"found the score {fields[7]!r}, expected a number"
    # Detectors do not know the action.
    if scored and action in ("", "-1"):
        return BoxRow(key, corners, None, score)
    if not WHOLE_NUMBER.fullmatch(action) or not 1 <= int(action) <= rules.num_classes:
        return f"found the action {action!r}, expected 1 to {rules.num_classes} (MODEL.NUM_CLASSES)"
    return BoxRow(key, corners, int(action), score)


def _parse_key(fields: Sequence[str], rules: BoxRules) -> Key | str:
    video, time_s = fields[0], _number(fields[1])
    first, last = rules.window_s
    if not video:
        return "found no video_id in the first column"
    if time_s is None:
        return f"found the time stamp {fields[1]!r}, expected seconds"
    if not first <= time_s <= last:
        return f"found the time stamp {fields[1]}, expected {first:g} to {last:g} seconds (AVA.KEY_FRAMES_S)"
    if rules.videos is not None and video not in rules.videos:
        return f"found the video {video!r}, which is not among the {plural(len(rules.videos), 'known video')}"
    return video, time_s


def _parse_corners(fields: Sequence[str]) -> Corners | str:
    found = [_number(field) for field in fields]
    values = [value for value in found if value is not None]
    if len(values) < 4:
        return f"found the corners {','.join(fields)}, expected four numbers"
    if not all(-OVERHANG <= value <= 1 + OVERHANG for value in values):
        return f"found the corners {','.join(fields)}, expected fractions of the frame, 0 to 1"
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in values)
    if x2 <= x1 or y2 <= y1:
        return f"found the corners {','.join(fields)}, expected x1 < x2 and y1 < y2"
    return x1, y1, x2, y2


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    # float() also accepts "nan" and "inf".
    return value if math.isfinite(value) else None


def key_frames(rows: Iterable[BoxRow], videos: Mapping[str, Sample]) -> list[Sample]:
    """One sample per key frame that has a box, in the order of videos and time.

    Args:
        rows: rows of all files. Equal corners on the same key frame become one box with all their actions and the
            highest of their scores.
        videos: name -> sample with the path to open.
    """
    frames: dict[Key, dict[Corners, tuple[set[int], float]]] = {}
    for row in rows:
        boxes = frames.setdefault(row.key, {})
        actions, score = boxes.get(row.corners, (set(), row.score))
        if row.class_id is not None:
            actions.add(row.class_id)
        boxes[row.corners] = actions, max(score, row.score)
    # Sorted, so that the order does not depend on the order of the files.
    samples = []
    for (video, time_s), boxes in sorted(frames.items()):
        listed = tuple(Box(*corners, tuple(sorted(ids)), score) for corners, (ids, score) in boxes.items())
        samples.append(replace(videos[video], key=KeyFrame(video, time_s, listed)))
    return samples


def read_excluded(path: str | Path) -> frozenset[Key]:
    """Read key frames that are excluded from evaluation: lines `video_id,time stamp`.

    Raises:
        AnnotationError: the file is missing or has invalid lines.
    """
    keys, problems = set(), []
    for number, fields in _fields(path):
        time_s = _number(fields[1]) if len(fields) == 2 else None
        if time_s is None or not fields[0]:
            problems.append(
                (number, ",".join(fields), f"found {plural(len(fields), 'column')}, expected video_id,time stamp")
            )
        else:
            keys.add((fields[0], time_s))
    refuse(Path(path), problems)
    return frozenset(keys)
