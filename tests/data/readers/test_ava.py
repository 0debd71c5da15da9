"""AVA's files: what is read from them, and which lines are rejected."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers.ava_data import CONFIG, write_ava
from tests.helpers.samples import read_samples
from tests.helpers.videos import barcode, read_barcodes, write_video
from videovit.config import ConfigError, load_config
from videovit.data import detection, list_cache
from videovit.data.build import build_dataset, build_loader
from videovit.data.columns import Columns
from videovit.data.dataset import BoxCrops, ClipDataset
from videovit.data.decode import DecodeOptions
from videovit.data.detection import read_truth, read_videos
from videovit.data.readers.ava import BoxRules, key_frames, read_boxes, read_excluded
from videovit.data.readers.ava_videos import find_frame_folders, find_movies, read_frame_lists
from videovit.data.readers.label_map import read_label_map
from videovit.data.records import AnnotationError, Box, KeyFrame, Sample, collate
from videovit.data.sample_list import sample_columns
from videovit.data.sampling import AroundKeyFrame
from videovit.data.transforms.boxes import Placement

RULES = BoxRules(num_classes=80, window_s=(902, 1798), videos={"a", "b"}, min_score=0.8)
GOOD = "a,0902,0.1,0.2,0.5,0.9,12,0"


def write(folder: Path, *lines: str, name: str = "boxes.csv", end: str = "\n") -> Path:
    path = folder / name
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def test_key_frames_merge_rows(tmp_path: Path) -> None:
    truth = write(tmp_path, "b,1000,0,0,1,1,3,7", GOOD, "a,902,0.1,0.2,0.5,0.9,80,0", "a,0902,0.5,0.2,0.9,0.9,4,1")
    proposals = write(
        tmp_path,
        "a,0902,0.1,0.2,0.5,0.9,17,0.95",  # the annotated box with another action
        "a,0903,0.1,0.2,1.0004,0.9,,0.80",  # over the edge because of rounding
        "a,0903,0.1,0.3,0.5,0.9,-1,0.9",
        "a,0904,0.1,0.2,0.5,0.9,,0.79",  # below the minimum score
        name="proposals.csv",
    )
    rows = read_boxes(truth, RULES, scored=False) + read_boxes(proposals, RULES, scored=True)
    samples = key_frames(rows, {"a": Sample("a.mkv"), "b": Sample("b", num_frames=5)})
    assert samples == [
        Sample(
            "a.mkv",
            key=KeyFrame("a", 902.0, (Box(0.1, 0.2, 0.5, 0.9, (12, 17, 80)), Box(0.5, 0.2, 0.9, 0.9, (4,)))),
        ),
        Sample("a.mkv", key=KeyFrame("a", 903.0, (Box(0.1, 0.2, 1.0, 0.9, (), 0.8), Box(0.1, 0.3, 0.5, 0.9, (), 0.9)))),
        Sample("b", num_frames=5, key=KeyFrame("b", 1000.0, (Box(0, 0, 1, 1, (3,)),))),
    ]


def test_read_boxes_bom_crlf_and_old_format(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff" + GOOD, "", " a , 0902 ,0.1,0.2,0.5,0.9, 13", end="\r\n")
    assert [row.class_id for row in read_boxes(path, RULES, scored=False)] == [12, 13]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("a,0902,0.1,0.2,0.5,0.9", "found 6 columns, expected 8: video_id,time stamp,x1,y1,x2,y2,action_id,person_id"),
        (GOOD + ",0", "found 9 columns"),
        ("c,0902,0.1,0.2,0.5,0.9,12,0", "found the video 'c', which is not among the 2 known videos"),
        (",0902,0.1,0.2,0.5,0.9,12,0", "found no video_id"),
        ("a,0901,0.1,0.2,0.5,0.9,12,0", r"found the time stamp 0901, expected 902 to 1798 seconds (AVA.KEY_FRAMES_S)"),
        ("a,15:02,0.1,0.2,0.5,0.9,12,0", "found the time stamp '15:02', expected seconds"),
        ("a,0902,0.1,0.2,1.5,0.9,12,0", "found the corners 0.1,0.2,1.5,0.9, expected fractions of the frame, 0 to 1"),
        ("a,0902,10,20,150,90,12,0", "expected fractions of the frame"),
        ("a,0902,0.5,0.2,0.5,0.9,12,0", "found the corners 0.5,0.2,0.5,0.9, expected x1 < x2 and y1 < y2"),
        ("a,0902,0.1,0.9,0.5,0.2,12,0", "expected x1 < x2 and y1 < y2"),
        ("a,0902,0.1,nan,0.5,0.9,12,0", "expected four numbers"),
        ("a,0902,0.1,0.2,0.5,0.9,81,0", r"found the action '81', expected 1 to 80 (MODEL.NUM_CLASSES)"),
        ("a,0902,0.1,0.2,0.5,0.9,0,0", "found the action '0'"),
        ("a,0902,0.1,0.2,0.5,0.9,,0", "found the action ''"),
        ("a,0902,0.1,0.2,0.5,0.9,walk,0", "found the action 'walk'"),
        ("a,902,0.10,0.20,0.50,0.90,12,0", "duplicate of line 1"),
    ],
)
def test_read_boxes_invalid_line_raises(line: str, found: str, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, line)
    with pytest.raises(AnnotationError, match=re.escape(f"{path}:2: {line}\n      ") + ".*" + re.escape(found)):
        read_boxes(path, RULES, scored=False)


def test_read_boxes_invalid_lines_reported_or_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, "c,0902,0,0,1,1,,0.9", "a,0902,0,0,1,1,,high", "a,0902,0,0,1,1,,0.9")
    with pytest.raises(AnnotationError, match=r"2 lines cannot be used:(.|\n)*found the score 'high', expected a num"):
        read_boxes(path, RULES, scored=True)
    with pytest.warns(UserWarning, match=r"2 invalid lines skipped \(AVA.SKIP_BAD_ROWS\), first: .*:1: c,0902"):
        rows = read_boxes(path, RULES, scored=True, skip_bad=True)
    assert [row.key for row in rows] == [("a", 902.0)]


def test_read_boxes_missing_file_shows_folder(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(AnnotationError, match=r"train.csv does not exist; its folder holds boxes.csv"):
        read_boxes(tmp_path / "train.csv", RULES, scored=False)
    with pytest.raises(AnnotationError, match=r"nor does its folder \(AVA.ANNOTATION_DIR"):
        read_boxes(tmp_path / "none" / "train.csv", RULES, scored=False)


def test_read_excluded(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffa,0902", "", "b,1000", end="\r\n")
    assert read_excluded(path) == {("a", 902.0), ("b", 1000.0)}
    path = write(tmp_path, "a,0902", "b,1000,1", "b,soon")
    with pytest.raises(AnnotationError, match=r"boxes.csv:2: b,1000,1\n(.|\n)*boxes.csv:3: b,soon"):
        read_excluded(path)


LABELS = """label {
  name: "bend/bow (at the waist)"   # of a person
  label_id: 1
  label_type: PERSON_MOVEMENT
}
item { name: 'a "b" }' id: 3 }
"""


def test_read_label_map(tmp_path: Path) -> None:
    path = write(tmp_path, LABELS, name="classes.pbtxt")
    assert read_label_map(path, 3) == {1: "bend/bow (at the waist)", 3: 'a "b" }'}
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_label_map(path, 3) == {1: "bend/bow (at the waist)", 3: 'a "b" }'}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item { name: 'a' id: 4 }", r":1: found id 4, expected 1 to 3 \(MODEL.NUM_CLASSES\)"),
        ("item { name: 'a' id: 1 }\nitem { name: 'b' id: 1 }", r":2: id 1 is already 'a'"),
        ("item {\n name: 'a'\n}", r":1: found .*expected a name and an id"),
        ("item {\n name 'a' id: 1 }", r":2: found name 'a' id, expected name: value"),
        ("thing { name: 'a' id: 1 }", r":1: found 'thing', expected item \{ or label \{"),
        ("item { name: 'a' id: 1", r":1: the block has no closing }"),
        ("item {\n name: @a }", r":2: found '@'"),
        ("", r": no classes; expected blocks like item"),
    ],
)
def test_read_label_map_invalid_raises(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"classes.pbtxt" + message):
        read_label_map(write(tmp_path, text, name="classes.pbtxt"), 3)


def test_find_movies(tmp_path: Path) -> None:
    for name in ("a.b.mp4", "c.MKV", "notes.txt", ".d.mp4"):
        (tmp_path / name).touch()
    assert find_movies(tmp_path) == {"a.b": Sample(str(tmp_path / "a.b.mp4")), "c": Sample(str(tmp_path / "c.MKV"))}
    (tmp_path / "c.webm").touch()
    with pytest.raises(AnnotationError, match=r"c.webm and c.MKV have the same name 'c'"):
        find_movies(tmp_path)
    with pytest.raises(AnnotationError, match=r"AVA.FRAME_DIR: '.*frames' cannot be listed"):
        find_frame_folders(tmp_path / "frames")


def test_ava_without_any_folder_names_the_keys() -> None:
    cfg = load_config(None)
    with pytest.raises(AnnotationError, match=r"AVA.FRAME_DIR: found nothing, expected .*; or set AVA.MOVIE_DIR"):
        read_videos(cfg, "train")


def write_frames(folder: Path, num_frames: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(num_frames):
        Image.fromarray(barcode(number, width=48)).save(folder / f"{folder.name}_{number + 1:06d}.png")
    return folder


def test_frame_list_clip_at_time_stamp(tmp_path: Path) -> None:
    """PySlowFast's layout: images from second 900 on, at 5 fps, and a list of them."""
    write_frames(tmp_path / "frames" / "film", 40)
    rows = [f'film 0 {i} film/film_{i + 1:06d}.png ""' for i in range(40)]
    write(tmp_path, "original_vido_id video_id frame_id path labels", *rows, name="train.csv")
    write(tmp_path, "film,0902,0.1,0.2,0.5,0.9,2,0", "film,0907,0.1,0.2,0.5,0.9,1,0")
    opts = f"""DETECTION.ENABLE True AVA.FRAME_DIR {tmp_path}/frames AVA.FRAME_LIST_DIR {tmp_path}
        TRAIN.DATASET ava TEST.DATASET ava
        AVA.ANNOTATION_DIR {tmp_path} AVA.TRAIN_GT_BOX_LISTS ['boxes.csv'] DATA.FRAMES_FPS 5 DATA.TARGET_FPS 5
        MODEL.NUM_CLASSES 3 MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid NUM_GPUS 0 DATA.NUM_FRAMES 4
        DATA.SAMPLING_RATE 2 DATA.TRAIN_CROP_SIZE 48 DATA.TEST_CROP_SIZE 48 DATA.TRAIN_JITTER_SCALES [48,48]
        DATA.RANDOM_FLIP False DATA.DECODE_TIMEOUT_S 0""".split()
    cfg = load_config(None, opts)
    dataset = build_dataset(cfg, "train", read_samples(cfg, "train"))
    shown = [read_barcodes(dataset[0, i].clips[0].frames_THWC) for i in range(2)]
    assert shown == [[6, 8, 10, 12], [31, 33, 35, 37]]
    assert read_frame_lists([tmp_path / "train.csv"], fps=5, frame_dir="x")["film"].num_frames == 40


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ava(tmp_path_factory.mktemp("ava"), num_train=1)


