"""Every row of the zoo: its config, the names and shapes in its file, and what other packages say about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import get_model_weights

from videovit.config.shipped import find_shipped
from videovit.errors import UserError
from videovit.models import build_model, count_params, export_state_dict, load_pretrained
from videovit.models.contract import VideoModel
from videovit.models.external.peers import Peer, peers
from videovit.models.zoo import ENCODER, ZOO, ZooModel, class_names, find, load_zoo_config, read_measured

State = dict[str, Tensor]


def built(entry: ZooModel) -> VideoModel:
    """The model, on `meta` unless its loader compares numbers."""
    with torch.device("cpu" if entry.layout == "ps_vit" else "meta"):
        return build_model(load_zoo_config(entry)).eval()


def state_of(peer: Peer) -> State:
    """Names and shapes; pytorchvideo's MViT computes with numbers while it is built."""
    with torch.device("cpu" if peer.model.startswith("mvit_base") else "meta"):
        return {name: tensor.to("meta") for name, tensor in peer.build().state_dict().items()}


def exported(entry: ZooModel, model: VideoModel) -> State:
    """The weights in the layout of the row, as this project writes it."""
    if entry.layout == "mvit":  # PySlowFast's names, and pooling in two dimensions
        state = export_state_dict(model, "pyslowfast")
        return {n: t.squeeze(2) if re.search(r"attn\.pool_[qkv]\.weight", n) else t for n, t in state.items()}
    if entry.layout == "own":
        return dict(model.state_dict())
    return dict(export_state_dict(model, entry.layout))


def states(entry: ZooModel, model: VideoModel) -> dict[str, State]:
    """The state dict of each file of a row: of the package that published it, and as this project writes it."""
    found = {peer.package: state_of(peer) for peer in peers(entry)}
    if entry.layout not in ("deit", "pit"):  # not written here under these names; timm has them
        found["exported"] = exported(entry, model)
    if entry.note == ENCODER:
        head = ("head.", "norm.", "dist")
        found["exported"] = {n: t for n, t in found["exported"].items() if not n.startswith(head)}
        found["exported"] |= {"mask_token": torch.empty(1, 1, 8), "decoder_embed.weight": torch.empty(8, 8)}
    return found


@pytest.mark.parametrize("name", ZOO)
def test_files_fit_the_config_exactly(name: str) -> None:
    entry = ZOO[name]
    model = built(entry)
    assert count_params(model) == entry.params
    found = states(entry, model)
    assert found
    for origin, state in found.items():
        report = load_pretrained(model, {"model_state": state})
        assert not report.resized, origin
        if entry.note != ENCODER:
            assert not report.missing and not report.skipped, origin
            assert len(report.loaded) == len(model.state_dict())
    # That the loader recognizes the file at the first URL, and not only one that this project wrote:
    layouts = {load_pretrained(model, {"model_state": state}).source for state in found.values()}
    assert entry.layout in layouts or entry.layout in ("mvit", "pytorchvideo")


@pytest.mark.parametrize("name", ZOO)
def test_rows_are_complete(name: str) -> None:
    entry = ZOO[name]
    assert find_shipped(entry.config) and re.fullmatch(r"[a-z0-9_]+", name) and entry.name == name
    assert all(url.startswith("https://") for url in entry.urls) and len(set(entry.urls)) == len(entry.urls)
    assert entry.license in ("Apache-2.0", "BSD-3-Clause", "MIT")
    names = class_names(entry)
    assert names is None or len(names) == load_zoo_config(entry).MODEL.NUM_CLASSES
    cfg = load_zoo_config(entry)
    # The views of the published accuracy are those of the config's test.
    if match := re.fullmatch(r"(\d+) x (\d)", entry.protocol):
        views = (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS)
        assert entry.note == ENCODER or views == (int(match[1]), int(match[2]))


BY_PEER = [(entry, peer) for entry in ZOO.values() for peer in peers(entry)]


def these(package: str) -> Callable[..., None]:
    """Parametrize a test with the rows that a package has."""
    chosen = [pair for pair in BY_PEER if pair[1].package == package]
    assert chosen
    decorate: Callable[..., None] = pytest.mark.parametrize(
        ("entry", "peer"), chosen, ids=[entry.name for entry, _ in chosen]
    )
    return decorate


@these("torchvision")
def test_torchvision_says_the_same(entry: ZooModel, peer: Peer) -> None:
    (weights,) = get_model_weights(peer.model)
    cfg = load_zoo_config(entry)
    accuracy = weights.meta["_metrics"]["Kinetics-400"]
    assert entry.urls[0].startswith(weights.url) and entry.sha256 in weights.url
    assert (entry.params, entry.top1, entry.top5) == (weights.meta["num_params"], accuracy["acc@1"], accuracy["acc@5"])
    assert abs(entry.num_bytes / 2**20 / weights.meta["_file_size"] - 1) < 0.01
    size = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE)
    assert size == (weights.meta["min_temporal_size"], *weights.meta["min_size"])
    transform = weights.transforms()
    assert (list(cfg.DATA.MEAN), list(cfg.DATA.STD)) == (transform.mean, transform.std)
    assert class_names(entry) == weights.meta["categories"]


@these("timm")
def test_timm_says_the_same(entry: ZooModel, peer: Peer) -> None:
    from timm.models import get_pretrained_cfg

    theirs, cfg = get_pretrained_cfg(peer.model), load_zoo_config(entry)
    assert theirs is not None and theirs.hf_hub_id == f"timm/{peer.model}"
    assert not theirs.url or entry.urls[0].startswith(theirs.url)
    assert theirs.input_size == (3, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE)
    assert cfg.DATA.TEST_CROP_SIZE == cfg.DATA.TRAIN_CROP_SIZE
    assert (theirs.mean, theirs.std) == (cfg.DATA.MEAN, cfg.DATA.STD)
    assert (cfg.MODEL.NUM_CLASSES, entry.license.lower()) == (theirs.num_classes, theirs.license)


@these("pytorchvideo")
def test_pytorchvideo_says_the_same(entry: ZooModel, peer: Peer) -> None:
    from pytorchvideo.models import hub

    stated = re.search(r"accuracy\s+of (\d+\.?\d*)", getattr(hub, peer.model).__doc__ or "")
    # Two comments disagree with pytorchvideo's table, and one row with torchvision's measurement of the same weights.
    others = {"slowfast_r50_8x8_k400": 76.4, "mvitv1_b_16x4_k400": 78.9}
    assert stated and float(stated[1].rstrip(".")) == others.get(entry.name, entry.top1)


def test_every_published_package_is_compared() -> None:
    packages = [peer.package for _, peer in BY_PEER]
    assert {p: packages.count(p) for p in set(packages)} == {"torchvision": 2, "timm": 23, "pytorchvideo": 12}


def test_classes_of_kinetics_are_in_alphabetical_order() -> None:
    """PySlowFast's lists number the classes alphabetically, as torchvision does."""
    names = class_names(ZOO["mvitv2_s_16x4_k400"])
    assert names and names == sorted(names) and len(set(names)) == 400
    images = class_names(ZOO["deit_ti_in1k"])
    assert images and images[0] == "tench" and images[999] == "toilet tissue"


def test_names_are_found_in_other_spellings() -> None:
    assert find("zoo:x3d_m_k400") is find("X3D-M-K400") is ZOO["x3d_m_k400"]
    with pytest.raises(UserError, match="'mvitv2_s_k400' in the zoo; did you mean mvitv2_s_16x4_k400"):
        find("mvitv2_s_k400")


def test_measured_rows_exist(tmp_path: Path) -> None:
    assert read_measured().keys() <= ZOO.keys()
