"""People in own videos: the real person detector and the real head, with random weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torchvision

import videovit
from tests.helpers.ava_data import write_ava
from tests.helpers.runs import TINY, write_config
from tests.helpers.streams import feed
from tests.helpers.videos import write_video
from videovit.config import Config, load_config
from videovit.data.decode import open_video
from videovit.data.records import collate
from videovit.data.transforms.boxes import has_area
from videovit.engine.problem import Problem
from videovit.engine.tasks.live import LiveWindows
from videovit.engine.tasks.people import FINDERS, PeoplePredictor, PersonFinder, read_action_names
from videovit.errors import UserError
from videovit.models import build_model
from videovit.models.contract import VideoModel
from videovit.models.convert.read import CheckpointError
from videovit.models.download import cached_path

CPU = torch.device("cpu")
FAST = FINDERS["fast"]


@pytest.fixture(scope="module")
def ava(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(write_ava(tmp_path_factory.mktemp("ava"), num_train=1))


@pytest.fixture(scope="module")
def model(ava: Config) -> VideoModel:
    torch.manual_seed(1)
    model: VideoModel = build_model(ava).eval()
    torch.nn.init.normal_(model.head.projection.weight)  # type: ignore[union-attr, arg-type]
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    network = torchvision.models.get_model(FAST, weights=None, weights_backbone=None)
    # A network that calls nearly everything a person.
    network.roi_heads.box_predictor.cls_score.bias.data[1] = 5.0
    path = tmp_path_factory.mktemp("weights") / "finder.pth"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def finder(weights: str) -> PersonFinder:
    finder = PersonFinder("fast", weights, CPU, min_score=0.5)
    # Smaller pictures and fewer proposals: with random weights, everything looks like a person.
    finder.network.transform.min_size, finder.network.transform.max_size = (96,), 192
    finder.network.rpn._post_nms_top_n["testing"] = 20
    return finder


@pytest.fixture(scope="module")
def predictor(ava: Config, model: VideoModel, finder: PersonFinder) -> PeoplePredictor:
    return PeoplePredictor(ava, model, CPU, finder)


def test_scores_are_those_of_the_test(ava: Config, model: VideoModel, predictor: PeoplePredictor) -> None:
    """Same clip, same boxes: data set, collation and model of the test on AVA."""
    dataset = Problem(ava).test.dataset()
    inference = predictor._inference
    for index in (0, 8, 17):
        key = dataset.samples[index].key
        assert key is not None
        batch = collate([dataset[0, index]])
        with inference.mode():
            expected_RK = model(inference.prepared(batch.frames_BTHWC), batch.boxes_R5).sigmoid()
        with open_video(dataset.samples[index].path, "pyav") as video:
            (frames_T,) = predictor.reader.plan.at(key.time_s, video.num_frames, video.fps)  # type: ignore[attr-defined]
            # A window whose middle is the key frame has the same clip.
            start = key.time_s * video.fps - predictor.reader.plan.span(video.num_frames, video.fps) / 2
            assert predictor.reader.plan.window(start, video.num_frames, video.fps).tolist() == frames_T.tolist()
            frames_THWC = video.frames(frames_T)
        corners = [(box.x1, box.y1, box.x2, box.y2) for box in key.boxes]
        scores_RK, inside_R = predictor.scores(frames_THWC, corners)
        assert len(corners) == 2 and inside_R.all()
        torch.testing.assert_close(scores_RK, expected_RK)
    assert expected_RK.std() > 0.01


def test_finder_is_torchvision_with_corners_as_fractions(finder: PersonFinder) -> None:
    image_HWC = torch.randint(0, 256, (90, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (expected,) = finder.network([image_HWC.permute(2, 0, 1).float() / 255])
    kept = expected["labels"] == 1
    found = finder.find(image_HWC)
    assert len(found) == kept.sum() > 0 and all(person.score >= 0.5 for person in found)
    corners = torch.tensor([person.corners for person in found])
    torch.testing.assert_close(corners * torch.tensor([160, 90, 160, 90]), expected["boxes"][kept])
    assert corners.min() >= 0 and corners.max() <= 1


def test_people_of_a_video(ava: Config, predictor: PeoplePredictor, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.ts", num_frames=24, fps=10, size=(160, 90))
    found = predictor.predict(str(video), quiet=True)
    assert [(w.start_s, w.end_s) for w in found.windows] == [pytest.approx((i * 0.8, i * 0.8 + 0.8)) for i in range(3)]
    with open_video(video, "pyav") as opened:
        frames_THWC = opened.frames(predictor.reader.plan.window(8, 24, 10.0))
    window = found.windows[1]
    assert window.people is not None and len(window.people) > 0
    middle = predictor._finder.find(frames_THWC[2])
    assert [person.corners for person in window.people] == [person.corners for person in middle]
    scores_RK, inside_R = predictor.scores(frames_THWC, [person.corners for person in middle])
    for person, scores_K, inside in zip(window.people, scores_RK, inside_R.tolist(), strict=True):
        # The class list leaves out classes 5 and 6.
        best = ["red", 'green ("grass")', "blue", "never"][int(scores_K[:4].argmax())]
        assert bool(person.top) == inside and (not inside or person.top[0] == (best, pytest.approx(scores_K[:4].max())))
    record = found.as_dict()["windows"][1]
    assert record["people"][0].keys() == {"box", "score", "top"}
    assert found.top[0][1] == pytest.approx(max(score for window in found.windows for _, score in window.top))

    # The same as a stream.
    reader = predictor.reader
    with LiveWindows(feed(tmp_path, video.read_bytes()), reader.cutter, reader.keep, predictor.decoding) as windows:
        streamed = [predictor.label(reader.joined(one.window), "pipe") for one in windows]
    assert [window.people for window in streamed] == [window.people for window in found.windows]


def test_nobody_and_people_outside_of_the_crop(predictor: PeoplePredictor) -> None:
    frames_THWC = torch.zeros(4, 48, 96, 3, dtype=torch.uint8)
    assert predictor.scores(frames_THWC, [])[0].shape[0] == 0
    scores_RK, inside_R = predictor.scores(frames_THWC, [(0.0, 0.0, 0.1, 1.0), (0.3, 0.1, 0.6, 0.9)])
    assert inside_R.tolist() == [False, True] and torch.isfinite(scores_RK).all()
    crop, placement = predictor._crop.placed(frames_THWC)[0]
    assert not has_area(placement.boxes(torch.tensor([[0.0, 0.0, 0.1, 1.0]]), crop.shape[1])).any()


def test_class_names(ava: Config, tmp_path: Path) -> None:
    assert read_action_names(ava, ["x"] * 6) == {0: "red", 1: 'green ("grass")', 2: "blue", 3: "never"}
    bare = load_config(write_ava(tmp_path / "b", num_train=0, num_val=0), ["AVA.ANNOTATION_DIR", "''"])
    assert read_action_names(bare, list("abcdef")) == dict(enumerate("abcdef"))


def test_saved_detector_names_the_same_classes(
    ava: Config, model: VideoModel, finder: PersonFinder, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "a.ts", num_frames=24, fps=10, size=(160, 90))
    original = videovit.Model(ava, model)
    assert original.class_names == ["red", 'green ("grass")', "blue", "never", "", ""]
    original.save(tmp_path / "saved")
    again = videovit.load(tmp_path / "saved")
    assert again.config.AVA.ANNOTATION_DIR == "" and again.class_names == original.class_names
    found, expected = (one.predict_people(video, finder) for one in (again, original))
    assert found == expected and any(person.top for window in found.windows for person in window.people or ())
    with pytest.raises(UserError, match="this model classifies whole videos, not people"):
        cfg = load_config(write_config(tmp_path, TINY))
        videovit.Model(cfg, build_model(cfg)).predict_people(video, finder)


def test_wrong_models_and_weights_are_errors(
    ava: Config, model: VideoModel, finder: PersonFinder, tmp_path: Path
) -> None:
    cfg = load_config(write_config(tmp_path, TINY))
    with pytest.raises(UserError, match=r"--people: this model classifies whole videos, not people.*docs/detection.md"):
        PeoplePredictor(cfg, build_model(cfg), CPU, finder)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=f"other.pth: not the weights of torchvision's {FAST}: Missing key"):
        PersonFinder("fast", str(tmp_path / "other.pth"), CPU)
    broken = build_model(ava).eval()
    torch.nn.init.constant_(broken.head.projection.weight, math.nan)  # type: ignore[union-attr, arg-type]
    predictor = PeoplePredictor(ava, broken, CPU, finder)
    clip = next(predictor.reader.stream(torch.zeros(9, 90, 160, 3, dtype=torch.uint8), 10.0))
    if finder.find(clip.crops_VTSSC[0, 2]):
        with pytest.raises(UserError, match="v.mp4: the model's scores are not finite"):
            predictor.label(clip, "v.mp4")


def test_damaged_weights_in_the_cache_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's file names contain the start of their hash."""
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path))
    url = torchvision.models.get_model_weights(FAST).DEFAULT.url
    cached_path(url).parent.mkdir(parents=True)
    cached_path(url).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"its SHA-256 is .* expected one that begins with fb6a3cc7"):
        PersonFinder("fast", "", CPU)
