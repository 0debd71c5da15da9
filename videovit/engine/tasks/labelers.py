"""What labels the windows of videos and streams: a classifier of whole frames here, or of people (`people`)."""

from __future__ import annotations

from typing import Protocol

from videovit.data.decode import DecodeOptions
from videovit.engine.evaluation.windows import Clip, WindowReader
from videovit.engine.reporting.log import format_table
from videovit.engine.tasks.labels import Labels, VideoLabels
from videovit.engine.tasks.predict import Predictor
from videovit.engine.tasks.prediction import Prediction, Ranked, format_prediction
from videovit.messages import printable


class Labeler(Protocol):
    """Labels windows."""

    @property
    def reader(self) -> WindowReader:
        """Cuts videos and streams into windows."""

    @property
    def decoding(self) -> DecodeOptions:
        """Limits of the decoder."""

    def predict(self, path: str, *, quiet: bool = False) -> VideoLabels:
        """Label a video file, folder of frames, or image.

        Raises:
            DecodeError: it cannot be read.
            UserError: scores are not finite.
        """

    def label(self, clip: Clip, name: str) -> Labels:
        """Label a clip of `reader`; `name` is that of the video, for messages."""


class ClassLabeler:
    """Labels whole frames.

    Args:
        predictor: scores them.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @property
    def reader(self) -> WindowReader:
        """See `Labeler`."""
        return self._predictor.reader

    @property
    def decoding(self) -> DecodeOptions:
        """See `Labeler`."""
        return self._predictor.decoding

    def predict(self, path: str, *, quiet: bool = False) -> VideoLabels:
        """See `Labeler`."""
        found = self._predictor.predict(path, quiet=quiet)
        return VideoLabels(found.path, found.views, found.top, [Labels(*window) for window in found.windows])

    def label(self, clip: Clip, name: str) -> Labels:
        """See `Labeler`."""
        (window,) = self._predictor.scored(name, [clip], batch_size=1)
        return Labels(window.start_s, window.end_s, self._predictor.top(window.scores_K))


def format_video(video: VideoLabels, *, in_percent: bool) -> str:
    """Format a table for one video: its classes, or its people window by window.

    Args:
        video: the labels.
        in_percent: whether scores are shares of 1, rather than logits.
    """
    if all(window.people is None for window in video.windows):
        prediction = Prediction(video.path, video.top, [], video.views)
        return format_prediction(prediction, in_percent=in_percent)
    rows = [
        [
            f"{window.start_s:.1f} - {window.end_s:.1f}",
            number,
            f"{100 * person.score:.0f}",
            _listed(person.top, in_percent),
        ]
        for window in video.windows
        for number, person in enumerate(window.people or (), start=1)
    ]
    table = format_table(["window s", "person", "found %", "actions"], rows)
    return f"{printable(video.path)}  ({video.views})\n{table}"


def format_window(window: Labels, *, in_percent: bool) -> str:
    """Format one line for a window of a stream."""
    place = f"{window.start_s:8.1f} - {window.end_s:.1f} s"
    if window.people is None:
        return f"{place}  {_listed(window.top, in_percent)}"
    people = [f"person {n}: {_listed(person.top, in_percent)}" for n, person in enumerate(window.people, start=1)]
    return f"{place}  {'; '.join(people) or 'nobody'}"


def _listed(top: Ranked, in_percent: bool) -> str:
    shown = [
        f"{printable(name)} {100 * score:.1f} %" if in_percent else f"{printable(name)} {score:.2f}"
        for name, score in top
    ]
    return ", ".join(shown) or "outside of the crop"
