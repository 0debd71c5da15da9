"""Detectors: their contract, on the maps of every kind of model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from tests.helpers.mvit_variants import perturb
from tests.helpers.runs import run_group
from tests.helpers.tiny_detectors import HEADS, images_and_targets, tiny_config, tiny_detector
from videovit.config import dump_config
from videovit.errors import UserError
from videovit.models import (
    Detector,
    build_model,
    build_network,
    count_macs,
    count_params,
    export_state_dict,
    load_pretrained,
)
from videovit.models.build import build_backbone
from videovit.models.detection.pyramid import Maps

PAIRS = [
    *(("MaskRCNN", body, "") for body in ("MViT", "PiT", "PSViT", "ViT")),
    ("FasterRCNN", "ImageResNet", "DETECTOR.STRIDES [4,8,16,32] DETECTOR.ANCHOR_SIZES [8,16,32,64,128]"),
    ("RetinaNet", "MViT", ""),
    ("DeformableDETR", "PiT", "DETECTOR.STRIDES [8,16] DETECTOR.MIN_SCORE 0.0"),
    ("DeformableDETR", "ViT", "DETECTOR.STRIDES [] VIT.STAGES [1,3] DETECTOR.MIN_SCORE 0.0"),
]


def detector(head: str, body: str, options: str = "") -> Detector:
    if head == "DeformableDETR":
        pytest.importorskip("transformers", reason='transformers is not installed (pip install -e ".[hf]")')
    return tiny_detector(head, body, options)


@pytest.mark.parametrize(("head", "body", "options"), PAIRS)
def test_losses_in_training_objects_in_evaluation(head: str, body: str, options: str) -> None:
    model = detector(head, body, options)
    images, targets = images_and_targets()
    before = [image.clone() for image in images]
    losses = model(images, targets)
    assert isinstance(losses, dict) and len(losses) >= 2
    assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    # Distributed training waits for the gradients of all parameters.
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(torch.equal(a, b) for a, b in zip(images, before, strict=True))
    model.eval()
    perturb(model)
    with torch.no_grad():
        found = model(images)
    assert len(found) == 2
    for image, objects in zip(images, found, strict=True):
        number = len(objects["boxes"])
        assert objects["scores"].shape == objects["labels"].shape == (number,)
        assert number == 0 or (objects["labels"].min() >= 1 and objects["labels"].max() <= 7)
        assert torch.equal(objects["scores"], objects["scores"].sort(descending=True)[0])
        height, width = image.shape[1:]
        assert (objects["boxes"] >= 0).all() and (objects["boxes"] <= objects["boxes"].new([width, height] * 2)).all()
        assert ("masks" in objects) == model.finds_masks
        assert not model.finds_masks or objects["masks"].shape == (number, 1, height, width)


def test_equal_to_torchvision_with_its_backbone() -> None:
    options = "DETECTOR.STRIDES [4,8,16,32] DETECTOR.ANCHOR_SIZES [8,16,32,64,128] DETECTOR.CHANNELS 256 "
    options += "DETECTOR.BOX_DIM 1024 DETECTOR.MIN_SCORE 0.0 DATA.MEAN [0.485,0.456,0.406] DATA.STD [0.229,0.224,0.225]"
    ours = tiny_detector("MaskRCNN", "ImageResNet", options).eval()
    perturb(ours)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5)
    sizes = {"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 50, "min_size": 64, "max_size": 200}
    theirs = MaskRCNN(body, 8, rpn_anchor_generator=anchors, box_score_thresh=0.0, **sizes).eval()
    state = {n.removeprefix("network.").replace("backbone.maps.body", "backbone.body"): t
             for n, t in ours.state_dict().items()}  # fmt: skip
    theirs.load_state_dict(state)
    image = torch.rand(3, 64, 101, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        (found,), (expected,) = ours([image]), theirs([image])
    assert len(found["boxes"]) > 10
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


def test_a_detector_finds_what_it_was_trained_on() -> None:
    """Labels, boxes and masks mean the same in training and in evaluation, also beside padding."""
    model = tiny_detector("MaskRCNN", "PiT", "DETECTOR.STRIDES [4,8,16]")
    images, targets = images_and_targets()
    for target, image in zip(targets[:1], images, strict=False):
        for label, mask in zip(target["labels"], target["masks"], strict=True):
            image[label % 3, mask.bool()] = 1.0
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(80):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        found, empty = model.eval()(images)
    for label, box, mask in zip(targets[0]["labels"], targets[0]["boxes"], targets[0]["masks"], strict=True):
        best = (found["labels"] == label).int().argmax()
        assert found["labels"][best] == label and found["scores"][best] > 0.5
        assert (found["boxes"][best] - box).abs().max() < 8
        overlap = (found["masks"][best, 0] > 0.5) & mask.bool()
        assert overlap.sum() > 0.7 * mask.sum()
    assert not (empty["scores"] > 0.5).any()


@pytest.mark.parametrize("head", ["MaskRCNN", "DeformableDETR"])
def test_layers_are_those_of_the_backbone(head: str) -> None:
    model = detector(head, "PiT", "DETECTOR.STRIDES [8,16] DETECTOR.ANCHOR_SIZES [8,16,32] PIT.DROPOUT_RATE 0.5")
    layers, last = model.layers_of_parameters(), model.num_layers + 1
    assert model.num_layers == 3 and layers.keys() == dict(model.named_parameters()).keys()
    inside = "network.backbone.maps.body."
    own = model.body.layers_of_parameters()
    assert {n: layer for n, layer in layers.items() if n.startswith(inside)} == {inside + n: own[n] for n in own}
    assert {layer for n, layer in layers.items() if not n.startswith(inside)} == {last}
    assert set(own.values()) == {0, 1, 2, 3}  # nothing is left of its head
    assert model.no_weight_decay() == {inside + "cls_token", inside + "pos_embed_spatial"}
    assert set(model.units_to_shard()) <= set(model.modules())
    model.train().freeze(2)
    assert all(p.requires_grad == (layers[n] >= 2) for n, p in model.named_parameters())
    assert not model.body.embedding_trains and not model.body.blocks[0].training and model.body.blocks[1].training
    with pytest.raises(UserError, match=f"found {last + 1}, expected 0 to {last}"):
        model.freeze(last + 1)


@pytest.mark.parametrize("body", ["MViT", "PiT", "PSViT", "ViT", "ImageResNet"])
def test_weights_of_classifiers_load_into_the_backbone(body: str) -> None:
    head = "DETECTOR.STRIDES [4,8,16,32] DETECTOR.ANCHOR_SIZES [8,16,32,64,128] "
    torch.manual_seed(1)
    classifier = build_backbone(
        tiny_config("FasterRCNN", body, head + "MODEL.NUM_CLASSES 11 IMAGE_RESNET.FROZEN_NORMS False")
    )
    perturb(classifier)
    model = tiny_detector("FasterRCNN", body, head)
    report = load_pretrained(model, classifier.state_dict())
    state = classifier.state_dict()
    for name, tensor in model.body.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    skipped = {name.split(".")[0] for name in report.skipped if not name.endswith(".num_batches_tracked")}
    assert skipped == ({"fc"} if body == "ImageResNet" else {"norm", "head"})
    assert "the model has no classifier" in str(report)
    inside = {id(p) for p in model.body.parameters()}
    assert set(report.missing) == {n for n, p in model.named_parameters() if id(p) not in inside}


def test_weights_of_other_projects_load_into_the_backbone() -> None:
    classifier = build_backbone(tiny_config("MaskRCNN", "PiT"))
    perturb(classifier)
    theirs = {n: t[:, :, 0] if t.dim() == 5 else t for n, t in export_state_dict(classifier, "timm_pit").items()}
    model = tiny_detector("MaskRCNN", "PiT")
    assert load_pretrained(model, theirs).source == "pit"
    assert torch.equal(model.body.blocks[1].pool.conv.weight, classifier.blocks[1].pool.conv.weight)
    deit = timm.create_model("deit_tiny_patch16_224", embed_dim=24, depth=3, num_heads=2, img_size=32, patch_size=8)
    model = tiny_detector("MaskRCNN", "ViT")
    assert load_pretrained(model, deit.state_dict()).source == "deit"
    assert torch.equal(model.body.patch_embed.proj.weight[:, :, 0], deit.patch_embed.proj.weight)


def test_position_tables_are_stretched_for_the_backbone() -> None:
    larger = build_backbone(tiny_config("MaskRCNN", "PiT", "DATA.TRAIN_CROP_SIZE 64"))
    model = tiny_detector("MaskRCNN", "PiT")
    report = load_pretrained(model, larger.state_dict())
    assert report.resized == ["pos_embed_spatial"] and model.body.pos_embed_spatial.std() > 0.01


def test_a_detector_loads_into_one_with_other_classes() -> None:
    trained = tiny_detector("MaskRCNN", "MViT", "MODEL.NUM_CLASSES 3")
    perturb(trained)
    model = tiny_detector()
    report = load_pretrained(model, trained.state_dict())
    assert {name.split(".")[2] for name in report.missing} == {"box_predictor", "mask_predictor"}
    assert len(report.missing) == 6 and len(report.loaded) == len(model.state_dict()) - 6
    assert torch.equal(model.body.blocks[0].attn.qkv.weight, trained.body.blocks[0].attn.qkv.weight)


def test_costs_are_counted_with_a_fixed_number_of_boxes() -> None:
    with torch.device("meta"):
        both, boxes = tiny_detector("MaskRCNN"), tiny_detector("FasterRCNN")
    size = (1, 3, 64, 96)
    # Masks of 100 objects: four convolutions at 14 x 14, a transposed one, and logits at 28 x 28.
    masks = 100 * (14 * 14 * (4 * 9 * 32 * 32 + 4 * 32 * 32) + 28 * 28 * 32 * 8)
    assert count_macs(both, size) - count_macs(boxes, size) == masks
    assert count_params(both) - count_params(boxes) == 4 * (9 * 32 * 32 + 32) + (4 * 32 * 32 + 32) + (32 * 8 + 8)


def test_maps_have_the_strides_of_images_of_any_size() -> None:
    for body, strides in (("MViT", (4, 8, 16)), ("PiT", (2, 4, 8, 16)), ("ViT", (4, 8, 16, 32))):
        maps = Maps(build_backbone(tiny_config("MaskRCNN", body)), strides).eval()
        for height, width in ((64, 96), (33, 70)):
            found = maps(torch.rand(1, 3, height, width))
            whole = [-(-side // strides[-1]) * strides[-1] for side in (height, width)]
            for map_BCHW, stride, channels in zip(found, strides, maps.channels, strict=True):
                expected = [side // stride for side in whole]
                # PiT's patches overlap without padding, which costs one place.
                lost = 2 if body == "PiT" else 0
                assert all(e - lost <= s <= e for s, e in zip(map_BCHW.shape[2:], expected, strict=True))
                assert map_BCHW.shape[1] == channels


WRONG = {
    r"PSViT has maps of 1 x 1 x \d+": ("MaskRCNN", "PSViT", "PSVIT.POOLING 1d"),
    r"PiT has \d+ x \d+ places.*expected a stride of 2, 4, 8": ("MaskRCNN", "PiT", "PIT.PATCH_STRIDE [1,7,7]"),
    r"DETECTOR\.STRIDES: found \[4, 8\], expected strides up to": (
        "MaskRCNN",
        "MViT",
        "DETECTOR.STRIDES [4,8] DETECTOR.ANCHOR_SIZES [8,16,32]",
    ),
    r"DETECTOR\.ANCHOR_SIZES: found '2 sizes', expected 4": ("MaskRCNN", "MViT", "DETECTOR.ANCHOR_SIZES [8,16]"),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_named(message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_detector(*WRONG[message])


def test_wrong_inputs_are_named() -> None:
    model = tiny_detector()
    images, targets = images_and_targets()
    with pytest.raises(UserError, match=r"the shape \(64, 101\) of torch\.float32', expected .*\(3, H, W\)"):
        model([images[1][0]], targets[:1])
    with pytest.raises(UserError, match=r"of torch\.uint8', expected a list of float"):
        model([images[0].byte()], targets[:1])
    for wrong in (None, targets[:1]):
        with pytest.raises(UserError, match="targets of a detector in training.*expected one per image, 2"):
            model(images, wrong)


@pytest.mark.parametrize(("head", "body", "options"), PAIRS[3:-1])
def test_weights_that_are_not_finite_give_such_a_loss(head: str, body: str, options: str) -> None:
    model = detector(head, body, options).train()
    with torch.no_grad():
        next(parameter for parameter in model.body.parameters() if parameter.requires_grad).fill_(float("nan"))
    losses = model(*images_and_targets())
    assert not torch.isfinite(torch.stack([loss.float() for loss in losses.values()]).sum())
    if head == "DeformableDETR":  # those of torchvision find nothing
        assert all(found["scores"].isnan().any() for found in model.eval()(images_and_targets()[0]))


def test_images_with_fewer_places_than_queries_are_named() -> None:
    model = detector("DeformableDETR", "PiT", "DETECTOR.STRIDES [8,16] DETECTOR.QUERIES 2000").eval()
    with pytest.raises(UserError, match=r"DETECTOR\.QUERIES: found 2000, expected at most \d+, the places"):
        model([torch.rand(3, 64, 64)])


def test_deformable_detr_takes_an_image_of_one_place_alone_as_in_a_batch() -> None:
    """The coarsest level of 32 x 32 pixels has one place, and 32 channels are one per group of its norm."""
    model = detector("DeformableDETR", "PiT", "DETECTOR.STRIDES [8,16] DETECTOR.MIN_SCORE 0.0").train()
    perturb(model)
    image, target = (
        torch.rand(3, 32, 32),
        {"boxes": torch.tensor([[2.0, 2.0, 20.0, 20.0]]), "labels": torch.tensor([1])},
    )
    losses, twice = model([image], [target]), model([image] * 2, [target] * 2)
    assert isinstance(losses, dict) and isinstance(twice, dict)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, twice[name])
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model([image])[0], model([image] * 2)[1])


def saved_run(folder: Path, head: str, body: str = "MViT") -> Path:
    """A checkpoint with the config of its run, as training writes it."""
    cfg, path = tiny_config(head, body), folder / "weights.pyth"
    torch.save({"model_state": tiny_detector(head, body).state_dict(), "cfg": dump_config(cfg)}, path)
    return path


def test_weights_of_another_detector_are_named(tmp_path: Path) -> None:
    for theirs, ours in (("MaskRCNN", "FasterRCNN"), ("FasterRCNN", "MaskRCNN"), ("RetinaNet", "FasterRCNN")):
        with pytest.raises(UserError) as caught:
            load_pretrained(tiny_detector(ours), saved_run(tmp_path, theirs))
        told = f"the weights are those of DETECTOR.NAME {theirs}, the model has DETECTOR.NAME {ours}"
        assert str(caught.value).endswith(told) and "MODEL_NAME" not in str(caught.value)
    with pytest.raises(UserError, match=r"DETECTOR.NAME MaskRCNN, the model has no detector"):
        load_pretrained(build_backbone(tiny_config()), saved_run(tmp_path, "MaskRCNN"))
    with pytest.raises(UserError, match="says MODEL.MODEL_NAME MViT"):
        load_pretrained(tiny_detector("MaskRCNN", "PiT"), saved_run(tmp_path, "MaskRCNN"))


def test_a_config_says_whether_it_describes_a_detector() -> None:
    assert isinstance(build_network(tiny_config()), Detector)
    with pytest.raises(UserError, match=r"DETECTOR\.NAME: a detector .* found 'MaskRCNN', expected none"):
        build_model(tiny_config())


def test_deformable_detr_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # what a missing package looks like to `import`
    with pytest.raises(UserError, match=r'needs transformers.*pip install -e "\.\[hf\]"'):
        tiny_detector("DeformableDETR", "PiT", "DETECTOR.STRIDES [8,16]")


def test_all_heads_are_listed() -> None:
    assert HEADS.keys() == {head for head, _, _ in PAIRS}


def _loss_of_one_image(rank: int, folder: Path) -> None:
    model = tiny_detector("DeformableDETR", options="MVIT.DROPPATH_RATE 0.0").train()
    image, target = _two_of_one_size()[rank]
    losses = model([image], [target])
    assert isinstance(losses, dict)
    torch.save({name: term.detach() for name, term in losses.items()}, folder / f"{rank}.pt")


def _two_of_one_size() -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    images, targets = images_and_targets()
    one = {"boxes": torch.tensor([[8.0, 8.0, 30.0, 60.0]]), "labels": torch.tensor([2])}
    return [(images[0], targets[0]), (images[0].flip(2), one)]


def test_deformable_detr_divides_by_the_mean_number_of_objects_of_all_processes(tmp_path: Path) -> None:
    """The mean of the losses of two processes, with two objects and with one, is the loss of both images at once."""
    pytest.importorskip("transformers", reason='transformers is not installed (pip install -e ".[hf]")')
    run_group(_loss_of_one_image, 2, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    images, targets = zip(*_two_of_one_size(), strict=True)
    expected = tiny_detector("DeformableDETR", options="MVIT.DROPPATH_RATE 0.0").train()(list(images), list(targets))
    assert isinstance(expected, dict)
    for name, term in expected.items():
        torch.testing.assert_close((ranks[0][name] + ranks[1][name]) / 2, term.detach())
