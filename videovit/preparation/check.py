"""Is a prepared data set whole? Opens every file, and lists what is missing, unreadable, mislabelled or duplicated.

Files are opened in several processes, and videos decoded in helpers of those (`decode.limited`), so that a decoder
that hangs or crashes costs one file and not the check.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import simplejson
from tqdm import tqdm

from videovit.data.decode import DecodeError, open_video
from videovit.data.decode.protocol import DEFAULTS

HEAD = 1 << 16  # bytes read at either end of a file to compare contents
SYNSET = re.compile(r"(n\d{8})_")
KINDS = ("bad row", "missing", "unreadable", "mislabelled", "duplicate")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a data set.

    Attributes:
        path: the file, or a folder of frames.
        split: train, val or test.
        label: name of its class, or "" where a file has none or several.
        place: where it is listed, e.g. "train.csv:12"; "" for files found in folders.
        clip: what is shown, where the name of the file says so (an id, perhaps with times).
        latest_s: the latest time that is said about a video file, in seconds; it has to lie inside.
        num_frames: how many images a folder of frames has to hold.
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
    """Something wrong; `kind` is one of KINDS."""

    kind: str
    path: str
    detail: str
    split: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What opening a file showed: why it cannot be read ("": it can), a fingerprint of its content, its length."""

    error: str
    fingerprint: str = ""
    num_frames: int = 0
    duration_s: float = 0.0


def look_at(path: str, *, backend: str, timeout_s: float) -> Look:
    """Open a file and decode its first, middle and last frame.

    Args:
        path: a file, or a folder of frames.
        backend: the decoder; "image" for images.
        timeout_s: seconds a video may take; 0 for no limit.
    """
    try:
        with open_video(path, backend, replace(DEFAULTS, timeout_s=timeout_s, timeout_name="--timeout")) as video:
            num_frames, fps = video.num_frames, video.fps
            last = num_frames - 1
            video.frames(np.unique([0, last // 2, last]))
    except DecodeError as error:
        return Look(error.reason)
    return Look("", fingerprint(path), num_frames, num_frames / fps)


def fingerprint(path: str) -> str:
    """A cheap mark of a file's content: its size, and a hash of its first and last 64 KiB; "" for a folder.

    Files that differ in neither are taken for copies; nobody has to read terabytes for that.
    """
    if os.path.isdir(path):
        return ""
    with open(path, "rb") as file:
        digest = hashlib.blake2b(file.read(HEAD), digest_size=12)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(HEAD, size - HEAD))
        digest.update(file.read(HEAD))
    return f"{size}-{digest.hexdigest()}"


def look_at_all(paths: Sequence[str], *, backend: str, workers: int, timeout_s: float, quiet: bool) -> Iterator[Look]:
    """`look_at` for every path, in their order, with a progress bar."""
    one = partial(look_at, backend=backend, timeout_s=timeout_s)
    bar = tqdm(total=len(paths), desc="opening files", unit="file", disable=quiet, mininterval=1.0)
    with bar, ProcessPoolExecutor(max(1, workers)) as pool:
        for look in pool.map(one, paths, chunksize=8):
            bar.update()
            yield look


def check_entries(
    entries: Sequence[Entry],
    *,
    classes: Iterable[str] = (),
    backend: str = "decord",
    workers: int = 2,
    timeout_s: float = 60.0,
    quiet: bool = False,
) -> list[Finding]:
    """Look at all files of a data set.

    Args:
        entries: what is listed.
        classes: names of all classes; a file in a folder called like another class than its own is mislabelled.
        backend: the decoder; "frames" for folders of images, "image" for images.
        workers: processes.
        timeout_s: seconds a video may take.
        quiet: no progress bar.

    Returns:
        What was found, in the order of KINDS and of the entries.
    """
    missing = [entry for entry in entries if not os.path.exists(entry.path)]
    findings = [_finding("missing", entry, "no such file") for entry in missing]
    paths = list(dict.fromkeys(entry.path for entry in entries if os.path.exists(entry.path)))
    looks = dict(
        zip(
            paths,
            look_at_all(paths, backend=backend, workers=workers, timeout_s=timeout_s, quiet=quiet),
            strict=True,
        )
    )
    for entry in entries:
        if entry.path in looks:
            findings += judge(entry, looks[entry.path])
    findings += find_mislabelled(entries, classes)
    findings += find_duplicates(entries, {path: look.fingerprint for path, look in looks.items()})
    return sorted(findings, key=lambda finding: KINDS.index(finding.kind))


def judge(entry: Entry, look: Look) -> Iterator[Finding]:
    """What a look at a file says against its entry."""
    if look.error:
        yield _finding("unreadable", entry, look.error)
    elif entry.num_frames is not None and look.num_frames != entry.num_frames:
        yield _finding("missing", entry, f"found {look.num_frames} images, the list names {entry.num_frames}")
    elif not os.path.isdir(entry.path) and entry.latest_s > look.duration_s:
        text = f"something is said about second {entry.latest_s:g}, and the video ends at {look.duration_s:.4g}"
        yield _finding("mislabelled", entry, text)


def plain_name(text: str) -> str:
    """A class name without what differs between copies of a data set: case, and underscores for spaces."""
    return " ".join(text.replace("_", " ").lower().split())


def find_mislabelled(entries: Iterable[Entry], classes: Iterable[str]) -> Iterator[Finding]:
    """Files whose folder, or the synset that begins their name, is a class, and not theirs."""
    known = {plain_name(name): name for name in classes}
    for entry in entries:
        if not entry.label:
            continue
        synset = SYNSET.match(os.path.basename(entry.path))
        folder = os.path.basename(os.path.dirname(entry.path))
        for said, where in ((folder, "its folder"), (synset[1] if synset else "", "its name")):
            named = known.get(plain_name(said), "")
            if named and plain_name(named) != plain_name(entry.label):
                yield _finding("mislabelled", entry, f"listed as {entry.label!r}, {where} says {named!r}")


def find_duplicates(entries: Iterable[Entry], fingerprints: dict[str, str]) -> Iterator[Finding]:
    """Entries that repeat an earlier one: its path, what its name says it shows, or its content.

    One with another class than the earlier one is mislabelled besides: one of the two is wrong.
    """
    first: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        keys = [("the same file", os.path.realpath(entry.path))]
        if entry.clip:
            keys.append(("the same clip", entry.clip))
        if fingerprints.get(entry.path):
            keys.append(("the same content", fingerprints[entry.path]))
        earlier = next(((key, first[key]) for key in keys if key in first), None)
        for key in keys:
            first.setdefault(key, entry)
        if earlier is None:
            continue
        (what, _), other = earlier
        where = f"{other.path} ({other.place or other.split})"
        if other.label != entry.label:
            text = f"listed as {entry.label!r}, but {what} as {where}, which is {other.label!r}"
            yield _finding("mislabelled", entry, text)
        across = f", in {other.split} and {entry.split}" if other.split != entry.split else ""
        yield _finding("duplicate", entry, f"{what} as {where}{across}")


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
        writer.writerows(asdict(finding) for finding in findings)


def summary(findings: Sequence[Finding], num_entries: int, *, most: int = 20) -> str:
    """How many of each kind, and the first of them, a line each."""
    counts = Counter(finding.kind for finding in findings)
    lines = [
        f"{finding.kind}: {finding.place + ': ' if finding.place else ''}{finding.path}: {finding.detail}"
        for finding in findings[:most]
    ]
    if len(findings) > most:
        lines.append(f"... and {len(findings) - most} more")
    found = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return "\n".join([*lines, f"{num_entries} entries checked: {found or 'nothing wrong'}"])