@pytest.mark.parametrize("timeout_s", [0.0, 20.0])
def test_movie_clip_variable_fps(tmp_path: Path, timeout_s: float) -> None:
    """A variable frame rate, as from phones: 12.5 fps for 4 seconds, then 25."""
    times = [2 * number for number in range(50)] + list(range(100, 250))
    movie = write_video(tmp_path / "a.mp4", num_frames=200, fps=25, pts=times)
    seconds = (2.0, 5.0, 8.0)
    dataset = ClipDataset(
        [Sample(str(movie), key=KeyFrame("a", time_s, ())) for time_s in seconds],
        plan=AroundKeyFrame(1, 1, 25.0),
        crops=BoxCrops(lambda frames, _: (frames, Placement(1.0, 1.0)), crop_size=48, num_classes=2),
        backend="pyav",
        decoding=DecodeOptions(timeout_s=timeout_s),
    )
    shown = [read_barcodes(dataset[0, index].clips[0].frames_THWC)[0] for index in range(3)]
    assert [times[number] / 25 for number in shown] == list(seconds)


def test_detection_batches(config: Path) -> None:
    loader = build_loader(load_config(config), "train")
    batch = next(iter(loader))
    assert batch.frames_BTHWC.shape == (6, 4, 32, 32, 3)
    assert batch.boxes_R5 is not None
    assert batch.labels.shape == (len(batch.boxes_R5), 6)
    assert batch.labels.sum(dim=1).tolist() == [1.0] * len(batch.labels)
    clips = batch.boxes_R5[:, 0].tolist()
    assert clips == sorted(clips)
    assert set(clips) <= set(range(6))
    # The center of a box has the color of its class: red 1, green 2, blue 3.
    for (clip, x1, y1, x2, y2), target_K in zip(batch.boxes_R5.tolist(), batch.labels, strict=True):
        if min(x2 - x1, y2 - y1) > 4:
            pixel = batch.frames_BTHWC[int(clip), 2, int((y1 + y2) / 2), int((x1 + x2) / 2)]
            assert pixel.argmax() == target_K.argmax()


