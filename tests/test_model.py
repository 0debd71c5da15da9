"""The Python API: `videovit.load` and `Model`."""

from __future__ import annotations

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import videovit
from tests.engine.tasks.test_predict import IMAGES
from tests.helpers.runs import TINY, Make, write_config
from videovit.commands import predict
from videovit.config import Config, load_config
from videovit.data.decode import DecodeError, open_video
from videovit.data.decode.array import ArrayVideo, open_array
from videovit.data.decode.protocol import Indices
from videovit.engine import launch
from videovit.engine.tasks.predict import Prediction
from videovit.errors import UserError
from videovit.model import Dtype
from videovit.models import build_model


@pytest.fixture(scope="module")
def run(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A trained and tested run, whose test videos are exactly two windows long."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "names.json").write_text('["left", "middle", "right"]')
    opts = "SOLVER.MAX_EPOCH 1 TRAIN.MAX_STEPS 1 TEST.SAVE_RESULTS_PATH scores.pyth"
    cfg = make(folder / "out", f"{opts} DATA.CLASS_NAMES_FILE {folder}/names.json")
    launch.run(cfg)
    return cfg


@pytest.fixture(scope="module")
def model(run: Config) -> videovit.Model:
    return videovit.load(run.OUTPUT_DIR)


@pytest.fixture(scope="module")
def videos(run: Config) -> list[str]:
    return [str(path) for path in sorted(Path(run.DATA.PATH_TO_DATA_DIR).glob("test*.mp4"))]


def test_scores_equal_those_of_the_multi_view_test(run: Config, model: videovit.Model, videos: list[str]) -> None:
    saved = torch.load(Path(run.OUTPUT_DIR) / "scores.pyth")
    expected = {path: scores_K for path, scores_K in zip(saved["paths"], saved["scores"], strict=True)}
    for prediction in model.predict(videos):
        assert prediction.views == "2 windows x 3 crops, mean score"
        torch.testing.assert_close(6 * prediction.scores, expected[prediction.path], rtol=0, atol=1e-6)


def frames_of(path: str) -> np.ndarray:
    with open_video(path, "pyav") as video:
        return video.frames(np.arange(video.num_frames)).numpy()


def assert_equal(one: Prediction, two: Prediction) -> None:
    assert torch.equal(one.scores, two.scores) and torch.equal(one.window_scores, two.window_scores)
    assert one.top == two.top and one.windows == two.windows and one.views == two.views


def test_inputs_of_all_kinds_give_the_same_prediction(model: videovit.Model, videos: list[str]) -> None:
    frames = frames_of(videos[0])
    expected = model.predict(videos[0])
    assert [name for name, _ in expected.top] == [model.class_names[k] for k in expected.scores.argsort().flip(0)]
    assert expected.windows[0][:2] == (0.0, pytest.approx(8 / 30))
    assert_equal(model.predict(Path(videos[0])), expected)
    assert_equal(model.predict(frames, fps=30), expected)
    assert_equal(model.predict(torch.from_numpy(frames), fps=30), expected)
    with open_video(videos[0], "pyav") as video:
        assert_equal(model.predictor.predict_open(video, "open"), expected)
        assert_equal(model.predictor.join(list(model.predictor.windows(video)), "open"), expected)
    assert_equal(model.predictor.join(list(model.predictor.stream(iter(frames), 30)), "stream"), expected)
    assert_equal(model.predict([frames], fps=30)[0], expected)
    blue_first = np.ascontiguousarray(frames[..., ::-1])
    blue_first.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(model.predict(blue_first[..., ::-1], fps=30), expected)
        turned = model.predictor.stream((frame[..., ::-1] for frame in blue_first), 30)
        assert_equal(model.predictor.join(list(turned), "stream"), expected)
    assert len(model.predict(videos[0], top_k=1).top) == 1


def test_preprocess_is_what_predict_uses(model: videovit.Model, videos: list[str]) -> None:
    x = model.preprocess(frames_of(videos[1]), 30)
    assert x.shape == (2 * 3, 3, 4, 32, 32) and x.dtype == torch.float32
    model.torch(x).sum().backward()  # it may be trained on
    model.torch.zero_grad()
    with torch.inference_mode():
        scores = torch.stack([model.torch(view).softmax(dim=1).mean(dim=0) for view in x.split(3)])
    torch.testing.assert_close(scores, model.predict(videos[1]).window_scores)


@pytest.mark.parametrize("num_frames", [1, 7, 8, 9, 20, 31])
@pytest.mark.parametrize("stride_s", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("fps", [30.0, 24.7])
def test_stream_has_the_windows_of_a_file(model: videovit.Model, num_frames: int, stride_s: float, fps: float) -> None:
    reader = replace(model.predictor.reader, stride_s=stride_s, crop=lambda frames: [frames])
    frames = torch.arange(num_frames, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 4, 3)
    expected = list(reader.clips(open_array(frames, fps)))
    found = list(reader.stream(iter(frames), fps))
    assert len(expected) == len(found)
    for one, two in zip(found, expected, strict=True):
        assert (one.start_s, one.end_s) == (two.start_s, two.end_s)
        assert torch.equal(one.crops_VTSSC, two.crops_VTSSC)


def test_threads_get_equal_answers(run: Config, videos: list[str]) -> None:
    model = videovit.load(run.OUTPUT_DIR)
    expected = [videovit.load(run.OUTPUT_DIR).predict(video) for video in videos]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for one, two in zip(pool.map(model.predict, videos), expected, strict=True):
                assert_equal(one, two)


def test_batches_change_nothing_but_rounding(model: videovit.Model, videos: list[str]) -> None:
    single = [model.predict(video) for video in videos]
    for one, two in zip(model.predict(videos, batch_size=5), single, strict=True):
        torch.testing.assert_close(one.window_scores, two.window_scores)
        assert (one.path, [w[:2] for w in one.windows]) == (two.path, [w[:2] for w in two.windows])
    together = model.predict(videos[0], batch_size=2)
    assert torch.equal(together.scores, model.predict([videos[0]], batch_size=2)[0].scores)
    torch.testing.assert_close(together.scores, single[0].scores)


def test_unreadable_video_loses_no_other(model: videovit.Model, videos: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    several = [videos[0], str(broken), videos[1], str(tmp_path / "absent.mp4")]
    for name in ("a\0b", "\ud800.mp4"):
        with pytest.raises(DecodeError, match="no file can have this name"):
            model.predict(name)
    with pytest.warns(UserWarning, match="2 of 4 videos could not be read: .*broken.mp4.*; .*absent.mp4"):
        found = model.predict(several)
    assert [bool(one.error) for one in found] == [False, True, False, True]
    assert_equal(found[0], model.predict(videos[0]))
    assert_equal(found[2], model.predict(videos[1]))
    assert found[1].as_dict().keys() == {"path", "error"} and "broken.mp4" in repr(found[1])
    with pytest.warns(UserWarning):
        features = model.features(several)
    assert torch.equal(features[2], model.features(videos[1])) and features[1].isnan().all()
    with pytest.warns(UserWarning):
        assert [len(rows) for rows in model.features(several, per_window=True)] == [2, 0, 2, 0]
    with pytest.raises(DecodeError, match="broken.mp4"):
        model.predict(str(broken))
    with pytest.raises(DecodeError, match="broken.mp4"):
        model.features([str(broken)])


def test_features_are_pooled_over_tokens_crops_and_windows(model: videovit.Model, videos: list[str]) -> None:
    rows_WD, whole_D = model.features(videos[0], per_window=True), model.features(videos[0])
    x = model.preprocess(frames_of(videos[0]), 30)
    with torch.inference_mode():
        cls = model.torch.forward_features(x).cls_BXC
    assert cls is not None
    torch.testing.assert_close(rows_WD, cls.mean(dim=1).view(2, 3, -1).mean(dim=1))
    assert torch.equal(whole_D, rows_WD.mean(dim=0)) and not whole_D.is_inference()


def test_changed_weights_are_seen(run: Config, videos: list[str]) -> None:
    model = videovit.load(run.OUTPUT_DIR)
    before = model.predict(videos[0]).scores
    assert model.predictor is model.predictor
    with torch.no_grad():
        for parameter in model.torch.parameters():  # some are packed for inference
            parameter.mul_(1.5)
    after = model.predict(videos[0])
    assert not torch.equal(before, after.scores)
    assert_equal(after, videovit.Model(model.config, model.torch, model.class_names).predict(videos[0]))


def test_precision_is_that_of_the_config_or_as_asked(run: Config, videos: list[str]) -> None:
    kinds: list[Dtype | None] = [None, "fp32", "bf16"]
    scores = {kind: videovit.load(run.OUTPUT_DIR, dtype=kind).predict(videos[0]).scores for kind in kinds}
    assert torch.equal(scores[None], scores["fp32"]) and not torch.equal(scores["bf16"], scores["fp32"])
    torch.testing.assert_close(scores["bf16"], scores["fp32"], rtol=0.05, atol=0.02)
    with pytest.raises(UserError, match="dtype: found 'half', expected one of fp32, bf16, fp16"):
        videovit.load(run.OUTPUT_DIR, dtype="half")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((4, 32, 32, 3), np.float32), "found float32 .*expected uint8.*normalized later"),
        (np.zeros((4, 3, 32, 32), np.uint8), "Color is the last dimension"),
        (np.zeros((32, 32, 3), np.uint8), "expected uint8"),
        (np.zeros((0, 32, 32, 3), np.uint8), "expected uint8"),
    ],
)
def test_wrong_array_is_named(model: videovit.Model, frames: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        model.predict(frames, fps=30)


def test_wrong_input_is_named_before_anything_is_computed(model: videovit.Model, videos: list[str]) -> None:
    with pytest.raises(UserError, match="array 1: found 7, expected a path, or frames in memory"):
        model.predict([videos[0], 7])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"top_k": -1}, "top_k: found -1, expected a whole number"),
        ({"top_k": 1.5}, "top_k: found 1.5"),
        ({"top_k": True}, "top_k: found True"),
        ({"fps": "30"}, "found '30', expected frames per second"),
        ({"batch_size": -1}, "batch_size: found -1"),
        ({"fps": 1e300}, r"found 1e\+300, expected frames per second"),
        ({"fps": 1e-300}, "found 1e-300, expected frames per second"),
        ({"videos": None}, "found None, expected a path, or frames in memory, or a list"),
        ({"videos": 5}, "found 5, expected a path"),
        ({"videos": torch.zeros(4, 8, 8, 3, dtype=torch.uint8).to_sparse()}, "sparse"),
        ({"videos": torch.zeros(4, 8, 8, 3, dtype=torch.uint8, device="meta")}, "meta"),
    ],
)
def test_wrong_argument_is_named(model: videovit.Model, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        model.predict(**{"videos": np.zeros((4, 32, 32, 3), np.uint8), "fps": 25, **arguments})


def test_array_needs_its_frame_rate(model: videovit.Model) -> None:
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="frame rate of frames in memory is missing"):
        model.predict(frames)
    with pytest.raises(UserError, match="found nan"):
        model.predict(frames, fps=float("nan"))


