"""The robustness task and its command: its numbers are those of the changed clips, on clips and on images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.runs import TINY, Make, exit_codes, start_ranks, stats, write_config
from tests.helpers.videos import write_list
from videovit import cli
from videovit.analysis.corruptions import corrupt
from videovit.config import Config, dump_config, load_config
from videovit.data.build import build_dataset, build_loader
from videovit.data.readers.robustness_sets import IN9, in9_of_imagenet
from videovit.data.records import Sample
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.launch import run
from videovit.engine.tasks.robustness_report import PUBLISHED, tabulate_models
from videovit.errors import UserError
from videovit.models import build_model
from videovit.models.contract import VideoModel

ALONE = "TRAIN.ENABLE False TEST.ENABLE False ROBUSTNESS.ENABLE True "
SIDE = 32


def saved(cfg: Config, seed: int = 0) -> VideoModel:
    """An untrained model, whose weights are where the config says."""
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    for parameter in model.head.parameters():
        nn.init.normal_(parameter)  # so that answers differ between clips
    Path(cfg.TEST.CHECKPOINT_FILE_PATH).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model_state": model.state_dict()}, cfg.TEST.CHECKPOINT_FILE_PATH)
    return model


def report_of(path: Path) -> dict:
    found: dict = json.loads(path.read_text())
    return found


def report(cfg: Config) -> dict:
    found = report_of(Path(cfg.OUTPUT_DIR) / "robustness.json")
    assert all(len(row) == len(found["columns"]) for row in found["rows"])
    return found


# -------------------------------------------------------------------------------------------------------------- clips


@pytest.fixture(scope="module")
def clips(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An untrained model, and a list whose labels are its answers, so that every change can only do harm."""
    folder = tmp_path_factory.mktemp("clips")
    options = f"{ALONE} TEST.CHECKPOINT_FILE_PATH {folder}/weights.pyth TEST.NUM_SPATIAL_CROPS 1 MVIT.DEPTH 1 "
    options += "MVIT.DIM_MUL [] MVIT.HEAD_MUL [] MVIT.POOL_Q_STRIDE [] ROBUSTNESS.SEVERITIES [2,5] ROBUSTNESS.EPS [4] "
    cfg = make(folder / "run", options + "ROBUSTNESS.PGD_STEPS 2")
    (folder / "base.yaml").write_text(dump_config(cfg))
    paths = [sample.path for sample in build_loader(cfg, "test").dataset.samples]
    answers = scores(cfg, saved(cfg))[0].argmax(1).tolist()
    write_list(folder / "test.csv", zip(paths, answers, strict=True))
    return load_config(folder / "base.yaml", ["DATA.PATH_TO_DATA_DIR", str(folder)])


@pytest.fixture(scope="module")
def model(clips: Config) -> VideoModel:
    return saved(clips)


@pytest.fixture(scope="module")
def found(clips: Config, model: VideoModel) -> dict:
    result = run(clips)["robustness"]
    found = report(clips)
    assert result["clean"] == found["tests"]["clean"] and result["blur_5"] == found["corruptions"]["blur"]["5"]
    return found