def test_batch_split_with_boxes(config: Path) -> None:
    dataset = build_loader(load_config(config), "train").dataset
    batch = collate([dataset[0, i] for i in range(5)])
    pieces = list(batch.split(2))
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert batch.boxes_R5 is not None
    moved = [piece.boxes_R5 + torch.tensor([2.0 * i, 0, 0, 0, 0]) for i, piece in enumerate(pieces)]
    assert torch.equal(torch.cat(moved), batch.boxes_R5)
    assert torch.equal(torch.cat([piece.labels for piece in pieces]), batch.labels)
    assert torch.equal(batch.to("cpu").boxes_R5, batch.boxes_R5)


def test_box_crops_all_outside(config: Path, tmp_path: Path) -> None:
    write(tmp_path, "movie_0,0003,0.0,0.0,0.01,0.01,1,0", name="train.csv")
    opts = ["AVA.ANNOTATION_DIR", tmp_path, "AVA.TRAIN_PREDICT_BOX_LISTS", "[]"]
    cfg = load_config(config, opts)
    dataset = build_dataset(cfg, "train", read_samples(cfg, "train"))
    batch = collate([dataset[epoch, 0] for epoch in range(4)])
    assert batch.boxes_R5 is not None
    assert batch.boxes_R5.shape == (0, 5)
    assert batch.labels.shape == (0, 6)
    assert len(next(batch.split(3))) == 3


