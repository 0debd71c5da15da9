"""Prediction: the classes of any video file, array or stream, without a list, in constant memory.

Frames, crops and the ensemble of scores are those of the test of TEST.DATASET, except that clips lie back to back over
the whole video, where the test takes a fixed number of them:

    kinetics    windows of NUM_FRAMES * SAMPLING_RATE frames, mean of softmax scores
    charades    windows of frames SAMPLING_RATE apart, highest sigmoid score per class
    ssv2        one clip of the whole video
    imagenet    one image; of a folder, each of its images

W windows, V crops of a window, N videos, T frames, H W pixels, S side of a crop, C channels, D features, K classes.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from videovit.config import Config
from videovit.data.build import build_decode_options
from videovit.data.catalog import find_dataset
from videovit.data.decode import DecodeError, Video, open_video
from videovit.data.decode.array import Frames, open_array
from videovit.engine.checkpoints.weights import test_dtype
from videovit.engine.evaluation.inference import Inference
from videovit.engine.evaluation.windows import Clip, build_window_reader, window_starts
from videovit.engine.exported.network import ExportedNetwork
from videovit.engine.problem import Problem
from videovit.engine.tasks.inputs import list_inputs, refuse_detector
from videovit.engine.tasks.prediction import Prediction, Ranked, format_prediction
from videovit.errors import UserError
from videovit.messages import plural, printable
from videovit.models.contract import Features, VideoModel

__all__ = ["Input", "Prediction", "Predictor", "Window", "format_prediction", "list_inputs", "window_starts"]

Join = Callable[[Tensor], Tensor]
JOINS: dict[str, tuple[Join, str]] = {
    "sum": (lambda scores_VK: scores_VK.mean(dim=0), "mean score"),
    "max": (lambda scores_VK: scores_VK.amax(dim=0), "highest score of each class"),
}
"""DATA.ENSEMBLE_METHOD -> what joins the scores of V views, (V, K) to (K,), and its description."""

Input = str | os.PathLike[str] | Frames
"""A video or image file, a folder of frames, or frames in memory, uint8 (T, H, W, 3)."""
MAX_LISTED = 3  # videos in a warning


class Window(NamedTuple):
    """A window of a video and its scores.

    Attributes:
        start_s, end_s: in seconds of player time.
        scores_K: (K,), joined over the crops, on the CPU.
    """

    start_s: float
    end_s: float
    scores_K: Tensor


@dataclasses.dataclass(frozen=True)
class Output:
    """What is computed from clips.

    Attributes:
        compute: input of the model (B, C, T, S, S) -> (B, D).
        join: (N, D) of crops or windows -> (D,).
    """

    compute: Callable[[Tensor], Tensor]
    join: Join


@dataclasses.dataclass
class Outcome:
    """What was computed from one input, window by window, or why it could not be read."""

    name: str
    windows: list[Window] = dataclasses.field(default_factory=list)
    error: DecodeError | None = None

    @property
    def values_WD(self) -> Tensor:
        """The values of all windows."""
        return torch.stack([window.scores_K for window in self.windows])


class Predictor:
    """Predicts the classes of videos; threads may share it.

    Args:
        cfg: the config that the model was trained with.
        model: trained, or an exported network; on `device`. Its weights must not change while it is in use, see
            `optimize_for_inference`.
        device: where it runs.
        class_names: of the K classes; None reads the file that the config names.

    Attributes:
        reader: cuts videos into windows.
        decoding: limits of the decoder.
        pooled: computes the features that the classifier reads.
        batch_size: windows that usually go through the model at once.

    Raises:
        AnnotationError: the file of class names cannot be used.
        UserError: the model is a detector.
    """

    def __init__(
        self,
        cfg: Config,
        model: VideoModel,
        device: torch.device,
        *,
        class_names: Sequence[str] | None = None,
    ) -> None:
        refuse_detector(cfg)
        problem = Problem(cfg)
        self._names = problem.class_names if class_names is None else list(class_names)
        self._activation = problem.activation
        self._top_k = cfg.PREDICT.TOP_K
        self.reader = build_window_reader(cfg)
        # An exported network prepares frames itself.
        preparation = _unprepared if isinstance(model, ExportedNetwork) else problem.preparation
        self._inference = Inference(model, preparation, device, dtype=test_dtype(cfg), engine=cfg.TEST.ENGINE)
        join, self._join_name = JOINS[cfg.DATA.ENSEMBLE_METHOD]
        self._scores, self.pooled = Output(self._score, join), Output(self._pool, JOINS["sum"][0])
        # A CPU is fastest with what its caches hold; a GPU takes as many clips as in the test.
        self.batch_size = 1 if device.type == "cpu" else max(1, cfg.TEST.BATCH_SIZE // self.reader.num_crops)
        # PyAV holds one window; decord reads ahead through the whole file (1.4 GB for one frame of a 30-minute movie).
        self._of_images = find_dataset(cfg.TEST.DATASET).images
        self._backend = "image" if self._of_images else "pyav"
        # A movie may take as long as it needs, window by window.
        self.decoding = dataclasses.replace(build_decode_options(cfg), each_request=True)

    # ----------------------------------------------------------------------------------------------------- one video

    def predict(
        self, video: Input, *, fps: float = 0.0, top_k: int = 0, batch_size: int = 0, quiet: bool = False
    ) -> Prediction:
        """Score all windows of a video and join them; few windows are in memory at a time, however long the video.

        Args:
            video: a file, a folder of frames, or frames in memory, uint8 (T, H, W, 3).
            fps: frame rate of frames in memory.
            top_k: classes to list; 0 for PREDICT.TOP_K.
            batch_size: see `windows`.
            quiet: show no progress bar.

        Raises:
            DecodeError: the file cannot be read.
            UserError: the scores are not finite, or the frames in memory cannot be used.
        """
        (outcome,) = self._run([video], self._scores, fps=fps, batch_size=batch_size, quiet=quiet)
        if outcome.error is not None:
            raise outcome.error
        return self._prediction(outcome, top_k)

    def predict_open(self, video: Video, name: str, *, top_k: int = 0) -> Prediction:
        """As `predict`, for a video that is open already and stays open."""
        return self._prediction(Outcome(name, list(self.windows(video, name))), top_k)

    def windows(self, video: Video, name: str = "video", *, batch_size: int = 0) -> Iterator[Window]:
        """The scores of all windows of an open video, in order; few windows are in memory at a time.

        Args:
            video: stays open.
            name: for messages.
            batch_size: windows that go through the model at once, each with all its crops; 0 chooses.

        Raises:
            DecodeError: a frame cannot be decoded.
            UserError: scores are not finite.
        """
        return self.scored(name, self.reader.clips(video), batch_size=batch_size)

    def stream(self, frames_HWC: Iterable[Frames], fps: float, name: str = "stream") -> Iterator[Window]:
        """The scores of the windows of a stream, each as soon as the last frame of the window is there.

        They are those of a file with the same frames. In memory are the crops of one window and one stride.

        Args:
            frames_HWC: frames at a constant rate, uint8 (H, W, 3), RGB.
            fps: frames per second.
            name: for messages.

        Raises:
            UserError: scores are not finite, a frame has another type or shape, or the model takes one clip of a whole
                video.
        """
        return self.scored(name, self.reader.stream(frames_HWC, fps), batch_size=1)

    def join(self, windows: Sequence[Window], name: str, *, top_k: int = 0) -> Prediction:
        """The prediction of a video from the scores of its windows.

        Args:
            windows: at least one.
            name: of the video.
            top_k: classes to list; 0 for PREDICT.TOP_K.
        """
        return self._prediction(Outcome(name, list(windows)), top_k)

    def top(self, scores_K: Tensor, k: int = 0) -> Ranked:
        """The best classes of the scores (K,); `k` 0 for PREDICT.TOP_K."""
        values, indices = scores_K.topk(min(k or self._top_k, len(scores_K)))
        return [(self._names[i], v) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]

    # ------------------------------------------------------------------------------------------------- several videos

    def predict_all(
        self, videos: Sequence[Input], *, fps: float = 0.0, top_k: int = 0, batch_size: int = 0
    ) -> list[Prediction]:
        """Predict several videos; windows of different videos share batches.

        Args:
            videos, fps, top_k: see `predict`.
            batch_size: see `windows`.

        Returns:
            One per video, in order. That of a video that cannot be read has an `error` instead of classes; a warning
            names the first ones.
        """
        outcomes = self._run(videos, self._scores, fps=fps, batch_size=batch_size)
        warn_of_unreadable(outcomes)
        return [
            self._prediction(one, top_k) if one.error is None else Prediction(one.name, [], [], error=str(one.error))
            for one in outcomes
        ]

    def features(
        self, videos: Sequence[Input], *, fps: float = 0.0, per_window: bool = False, batch_size: int = 0
    ) -> list[Tensor]:
        """The features that the classifier reads, pooled; see `pooled`.

        Args:
            videos, fps: see `predict`.
            per_window: do not average over the windows of a video.
            batch_size: see `windows`.

        Returns:
            One tensor per video, on the CPU: the mean over crops and windows (D,), or with `per_window` the means over
            crops (W, D). That of a video that cannot be read is NaN, or has no rows; a warning names the first ones.

        Raises:
            DecodeError: no video can be read.
            UserError: features are not finite.
        """
        outcomes = self._run(videos, self.pooled, fps=fps, batch_size=batch_size)
        readable = [one for one in outcomes if one.error is None]
        if not readable:
            raise next((one.error for one in outcomes if one.error), UserError("no videos"))
        warn_of_unreadable(outcomes)
        lost = torch.full_like(readable[0].values_WD[0], torch.nan)
        lost = lost.expand(0, -1) if per_window else lost
        join = (lambda values_WD: values_WD) if per_window else self.pooled.join
        return [join(one.values_WD) if one.error is None else lost.clone() for one in outcomes]

    def preprocess(self, frames_THWC: Frames, fps: float = 0.0) -> Tensor:
        """The input of the model for frames in memory, exactly as `predict` makes it.

        Args:
            frames_THWC: uint8 (T, H, W, 3), RGB.
            fps: frames per second.

        Returns:
            (W * V, C, T, S, S), the crops of the first window first, on the device.

        Raises:
            UserError: the frames cannot be used.
        """
        return torch.cat([x_VCTHW for _, x_VCTHW in self.prepared(frames_THWC, fps=fps)])

    def prepared(self, video: Input, *, fps: float = 0.0) -> Iterator[tuple[Clip, Tensor]]:
        """The clips of all windows of a video, each with the input of the model (V, C, T, S, S), on the device.

        Args:
            video, fps: see `predict`.

        Raises:
            DecodeError: the file cannot be read.
        """
        with self.open(video, fps, self._name(video, 0, 1)) as opened:
            for clip in self.reader.clips(opened):
                with torch.no_grad():
                    x_VCTHW = self._inference.prepared(clip.crops_VTSSC)
                yield clip, x_VCTHW

    # ----------------------------------------------------------------------------------------------------- computation

    def _run(
        self, videos: Sequence[Input], output: Output, *, fps: float = 0.0, batch_size: int = 0, quiet: bool = True
    ) -> list[Outcome]:
        outcomes = [Outcome(self._name(video, number, len(videos))) for number, video in enumerate(videos)]
        for source, outcome in zip(videos, outcomes, strict=True):
            if not isinstance(source, str | os.PathLike):
                self.open(source, fps, outcome.name)  # what is in memory is checked before anything is computed

        def clips() -> Iterator[tuple[Outcome, Clip]]:
            for source, outcome in zip(videos, outcomes, strict=True):
                try:
                    with self.open(source, fps, outcome.name) as video:
                        for clip in self.reader.clips(video, name=Path(outcome.name).name, quiet=quiet):
                            yield outcome, clip
                except DecodeError as error:
                    outcome.error = error

        for outcome, window in self._computed(clips(), output, batch_size):
            outcome.windows.append(window)
        return outcomes

    def scored(self, name: str, clips: Iterable[Clip], *, batch_size: int = 0) -> Iterator[Window]:
        """The scores of clips of `reader`, in order; see `windows`."""
        owner = Outcome(name)
        for _, window in self._computed(((owner, clip) for clip in clips), self._scores, batch_size):
            yield window

    def _computed(
        self, clips: Iterable[tuple[Outcome, Clip]], output: Output, batch_size: int
    ) -> Iterator[tuple[Outcome, Window]]:
        for group in _grouped(clips, batch_size or self.batch_size):
            values_WD = self.values([clip for _, clip in group], output)
            for (outcome, clip), values_D in zip(group, values_WD, strict=True):
                check_finite(values_D, outcome.name)
                yield outcome, Window(clip.start_s, clip.end_s, values_D)

    def values(self, clips: Sequence[Clip], output: Output) -> Tensor:
        """What the model makes of clips: (N, ...), joined over the crops of each, float32 on the CPU."""
        with self._inference.mode():
            crops_BTSSC = torch.cat([clip.crops_VTSSC for clip in clips])
            values_BD = output.compute(self._inference.prepared(crops_BTSSC)).float()
            joined = [output.join(views_VD) for views_VD in values_BD.reshape(len(clips), -1, *values_BD.shape[1:])]
        return torch.stack(joined).cpu().clone()

    def _score(self, x_BCTHW: Tensor) -> Tensor:
        return self._activation(self._inference.model(x_BCTHW))

    def _pool(self, x_BCTHW: Tensor) -> Tensor:
        return pooled(self.model.forward_features(x_BCTHW))

    def _prediction(self, outcome: Outcome, top_k: int) -> Prediction:
        values_WK = outcome.values_WD
        scores_K = self._scores.join(values_WK)
        windows = [(start_s, end_s, self.top(scores, top_k)) for start_s, end_s, scores in outcome.windows]
        views = f"{plural(len(windows), 'window')} x {plural(self.reader.num_crops, 'crop')}, {self._join_name}"
        return Prediction(outcome.name, self.top(scores_K, top_k), windows, views, scores_K, values_WK)

    @property
    def model(self) -> VideoModel:
        """The model in the form in which it runs."""
        return cast(VideoModel, self._inference.model)

    def open(self, source: Input, fps: float, name: str) -> Video:
        """Open a video; arguments and errors as in `predict`, `name` is for messages."""
        if isinstance(source, str | os.PathLike):
            return open_video(source, self._backend, self.decoding)
        if not isinstance(source, np.ndarray | Tensor):
            raise UserError(where=name, found=source, expected="a path, or frames in memory")
        if self._of_images:
            return self._open_image(source, name)
        if not fps:
            raise UserError("the frame rate of frames in memory is missing: fps=25, for example", where=name)
        return open_array(source, fps, name=name)

    def _open_image(self, source: Frames, name: str) -> Video:
        image_1HWC = source[None] if source.ndim == 3 else source
        if len(image_1HWC) != 1:
            hint = "Predict a list of images"
            raise UserError("a model of images", where=name, found=tuple(source.shape), expected="(H, W, 3)", hint=hint)
        return open_array(image_1HWC, self.decoding.frames_fps, name=name)  # as of a file

    @staticmethod
    def _name(source: Input, number: int, total: int) -> str:
        if isinstance(source, str | os.PathLike):
            return os.fspath(source)
        return "array" if total == 1 else f"array {number}"


def check_finite(values: Tensor, name: str) -> None:
    """Refuse values of a video that are not finite.

    Raises:
        UserError: they are not.
    """
    if not torch.isfinite(values).all():
        raise UserError("the model's scores are not finite: are the weights broken?", where=name)


def pooled(features: Features) -> Tensor:
    """One vector per clip (B, C): the class token, or the mean of class and distillation tokens; the mean of all other
    tokens if the model has none. Tokens are normalized first, as for the classifier."""
    tokens_BNC = features.tokens_BNC if features.cls_BXC is None else features.cls_BXC
    return tokens_BNC.mean(dim=1)


def warn_of_unreadable(outcomes: Sequence[Outcome]) -> None:
    """Warn of the videos that could not be read, if any."""
    errors = [one.error for one in outcomes if one.error is not None]
    if errors:
        warn_unread(errors, len(outcomes), "video")


def warn_unread(errors: Sequence[object], total: int, noun: str) -> None:
    """Warn that some of `total` files could not be read, naming the first errors."""
    listed = "; ".join(map(str, errors[:MAX_LISTED])) + ("; ..." if len(errors) > MAX_LISTED else "")
    warnings.warn(printable(f"{len(errors)} of {plural(total, noun)} could not be read: {listed}"), stacklevel=5)


def _unprepared(frames_BTHWC: Tensor, _: Tensor | None) -> Tensor:
    return frames_BTHWC


def _grouped(items: Iterable[tuple[Outcome, Clip]], size: int) -> Iterator[list[tuple[Outcome, Clip]]]:
    group: list[tuple[Outcome, Clip]] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
