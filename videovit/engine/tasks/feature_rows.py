"""From videos to rows of features: a row per video, per window of time, or per clip.

N clips, B crops of all clips, V crops of a clip, C channels, T H W frames, rows and columns of tokens, R rows, D
features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator

import torch
from torch import Tensor

from videovit.config import Config
from videovit.data.clock import Clock
from videovit.data.decode import DecodeError, Video
from videovit.engine.evaluation.read_ahead import read_ahead
from videovit.engine.evaluation.windows import Clip, Section, sections
from videovit.engine.tasks.predict import Output, Predictor, check_finite
from videovit.errors import UserError
from videovit.models.contract import VideoModel


@dataclasses.dataclass
class _Row:
    """A row in progress, and the values of its clips so far."""

    start_s: float
    end_s: float
    values: list[Tensor] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class VideoRows:
    """What was computed from a video.

    Attributes:
        number: of the video in the list.
        path: the file.
        fps: frame rate.
        error: why it could not be read; empty if it could.
        num_clips: clips that went through the model.
    """

    number: int
    path: str
    fps: float = 0.0
    error: str = ""
    num_clips: int = 0
    rows: list[_Row] = dataclasses.field(default_factory=list)

    @property
    def start_s(self) -> list[float]:
        """Start of each row, in seconds of player time."""
        return [row.start_s for row in self.rows]

    @property
    def end_s(self) -> list[float]:
        """End of each row, in seconds of player time."""
        return [row.end_s for row in self.rows]


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A clip on its way to the model; without one, the end of its video."""

    video: VideoRows
    row: int = 0
    clip: Clip | None = None