def test_validation_every_fourth_second(config: Path) -> None:
    cfg = load_config(config)
    assert [s.key.time_s for s in read_samples(cfg, "val") if s.key] == [4, 8, 12, 16]
    assert {row.key[1] for row in read_truth(cfg, "val").rows} == {4, 8, 12, 16}
    assert len(read_samples(load_config(config, ["AVA.FULL_TEST_ON_VAL", True]), "val")) == 18
    assert len(read_truth(cfg, "test").rows) == 36


def test_read_truth_no_evaluated_box_raises(config: Path, tmp_path: Path) -> None:
    folder = config.parent / "annotations"
    (tmp_path / "first.csv").write_text((folder / "val.csv").read_text().splitlines()[0] + "\n")
    (tmp_path / "other.pbtxt").write_text('item { name: "never" id: 4 }\n')
    given = {"GROUNDTRUTH_FILE": folder / "val.csv", "LABEL_MAP_FILE": folder / "classes.pbtxt"}
    for split, key, file, message in (
        ("val", "GROUNDTRUTH_FILE", tmp_path / "first.csv", r"every fourth second .* AVA.FULL_TEST_ON_VAL True"),
        ("test", "LABEL_MAP_FILE", tmp_path / "other.pbtxt", r"1 class in .*other.pbtxt"),
    ):
        opts = [word for name, value in {**given, key: file}.items() for word in (f"AVA.{name}", str(value))]
        with pytest.raises(AnnotationError, match=rf"(val|first).csv .*no box to evaluate.*{message}"):
            read_truth(load_config(config, opts), split)


def test_read_ava_threshold_above_all_scores_raises(config: Path) -> None:
    cfg = load_config(config, ["AVA.DETECTION_SCORE_THRESH", 0.99])
    with pytest.raises(AnnotationError, match=r"no boxes for test in val_proposals.csv with a score of at least 0.99"):
        read_samples(cfg, "test")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            "MODEL.LOSS_FUNC cross_entropy",
            "one class per box, but DETECTION.ENABLE allows any number; set MODEL.LOSS_FUNC bce",
        ),
        ("MODEL.HEAD_ACT softmax", "softmax makes classes compete, but with DETECTION.ENABLE a box"),
        ("MIXUP.ENABLE True", "mixes whole clips"),
        ("AUG.ENABLE True", "RandAugment rotates and shifts frames"),
        ("AVA.KEY_FRAMES_S [5,1]", r"\[5, 1\] must be increasing"),
        ("AVA.TEST_FORCE_FLIP True", "testing on mirrored clips is not supported"),
        ("BENCHMARK.ENABLE True", "a detector needs boxes"),
    ],
)
def test_detection_conflicting_config_raises(opts: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ava.yaml"
    path.write_text(CONFIG)
    with pytest.raises(ConfigError, match=message):
        load_config(path, opts.split())


def test_read_ava_from_cache(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_cache, "LEAST_CACHED", 0)
    cfg = load_config(config)
    samples = {split: list(read_samples(cfg, split)) for split in ("train", "val")}
    with monkeypatch.context() as patch:
        patch.setattr(detection, "read_boxes", lambda *_, **__: pytest.fail("parsed again"))
        assert all(read_samples(cfg, split) == found for split, found in samples.items())
    # A stranger's file names another movie, or classes that there are not.
    place = Path(cfg.AVA.ANNOTATION_DIR) / "train.csv.train.columns"
    key = Columns(os.open(place, os.O_RDONLY)).key
    for foreign in (Sample("/etc/passwd", key=samples["train"][0].key), with_class(samples["train"][0], 99)):
        place.unlink()
        with open(place, "xb+") as file:
            list_cache.write_columns(file.fileno(), sample_columns([foreign]), key)
        assert read_samples(cfg, "train") == samples["train"]


def with_class(sample: Sample, class_id: int) -> Sample:
    assert sample.key is not None
    boxes = tuple(replace(box, class_ids=(class_id,)) for box in sample.key.boxes)
    return replace(sample, key=replace(sample.key, boxes=boxes))
