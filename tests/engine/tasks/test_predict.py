"""Prediction: inputs, windows, tables, and errors for folders without inputs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.decode.test_rate import write_late
from tests.helpers.runs import TINY, write_config
from tests.helpers.videos import write_video
from videovit.config import Config, load_config
from videovit.data.decode import BACKENDS, DecodeError, open_video
from videovit.data.decode.protocol import Indices
from videovit.data.decode.time_limit import LimitedVideo
from videovit.data.sampling import EvenSpans, RandomSpans, Segments, StridedClips
from videovit.engine.tasks.predict import Prediction, Predictor, format_prediction, list_inputs, window_starts
from videovit.errors import UserError
from videovit.models import build_model

IMAGES = "TEST.DATASET imagenet DATA.NUM_FRAMES 1 MVIT.PATCH_KERNEL [1,7,7] MVIT.PATCH_STRIDE [1,4,4] \
    MVIT.PATCH_PADDING [0,3,3]".split()


def config(folder: Path, *opts: object) -> Config:
    return load_config(write_config(folder, TINY), [*map(str, opts)])


def test_windows_by_plan() -> None:
    spans, strided, segments = EvenSpans(4, 2, 30.0), StridedClips(4, 2, 30.0), Segments(4, random=True)
    assert spans.span(100, 60.0) == strided.span(100, 60.0) == 16.0 and segments.span(100, 60.0) == 100.0
    assert spans.window(20, 100, 30.0).tolist() == [20, 22, 24, 27]
    assert RandomSpans(4, 2, 30.0, jitter_fps=9).window(20, 100, 30.0).tolist() == [20, 22, 24, 27]
    assert strided.window(20.9, 100, 30.0).tolist() == [20, 22, 24, 26]
    assert strided.window(97, 100, 30.0).tolist() == [97, 99, 99, 99]
    assert segments.window(20, 9, 30.0).tolist() == Segments(4).window(0, 9, 30.0).tolist() == [1, 3, 5, 7]
    assert window_starts(30, 8, 8) == [0, 8, 16, 22] and window_starts(5, 8, 8) == [0]
    assert window_starts(30, segments.span(30, 30.0), 4) == [0]
    assert len(window_starts(30, 8, 1e-300)) == 23  # windows begin at least a frame apart


def test_model_of_images_takes_images_and_folders(tmp_path: Path) -> None:
    cfg = config(tmp_path, *IMAGES)
    for name in ("b/1.png", "a/2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        Image.new("RGB", (40, 36), "red").save(tmp_path / "images" / name)
    one, two = (str(tmp_path / "images" / name) for name in ("a/2.png", "b/1.png"))
    assert list_inputs(cfg, [str(tmp_path / "images"), two]) == [one, two, two]
    model = build_model(cfg)
    predictor = Predictor(cfg, model, torch.device("cpu"))
    prediction = predictor.predict(one, quiet=True)
    assert prediction.views == "1 window x 1 crop, mean score" and len(prediction.top) == 3
    video = write_video(tmp_path / "v.mp4", num_frames=4)
    with pytest.raises(DecodeError, match="v.mp4': not an image"):
        predictor.predict(str(video), quiet=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: a folder without images, and TEST.DATASET imagenet is about images"):
        list_inputs(cfg, [str(tmp_path / "empty")])


def test_folder_is_a_video_of_frames_or_all_its_videos(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    frames, videos = tmp_path / "frames", tmp_path / "videos"
    for name in (frames / "1.png", videos / "deep/b.MP4", videos / "a.webm", videos / "notes.txt"):
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), "red").save(name, format="PNG")
    found = list_inputs(cfg, [str(frames), str(videos), "c.mp4"])
    assert found == [str(frames), str(videos / "a.webm"), str(videos / "deep/b.MP4"), "c.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: a folder without images and without videos"):
        list_inputs(cfg, [str(tmp_path / "empty")])
    # A cover picture must not stand for the videos beside it, nor a rendered video for the frames.
    (frames / "1.png").rename(videos / "cover.jpg")
    with pytest.raises(UserError, match=r"videos: holds 1 image and 2 videos; expected .*one or the other.* Name"):
        list_inputs(cfg, [str(videos)])


def test_logits_are_not_shown_in_percent() -> None:
    prediction = Prediction("a.mp4", [("walk", 0.25), ("sit", -3.5)], [], "1 window")
    assert format_prediction(prediction).split()[-4:] == ["walk", "25.0", "sit", "-350.0"]
    table = format_prediction(prediction, in_percent=False)
    assert table.split()[-4:] == ["walk", "0.25", "sit", "-3.50"] and "%" not in table


def test_folder_of_frames_is_one_video(tmp_path: Path) -> None:
    cfg = config(tmp_path, "DATA.FRAMES_FPS", 30)
    (tmp_path / "frames").mkdir()
    for i in range(16):
        Image.new("RGB", (40, 36), (i, i, i)).save(tmp_path / "frames" / f"{i}.png")
    (name,) = list_inputs(cfg, [str(tmp_path / "frames")])
    prediction = Predictor(cfg, build_model(cfg), torch.device("cpu")).predict(name, quiet=True)
    assert prediction.views == "2 windows x 3 crops, mean score"
    assert [b for _, b, _ in prediction.windows] == pytest.approx([8 / 30, 16 / 30])


def test_detector_is_an_error_with_a_hint(tmp_path: Path) -> None:
    detection = (
        "DETECTION.ENABLE True TRAIN.DATASET ava TEST.DATASET ava MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid".split()
    )
    with pytest.raises(UserError, match="AVA.TEST_PREDICT_BOX_LISTS.*detections.csv"):
        list_inputs(config(tmp_path, *detection), ["v.mp4"])


def test_windows_in_player_time(tmp_path: Path) -> None:
    """Sound begins two seconds before the pictures; a still screen makes no frames."""
    cfg = config(tmp_path, "DATA.NUM_FRAMES", 4, "DATA.SAMPLING_RATE", 6)
    predictor = Predictor(cfg, build_model(cfg), torch.device("cpu"))
    late = write_late(tmp_path / "late.mp4", late_s=2)
    windows = predictor.predict(str(late), quiet=True).windows
    assert [window[:2] for window in windows] == [pytest.approx((2 + i * 0.8, 2.8 + i * 0.8)) for i in range(2)] + [
        pytest.approx((3.2, 4.0))
    ]
    pause = [*range(30), *range(90, 120)]  # four seconds
    held = write_video(tmp_path / "held.mp4", num_frames=60, bframes=0, pts=pause)
    windows = predictor.predict(str(held), quiet=True).windows
    assert [window[:2] for window in windows] == [pytest.approx((i * 0.8, i * 0.8 + 0.8)) for i in range(5)]


class Stuck:
    """A video of many frames whose decoder hangs at frame 8."""

    num_frames, fps, knots, start_s, served_by = 64, 30.0, None, 0.0, "stuck"

    def frames(self, indices: Indices) -> torch.Tensor:
        while indices.max() >= 8:
            time.sleep(0.1)
        return torch.zeros(len(indices), 36, 40, 3, dtype=torch.uint8)

    def close(self) -> None:
        pass


def test_hanging_decoder_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=4)
    cfg = config(tmp_path, "DATA.DECODE_TIMEOUT_S", 1)
    predictor = Predictor(cfg, build_model(cfg), torch.device("cpu"))
    monkeypatch.setitem(BACKENDS, "pyav", lambda path, options: Stuck())
    with pytest.raises(DecodeError, match="took longer than DATA.DECODE_TIMEOUT_S 1 s; its decoder was ended"):
        predictor.predict(str(path), quiet=True)
    monkeypatch.undo()
    assert len(predictor.predict(str(path), quiet=True).windows) == 1


def test_time_limit_applies_to_each_window(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=40)
    cfg = config(tmp_path)
    predictor = Predictor(cfg, build_model(cfg), torch.device("cpu"))
    assert predictor.decoding.timeout_s == cfg.DATA.DECODE_TIMEOUT_S > 0
    with open_video(path, "pyav", predictor.decoding) as video:
        assert isinstance(video, LimitedVideo)
        for first in range(0, 40, 8):
            video.frames(np.arange(first, first + 8))
            assert video._left_s == predictor.decoding.timeout_s
