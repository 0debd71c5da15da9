"""Charades: the official lists with videos, or PySlowFast's frame lists.

    Charades_v1_train.csv, Charades_v1_test.csv    a header and one line per video, with these columns among others:
        id        46GP8, the name of the video
        actions   c092 11.90 21.20;c147 0.00 12.60: class, start and end in seconds; may be empty
    Charades_v1_480/46GP8.mp4                      the videos

Results are reported on the list called test, which serves both validation and test here. If the folder has PySlowFast's
frame lists (train.csv, val.csv), those are read instead.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Literal

from videovit.data.files.annotation_files import (
    PLAIN_NAME,
    Problem,
    VideoFolder,
    csv_rows,
    find_file,
    read_lines,
    refuse,
)
from videovit.data.readers import frame_lists
from videovit.data.records import Action, AnnotationError, Sample
from videovit.messages import plural

LISTS = {"train": "Charades_v1_train.csv", "val": "Charades_v1_test.csv"}
NAMES_FILES = ("Charades_v1_classes.txt",)
VIDEO_FOLDERS = ("Charades_v1_480", "Charades_v1", "videos")
ACTION = re.compile(r"c(?P<label>\d+)\s+(?P<start>-?[\d.]+)\s+(?P<end>-?[\d.]+)", re.ASCII)


def read(
    folder: str | Path, split: Literal["train", "val"], *, num_classes: int, prefix: str = "", frames_fps: float = 24.0
) -> list[Sample]:
    """Read a split.

    Args:
        folder: folder of the lists (DATA.PATH_TO_DATA_DIR).
        split: which list.
        num_classes: classes must be in 0..num_classes-1 (157).
        prefix: folder of the videos, or of the paths in the frame list (DATA.PATH_PREFIX).
        frames_fps: frame rate of image folders (24 in the official frames).

    Returns:
        The samples in the order of the list, each with its actions, which may be none.

    Raises:
        AnnotationError: the list is missing, empty, or has invalid lines; shows them all.
    """
    folder = Path(folder)
    frame_list = folder / f"{split}.csv"
    # Lists of videos may have the same name, so the header decides.
    if frame_lists.is_frame_list(frame_list):
        # Frame lists carry the actions as labels per image.
        return list(frame_lists.read(frame_list, num_classes=num_classes, fps=frames_fps, prefix=prefix).values())
    list_file = find_file(folder, [LISTS[split], frame_list.name])
    videos = VideoFolder(prefix, folder, released=VIDEO_FOLDERS, suffix=".mp4")
    lines = read_lines(list_file)
    # Not DictReader, which accepts rows of the wrong length.
    rows = csv.reader(lines)
    # Columns are found by name; the release has more than are needed.
    header = [name.strip() for name in next(csv_rows(rows, list_file), [])]
    if "id" not in header or "actions" not in header:
        raise AnnotationError(
            f"{list_file}:1: {lines[0][:120]}\n      expected a header with the columns id and actions"
        )
    samples: list[Sample] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for row in csv_rows(rows, list_file):
        if not row:
            continue
        line = rows.line_num
        name, actions = _parse(row, header, num_classes)
        if name in seen:
            actions = f"video {name!r} is already listed in line {seen[name]}"
        if isinstance(actions, str):
            problems.append((line, lines[line - 1], actions))
            continue
        seen[name] = line
        samples.append(Sample(videos.path_of(name), actions=actions))
    refuse(list_file, problems)
    if not samples:
        raise AnnotationError("no videos listed below the header", where=list_file)
    return samples


def _parse(row: list[str], header: list[str], num_classes: int) -> tuple[str, tuple[Action, ...] | str]:
    """Name and actions of a row, or why it is invalid."""
    if len(row) != len(header):
        return "", f"found {plural(len(row), 'field')}, expected {len(header)}: {','.join(header)}"
    name = row[header.index("id")].strip()
    if not PLAIN_NAME.fullmatch(name):
        return "", f"the id {name!r} is not the name of a video"
    actions = []
    for text in row[header.index("actions")].split(";"):
        if not text.strip():
            continue
        action = _parse_action(text.strip(), num_classes)
        if isinstance(action, str):
            return name, action
        actions.append(action)
    return name, tuple(actions)


def _parse_action(text: str, num_classes: int) -> Action | str:
    # fullmatch, so that a missing semicolon between two actions is an error.
    found = ACTION.fullmatch(text)
    if found is None:
        return f"action {text!r}, expected class, start and end like 'c092 11.90 21.20'"
    label = int(found["label"])
    # The pattern excludes negative numbers.
    if label >= num_classes:
        return f"class c{found['label']} is not in c000..c{num_classes - 1:03d} (MODEL.NUM_CLASSES)"
    try:
        start_s, end_s = float(found["start"]), float(found["end"])
    except ValueError:
        return f"action {text!r}: its times are not numbers"
    if not 0 <= start_s <= end_s:
        return f"action {text!r}: expected 0 <= start <= end"
    return Action(label, start_s, end_s)
