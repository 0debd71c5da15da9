"""PySlowFast's frame lists: one image per line, with the classes visible in it.

    original_vido_id video_id frame_id path labels
    001YG 0 0 001YG/001YG-000001.jpg "46,81"
    001YG 0 1 001YG/001YG-000002.jpg ""

(The header is spelled this way.) Such lists have millions of lines. They are read line by line; what is kept is one
folder per video and the spans of its classes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from videovit.data.files.annotation_files import WHOLE_NUMBER, Problem, open_list, refuse
from videovit.data.files.listed_paths import Folders, leads_out, relative_to_either
from videovit.data.records import Action, AnnotationError, Sample
from videovit.messages import plural

COLUMNS = ("original_vido_id", "video_id", "frame_id", "path", "labels")
LONGEST_LINE = 1 << 20  # characters


@dataclass(slots=True)
class _Frames:
    """What has been read about a video so far."""

    line: int
    folder: str
    num_frames: int = 0
    last_id: int = -1
    last_labels: str = '""'
    since: dict[int, int] = field(default_factory=dict)  # class -> frame at which its current run began
    actions: list[tuple[int, int, int]] = field(default_factory=list)  # class, first frame, one past the last


def is_frame_list(list_file: Path) -> bool:
    """Whether a file exists and starts like a frame list."""
    if not list_file.is_file():
        return False
    with open(list_file, "rb") as file:
        # Only the start: the file may have gigabytes.
        return file.read(64).removeprefix(b"\xef\xbb\xbf").startswith(COLUMNS[0].encode())


def read(
    list_file: str | Path, *, num_classes: int, fps: float, prefix: str = "", with_labels: bool = True
) -> dict[str, Sample]:
    """Read a frame list.

    Args:
        list_file: the list.
        num_classes: labels must be in 0..num_classes-1.
        fps: frame rate of the images (DATA.FRAMES_FPS), to convert frames to seconds.
        prefix: folder that all paths are relative to and must stay in (DATA.PATH_PREFIX).
        with_labels: read the last column; otherwise samples have no actions.

    Returns:
        Name of the video (first column) -> Sample of its folder of images, with their number and one Action for each
        run of frames that shows a class; in the order of the list.

    Raises:
        AnnotationError: the list is missing, empty, or has invalid lines; shows them.

    Source: PySlowFast, image lists of Charades and Something-Something.
    """
    list_file = Path(list_file)
    videos: dict[str, _Frames] = {}
    problems: list[Problem] = []
    for number, line in _lines(list_file):
        why = _take(videos, line, number, num_classes if with_labels else None)
        if why is not None:
            problems.append((number, line, why))
    refuse(list_file, problems)
    if not videos:
        raise AnnotationError("no frames listed below the header", where=list_file)
    folders = Folders()
    if prefix:
        # Checked once per folder with a made-up name, not once per image.
        outside = [(v.line, v.folder, leads_out(os.path.join(v.folder, "x"), prefix, folders)) for v in videos.values()]
        refuse(list_file, [(line, folder, why) for line, folder, why in outside if why is not None])
    samples = {}
    for name, video in videos.items():
        if prefix:
            path = os.path.join(prefix, video.folder)
        else:
            path = relative_to_either(video.folder, str(list_file.parent), folders)
        actions = tuple(Action(k, first / fps, end / fps) for k, first, end in _runs(video)) if with_labels else None
        # Runs of frames become intervals in seconds, so clips of any frame rate can be labeled.
        samples[name] = Sample(path, actions=actions, num_frames=video.num_frames)
    return samples


def _lines(list_file: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of every non-empty line below the header."""
    number = 0
    try:
        with io.TextIOWrapper(open_list(list_file), encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), start=1):
                if len(line) == LONGEST_LINE:
                    raise AnnotationError("a line without end", where=f"{list_file}:{number}")
                text = line.strip()
                if number == 1:
                    if tuple(text.split()) != COLUMNS:
                        raise AnnotationError(
                            f"{list_file}:1: {text[:120]}\n      expected the header '{' '.join(COLUMNS)}'"
                        )
                elif text:
                    yield number, text
    except UnicodeDecodeError:
        raise AnnotationError(f"not UTF-8 text, after line {number}", where=list_file) from None
    except OSError as error:
        raise AnnotationError(f"list file {str(list_file)!r} cannot be read: {error.strerror}") from None


def _take(videos: dict[str, _Frames], line: str, number: int, num_classes: int | None) -> str | None:
    """Add a line to its video, or return why it is invalid. `num_classes` is None if labels are not read."""
    fields = line.split()
    if len(fields) != len(COLUMNS):
        return f"found {plural(len(fields), 'field')}, expected {len(COLUMNS)}: {' '.join(COLUMNS)}"
    name, _, frame_id, path, labels = fields
    if not WHOLE_NUMBER.fullmatch(frame_id) or int(frame_id) < 0:
        return f"frame_id {frame_id!r} is not a whole number"
    folder = os.path.dirname(path)
    video = videos.get(name)
    if video is None:
        video = videos[name] = _Frames(number, folder)
    if folder != video.folder:
        return f"folder {folder!r}, but video {name!r} started in {video.folder!r} (line {video.line})"
    # Frames count as consecutive here, so a list that is out of order would scramble time.
    if int(frame_id) <= video.last_id:
        return f"frame {frame_id} of video {name!r} follows frame {video.last_id}: duplicate, or out of order"
    video.last_id = int(frame_id)
    why = None
    # Most lines repeat the labels of the line before; parsing only changes saves most of the time.
    if num_classes is not None and labels != video.last_labels:
        why = _change_labels(video, labels, num_classes)
    video.num_frames += 1
    return why


def _change_labels(video: _Frames, text: str, num_classes: int) -> str | None:
    written = [label for label in text.replace('"', "").split(",") if label]
    for label in written:
        if not WHOLE_NUMBER.fullmatch(label):
            return f"label {label!r} is not a whole number"
        if not 0 <= int(label) < num_classes:
            return f"label {label} is not in 0..{num_classes - 1} (MODEL.NUM_CLASSES)"
    video.last_labels = text
    now = {int(label) for label in written}
    # A class that is no longer listed ends its run; a new one starts a run.
    for k in video.since.keys() - now:
        video.actions.append((k, video.since.pop(k), video.num_frames))
    for k in now - video.since.keys():
        video.since[k] = video.num_frames
    return None


def _runs(video: _Frames) -> list[tuple[int, int, int]]:
    """(class, first frame, one past the last) of every run, in the order of their starts."""
    unfinished = [(k, first, video.num_frames) for k, first in video.since.items()]
    return sorted(video.actions + unfinished, key=lambda run: (run[1], run[0]))
