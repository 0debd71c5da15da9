"""Something-Something v2: the official labels and lists, with videos or with PySlowFast's frame lists.

    something-something-v2-labels.json        {"Holding something": "0", ...}
    something-something-v2-train.json         [{"id": "78687", "template": "Holding [something]", ...}, ...]
    something-something-v2-validation.json    the same
    something-something-v2-test-answers.csv   42326;Holding something
    20bn-something-something-v2/78687.webm    the videos

The later release names them labels/labels.json, labels/train.json and so on; those names are found too. If the folder
has PySlowFast's frame lists (train.csv, val.csv), the videos are the folders of images in those lists; their labels are
ignored in favor of the JSON files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from videovit.data.files.annotation_files import (
    PLAIN_NAME,
    WHOLE_NUMBER,
    Problem,
    VideoFolder,
    find_file,
    read_json,
    read_json_entries,
    read_lines,
    refuse,
    suggestion,
)
from videovit.data.readers import frame_lists
from videovit.data.records import AnnotationError, Sample

PREFIX = "something-something-v2-"
LISTS = {"train": "train.json", "val": "validation.json", "test": "test-answers.csv"}
LABELS_FILES = (f"{PREFIX}labels.json", "labels.json", f"labels/{PREFIX}labels.json", "labels/labels.json")
VIDEO_FOLDERS = ("20bn-something-something-v2", "videos")


def read(
    folder: str | Path,
    split: Literal["train", "val", "test"],
    *,
    num_classes: int,
    prefix: str = "",
    frames_fps: float = 30.0,
) -> list[Sample]:
    """Read a split.

    Args:
        folder: folder of the annotation files (DATA.PATH_TO_DATA_DIR).
        split: `test` needs the file of test answers.
        num_classes: classes must be in 0..num_classes-1.
        prefix: folder of the videos, or of the paths in the frame list (DATA.PATH_PREFIX).
        frames_fps: frame rate of image folders.

    Returns:
        The samples in the order of the JSON file.

    Raises:
        AnnotationError: a file is missing or has invalid entries; shows them all.
    """
    folder = Path(folder)
    classes = read_classes(folder, num_classes)
    list_file = find_file(folder, [PREFIX + LISTS[split], LISTS[split]])
    entries = _answers(list_file) if split == "test" else _entries(list_file)
    frame_list = folder / f"{split}.csv"
    by_name: dict[str, Sample] | None = None
    if frame_lists.is_frame_list(frame_list):
        by_name = frame_lists.read(frame_list, num_classes=0, fps=frames_fps, prefix=prefix, with_labels=False)
    # Videos may have been re-encoded to another container.
    videos = VideoFolder(prefix, folder, released=VIDEO_FOLDERS, suffix=".webm")
    samples: list[Sample] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for line, name, template, text in entries:
        why = _reason_against(name, template, classes, seen)
        if why is None and by_name is not None and name not in by_name:
            why = f"video {name!r} is not in the frame list {frame_list}"
        if why is not None:
            problems.append((line, text, why))
            continue
        # Only valid entries count as seen; others are reported by their own error.
        seen[name] = line
        # The lists write "Holding [something]", the labels "Holding something".
        label = classes[_plain(template)]
        if by_name is not None:
            samples.append(Sample(by_name[name].path, label, num_frames=by_name[name].num_frames))
        else:
            samples.append(Sample(videos.path_of(name), label))
    refuse(list_file, problems)
    if not samples:
        raise AnnotationError("no videos listed", where=list_file)
    return samples


def read_classes(folder: str | Path, num_classes: int) -> dict[str, int]:
    """Class name -> number.

    Raises:
        AnnotationError: the file is missing or malformed, or its numbers repeat or are not in 0..num_classes-1.
    """
    file = find_file(Path(folder), LABELS_FILES[:2])
    text, content = read_json(file)
    if not isinstance(content, Mapping):
        raise AnnotationError(where=f"{file}:1", found=text.strip()[:60], expected='{"name": "number"}')
    classes: dict[str, int] = {}
    names: dict[int, str] = {}
    problems: list[Problem] = []
    for name, number in content.items():
        why = None
        if not WHOLE_NUMBER.fullmatch(str(number)) or int(number) < 0:
            why = f"class number {number!r} is not a whole number"
        elif int(number) >= num_classes:
            why = f"class {number} is not in 0..{num_classes - 1} (MODEL.NUM_CLASSES)"
        elif int(number) in names:
            why = f"class {number} is already {names[int(number)]!r}"
        else:
            classes[_plain(name)] = int(number)
            names[int(number)] = name
        if why is not None:
            # json does not report lines, so look for the name in the text.
            place = max(text.find(f'"{name}"'), 0)
            problems.append((text.count("\n", 0, place) + 1, f"{name}: {number}", why))
    refuse(file, problems)
    return classes


def _plain(template: str) -> str:
    """A template without the brackets around its objects."""
    return template.replace("[", "").replace("]", "").strip()


def _entries(file: Path) -> list[tuple[int, str, str, str]]:
    """(line, id, template, text for messages) of every entry of a list; missing fields are empty."""
    return [(line, *_fields(entry)) for line, entry in read_json_entries(file)]


def _fields(entry: object) -> tuple[str, str, str]:
    if not isinstance(entry, Mapping):
        return "", "", str(entry)
    return str(entry.get("id", "")), str(entry.get("template", "")), str(dict(entry))


def _answers(file: Path) -> list[tuple[int, str, str, str]]:
    """The same for the test answers, one `id;template` per line."""
    rows = []
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            # Semicolons, because templates contain commas.
            fields = [field.strip().strip('"') for field in line.split(";")]
            name, template = fields if len(fields) == 2 else ("", "")
            rows.append((number, name, template, line))
    return rows


def _reason_against(name: str, template: str, classes: Mapping[str, int], seen: Mapping[str, int]) -> str | None:
    """Why an entry is invalid, or None."""
    if not name or not template:
        return "expected an id and a template (in test answers: id;template)"
    # The id becomes part of a path.
    if not PLAIN_NAME.fullmatch(name):
        return f"the id {name!r} is not the name of a video"
    if name in seen:
        return f"video {name!r} is already listed in line {seen[name]}"
    if _plain(template) not in classes:
        return (
            f"unknown template {template!r}, expected one of the labels{suggestion(_plain(template), tuple(classes))}"
        )
    return None
