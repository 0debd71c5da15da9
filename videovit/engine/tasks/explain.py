"""Explanation: where and when a model sees a class in a video.

Every window is explained by its middle crop. Heat has one scale for the whole video: a window with little
evidence for the class stays cold.

W windows, V crops, F frames of all windows in order of time, T frames of a window, S side of a crop, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejson
import torch
from numpy.typing import NDArray

from videovit.analysis.explain import DEFAULT_METHOD, find_method
from videovit.analysis.heat_video import draw_contact_sheet, draw_time_curve, file_title, outline, write_heat_video
from videovit.engine.reporting.json_lines import make_folder, replacing, writing
from videovit.engine.tasks.labels import Corners
from videovit.engine.tasks.predict import Input, Predictor
from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.contract import VideoModel

MAX_WINDOWS = 200  # in memory, with their frames
LISTED_CLASSES = 20  # in a message
VIDEO, SHEET, CURVE, VALUES = "heat.mp4", "heat.png", "curve.png", "explanation.json"


@dataclass(frozen=True)
class Explanation:
    """Heat over the frames that a model saw of a video.

    Attributes:
        video: its name.
        class_name: the class that is explained.
        score: of the class, as in a prediction.
        method: a name of `METHODS`.
        times_s: player time of every frame, increasing.
        frames_FSS3: uint8, the middle crops.
        heat_FSS: from 0 to 1; the highest value of the video is 1, unless there is no evidence for the class.
        duration_s: of all windows.
        box: of a detector, the person whose class it is: x1, y1, x2, y2 in pixels of the crop.
    """

    video: str
    class_name: str
    score: float
    method: str
    times_s: list[float]
    frames_FSS3: NDArray[np.uint8]
    heat_FSS: NDArray[np.float32]
    duration_s: float
    box: Corners | None = None

    @property
    def shares(self) -> list[float]:
        """Which moments decide: the share of each frame in all heat; 0 for all if there is none."""
        sums_F = self.heat_FSS.sum(axis=(1, 2), dtype=np.float64)
        found: list[float] = (sums_F / max(sums_F.sum(), np.finfo(np.float64).tiny)).tolist()
        return found

    @property
    def peak_s(self) -> float:
        """The moment with most heat."""
        return self.times_s[int(np.argmax(self.shares))]

    def as_dict(self) -> dict[str, object]:
        """JSON values."""
        shares = self.shares
        frames = [
            {"time_s": round(time_s, 4), "share": share, "highest": float(heat_SS.max())}
            for time_s, share, heat_SS in zip(self.times_s, shares, self.heat_FSS, strict=True)
        ]
        return {
            "video": self.video,
            "class": self.class_name,
            "score": self.score,
            "method": self.method,
            "peak_s": self.peak_s,
            **({} if self.box is None else {"box_in_pixels": [round(value, 2) for value in self.box]}),
            "frames": frames,
        }

    def write(self, folder: str | Path) -> list[Path]:
        """Write the heat as a contact sheet and JSON, and of a video as mp4 and as a curve over time.

        Args:
            folder: created if there is none; files of an earlier explanation are replaced.

        Returns:
            The files.

        Raises:
            UserError: they cannot be written.
        """
        folder = Path(folder)
        make_folder(folder)
        for name in FILES:  # ended in the middle, files of two explanations would stand side by side
            with writing(folder / name):
                (folder / name).unlink(missing_ok=True)
        title = file_title(self.video, self.class_name, self.method)
        paths = [folder / name for name in ((SHEET, VALUES) if len(self.times_s) == 1 else FILES)]
        frames_FSS3 = self.frames_FSS3 if self.box is None else outline(self.frames_FSS3, self.box)
        for path in paths:
            with replacing(path) as partial:
                if path.name == SHEET:
                    draw_contact_sheet(partial, frames_FSS3, self.heat_FSS, self.times_s, title)
                elif path.name == VIDEO:
                    fps = len(self.times_s) / max(self.duration_s, 1e-3)
                    write_heat_video(partial, frames_FSS3, self.heat_FSS, fps)
                elif path.name == CURVE:
                    draw_time_curve(partial, self.times_s, self.shares, title)
                else:
                    partial.write_text(simplejson.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        return paths


FILES = (VIDEO, SHEET, CURVE, VALUES)


def explain(
    predictor: Predictor,
    model: VideoModel,
    video: Input,
    class_names: Sequence[str],
    class_name: str | None = None,
    *,
    method: str = DEFAULT_METHOD,
    fps: float = 0.0,
) -> Explanation:
    """Explain why a model sees a class in a video.

    Args:
        predictor: of the model.
        model: in full precision.
        video: see `Predictor.predict`.
        class_names: of the K classes.
        class_name: None for the class with the highest score.
        method: a name of `METHODS`.
        fps: frame rate of frames in memory.

    Raises:
        DecodeError: the video cannot be read.
        UserError: there is no such class or method, the method is not defined for this model, or the video has more
            than `MAX_WINDOWS` windows.
    """
    heat_of = find_method(method)
    check_class(class_name, class_names)
    prediction = predictor.predict(video, fps=fps, quiet=True)
    if len(prediction.windows) > MAX_WINDOWS:
        raise UserError(
            f"{len(prediction.windows)} windows are too many to explain",
            where=prediction.path,
            expected=f"at most {MAX_WINDOWS}",
            hint="Cut the video, or set PREDICT.WINDOW_STRIDE_S to move windows apart",
        )
    assert prediction.scores is not None
    index = int(prediction.scores.argmax()) if class_name is None else list(class_names).index(class_name)
    times_s: list[float] = []
    frames, heats, end_s = [], [], 0.0
    for clip, x_VCTHW in predictor.prepared(video, fps=fps):
        middle = len(x_VCTHW) // 2
        heat_THW = heat_of(model, x_VCTHW[middle : middle + 1], torch.tensor([index]), scale=False)[0].cpu()
        step_s = (clip.end_s - clip.start_s) / len(heat_THW)
        for i, heat_HW in enumerate(heat_THW.numpy()):
            time_s = clip.start_s + (i + 0.5) * step_s
            # The last window may begin before the one in front of it has ended.
            if not times_s or time_s > times_s[-1]:
                times_s.append(time_s)
                frames.append(clip.crops_VTSSC[middle, i].numpy())
                heats.append(heat_HW)
        end_s = clip.end_s
    heat_FSS = on_one_scale(heats)
    score = float(prediction.scores[index])
    return Explanation(prediction.path, class_names[index], score, method, times_s, np.stack(frames), heat_FSS, end_s)


def check_class(class_name: str | None, class_names: Sequence[str]) -> None:
    """Check that a class, if one is named, is one of the model's.

    Raises:
        UserError: it is not.
    """
    if class_name is not None and class_name not in class_names:
        near = did_you_mean(str(class_name), class_names)
        listed = ", ".join([*class_names[:LISTED_CLASSES], *(["..."] if len(class_names) > LISTED_CLASSES else [])])
        expected = "" if near else f"one of {len(class_names)}: {listed}"
        raise UserError("the model has no such class", found=class_name, expected=expected, near=near)


def on_one_scale(heats: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Heat maps (F, S, S) divided by their highest value, unless it is 0."""
    heat_FSS = np.stack(heats).astype(np.float32)
    heat_FSS /= max(float(heat_FSS.max()), float(np.finfo(np.float32).tiny))
    return heat_FSS
