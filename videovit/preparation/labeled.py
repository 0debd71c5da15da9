"""Own videos with their classes, from class folders or from a table, and which of them can be used."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from videovit.data.decode.image_backend import SUFFIXES
from videovit.data.files import listed_paths
from videovit.data.files.annotation_files import WHOLE_NUMBER
from videovit.data.files.folders import VIDEO_SUFFIXES, is_text, passed_over, split_files, suffix_of
from videovit.data.records import AnnotationError
from videovit.errors import UserError
from videovit.messages import did_you_mean_beside, plural
from videovit.preparation.checks import Finding, Inspection, fingerprint, inspect_files
from videovit.preparation.lists import read_table
from videovit.preparation.splits import SPLIT_NAMES, SPLITS
from videovit.preparation.trees import find_tree, is_divided

# What separates the classes of a video in a table: the first that occurs in the column.
CLASS_SEPARATORS = "|;,"


@dataclass(frozen=True, slots=True)
class LabeledVideo:
    """A video and its classes.

    Attributes:
        path: a file, or a folder of frames.
        labels: names of its classes; more than one only in multi-label data.
        split: train, val or test; empty if the split is not given.
        place: where it is listed, for example "my.csv:12"; empty for files found in folders.
    """

    path: str
    labels: tuple[str, ...]
    split: str = ""
    place: str = ""

    def left_out(self, kind: str, detail: str) -> Finding:
        """A finding about this video; `kind` is one of `checks.KINDS`."""
        return Finding(kind, self.path, detail, self.split, self.place)


@dataclass
class LabeledVideos:
    """Videos with their classes.

    Attributes:
        videos: in the order of the table, or sorted by path.
        left_out: what cannot be used, and why.
        images: the "videos" are still images.
        multi_label: a video may have several classes.
        notices: what else the user should know.
    """

    videos: list[LabeledVideo]
    left_out: list[Finding] = field(default_factory=list)
    images: bool = False
    multi_label: bool = False
    notices: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """Names of all classes that have a video: sorted, numbers by value."""
        names = {name for video in self.videos for name in video.labels}
        if all(WHOLE_NUMBER.fullmatch(name) for name in names):
            return sorted(names, key=lambda name: (int(name), name))
        return sorted(names)


def read_class_folders(folder: Path) -> LabeledVideos:
    """Read FOLDER/class/video.mp4, or FOLDER/train/class/video.mp4 and so on; images in place of videos are images.

    Raises:
        AnnotationError: no such folder, no videos, or class folders beside folders of splits.
    """
    if not folder.is_dir():
        raise AnnotationError("no such folder", where=folder, near=did_you_mean_beside(folder))
    paths, others = find_tree(folder)
    images = not paths
    if images:
        found, others = split_files(folder, SUFFIXES - VIDEO_SUFFIXES)
        paths = [Path(path).relative_to(folder) for path in found]
    divided = bool(paths) and is_divided(folder, paths)
    depth = 2 if divided else 1
    read = LabeledVideos([], images=images)
    for path in paths:
        name = class_name(path.parts[depth - 1])
        video = LabeledVideo(str(folder / path), (name,), _split(path.parts[0]) if divided else "")
        if len(path.parts) <= depth:
            read.left_out.append(video.left_out("bad row", "not in a class folder"))
        else:
            read.videos.append(video)
    if not read.videos:
        raise AnnotationError(
            f"no videos in class folders{f'; {passed_over(folder, others)}' if others else ''}",
            where=folder,
            expected="FOLDER/class/video.mp4, or FOLDER/train/class/video.mp4 and so on; or a table (--table)",
        )
    if others:
        read.notices.append(passed_over(folder, others))
    known = {video.labels[0] for video in read.videos}
    parents = [folder] if not divided else [path for path in sorted(folder.iterdir()) if path.is_dir()]
    below = {class_name(path.name) for parent in parents for path in parent.iterdir() if path.is_dir()}
    read.notices += [
        f"the class folder {name!r} holds no {'images' if images else 'videos'}, so it is no class"
        for name in sorted(below - known)
        if not name.startswith(".")
    ]
    return read


def class_name(text: str) -> str:
    """A class as it is named here: é is one character, also where a file system or an editor wrote e and an accent."""
    return unicodedata.normalize("NFC", text)


def _rank(split: str) -> int:
    """Priority of splits: of copies, the one in the test is kept."""
    return SPLITS.index(split or "train")


def _split(name: str) -> str:
    return SPLIT_NAMES[name.lower()]


def read_labels_table(
    file: Path, *, path_column: str, label_column: str, split_column: str = "", multi_label: bool = False
) -> LabeledVideos:
    """Read a CSV or TSV file with a header and a row per video, or, with several classes, rows per video and class.

    Args:
        file: the table.
        path_column: of the paths; relative ones count from the folder of the table, then from the current one.
        label_column: of the classes: names or numbers.
        split_column: of train, val or test; empty for none.
        multi_label: a cell may hold several classes, separated by | or ; or a comma.

    Raises:
        AnnotationError: the table cannot be read, lacks a column, or has no row that can be used.
    """
    columns = [path_column, label_column, *([split_column] if split_column else [])]
    rows = read_table(file, columns, delimiters=",\t;")
    cells = [row[label_column] for _, row in rows]
    separator = next((mark for mark in CLASS_SEPARATORS if multi_label and any(mark in cell for cell in cells)), "")
    if separator:
        _refuse_mixed_separators(file, [(line, _classes_in(row[label_column], separator)) for line, row in rows])
    read, folders = LabeledVideos([], multi_label=multi_label), listed_paths.Folders()
    numbers: dict[str, int] = {}  # path -> its place in `videos`
    torn: set[str] = set()  # paths in several splits
    for line, row in rows:
        names = _classes_in(row[label_column], separator)
        path, split = row[path_column], row[split_column] if split_column else ""
        video = LabeledVideo(path, names, split, f"{file.name}:{line}")
        problem = _problem(video, multi_label=multi_label)
        if problem:
            read.left_out.append(video.left_out("bad row", problem))
            continue
        path = _locate(path, str(file.parent), folders)
        video = replace(video, path=path, split=_split(split) if split else "")
        if multi_label and path in numbers:  # one row per class
            before = read.videos[numbers[path]]
            labels = tuple(dict.fromkeys((*before.labels, *names)))
            torn |= {path} if before.split != video.split else set()
            read.videos[numbers[path]] = replace(before, labels=labels, split=max(before.split, video.split, key=_rank))
        else:
            numbers[path] = len(read.videos)
            read.videos.append(video)
    if not read.videos:
        reason = f"; the first row that cannot be used: {read.left_out[0].detail}" if read.left_out else ""
        raise AnnotationError(f"no videos listed below the header{reason}", where=file)
    if torn:
        read.notices.append(
            f"rows put {plural(len(torn), 'video')} into more than one split; "
            "test goes before val, and val before train"
        )
    images = {suffix_of(video.path) in SUFFIXES - VIDEO_SUFFIXES for video in read.videos}
    if len(images) > 1:
        raise AnnotationError("lists both videos and images", where=file, expected="one of the two")
    read.images = images.pop()
    return read


def _classes_in(cell: str, separator: str) -> tuple[str, ...]:
    """The classes in a cell; a separator that is empty separates nothing."""
    parts = cell.split(separator) if separator else [cell]
    return tuple(name for part in parts if (name := class_name(part.strip())))


def _refuse_mixed_separators(file: Path, cells: Sequence[tuple[int, tuple[str, ...]]]) -> None:
    """Refuse a class such as "sit, talk" if "sit" or "talk" is a class, too: the cell was written in another way.

    Args:
        file: the table.
        cells: line and classes of every row.

    Raises:
        AnnotationError: there is one.
    """
    known = {name for _, names in cells for name in names}
    for line, names in cells:
        for name in names:
            parts = {part.strip() for part in re.split(f"[{CLASS_SEPARATORS}]", name)} - {name}
            if parts & known:
                raise AnnotationError(
                    f"{name!r} would be one class, although {min(parts & known)!r} is a class by itself",
                    where=f"{file}:{line}",
                    expected="the same separator of classes in every row: | or ; or a comma",
                )


def _problem(video: LabeledVideo, *, multi_label: bool) -> str:
    """Why a row cannot be used; empty if it can."""
    if not video.path or "\0" in video.path:
        return "the path is empty" if not video.path else "the path contains a null character"
    if not video.labels and not multi_label:
        return "the row has no class"
    if video.split and video.split.lower() not in SPLIT_NAMES:
        return f"unknown split {video.split!r}, expected one of {', '.join(SPLITS)}"
    return ""


def _locate(path: str, root: str, folders: listed_paths.Folders) -> str:
    """The path beside the table if that exists, otherwise the path itself if that does; else beside the table."""
    beside = os.path.join(root, path)
    return path if not folders.has(beside) and folders.has(path) else beside


def leave_out_unusable(read: LabeledVideos, *, workers: int, timeout_s: float = 60.0, quiet: bool = False) -> None:
    """Open every video, and move those that cannot be used to `left_out`: unreadable ones, copies, contradictions.

    Args:
        read: is changed.
        workers: number of processes.
        timeout_s: time limit per video in seconds.
        quiet: hide the progress bar.
    """
    usable: list[LabeledVideo] = []
    for video in read.videos:
        if reason := _unlistable(video):
            read.left_out.append(video.left_out("bad row", reason))
        elif not os.path.exists(video.path):
            read.left_out.append(video.left_out("missing", "no such file"))
        else:
            usable.append(video)
    paths = list(dict.fromkeys(video.path for video in usable))
    backend = "image" if read.images else "decord"
    opened = inspect_files(paths, backend=backend, workers=workers, timeout_s=timeout_s, quiet=quiet)
    inspections = dict(zip(paths, opened, strict=True))
    for video in usable:
        if error := inspections[video.path].error:
            read.left_out.append(video.left_out("unreadable", error))
    readable = [video for video in usable if not inspections[video.path].error]
    kept, findings = _without_copies(readable, inspections)
    read.left_out += findings
    read.videos[:] = kept


def _unlistable(video: LabeledVideo) -> str:
    """Why a video cannot be written in a list; empty if it can."""
    if not (is_text(video.path) and all(map(is_text, video.labels))):
        return "the name of the file or of its folder is not UTF-8; rename it"
    return "the path contains a line break; rename it" if re.search(r"[\r\n]", video.path) else ""


def _without_copies(
    videos: Sequence[LabeledVideo], inspections: dict[str, Inspection]
) -> tuple[list[LabeledVideo], list[Finding]]:
    """One video of each content; none if the classes of its copies contradict each other."""
    groups: defaultdict[str, list[LabeledVideo]] = defaultdict(list)
    for key, video in zip(_contents([v.path for v in videos], inspections), videos, strict=True):
        groups[key].append(video)
    kept: list[LabeledVideo] = []
    findings: list[Finding] = []
    for group in groups.values():
        others = {frozenset(video.labels) for video in group}
        if len(others) > 1:
            shown = " and ".join(f"{v.path} is {', '.join(v.labels)!r}" for v in group[:3])
            findings += [v.left_out("mislabeled", f"the same content has different classes: {shown}") for v in group]
            continue
        first, *copies = sorted(group, key=lambda video: -_rank(video.split))
        kept.append(first)
        findings += [copy.left_out("duplicate", f"the same content as {first.path}") for copy in copies]
    order = {id(video): number for number, video in enumerate(videos)}
    return sorted(kept, key=lambda video: order[id(video)]), findings


def _contents(paths: Sequence[str], inspections: dict[str, Inspection]) -> list[str]:
    """A key per path; equal for files of equal content. Whole files are read only if their fingerprints agree."""
    cheap = [inspections[path].fingerprint or os.path.realpath(path) for path in paths]
    real: defaultdict[str, set[str]] = defaultdict(set)
    for path, key in zip(paths, cheap, strict=True):
        real[key].add(os.path.realpath(path))
    whole = {path: _digest(path) for same in real.values() if len(same) > 1 for path in same}
    return [key + whole.get(os.path.realpath(path), "") for path, key in zip(paths, cheap, strict=True)]


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def content_name(video: LabeledVideo) -> str:
    """A name of the video for the split: it stays when files are moved or renamed."""
    return fingerprint(video.path) or os.path.basename(video.path)


def check_number_of_classes(classes: Iterable[str]) -> None:
    """Refuse data with a single class.

    Raises:
        UserError: there is only one class.
    """
    names = list(classes)
    if len(names) < 2:
        raise UserError(
            f"{plural(len(names), 'class', 'classes')}: {', '.join(names)}" if names else "no class has a usable video",
            expected="at least two classes",
            hint="Add a folder (or rows) of other videos, for example of anything else",
        )