class Extractor:
    """Computes the rows of videos.

    Args:
        cfg: FEATURES says what is computed, DATA_LOADER.NUM_WORKERS how many videos are decoded at once.
        predictor: of the model.

    Attributes:
        row_shape: shape of a row: (D,), or (V, T, H, W, C) for maps.

    Raises:
        UserError: the model has no such stage, or windows cannot be cut.
    """

    def __init__(self, cfg: Config, predictor: Predictor) -> None:
        section = cfg.FEATURES
        if section.STRIDE_S and not section.WINDOW_S and predictor.reader.plan.target_fps is None:
            raise UserError(
                "this model takes one clip of a whole video; how long is a window?",
                where="FEATURES.STRIDE_S",
                hint="Set FEATURES.WINDOW_S, too",
            )
        if section.LAYER != "pooled" and cfg.TEST.ENGINE != "torch":
            raise UserError(
                "other engines compute no maps", where="TEST.ENGINE", found=cfg.TEST.ENGINE, expected="torch"
            )
        self._predictor, self._section, self._num_threads = predictor, section, cfg.DATA_LOADER.NUM_WORKERS
        self._is_map = section.LAYER != "pooled"
        self._by_clip = not section.WINDOW_S and bool(section.STRIDE_S or self._is_map)
        self._reader = predictor.reader
        if self._by_clip and section.STRIDE_S:
            self._reader = dataclasses.replace(self._reader, stride_s=section.STRIDE_S)
        self._output = _output_of(predictor, section.LAYER)
        size = cfg.DATA.TEST_CROP_SIZE
        crops = torch.zeros(predictor.reader.num_crops, cfg.DATA.NUM_FRAMES, size, size, 3, dtype=torch.uint8)
        self.row_shape = tuple(predictor.values([Clip(0.0, 0.0, crops)], self._output)[0].shape)

    @property
    def one_row(self) -> bool:
        """Whether each video has a single row."""
        return not (self._by_clip or self._section.WINDOW_S)

    def videos(self, jobs: Iterable[tuple[int, str]]) -> Iterator[VideoRows]:
        """The rows of videos, each when it is complete; their order may change.

        Args:
            jobs: number and path of each video.

        Raises:
            UserError: features are not finite, or a window takes more clips than a map may have.
        """
        pieces = read_ahead(jobs, self._read, num_threads=self._num_threads, room=2 * self._num_threads)
        waiting: list[tuple[_Piece, Clip]] = []
        ended: list[VideoRows] = []
        for piece in pieces:
            if piece.clip is None:
                ended.append(piece.video)
            else:
                waiting.append((piece, piece.clip))
            # A video that has ended may still have clips that wait for their batch.
            open_videos = {id(one.video) for one, _ in waiting}
            if len(waiting) == self._predictor.batch_size or len(ended) > self._num_threads:
                self._compute(waiting)
                waiting, open_videos = [], set()
            yield from (video for video in ended if id(video) not in open_videos)
            ended = [video for video in ended if id(video) in open_videos]
        self._compute(waiting)
        yield from ended

    def joined(self, video: VideoRows) -> Tensor:
        """The rows of a complete video: (R, D), or (R, V, T, H, W, C) for maps."""
        join = _first if self._is_map else self._output.join
        return torch.stack([join(torch.stack(row.values)) for row in video.rows])

    def _compute(self, waiting: list[tuple[_Piece, Clip]]) -> None:
        if not waiting:
            return
        values = self._predictor.values([clip for _, clip in waiting], self._output)
        for (piece, _), value in zip(waiting, values, strict=True):
            check_finite(value, piece.video.path)
            piece.video.rows[piece.row].values.append(value)
            piece.video.num_clips += 1

    def _read(self, job: tuple[int, str]) -> Generator[_Piece, None, None]:
        video = VideoRows(*job)
        try:
            with self._predictor.open(video.path, 0.0, video.path) as opened:
                video.fps = opened.fps
                for row, clip in self._clips(opened, video):
                    yield _Piece(video, row, clip)
        except DecodeError as error:
            video.error = error.reason
        yield _Piece(video)

    def _clips(self, opened: Video, video: VideoRows) -> Iterator[tuple[int, Clip]]:
        """The clips of all rows, each with the number of its row."""
        clock = self._reader.clock(opened)
        for section in sections(clock, self._section.WINDOW_S, self._section.STRIDE_S * bool(self._section.WINDOW_S)):
            self._check_map(clock, section)
            if not self._by_clip:
                video.rows.append(_Row(section.start_s, section.end_s))
            for clip in self._reader.section_clips(opened, clock, section):
                if self._by_clip:
                    video.rows.append(_Row(clip.start_s, clip.end_s))
                yield len(video.rows) - 1, clip

    def _check_map(self, clock: Clock, section: Section) -> None:
        if self._is_map and not self._by_clip and len(self._reader.starts(clock, section)) > 1:
            span_s = self._reader.plan.span(section.num_ticks, clock.rate) / clock.rate
            raise UserError(
                f"longer than a clip of this model ({span_s:.3f} s), and maps of several clips are not averaged",
                where="FEATURES.WINDOW_S",
                found=self._section.WINDOW_S,
                hint="FEATURES.STRIDE_S without a window gives the map of every clip",
            )


def _output_of(predictor: Predictor, layer: str) -> Output:
    if layer == "pooled":
        return predictor.pooled
    if layer == "tokens":
        return Output(lambda x_BCTHW: _tokens(predictor.model, x_BCTHW), _apart)
    number = int(layer.removeprefix("stage"))
    return Output(lambda x_BCTHW: _stage(predictor.model, x_BCTHW, number), _apart)


def _apart(crops_VTHWC: Tensor) -> Tensor:
    """Maps of several crops are not averaged: they show different places."""
    return crops_VTHWC


def _first(values_1VTHWC: Tensor) -> Tensor:
    return values_1VTHWC[0]


def _tokens(model: VideoModel, x_BCTHW: Tensor) -> Tensor:
    found = model.forward_features(x_BCTHW)
    return found.tokens_BNC.reshape(len(x_BCTHW), *found.grid, -1)


def _stage(model: VideoModel, x_BCTHW: Tensor, number: int) -> Tensor:
    maps = model.forward_stages(x_BCTHW)
    if number > len(maps):
        raise UserError(
            "no such stage in this model", where="FEATURES.LAYER", found=f"stage{number}", expected=f"1 to {len(maps)}"
        )
    return maps[number - 1].movedim(1, -1)