def scores(
    cfg: Config, model: VideoModel, change: object = None, name: str = "", severity: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean scores of every video over its views, and labels; by a loop of its own."""
    prepare = build_preparation(cfg, train=False)
    sums: dict[int, Tensor] = {}
    labels = {}
    for batch in build_loader(cfg, "test"):
        for i in range(len(batch)):
            video, view = int(batch.videos_B[i]), int(batch.views_B[i])
            frames = batch.frames_BTHWC[i]
            if name:
                frames = corrupt(name, severity, frames, (0, video, view))
            x = prepare(frames[None], None)
            if callable(change):
                x = change(x, batch.labels[i : i + 1])
            with torch.no_grad():
                sums[video] = sums.get(video, torch.zeros(1)) + model(x).softmax(1)[0]
            labels[video] = int(batch.labels[i])
    order = sorted(sums)
    return torch.stack([sums[v] for v in order]), torch.tensor([labels[v] for v in order])


def top1(pair: tuple[Tensor, Tensor]) -> float:
    return 100 * (pair[0].argmax(1) == pair[1]).float().mean().item()


def test_numbers_are_those_of_the_changed_clips(clips: Config, model: VideoModel, found: dict) -> None:
    def covered(x: Tensor, label: Tensor) -> Tensor:
        x = x.clone()
        x[..., SIDE // 4 : 3 * SIDE // 4, SIDE // 4 : 3 * SIDE // 4] = 0
        return x

    def attacked(x: Tensor, label: Tensor) -> Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (clips.DATA.MEAN, clips.DATA.STD))
        pixels = (x * std + mean).requires_grad_()
        F.cross_entropy(model((pixels - mean) / std), label).backward()
        assert pixels.grad is not None
        return ((pixels + 4 / 255 * pixels.grad.sign()).clamp(0, 1).detach() - mean) / std

    tests = found["tests"]
    assert tests["clean"] == 100 > tests["FGSM 4/255"]
    assert tests["occlusion, 0.5 of each side, mean"] == pytest.approx(top1(scores(clips, model, covered)))
    assert tests["FGSM 4/255"] == pytest.approx(top1(scores(clips, model, attacked)))
    for name, severity in (("noise", 5), ("brightness", 5), ("h264", 2), ("frame_freeze", 5)):
        expected = top1(scores(clips, model, name=name, severity=severity))
        assert found["corruptions"][name][str(severity)] == pytest.approx(expected)
    assert found["corruptions"]["brightness"]["5"] < 100


def test_report_explains_itself(clips: Config, found: dict) -> None:
    assert found["title"] == "Robustness: MViT" and "PiT" in found["source"]
    assert found["num_skipped"] == 0
    assert found["columns"] == ["input", "top-1 (%)", "drop (points)", "severity 2 (%)", "severity 5 (%)"]
    rows = {row[0]: row[1:] for row in found["rows"]}
    assert "PGD 4/255, 2 steps of 2/255" in rows
    for name, levels in found["corruptions"].items():
        assert rows[name][0] == pytest.approx(np.mean(list(levels.values())))
        assert rows[name][1] == pytest.approx(rows["clean"][0] - rows[name][0])
        assert rows[name][2:] == list(levels.values())
        assert any(note.startswith(f"{name}: ") for note in found["notes"])
    assert rows["mean over corruptions"][0] == pytest.approx(np.mean([rows[name][0] for name in found["corruptions"]]))
    assert any("16 x 16 pixels in the middle of every frame of 32 x 32" in note for note in found["notes"])
    with Image.open(Path(clips.OUTPUT_DIR) / "robustness.png") as picture:
        assert min(picture.size) > 300
    (record,) = stats(Path(clips.OUTPUT_DIR), "robustness")
    assert record["noise_2"] == pytest.approx(found["corruptions"]["noise"]["2"])


def test_two_processes_find_the_same_as_one(clips: Config, found: dict, tmp_path: Path) -> None:
    options = ["OUTPUT_DIR", str(tmp_path), "ROBUSTNESS.REFERENCE", clips.OUTPUT_DIR]
    (tmp_path / "both.yaml").write_text(dump_config(clips))
    cfg = load_config(tmp_path / "both.yaml", options)
    assert exit_codes(start_ranks(cfg, 2)) == [0, 0]
    both = report(cfg)
    assert both["tests"] == found["tests"] and both["corruptions"] == found["corruptions"]
    place = both["columns"].index("error relative to the reference (%)")
    assert {row[0]: row[place] for row in both["rows"]}["mean over corruptions"] == pytest.approx(100)
    table = tabulate_models({"one": found, "two": {**both, "corruptions": {"blur": found["corruptions"]["blur"]}}})
    assert table.columns[-1] == "mCE relative to one (%)" and [row[-1] for row in table.rows] == [100.0, 100.0]
    assert table.rows[1][table.columns.index("noise (%)")] is None


def test_several_classes_are_measured_by_map(clips: Config, model: VideoModel, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(dump_config(clips))
    options = "TEST.DATASET multilabel TRAIN.DATASET multilabel DATA.MULTI_LABEL True MODEL.LOSS_FUNC bce_logit "
    options += f"MODEL.HEAD_ACT sigmoid OUTPUT_DIR {tmp_path} ROBUSTNESS.WHAT [fgsm] ROBUSTNESS.NUM_VIDEOS 3"
    cfg = load_config(tmp_path / "base.yaml", options.split())
    assert run(cfg)["robustness"]["clean"] > 0
    found = report(cfg)
    assert found["columns"][1] == "mAP (%)" and found["num_videos"] == 3 and "FGSM 4/255" in found["tests"]


def test_command_compares_models(
    clips: Config, model: VideoModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name in ("a$b", "c"):
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text(dump_config(clips))
        weights = {"model_state": model.state_dict(), "epoch": 0}
        torch.save(weights, folder / "checkpoints" / "checkpoint_epoch_00001.pyth")
        folders.append(str(folder))
    words = ["robustness", *folders, "ROBUSTNESS.NUM_VIDEOS", "2", "--what", "occlusion", "--output", f"{tmp_path}/out"]
    assert cli.main(words) == 0
    assert "robustness_compared.png" in capfd.readouterr().out
    found = json.loads((tmp_path / "out" / "robustness_compared.json").read_text())
    assert found["columns"] == ["model", "clean (%)", "occlusion, 0.5 of each side, mean (%)"]
    assert [row[0] for row in found["rows"]] == ["a$b", "c"] and found["rows"][0][1:] == found["rows"][1][1:]
    path = tmp_path / "c" / "robustness.json"
    for wrong in ([], {**report_of(path), "corruptions": {"blur": [1]}}, {**report_of(path), "tests": {"clean": "x"}}):
        path.write_text(json.dumps(wrong))
        assert cli.main(["robustness", folders[0], "ROBUSTNESS.REFERENCE", folders[1]]) == 1
        assert "not a report of robustness" in capfd.readouterr().err
        path.write_text((tmp_path / "a$b" / "robustness.json").read_text())


# ------------------------------------------------------------------------------------------------------------- images

IMAGES = "TEST.DATASET imagenet DATA.NUM_FRAMES 1 MVIT.PATCH_KERNEL [1,7,7] MVIT.PATCH_STRIDE [1,4,4] "
IMAGES += "MVIT.PATCH_PADDING [0,3,3] TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 MODEL.NUM_CLASSES 1000 "
IMAGES += "MVIT.DEPTH 1 MVIT.DIM_MUL [] MVIT.HEAD_MUL [] MVIT.POOL_Q_STRIDE [] ROBUSTNESS.EPS [1] "
IMAGES += "ROBUSTNESS.SEVERITIES [3] "
KNOWN = [200, 10, 407, 40, 280, 310, 402, 370, 3, 500]
"""A class of ImageNet for each of ImageNet-9, and one of none."""


def picture(seed: int, side: int = SIDE) -> np.ndarray:
    """Smooth colors, which JPEG keeps."""
    corners = np.random.default_rng(seed).integers(0, 255, (2, 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((side, side), Image.Resampling.BILINEAR))


def write_image(path: Path, seed: int, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, side)).save(path, format="JPEG", quality=95)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A model of 1,000 classes that answers with ten of them, a test list, and the three sets in their layouts."""
    folder = tmp_path_factory.mktemp("imagenet")
    (folder / "ids.txt").write_text("\n".join(f"n{i:08d}" for i in range(1000)))
    options = f"{ALONE} {IMAGES} DATA.PATH_TO_DATA_DIR {folder} OUTPUT_DIR {folder}/run "
    options += f"TEST.CHECKPOINT_FILE_PATH {folder}/weights.pyth ROBUSTNESS.CLASS_IDS_FILE {folder}/ids.txt "
    options += f"ROBUSTNESS.IMAGENET_A {folder}/a ROBUSTNESS.IMAGENET_R {folder}/r ROBUSTNESS.BACKGROUNDS {folder}/bg"
    for i in range(6):
        write_image(folder / "val" / f"{i}.JPEG", i, 48)
        write_image(folder / "a" / f"n{KNOWN[i % 3]:08d}" / f"{i}.jpg", i, 48)
        write_image(folder / "r" / f"n{KNOWN[4 + i % 2]:08d}" / f"{i}.jpg", i, 40)
    (folder / "val.csv").write_text("".join(f"{folder}/val/{i}.JPEG {KNOWN[i]}\n" for i in range(6)))
    return load_config(write_config(folder, TINY), options.split())


def answers(model: VideoModel, cfg: Config, paths: list[Path]) -> Tensor:
    """Logits of stored images of the model's size."""
    frames = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths]))[:, None]
    with torch.no_grad():
        return model(build_preparation(cfg, train=False)(frames, None))


