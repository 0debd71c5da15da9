"""The videos or images that a command is given by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videovit.config import Config
from videovit.data.catalog import find_dataset
from videovit.data.decode.image_backend import SUFFIXES, images_in
from videovit.data.files.folders import VIDEO_SUFFIXES, files_below, split_files
from videovit.data.files.video_files import LIST_SUFFIXES, find_videos
from videovit.errors import UserError
from videovit.messages import plural, printable


def list_inputs(cfg: Config, names: Sequence[str], *, people: bool = False) -> list[str]:
    """Expand folders: a folder is a video of frames, or all videos below it; for a model of images, all its images.

    Args:
        cfg: of the model.
        names: files and folders.
        people: the boxes of people are found in the videos, so that the model may be a detector.

    Raises:
        UserError: a folder holds nothing to predict, or the model is a detector.
    """
    if not people:
        refuse_detector(cfg)
    of_images = find_dataset(cfg.TEST.DATASET).images
    found: list[str] = []
    for name in names:
        if not Path(name).is_dir():
            inside = [name]
        elif of_images:
            inside = files_below(name, SUFFIXES)
        else:
            inside = _frames_or_videos(name)
        if not inside:
            other = f", and TEST.DATASET {cfg.TEST.DATASET} is about images" if of_images else " and without videos"
            raise UserError(f"a folder without images{other}", where=name)
        found += inside
    return found


def _frames_or_videos(folder: str) -> list[str]:
    """The folder itself if it holds the frames of a video, else the videos below it; a UserError if it holds both."""
    frames, (videos, _) = images_in(folder), split_files(folder, VIDEO_SUFFIXES)
    if frames and videos:  # a cover picture must not stand for the videos beside it
        what = f"holds {plural(len(frames), 'image')} and {plural(len(videos), 'video')}"
        hint = f"Name the videos themselves, such as {printable(folder)}/*{Path(videos[0]).suffix}"
        raise UserError(what, where=folder, expected="one or the other: the frames of a video, or videos", hint=hint)
    return [folder] if frames else files_below(folder, VIDEO_SUFFIXES)


def refuse_detector(cfg: Config) -> None:
    """Refuse the config of a model that classifies boxes.

    Raises:
        UserError: it is one.
    """
    if cfg.DETECTION.ENABLE:
        raise UserError(
            "prediction classifies whole videos, but a detector needs the boxes of people",
            where="DETECTION.ENABLE",
            hint="videovit predict --people finds people; or list their boxes in a file of proposals "
            "(AVA.TEST_PREDICT_BOX_LISTS) and run the test, which writes detections.csv",
        )


def list_videos(cfg: Config, names: Sequence[str]) -> list[str]:
    """The videos, or images, in files, folders and lists, each once; see `list_inputs` and `find_videos`.

    Args:
        cfg: of the model. Paths in lists are relative to DATA.PATH_PREFIX; without it, to the current folder, then to
            the folder of the list.
        names: files, folders, and lists, which end in .csv, .txt, .lst or .tsv.

    Raises:
        UserError: a list cannot be read, there is nothing in it or in a folder, or the model is a detector.
    """
    found: dict[str, None] = {}
    for name in names:
        if Path(name).suffix.lower() in LIST_SUFFIXES and not Path(name).is_dir():
            found.update((video.path, None) for video in find_videos([name], prefix=cfg.DATA.PATH_PREFIX))
        else:
            found.update(dict.fromkeys(list_inputs(cfg, [name])))
    return list(found)
