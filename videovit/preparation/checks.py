"""Checks of a prepared data set: files that are missing, unreadable, mislabeled or duplicated.

Files are opened in several processes, and videos are decoded in their helper processes (`decode.time_limit`), so that a
decoder that hangs or crashes loses one file and not the whole check.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import simplejson
from tqdm import tqdm

from videovit.data.decode import DecodeError, DecodeOptions, open_video
from videovit.data.decode.protocol import MOST_ELONGATED
from videovit.data.files import listed_paths
from videovit.data.files.annotation_files import read_lines
from videovit.data.readers import kinetics
from videovit.data.records import Sample
from videovit.messages import plural, printable, table_cell
from videovit.preparation.lists import lists_in

HEAD = 1 << 16  # bytes at each end of a file that are compared
# ImageNet's training images are named after their synset.
SYNSET = re.compile(r"(n\d{8})_")
# In the order of the report.
KINDS = ("bad row", "missing", "unreadable", "mislabeled", "duplicate")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a data set.

    Attributes:
        path: the file, or a folder of frames.
        split: train, val or test.
        label: name of its class; empty if it has none or several.
        place: where it is listed, for example "train.csv:12"; empty for files found in folders.
        clip: id of the content according to the file name, possibly with times; empty if unknown.
        latest_s: latest annotated time in seconds, which must be inside the video.
        num_frames: number of images that a folder of frames must hold.
    """

    path: str
    split: str
    label: str = ""
    place: str = ""
    clip: str = ""
    latest_s: float = 0.0
    num_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem; `kind` is one of KINDS."""

    kind: str
    path: str
    detail: str
    split: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Result of opening a file: why it is unreadable (empty if it is not), fingerprint of its content, and its end."""

    error: str
    fingerprint: str = ""
    num_frames: int = 0
    end_s: float = 0.0