def write_backgrounds(folder: Path, cfg: Config, model: VideoModel) -> None:
    """ImageNet-9, whose originals the model knows, and masks: of everything, of nothing, of one half."""
    names = [f"{number:02d}_{name}" for number, name in enumerate(IN9)]
    for number, name in enumerate(names):
        for variation in ("only_bg_t", "mixed_same", "mixed_rand"):
            for i in range(2):
                write_image(folder / variation / "val" / name / f"n_{i}.JPEG", 100 * number + 10 * len(variation) + i)
    for seed in range(1000, 1012):
        write_image(folder / "first.JPEG", seed)
        number = int(in9_of_imagenet()[answers(model, cfg, [folder / "first.JPEG"]).argmax(1)])
        write_image(folder / "original" / "val" / names[number % 9] / f"n_{seed}.JPEG", seed)
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[:, : (SIDE, 0, SIDE // 2)[seed % 3]] = True
        (folder / "fg_mask" / "val" / names[number % 9]).mkdir(parents=True, exist_ok=True)
        np.save(folder / "fg_mask" / "val" / names[number % 9] / f"n_{seed}.npy", mask)
    for name in names:
        (folder / "fg_mask" / "val" / name).mkdir(exist_ok=True)
        (folder / "original" / "val" / name).mkdir(exist_ok=True)


def misleading(model: VideoModel, cfg: Config, image: Path, backgrounds: list[Path]) -> Tensor:
    """Whether each background misleads the model about an object, all of them tried."""
    mask = np.load(image.parents[3] / "fg_mask" / "val" / image.parent.name / f"{image.stem}.npy")[:, :, None]
    pictures = [np.where(mask, np.asarray(Image.open(image)), np.asarray(Image.open(one))) for one in backgrounds]
    x = build_preparation(cfg, train=False)(torch.from_numpy(np.stack(pictures))[:, None], None)
    with torch.no_grad():
        return in9_of_imagenet()[model(x).argmax(1)] != int(image.parent.name[:2])


def test_misleading_images(imagenet: Config) -> None:
    folder = Path(imagenet.DATA.PATH_TO_DATA_DIR)
    model = saved(imagenet)
    bias = model.head.get_submodule("projection").bias
    with torch.no_grad():
        bias.fill_(-1000)
        bias[KNOWN] = 0
    torch.save({"model_state": model.state_dict()}, folder / "weights.pyth")
    write_backgrounds(folder / "bg", imagenet, model)
    originals = sorted((folder / "bg" / "original" / "val").glob("*/*.JPEG"))
    backgrounds = sorted((folder / "bg" / "only_bg_t" / "val").glob("*/*.JPEG"))
    survived = sum(not misleading(model, imagenet, image, backgrounds).any() for image in originals)
    assert 0 < survived < len(originals)
    known = [int(path.parent.name[:2]) for path in originals]
    right = in9_of_imagenet()[answers(model, imagenet, originals).argmax(1)] == torch.tensor(known)

    run(imagenet)
    found = report(imagenet)
    tests = found["tests"]
    assert tests["Backgrounds Challenge"] == pytest.approx(100 * survived / len(originals))
    assert tests["ImageNet-9 original"] == pytest.approx(100 * right.float().mean().item()) and right.any()
    same, rand = tests["ImageNet-9 mixed_same"], tests["ImageNet-9 mixed_rand"]
    assert tests["BG-gap"] == pytest.approx(same - rand)
    # Of ImageNet-A only its three classes can be the answer.
    paths = sorted((folder / "a").glob("*/*.jpg"))
    dataset = build_dataset(imagenet, "test", [Sample(str(path), 0) for path in paths])
    frames = torch.stack([dataset[0, i].clips[0].frames_THWC for i in range(len(paths))])
    with torch.no_grad():
        logits = model(build_preparation(imagenet, train=False)(frames, None))
    three = sorted(KNOWN[:3])
    hits = [f"n{three[k]:08d}" == path.parent.name for k, path in zip(logits[:, three].argmax(1), paths, strict=True)]
    assert tests["ImageNet-A"] == pytest.approx(100 * np.mean(hits)) and "ImageNet-R" in tests
    assert set(found["corruptions"]) == {"noise", "blur", "brightness", "h264"}  # an image has no time
    rows = {row[0]: dict(zip(found["columns"], row, strict=True)) for row in found["rows"]}
    for model_name, numbers in PUBLISHED.items():
        column = f"published: {model_name} (%)"
        assert rows["clean"][column] == numbers["clean"] and rows["FGSM 1/255"][column] == numbers["FGSM"]
        assert rows["ImageNet-A"][column] == numbers["ImageNet-A"]
        assert rows["Backgrounds Challenge"][column] == numbers["Backgrounds Challenge"]
        assert rows["noise"][column] is None
    assert rows["BG-gap"]["drop (points)"] is None


def test_mistakes_are_named(imagenet: Config, clips: Config, tmp_path: Path) -> None:
    def changed(cfg: Config, options: str) -> Config:
        (tmp_path / "base.yaml").write_text(dump_config(cfg))
        return load_config(tmp_path / "base.yaml", options.split())

    with pytest.raises(UserError, match=r"ROBUSTNESS\.IMAGENET_A: images for models of ImageNet, but .* takes clips"):
        run(changed(clips, f"ROBUSTNESS.IMAGENET_A {tmp_path}"))
    (Path(imagenet.DATA.PATH_TO_DATA_DIR) / "test.csv").write_text(f"{imagenet.DATA.PATH_TO_DATA_DIR}/val/0.JPEG 1")
    with pytest.raises(UserError, match="found 10, expected 1000 or 9"):
        cfg = changed(imagenet, "MODEL.NUM_CLASSES 10 TEST.SPLIT test")
        run(replace(cfg, ROBUSTNESS=replace(cfg.ROBUSTNESS, IMAGENET_A="", IMAGENET_R="")))
    with pytest.raises(UserError, match=r"robustness\.json: not a report of robustness: No such file or directory$"):
        run(changed(clips, f"ROBUSTNESS.REFERENCE {tmp_path}"))
