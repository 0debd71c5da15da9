"""The data of a run: read, checked, divided, and written as ordinary lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from videovit.data.readers.kinetics import NO_CLASS
from videovit.errors import UserError
from videovit.finetuning.request import Request
from videovit.messages import plural, printable
from videovit.preparation.checks import summary, write_report
from videovit.preparation.labeled import (
    LabeledVideo,
    LabeledVideos,
    check_number_of_classes,
    content_name,
    leave_out_unusable,
    read_class_folders,
    read_labels_table,
)
from videovit.preparation.lists import listed_path, write_lists
from videovit.preparation.splits import SPLITS, stratified_split

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
FEW_VIDEOS = 100  # in the test; below it, the accuracy says little
UNEVEN = 5  # largest class / smallest class, above which a note is printed
Say = Callable[[str], None]
Divided = dict[str, list[LabeledVideo]]
"""Split -> its videos; splits without videos are left out."""


def read_videos(request: Request) -> LabeledVideos:
    """The videos of a request, none of them opened yet.

    Raises:
        UserError: the folder or table cannot be used.
    """
    if request.data:
        if request.multi_label:
            raise UserError("--multi-label needs a --table: in class folders, a video has one class")
        return read_class_folders(request.source)
    read = read_labels_table(
        request.source,
        path_column=request.path_column,
        label_column=request.label_column,
        split_column=request.split_column,
        multi_label=request.multi_label,
    )
    if read.images and read.multi_label:
        raise UserError("lists images, which have one class each", where=request.source, hint="Leave out --multi-label")
    return read


def prepare_data(read: LabeledVideos, folder: Path, *, seed: int, workers: int, quiet: bool, say: Say) -> Divided:
    """Leave out what cannot be used, divide the rest, and write lists and classes.json into a folder.

    Args:
        read: is changed.
        folder: of the lists.
        seed: of the division.
        workers: processes that open videos.
        quiet: no progress bar.
        say: prints a line.

    Raises:
        UserError: fewer than two classes, or no videos to train or to test on are left.
    """
    total = len(read.videos) + len(read.left_out)
    noun = "image" if read.images else "video"
    for notice in read.notices:
        say(f"note: {notice}")
    leave_out_unusable(read, workers=workers, quiet=quiet)
    folder.mkdir(parents=True, exist_ok=True)
    if read.left_out:
        report = folder / "left_out.csv"
        write_report(report, read.left_out)
        say(f"left out ({report}):\n{summary(read.left_out, total)}")
    classes = read.classes
    check_number_of_classes(classes)
    counts = Counter(name for video in read.videos for name in video.labels)
    say(f"{plural(len(read.videos), noun)} of {plural(len(classes), 'class', 'classes')}: {_listed(counts, classes)}")
    if max(counts.values()) >= UNEVEN * min(counts.values()):
        say(
            "note: the classes differ much in size; DATA.SAMPLER balanced shows small ones more often, "
            "MODEL.CLASS_WEIGHTS auto gives them more weight"
        )
    divided = divide(read.videos, seed=seed, say=say)
    numbers = {name: number for number, name in enumerate(classes)}
    rows: dict[str, list[tuple[str, int | str]]] = {
        split: [(listed_path(video.path, folder), _label(video, numbers, read.multi_label)) for video in videos]
        for split, videos in divided.items()
    }
    for split in set(SPLITS) - set(divided):  # of an earlier attempt
        (folder / f"{split}.csv").unlink(missing_ok=True)
    write_lists(folder, rows, classes)  # a list keeps names as they are, quotes included
    sizes = ", ".join(f"{split} {len(videos):,}" for split, videos in divided.items())
    say(f"lists: {sizes} {noun}s, in {folder}")
    if len(divided["test"]) < FEW_VIDEOS:
        say(f"note: {plural(len(divided['test']), f'test {noun}')}: a single video changes the accuracy a lot")
    return divided


def _label(video: LabeledVideo, numbers: dict[str, int], multi_label: bool) -> int | str:
    """The classes of a video as a list holds them."""
    return (
        ";".join(str(numbers[name]) for name in video.labels) or NO_CLASS if multi_label else numbers[video.labels[0]]
    )


def divide(videos: list[LabeledVideo], *, seed: int, say: Say) -> Divided:
    """Divide videos into train, val and test; given splits are kept, and missing ones are taken from train.

    Raises:
        UserError: there are no videos to train on, or none to test on.
    """
    given = {video.split for video in videos if video.split}
    divided: Divided = {split: [v for v in videos if v.split == split] for split in SPLITS}
    pool = [video for video in videos if video.split in ("", "train")]
    if not pool:
        raise UserError(f"the data have the splits {', '.join(sorted(given))}", expected="train among them")
    divided["train"] = pool
    shares = {split: share for split, share in SHARES.items() if split == "train" or not divided[split]}
    if len(shares) > 1:
        parts = stratified_split(list(map(content_name, pool)), [v.labels for v in pool], shares, seed)
        for split in shares:
            divided[split] = [video for video, part in zip(pool, parts, strict=True) if part == split]
        if given:
            say(f"note: no {' and no '.join(s for s in shares if s != 'train')} given; taken from train")
    if not divided["test"]:
        raise UserError(
            "every class has a single video, so nothing is left to test on", expected="at least two videos of a class"
        )
    if not divided["val"]:
        say("note: no class has three videos, so there is no validation, and the last epoch is tested, not the best")
    names = sorted({name for video in videos for name in video.labels})
    for split, members in divided.items():
        present = {name for video in members for name in video.labels}
        lacking = [name for name in names if name not in present]
        if lacking and members:
            said = "cannot be learned" if split == "train" else "has too few videos for every part"
            shown = ", ".join(map(printable, lacking[:10])) + (" ..." if len(lacking) > 10 else "")
            say(f"note: no {split} video of {shown}: {said}")
    return {split: members for split, members in divided.items() if members}


def _listed(counts: Counter[str], classes: list[str]) -> str:
    most = 20
    shown = ", ".join(f"{printable(name)} {counts[name]:,}" for name in classes[:most])
    return shown + (f" and {len(classes) - most} more" if len(classes) > most else "")


def cpu_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
