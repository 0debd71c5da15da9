"""The most similar videos: nearest neighbors among features that were written before, file by file.

R rows, D features.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videovit.analysis.drawing import draw_tiles
from videovit.config import Config, load_config
from videovit.data.build import build_decode_options
from videovit.data.catalog import find_dataset
from videovit.data.clock import clock_of
from videovit.data.decode import DecodeError, open_video
from videovit.engine.checkpoints.weights import build_seeded_model, load_weights_to_test
from videovit.engine.reporting.json_lines import replacing
from videovit.engine.tasks.feature_files import CONFIG, FeatureFolder, Record
from videovit.engine.tasks.feature_rows import Extractor
from videovit.engine.tasks.features import digest_of_weights
from videovit.engine.tasks.predict import Predictor
from videovit.errors import UserError
from videovit.messages import did_you_mean

Vector = NDArray[np.float32]
ROWS_AT_ONCE = 16_384  # compared at once; 50 MB of 768 features
TICKS_PER_S = 30.0  # of the clock that finds the frame of a moment


@dataclass(frozen=True)
class Match:
    """A video, and its window that is most similar.

    Attributes:
        path: the file.
        start_s, end_s: of the window, in seconds of player time.
        similarity: cosine of the angle between the features, 1 at most.
        video: its number in the index; -1 for a video that is not in it.
    """

    path: str
    start_s: float
    end_s: float
    similarity: float = 1.0
    video: int = -1

    def as_dict(self) -> dict[str, Any]:
        """As in the JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class Query:
    """What to search for.

    Attributes:
        match: the video itself.
        vector_D: its features.
    """

    match: Match
    vector_D: Vector


def open_features(folder: Path) -> FeatureFolder:
    """A folder of vectors.

    Raises:
        UserError: see `FeatureFolder`; or it holds maps.
    """
    found = FeatureFolder(folder)
    if len(found.row_shape) != 1:
        raise UserError(
            "holds maps, which are not compared", where=folder, hint="Compute vectors: videovit features --layer pooled"
        )
    return found


def find_query(features: FeatureFolder, name: str, at_s: float | None = None) -> Query:
    """The features of a video: those of the folder, if it is in it, otherwise those that its model computes.

    Args:
        features: the folder.
        name: number or path of a video in the index, or a file.
        at_s: a moment in player time; the window around it. None for the mean of all windows.

    Raises:
        DecodeError: the file cannot be read.
        UserError: there is neither such a video nor such a file.
    """
    near: list[str] = []
    for record in features.records():
        if name in (record["path"], str(record["video"])):
            return _query(record, features.rows_of(record).astype(np.float32), at_s)
        if Path(record["path"]).name == Path(name).name:
            near.append(record["path"])
    if not Path(name).exists():
        raise UserError(
            "neither a video of the index nor a file", where=name, near=near[0] if near else did_you_mean(name, near)
        )
    return _computed(features, name, at_s)


def _query(record: Record, rows_RD: Vector, at_s: float | None) -> Query:
    starts, ends = record["start_s"], record["end_s"]
    first, last, vector_D = 0, -1, rows_RD.mean(axis=0)
    if at_s is not None:
        first = last = int(np.argmin([abs((s + e) / 2 - at_s) for s, e in zip(starts, ends, strict=True)]))
        vector_D = rows_RD[first]
    return Query(Match(record["path"], starts[first], ends[last], video=record.get("video", -1)), vector_D)


def _computed(features: FeatureFolder, name: str, at_s: float | None) -> Query:
    cfg = load_config(features.folder / CONFIG)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_seeded_model(cfg, device)
    path = load_weights_to_test(cfg, model)
    if digest_of_weights(model) != features.settings.get("weights"):
        raise UserError("not the weights that the features were computed with", where=path)
    extractor = Extractor(cfg, Predictor(cfg, model, device, class_names=[""] * cfg.MODEL.NUM_CLASSES))
    (video,) = extractor.videos([(-1, name)])
    if video.error:
        raise DecodeError(name, video.error, "pyav")
    record = {"path": name, "start_s": video.start_s, "end_s": video.end_s}
    return _query(record, extractor.joined(video).numpy(), at_s)


def find_similar(features: FeatureFolder, query: Query, top: int) -> list[Match]:
    """The videos with the most similar windows, best first, without the video itself.

    In memory are the lines of one file of the folder, and `ROWS_AT_ONCE` of its rows.

    Args:
        features: the folder.
        query: what to search for.
        top: how many videos.

    Raises:
        UserError: a file is missing or damaged.
    """
    best: list[tuple[float, int, Match]] = []
    unit_D = query.vector_D / max(float(np.linalg.norm(query.vector_D)), 1e-12)
    for file, records in features.files():
        similarity_R = np.concatenate(list(_compared(features, file, records, unit_D)))
        start = 0
        for record in records:
            own = similarity_R[start : start + len(record["start_s"])]
            start += len(own)
            row = int(own.argmax())
            if record["video"] == query.match.video or (len(best) == top and own[row] <= best[0][0]):
                continue
            times = record["start_s"][row], record["end_s"][row]
            match = Match(record["path"], *times, float(own[row]), record["video"])
            # Of equal videos, the first of the list is better.
            heapq.heappush(best, (match.similarity, -match.video, match))
            if len(best) > top:
                heapq.heappop(best)
    return [match for _, _, match in sorted(best, reverse=True, key=lambda item: item[:2])]


def _compared(features: FeatureFolder, file: str, records: Sequence[Record], unit_D: Vector) -> Iterator[Vector]:
    """Cosines of all rows of a file, piece by piece."""
    total = sum(len(record["start_s"]) for record in records)
    for first in range(0, total, ROWS_AT_ONCE):
        rows_RD = features.rows(file, first, min(ROWS_AT_ONCE, total - first)).astype(np.float32)
        lengths_R = np.linalg.norm(rows_RD, axis=1)
        yield (rows_RD @ unit_D) / np.maximum(lengths_R, 1e-12)


def draw_similar(path: Path, features: FeatureFolder, query: Query, found: Sequence[Match]) -> None:
    """Draw a frame of the video, and of those that are similar to it, from the middle of their windows.

    Args:
        path: of the picture (.png, .jpg, .pdf).
        features: the folder.
        query: what was searched for.
        found: the similar videos.

    Raises:
        UserError: the picture cannot be written.
    """
    cfg = load_config(features.folder / CONFIG)
    matches = [query.match, *found]
    images = [_frame(cfg, match) for match in matches]
    titles = ["searched for", *(f"{match.similarity:.3f}" for match in found)]
    names = [f"{Path(match.path).name}, {match.start_s:.1f} s" for match in matches]
    with replacing(path) as partial:
        draw_tiles(images, list(zip(titles, names, strict=True))).savefig(partial, dpi=110)


def _frame(cfg: Config, match: Match) -> NDArray[np.uint8] | None:
    """The frame (H, W, 3) in the middle of a window; None if it cannot be read."""
    backend = "image" if find_dataset(cfg.TEST.DATASET).images else "pyav"
    try:
        with open_video(match.path, backend, build_decode_options(cfg)) as video:
            clock = clock_of(video, TICKS_PER_S)
            tick = round(((match.start_s + match.end_s) / 2 - clock.start_s) * clock.rate)
            ticks = np.array([min(max(tick, 0), clock.num_ticks - 1)])
            frame_HW3: NDArray[np.uint8] = video.frames(clock.frames(ticks))[0].numpy()
            return frame_HW3
    except DecodeError:
        return None