def test_model_of_images_takes_images(tmp_path: Path) -> None:
    cfg = load_config(write_config(tmp_path, TINY), IMAGES)
    model = videovit.Model(cfg, build_model(cfg))
    pixels = np.random.default_rng(0).integers(0, 255, (40, 36, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "a.png"
    Image.fromarray(pixels).save(path)
    expected = model.predict(path)
    assert_equal(model.predict(pixels), expected)
    assert_equal(model.predict([tmp_path / "images"])[0], expected)
    assert [one.path for one in model.predict([pixels, pixels])] == ["array 0", "array 1"]
    x = model.preprocess(pixels)
    assert x.shape == (1, 3, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.torch(x).softmax(dim=1)[0], expected.scores)
    assert model.features(pixels).shape == (32,)
    with pytest.raises(UserError, match=r"found \(2, 40, 36, 3\), expected \(H, W, 3\). Predict a list of images"):
        model.predict(np.stack([pixels, pixels]))


def test_folder_of_videos_in_a_list_stands_for_its_videos(
    model: videovit.Model, videos: list[str], tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    names = [str(tmp_path / "a.mp4"), str(tmp_path / "deep" / "b.mp4")]
    for name, video in zip(names, videos, strict=False):
        Path(name).hardlink_to(video)
    found = model.predict([tmp_path, videos[2]])
    assert [one.path for one in found] == [*names, videos[2]]
    assert [one.path for one in model.predict(tmp_path.glob("*.mp4"))] == names[:1]
    with pytest.raises(UserError, match=r"a folder, not a video; found 2 files in it. Put it into a list"):
        model.predict(tmp_path)


def test_prediction_shows_its_best_classes(model: videovit.Model, videos: list[str]) -> None:
    prediction = model.predict(videos[0])
    (best, score), *_ = prediction.top
    assert repr(prediction).startswith(f"<Prediction {videos[0]}: {best} {score:.3f}, ")
    assert repr(prediction).endswith(" (2 windows x 3 crops, mean score)>")
    assert repr(model) == "<Model MViT, 3 classes, clips of 4 x 32 x 32>"
    assert json.loads(json.dumps(prediction.as_dict()))["top"][0] == {"class": best, "score": score}


def test_prediction_equals_that_of_the_command(
    run: Config, model: videovit.Model, videos: list[str], tmp_path: Path
) -> None:
    out = [
        "--cfg",
        f"{run.OUTPUT_DIR}/config.yaml",
        "--checkpoint",
        run.OUTPUT_DIR,
        "--json",
        str(tmp_path / "out.json"),
    ]
    predict.main([*out, *videos[:3]])
    assert json.loads((tmp_path / "out.json").read_text()) == [model.predict(video).as_dict() for video in videos[:3]]


def test_video_that_breaks_off_loses_no_other(model: videovit.Model, videos: list[str], tmp_path: Path) -> None:
    """Its first window can be decoded, and shares a batch with the window of another video."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(frames_of(videos[0])):
        Image.fromarray(frame).save(folder / f"{number:02d}.png")
    (folder / "12.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 2 videos could not be read"):
        broken, whole = model.predict([folder, videos[1]], batch_size=2)
    assert "12.png" in broken.error and not broken.top
    torch.testing.assert_close(whole.window_scores, model.predict(videos[1]).window_scores)


def test_open_video_is_read_window_by_window(model: videovit.Model, videos: list[str]) -> None:
    """In memory are the frames of one window; between windows, gradients are on."""

    class Counting(ArrayVideo):
        requested: ClassVar[list[list[int]]] = []

        def frames(self, indices: Indices) -> torch.Tensor:
            self.requested.append(indices.tolist())
            return super().frames(indices)

    video = Counting(torch.from_numpy(frames_of(videos[0])), 30.0)
    windows = model.predictor.windows(video)
    assert next(windows).scores_K.shape == (3,) and video.requested == [[0, 2, 4, 7]]
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert next(windows).start_s == pytest.approx(8 / 30) and len(video.requested) == 2
