"""Trained models in Python: predict, take features, explain, save."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from videovit.analysis.explain import DEFAULT_METHOD
from videovit.config import Config
from videovit.config.rules import changed
from videovit.config.schema.evaluation import EngineName
from videovit.data.decode import DecodeError
from videovit.data.decode.array import Frames
from videovit.data.decode.stream import is_stream, shown_name
from videovit.engine.checkpoints import hub
from videovit.engine.checkpoints.saved_model import save_model
from videovit.engine.evaluation.object_pictures import SURE
from videovit.engine.exported.engines import ENGINES
from videovit.engine.tasks.explain import Explanation, explain
from videovit.engine.tasks.explain_box import check_person, explain_box
from videovit.engine.tasks.find_objects import ObjectFinder, read_object_names
from videovit.engine.tasks.inputs import list_inputs
from videovit.engine.tasks.labels import Corners, VideoLabels
from videovit.engine.tasks.model_choices import (
    DTYPES,
    Dtype,
    check_class_names,
    check_counts,
    read_class_names,
    with_dtype,
)
from videovit.engine.tasks.object_prediction import ObjectPrediction
from videovit.engine.tasks.people import BoxPredictor, PeoplePredictor, PersonFinder, refuse_classifier
from videovit.engine.tasks.predict import Input, Prediction, Predictor, warn_unread
from videovit.errors import UserError
from videovit.messages import Plain, plural
from videovit.models import Detector
from videovit.models.contract import VideoModel

__all__ = ["Dtype", "Model", "ObjectModel"]


class Model:
    """A trained model; threads may share it.

    Args:
        cfg: the config that it was trained with.
        module: on its device. It is set to evaluation mode.
        class_names: of all classes; None reads the file that the config names.
        dtype: precision of prediction; None for the config's (TEST.MIXED_PRECISION).
        engine: what computes predictions and features, see `load`.

    Attributes:
        config: the config.
        torch: the module, for clips (B, C, T, H, W); it returns logits.
        class_names: the name of every class.

    Raises:
        UserError: the class names cannot be used, or `dtype` or `engine` is unknown.
    """

    def __init__(
        self,
        cfg: Config,
        module: VideoModel,
        class_names: Sequence[str] | None = None,
        *,
        dtype: Dtype | None = None,
        engine: EngineName | None = None,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise UserError(where="dtype", found=dtype, expected=f"one of {', '.join(DTYPES)}, or None")
        if engine is not None and engine not in ENGINES:
            raise UserError(where="engine", found=engine, expected=f"one of {', '.join(ENGINES)}, or None")
        names = check_class_names(read_class_names(cfg) if class_names is None else class_names, cfg.MODEL.NUM_CLASSES)
        self.config, self.torch, self.class_names = cfg, module.eval(), names
        self._dtype, self._engine = dtype, engine
        self._lock = threading.Lock()
        self._predictor: tuple[object, Predictor] | None = None

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.torch.parameters()).device

    @property
    def predictor(self) -> Predictor:
        """The predictor of open videos, windows and streams; made anew when weights have changed."""
        tensors = [*self.torch.parameters(), *self.torch.buffers()]
        weights = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        with self._lock:
            if self._predictor is None or self._predictor[0] != weights:
                cfg = with_dtype(self.config, self._dtype)
                if self._engine is not None:
                    cfg = changed(cfg, {"TEST.ENGINE": self._engine})
                self._predictor = weights, Predictor(cfg, self.torch, self.device, class_names=self.class_names)
            return self._predictor[1]

    @overload  # a str and an array are iterable, too
    def predict(  # type: ignore[overload-overlap]
        self, videos: Input, *, fps: float = ..., top_k: int = ..., batch_size: int = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self, videos: Iterable[Input], *, fps: float = ..., top_k: int = ..., batch_size: int = ...
    ) -> list[Prediction]: ...

    def predict(
        self, videos: Input | Iterable[Input], *, fps: float = 0.0, top_k: int = 0, batch_size: int = 0
    ) -> Prediction | list[Prediction]:
        """Classify videos, as `videovit predict` does.

        Args:
            videos: a file, a folder of frames, or frames in memory, uint8 (T, H, W, 3) in RGB; for a model of images an
                image file, or uint8 (H, W, 3). Or a list of these, in which a folder may also stand for the videos, or
                images, below it.
            fps: frame rate of frames in memory.
            top_k: classes to list; 0 for PREDICT.TOP_K, which is 5 by default.
            batch_size: windows that go through the model at once, each with all its crops; 0 chooses.

        Returns:
            The prediction; for a list a list of predictions in the same order. In a list, the prediction of a video
            that cannot be read has an `error` instead of classes, and a warning names the first ones.

        Raises:
            DecodeError: a single video cannot be read.
            UserError: frames in memory cannot be used, or scores are not finite.
        """
        check_counts(top_k=top_k, batch_size=batch_size)
        inputs, single = self._inputs(videos)
        if single:
            return self.predictor.predict(inputs[0], fps=fps, top_k=top_k, batch_size=batch_size, quiet=True)
        return self.predictor.predict_all(inputs, fps=fps, top_k=top_k, batch_size=batch_size)

    @overload  # a str and an array are iterable, too
    def features(  # type: ignore[overload-overlap]
        self, videos: Input, *, fps: float = ..., per_window: bool = ..., batch_size: int = ...
    ) -> Tensor: ...

    @overload
    def features(
        self, videos: Iterable[Input], *, fps: float = ..., per_window: bool = ..., batch_size: int = ...
    ) -> list[Tensor]: ...

    def features(
        self, videos: Input | Iterable[Input], *, fps: float = 0.0, per_window: bool = False, batch_size: int = 0
    ) -> Tensor | list[Tensor]:
        """The features that the classifier reads, as one vector per video or window.

        Of a clip, it is the class token after the last norm (with a distillation token, the mean of both); of a model
        without class token, the mean of all tokens. Vectors are averaged over the crops of a window, and over the
        windows of a video.

        Args:
            videos, fps, batch_size: see `predict`.
            per_window: do not average over the windows of a video.

        Returns:
            (D,), or with `per_window` (W, D), float32 on the CPU; for a list a list of these in the same order, which
            `torch.stack` makes (N, D). In a list, a video that cannot be read has NaN, or no rows, and a warning names
            the first ones.

        Raises:
            DecodeError: a single video cannot be read, or none of a list.
            UserError: frames in memory cannot be used, or features are not finite.
        """
        check_counts(batch_size=batch_size)
        inputs, single = self._inputs(videos)
        found = self.predictor.features(inputs, fps=fps, per_window=per_window, batch_size=batch_size)
        return found[0] if single else found

    def preprocess(self, frames_THWC: Frames, fps: float = 0.0) -> Tensor:
        """The input of the module for frames in memory, exactly as `predict` makes it.

        Args:
            frames_THWC: uint8 (T, H, W, 3), RGB; for a model of images uint8 (H, W, 3).
            fps: frames per second.

        Returns:
            (V, 3, T, S, S), float32 on the device: the crops of the first window, then those of the others. Models of
            gray clips have 1 channel.

        Raises:
            UserError: the frames cannot be used.
        """
        return self.predictor.preprocess(frames_THWC, fps)

    def explain(
        self,
        video: Input,
        *,
        class_name: str | None = None,
        method: str = DEFAULT_METHOD,
        fps: float = 0.0,
        box: Corners | None = None,
        time_s: float | None = None,
    ) -> Explanation:
        """Find where and when the model sees a class in a video, or a detector a class of one person.

        Args:
            video, fps: see `predict`; one video.
            class_name: None for the class with the highest score.
            method: a name of `videovit.analysis.explain.METHODS`.
            box: of a detector, the person: x1, y1, x2, y2 as fractions of the frame.
            time_s: of a detector, when the person is there, in seconds; None for the middle of the video. The clip
                around that moment is explained.

        Returns:
            The frames that the model saw, and for each a heat map; `write` saves them as video, pictures and JSON.

        Raises:
            DecodeError: the video cannot be read.
            UserError: there is no such class, method, box or moment, or the method is not defined for this model.
        """
        check_person(self.config, box, time_s)
        (inputs, _), names = self._inputs(video, people=box is not None), self.class_names
        if len(inputs) != 1:
            raise UserError(where="video", found=len(inputs), expected="one")
        (one,) = inputs
        if box is None:
            return explain(self.predictor, self.torch, one, names, class_name, method=method, fps=fps)
        boxes = BoxPredictor(self.config, self.torch, self.device, class_names=names)
        return explain_box(boxes, self.torch, one, box, class_name, time_s=time_s, method=method, fps=fps)

    def predict_people(self, video: str | os.PathLike[str], finder: PersonFinder | None = None) -> VideoLabels:
        """Find the people in a video and label what each of them does, as `videovit predict --people` does.

        Args:
            video: a file, or a folder of frames.
            finder: finds the people; None for `PersonFinder("accurate", "", device)`, whose weights are downloaded
                once.

        Returns:
            The windows, each with its people; `as_dict` is what JSON has.

        Raises:
            DecodeError: the video cannot be read.
            UserError: this model classifies whole videos (it was not trained with DETECTION.ENABLE).
        """
        refuse_classifier(self.config)
        cfg = with_dtype(self.config, self._dtype)
        finder = finder or PersonFinder("accurate", "", self.device)
        people = PeoplePredictor(cfg, self.torch, self.device, finder, class_names=self.class_names)
        return people.predict(os.fspath(video), quiet=True)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights, config, class names, preprocessing and a model card to a folder, from which `load` gets the
        same model; completely, or not at all.

        Args:
            folder: new, empty, or of an earlier model, which is replaced.

        Raises:
            CheckpointError: a weight is not finite.
            UserError: the folder holds other files, or cannot be written.
        """
        save_model(Path(folder), self.config, self.torch, self.class_names)

    def push_to_hub(self, repo: str, *, private: bool = False, message: str = "Upload a model of videovit") -> str:
        """Save the model to the Hugging Face Hub, from where `load("hf://...")` gets it.

        Args:
            repo: user/name; created if there is none.
            private: whether a new repository is private.
            message: of the commit.

        Returns:
            The URL of the commit.

        Raises:
            CheckpointError: a weight is not finite.
            UserError: the package huggingface_hub is not installed, or the Hub refuses.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "model"
            save_model(folder, self.config, self.torch, self.class_names, title=repo.rpartition("/")[2])
            return hub.upload(folder, repo, private=private, message=message)

    def __repr__(self) -> str:
        cfg = self.config
        clip = f"{cfg.DATA.NUM_FRAMES} x {cfg.DATA.TEST_CROP_SIZE} x {cfg.DATA.TEST_CROP_SIZE}"
        return f"<Model {cfg.MODEL.MODEL_NAME}, {plural(len(self.class_names), 'class', 'classes')}, clips of {clip}>"

    def _inputs(self, videos: Input | Iterable[Input], *, people: bool = False) -> tuple[list[Input], bool]:
        """The inputs, with folders of videos replaced by their videos; and whether it was one, not several."""
        if isinstance(videos, str | os.PathLike | np.ndarray | Tensor):
            listed, single = [videos], True
        elif not isinstance(videos, Iterable):
            raise UserError(where="videos", found=videos, expected="a path, or frames in memory, or a list of these")
        else:
            listed, single = list(videos), False
        inputs: list[Input] = []
        for video in listed:
            if isinstance(video, str | os.PathLike):
                name = os.fspath(video)
                if is_stream(name):
                    hint = "videovit predict reads streams; in Python, model.predictor.stream takes their frames"
                    raise UserError("a stream, not a video", where=shown_name(name), hint=hint)
                inside = list_inputs(self.config, [name], people=people)
                if single and inside != [name]:
                    found = f"{plural(len(inside), 'file')} in it"
                    raise UserError("a folder, not a video", where=video, found=Plain(found), hint="Put it into a list")
                inputs += inside
            else:
                inputs.append(video)
        return inputs, single


class ObjectModel(Model):
    """A trained detector of objects in images; it is loaded, saved and shared like any model.

    Args:
        cfg, class_names, dtype: see `Model`.
        module: on its device. It is set to evaluation mode.

    Attributes:
        torch: the module, a `Detector`, for lists of images.

    Raises:
        UserError: see `Model`.
    """

    torch: Detector  # type: ignore[assignment]  # of no clips: what needs them is refused below

    def __init__(
        self, cfg: Config, module: Detector, class_names: Sequence[str] | None = None, *, dtype: Dtype | None = None
    ) -> None:
        names = read_object_names(cfg) if class_names is None else class_names
        super().__init__(cfg, module, names, dtype=dtype)  # type: ignore[arg-type]

    @property
    def predictor(self) -> Predictor:
        """Refused: it cuts clips out of videos.

        Raises:
            UserError: always.
        """
        raise UserError("the model finds objects in images, and has neither clips nor scores of whole videos")

    def predict(  # type: ignore[override]  # it finds other things
        self, images: Input | Iterable[Input], *, min_score: float = SURE
    ) -> ObjectPrediction | list[ObjectPrediction]:
        """Find the objects in images and videos, as `videovit predict` does.

        Args:
            images: a file of an image or a video, or pixels in memory, uint8 (H, W, 3) in RGB; or a list of these, in
                which a folder stands for the images below it.
            min_score: least score, besides DETECTOR.MIN_SCORE.

        Returns:
            The prediction; for a list a list of them in the same order. In a list, that of a file that cannot be read
            has an `error`, and a warning names the first ones.

        Raises:
            DecodeError: a single file cannot be read.
            UserError: pixels in memory cannot be used.
        """
        inputs, single = self._inputs(images)
        finder = ObjectFinder(self.config, self.torch, self.device, class_names=self.class_names, least_score=min_score)
        if single:
            return finder.prediction(inputs[0])
        found = []
        for one in inputs:
            try:
                found.append(finder.prediction(one))
            except DecodeError as error:
                found.append(ObjectPrediction(error.path, [], str(error)))
        if errors := [one.error for one in found if one.error]:
            warn_unread(errors, len(found), "file")
        return found

    def __repr__(self) -> str:
        names = plural(len(self.class_names), "class", "classes")
        return f"<ObjectModel {self.config.DETECTOR.NAME} on {self.config.MODEL.MODEL_NAME}, {names}>"