def inspect_file(path: str, *, backend: str, timeout_s: float) -> Inspection:
    """Open a file and decode its first, middle and last frame.

    Args:
        path: a file, or a folder of frames.
        backend: the decoder; "image" for images.
        timeout_s: time limit per video in seconds; 0 disables.
    """
    limits = DecodeOptions(max_elongation=MOST_ELONGATED, timeout_s=timeout_s, timeout_name="--timeout")
    try:
        with open_video(path, backend, limits) as video:
            num_frames = video.num_frames
            # In player time, in which labels are.
            end_s = video.start_s + num_frames / video.fps
            last = num_frames - 1
            # Truncated files open, but their last frames are missing.
            video.frames(np.unique([0, last // 2, last]))
    except DecodeError as error:
        return Inspection(error.reason)
    return Inspection("", fingerprint(path), num_frames, end_s)


def fingerprint(path: str) -> str:
    """A cheap fingerprint of a file: its size and a hash of its first and last 64 KiB; empty for a folder.

    Files with the same fingerprint count as copies, which avoids reading terabytes.
    """
    # Hashing all images would cost as much as decoding them.
    if os.path.isdir(path):
        return ""
    with open(path, "rb") as file:
        # The header and the index of a video are at its ends.
        digest = hashlib.blake2b(file.read(HEAD), digest_size=12)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(HEAD, size - HEAD))
        digest.update(file.read(HEAD))
    return f"{size}-{digest.hexdigest()}"


def inspect_files(
    paths: Sequence[str], *, backend: str, workers: int, timeout_s: float, quiet: bool
) -> Iterator[Inspection]:
    """`inspect_file` for every path, in order, with a progress bar."""
    one = partial(inspect_file, backend=backend, timeout_s=timeout_s)
    bar = tqdm(total=len(paths), desc="opening files", unit="file", disable=quiet, mininterval=1.0)
    with bar, ProcessPoolExecutor(max(1, workers)) as pool:
        # Chunks reduce the cost of communication; results keep the order of paths.
        for inspection in pool.map(one, paths, chunksize=8):
            bar.update()
            yield inspection


def check_entries(
    entries: Sequence[Entry],
    *,
    classes: Iterable[str] = (),
    backend: str = "decord",
    workers: int = 2,
    timeout_s: float = 60.0,
    quiet: bool = False,
) -> list[Finding]:
    """Open and check all files of a data set.

    Args:
        entries: the files.
        classes: names of all classes. A file in a folder named after another class is mislabeled.
        backend: the decoder; "frames" for folders of images, "image" for images.
        workers: number of processes.
        timeout_s: time limit per video in seconds.
        quiet: hide the progress bar.

    Returns:
        The findings, sorted by KINDS, then in the order of the entries.
    """
    missing = [entry for entry in entries if not os.path.exists(entry.path)]
    findings = [_finding("missing", entry, "no such file") for entry in missing]
    # A file that is listed twice is opened once.
    paths = list(dict.fromkeys(entry.path for entry in entries if os.path.exists(entry.path)))
    inspections = dict(
        zip(
            paths,
            inspect_files(paths, backend=backend, workers=workers, timeout_s=timeout_s, quiet=quiet),
            strict=True,
        )
    )
    for entry in entries:
        if entry.path in inspections:
            findings += compare(entry, inspections[entry.path])
    findings += find_mislabeled(entries, classes)
    findings += find_duplicates(entries, {path: inspection.fingerprint for path, inspection in inspections.items()})
    return sorted(findings, key=lambda finding: KINDS.index(finding.kind))


def compare(entry: Entry, inspection: Inspection) -> Iterator[Finding]:
    """Findings of one entry, from the result of opening its file."""
    if inspection.error:
        yield _finding("unreadable", entry, inspection.error)
    elif entry.num_frames is not None and inspection.num_frames != entry.num_frames:
        yield _finding(
            "missing", entry, f"found {plural(inspection.num_frames, 'image')}, but the list states {entry.num_frames}"
        )
    # Folders of images do not know their frame rate, and so their duration.
    elif not os.path.isdir(entry.path) and entry.latest_s > inspection.end_s:
        text = f"annotated at {entry.latest_s:g} s, but the video ends at {inspection.end_s:.4g} s"
        yield _finding("mislabeled", entry, text)


def plain_name(text: str) -> str:
    """A class name without the differences between copies of a data set: case, and underscores for spaces."""
    return " ".join(text.replace("_", " ").lower().split())


def find_mislabeled(entries: Iterable[Entry], classes: Iterable[str]) -> Iterator[Finding]:
    """Files whose folder, or the synset at the start of their name, is a class other than theirs."""
    known = {plain_name(name): name for name in classes}
    for entry in entries:
        if not entry.label:
            continue
        # Folder and file name are independent evidence.
        synset = SYNSET.match(os.path.basename(entry.path))
        folder = os.path.basename(os.path.dirname(entry.path))
        for name, where in ((folder, "its folder is"), (synset[1] if synset else "", "its name starts with")):
            named = known.get(plain_name(name), "")
            if named and plain_name(named) != plain_name(entry.label):
                yield _finding("mislabeled", entry, f"listed as {entry.label!r}, but {where} {named!r}")


def find_duplicates(entries: Iterable[Entry], fingerprints: dict[str, str]) -> Iterator[Finding]:
    """Entries that repeat an earlier one: the same path, the same clip by name, or the same content.

    If their classes differ, the entry is mislabeled, too: one of the two must be wrong.
    """
    first: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        keys = [("the same file", os.path.realpath(entry.path))]
        if entry.clip:
            keys.append(("the same clip", entry.clip))
        if fingerprints.get(entry.path):
            keys.append(("the same content", fingerprints[entry.path]))
        # The strongest evidence first: path, name, content.
        earlier = next(((key, first[key]) for key in keys if key in first), None)
        for key in keys:
            first.setdefault(key, entry)
        if earlier is None:
            continue
        (what, _), other = earlier
        where = f"{other.path} ({other.place or other.split})"
        # At least one of the two labels must be wrong.
        if other.label != entry.label:
            text = f"listed as {entry.label!r}, but {what} as {where}, which is {other.label!r}"
            yield _finding("mislabeled", entry, text)
        # A copy in another split leaks test videos into training.
        across = f", in {other.split} and {entry.split}" if other.split != entry.split else ""
        yield _finding("duplicate", entry, f"{what} as {where}{across}")


def entries_of_lists(
    folder: Path,
    *,
    classes: Mapping[str, int],
    prefix: str = "",
    separator: str = " ",
    skip_rows: int = 0,
    several: bool = False,
    clip_of: Callable[[str], str] = lambda path: "",
) -> tuple[list[Entry], list[Finding]]:
    """The entries of the lists in a folder, and findings about their bad rows.

    Args:
        folder: folder of the lists train.csv, val.csv and test.csv, of which at least one must exist.
        classes: name -> number.
        prefix: DATA.PATH_PREFIX.
        separator, skip_rows: DATA.PATH_LABEL_SEPARATOR and DATA.SKIP_ROWS.
        several: videos have any number of classes (the data set `multilabel`).
        clip_of: path -> `Entry.clip`.

    Raises:
        AnnotationError: there is no list, or one is not UTF-8.
    """
    names = {number: name for name, number in classes.items()}
    entries: list[Entry] = []
    bad: list[Finding] = []
    folders = listed_paths.Folders()
    for file in lists_in(folder):
        lines = read_lines(file)
        rows, problems = kinetics.parse_rows(
            lines, num_classes=len(classes), separator=separator, skip=skip_rows, several=several
        )
        if prefix:
            leads_out = [(row, listed_paths.leads_out(row.path, prefix, folders)) for row in rows]
            problems += [(row.number, row.path, why) for row, why in leads_out if why is not None]
            rows = [row for row, why in leads_out if why is None]
        bad += [Finding("bad row", text, why, file.stem, f"{file.name}:{number}") for number, text, why in problems]
        for row in rows:
            # The label of one video of several classes says nothing about its folder.
            label = "" if several else names[row.labels[0]]
            path = os.path.join(prefix, row.path) if prefix else row.path
            # As the reader resolves them.
            path = path if prefix else listed_paths.relative_to_either(path, str(folder), folders)
            entries.append(Entry(path, file.stem, label, f"{file.name}:{row.number}", clip_of(path)))
    return entries, bad


def entries_of_samples(samples: Sequence[Sample], split: str, names: Sequence[str]) -> list[Entry]:
    """The entries of a reader's samples, whose files are named after their videos.

    Args:
        samples: samples of the reader.
        split: their split.
        names: name of every class.
    """
    return [
        Entry(
            sample.path,
            split,
            names[sample.label] if sample.actions is None else "",
            clip=Path(sample.path).stem,
            latest_s=max((action.start_s for action in sample.actions or ()), default=0.0),
            num_frames=sample.num_frames,
        )
        for sample in samples
    ]


def _finding(kind: str, entry: Entry, detail: str) -> Finding:
    return Finding(kind, entry.path, detail, entry.split, entry.place)


def write_report(file: Path, findings: Sequence[Finding]) -> None:
    """Write findings as .json, or as CSV under any other name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(simplejson.dumps([asdict(finding) for finding in findings], indent=1) + "\n", encoding="utf-8")
        return
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, [field.name for field in fields(Finding)])
        writer.writeheader()
        writer.writerows({name: table_cell(v) for name, v in asdict(finding).items()} for finding in findings)


def summary(findings: Sequence[Finding], num_entries: int, *, most: int = 20) -> str:
    """The number of findings of each kind, and the first of them, one per line."""
    counts = Counter(finding.kind for finding in findings)
    lines = [
        printable(f"{finding.kind}: {finding.place + ': ' if finding.place else ''}{finding.path}: {finding.detail}")
        for finding in findings[:most]
    ]
    if len(findings) > most:
        lines.append(f"... and {len(findings) - most} more")
    found = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return "\n".join([*lines, f"{plural(num_entries, 'entry', 'entries')} checked: {found or 'no problems'}"])
