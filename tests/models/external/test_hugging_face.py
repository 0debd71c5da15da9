"""Models of transformers: logits and gradients, other clip sizes, settings, folders, preprocessing, old names."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import videovit
from tests.helpers.mvit_variants import clip, perturb
from tests.helpers.tiny_transformers import HF_SETTINGS, need_transformers
from videovit.config import load_config
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.checkpoints.hf_folder import read_hf
from videovit.errors import UserError
from videovit.finetuning.recipes import find_model
from videovit.models import CheckpointError, build_model, count_macs, count_params, load_pretrained
from videovit.models.convert.read import read_file
from videovit.models.detection.roi_head import RoIHead
from videovit.models.external.hf_network import HfNetwork
from videovit.models.external.hugging_face import build_hf

FRAMES, SIDE, CLASSES = 8, 32, 5
every_network = pytest.mark.parametrize("name", HF_SETTINGS)


def tiny(name: str, **changes: Any) -> HfNetwork:
    """A small model, perturbed, in evaluation mode."""
    need_transformers()
    torch.manual_seed(0)
    clip_size = changes.pop("clip_size", (FRAMES, SIDE, SIDE))
    model = build_hf(name, HF_SETTINGS[name] | changes, clip_size=clip_size, num_classes=CLASSES)
    perturb(model)
    return model.eval()


def peer(model: HfNetwork) -> Any:
    """transformers' own model with the same weights."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    theirs = getattr(need_transformers(), model.network_class)(config).eval()
    found = theirs.load_state_dict(model.state_dict(), strict=False)
    assert not found.unexpected_keys and all(".predictor." in key for key in found.missing_keys)
    return theirs


def theirs_of(network: Any, x_BCTHW: Tensor) -> Tensor:
    logits: Tensor = network(x_BCTHW.transpose(1, 2)).logits
    return logits


# ------------------------------------------------------------------------------------------------------------ equality


@every_network
def test_logits_and_gradients_equal_transformers(name: str) -> None:
    model, x = tiny(name), clip(2, 3, FRAMES, SIDE, SIDE)
    network = peer(model)
    found, expected = model(x), theirs_of(network, x)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.logsumexp(1).sum().backward()
    expected.logsumexp(1).sum().backward()
    gradients = {n: p.grad for n, p in network.named_parameters() if ".predictor." not in n}
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for n, p in model.named_parameters():
        assert (p.grad is not None and p.grad.any()) or ".key.bias" in n or ".k_proj.bias" in n, n
        torch.testing.assert_close(p.grad, gradients[n], atol=1e-4, rtol=1e-4)


def test_variants_equal_transformers() -> None:
    variants: list[tuple[str, dict[str, Any]]] = [
        ("hf_timesformer", {"attention_type": "joint_space_time"}),
        ("hf_videomae", {"use_mean_pooling": False, "qv_bias": False}),
        ("hf_videomae", {"hidden_act": "relu", "layer_norm_eps": 1e-3, "tubelet_size": 4}),
        ("hf_vivit", {"tubelet_size": (4, 16, 8), "qkv_bias": False}),
    ]
    x = clip(1, 3, FRAMES, SIDE, SIDE)
    for name, changes in variants:
        model = tiny(name, **changes)
        torch.testing.assert_close(model(x), theirs_of(peer(model), x), atol=1e-5, rtol=1e-5)


@every_network
def test_saving_memory_changes_nothing(name: str) -> None:
    model, x = tiny(name), clip(2, 3, FRAMES, SIDE, SIDE)
    model.train()
    gradients = []
    for model.act_checkpoint in (False, True):
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


@every_network
def test_frozen_blocks_keep_the_dropout_of_the_head(name: str) -> None:
    model = tiny(name)
    model.head_dropout.p = 0.5
    model.freeze(model.num_layers + 1)
    x = clip(1, 3, FRAMES, SIDE, SIDE)
    with torch.no_grad():
        assert not torch.allclose(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), model(x))


def test_divided_maps_are_those_of_transformers() -> None:
    """The maps of all tokens of a clip hold those of its frames, and of its places."""
    model, x = tiny("hf_timesformer"), clip(2, 3, 4, SIDE, SIDE)
    model = tiny("hf_timesformer", clip_size=(4, SIDE, SIDE))
    with torch.no_grad():
        theirs = peer(model)(x.transpose(1, 2), output_attentions=True).attentions
        maps = model.attention_maps(x)
    T, S = 4, (SIDE // 8) ** 2
    assert len(maps) == 2 * len(theirs) == 4
    for layer, their_map in enumerate(theirs):
        time, space = maps[2 * layer], maps[2 * layer + 1]
        their_BTMSS = torch.unflatten(their_map, 0, (2, T))
        for t in range(T):
            own = slice(1 + t * S, 1 + (t + 1) * S)
            torch.testing.assert_close(space[:, :, own, own], their_BTMSS[:, t, :, 1:, 1:])
            torch.testing.assert_close(space[:, :, own, 0], their_BTMSS[:, t, :, 1:, 0])
            outside = [i for i in range(1, 1 + T * S) if not own.start <= i < own.stop]
            assert not space[:, :, own][..., outside].any()
        torch.testing.assert_close(space[:, :, 0, 0], their_BTMSS[..., 0, 0].mean(1))
        places = torch.arange(T * S) % S
        other = places[:, None] != places
        assert not time[:, :, 1:, 1:][:, :, other].any() and (time[:, :, 1:, 1:][:, :, ~other] > 0).all()
        assert (time[:, :, 0, 0] == 1).all()


# --------------------------------------------------------------------------------------------------------- clip sizes


@every_network
def test_other_clip_sizes_stretch_the_tables(name: str) -> None:
    model = tiny(name)
    with torch.no_grad():
        for size in ((16, SIDE, SIDE), (4, SIDE, SIDE), (FRAMES, 24, 16)):
            assert model(clip(1, 3, *size)).shape == (1, CLASSES)
        # A video twice as long, each frame twice, is nearly the same to tables that are stretched.
        x = clip(1, 3, FRAMES, SIDE, SIDE)
        if name == "hf_timesformer":
            torch.testing.assert_close(model(x.repeat_interleave(2, dim=2)), model(x), atol=0.3, rtol=0.3)


def test_v_jepa_numbers_tokens_of_smaller_frames_as_in_large_ones() -> None:
    large, small = tiny("hf_vjepa2", clip_size=(FRAMES, 64, 64)), tiny("hf_vjepa2")
    x = clip(1, 3, FRAMES, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(large(x), small(x))
        torch.testing.assert_close(small(x[:, :, :1]), theirs_of(peer(small), x[:, :, :1]))  # repeats an image
        with pytest.raises(UserError, match=r"found 8 x 8 tokens, expected at most 4 x 4.*crop_size"):
            small(clip(1, 3, FRAMES, 64, 64))


def test_clips_smaller_than_a_patch_are_named() -> None:
    for name, message in (("hf_videomae", "1 x 32 x 32"), ("hf_vivit", "1 x 32 x 32")):
        with pytest.raises(UserError, match=f"clip smaller than a patch; found {message}"):
            tiny(name)(clip(1, 3, SIDE, SIDE))
    with pytest.raises(UserError, match=r"clip smaller than a patch; found 8 x 32 x 4, .* 1 x 8 x 8 or more"):
        tiny("hf_timesformer")(clip(1, 3, FRAMES, SIDE, 4))


# ------------------------------------------------------------------------------------------------------ configs, sizes


def test_published_sizes() -> None:
    """transformers' defaults are the published base models; GMACs are those of their papers."""
    need_transformers()
    published = {  # clip size, classes, parameters in millions, GMACs
        "hf_videomae": ((16, 224, 224), 400, 86.5, 180),
        "hf_timesformer": ((8, 224, 224), 400, 121.6, 196),
        "hf_vivit": ((32, 224, 224), 400, 89.0, 0),
    }
    for name, (size, classes, millions, gmacs) in published.items():
        with torch.device("meta"):
            model = build_hf(name, {}, clip_size=size, num_classes=classes)
        assert count_params(model) / 1e6 == pytest.approx(millions, abs=0.3), name
        if gmacs:
            assert count_macs(model, (1, 3, *size)) / 1e9 == pytest.approx(gmacs, rel=0.01), name


def test_models_can_be_sharded() -> None:
    """Sharded training itself is that of all models; a whole run of it is slow."""
    options = "TRAIN.ENABLE True TRAIN.SHARD_MODEL True NUM_GPUS 0 NUM_CPU_PROCS 2 MODEL.MODEL_NAME hf_vivit"
    assert load_config(None, options.split()).TRAIN.SHARD_MODEL
    units = list(tiny("hf_vivit").units_to_shard())
    assert [type(unit).__name__ for unit in units] == ["VivitLayer"]


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    need_transformers()
    wrong = {
        r"hf_videomae has no such setting; found 'hidden_sizes'.*did you mean hidden_size": "[[hidden_sizes,8]]",
        r"HF.CONFIG: a setting that is there twice; found 'hidden_size'": "[[hidden_size,8],[hidden_size,9]]",
        r"HF.CONFIG: hf_videomae has no such setting; found 'num_channels'": "[[num_channels,4]]",
        r"HF.CONFIG: transformers: .*hidden size 10 is not a multiple": "[[hidden_size,10],[num_attention_heads,4]]",
        r"HF.CONFIG: transformers: .*hidden_dropout_prob": "[[hidden_dropout_prob,no]]",
        r"HF.CONFIG: transformers: .*negative dimension -48": "[[hidden_size,-48],[num_attention_heads,3]]",
        r"HF.CONFIG: transformers: unknown name; found 'geluu'": "[[hidden_act,geluu]]",
    }
    for message, value in wrong.items():
        with pytest.raises(UserError, match=message):
            build_model(load_config(None, ["MODEL.MODEL_NAME", "hf_videomae", "HF.CONFIG", value]))
    with pytest.raises(UserError, match="space_only"):
        tiny("hf_timesformer", attention_type="space_only")
    with pytest.raises(UserError, match="cannot have a detection head"):
        tiny("hf_vivit").reset_head(RoIHead(24, 3))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'models named hf_... need transformers.*pip install -e "\.\[hf\]"'):
        build_model(load_config(None, ["MODEL.MODEL_NAME", "hf_videomae"]))


# -------------------------------------------------------------------------------------------------------------- folders


PREPROCESSING: dict[str, dict[str, Any]] = {
    "hf_videomae": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": 32},
    "hf_timesformer": {"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "size": {"shortest_edge": 40}},
    "hf_vivit": {"rescale_factor": 1 / 127.5, "offset": True, "size": {"shortest_edge": 40}},
    "hf_vjepa2": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": 36},
}


def save(name: str, folder: Path, **changes: Any) -> Any:
    """A folder as transformers writes it; returns its model."""
    network = peer(tiny(name, **changes))
    network.config.id2label = {i: f"class {i}" for i in range(CLASSES)}
    network.save_pretrained(folder)
    spec = PREPROCESSING[name] | {"crop_size": {"height": SIDE, "width": SIDE}, "auto_map": {"X": "evil.py--X"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(spec))
    (folder / "evil.py").write_text("raise SystemExit")
    return network


@every_network
def test_folder_of_transformers_loads(name: str, tmp_path: Path) -> None:
    network = save(name, tmp_path / "model")
    model = videovit.load(tmp_path / "model")
    assert model.class_names == [f"class {i}" for i in range(CLASSES)]
    assert model.config.DATA.NUM_FRAMES == FRAMES and model.config.DATA.TEST_CROP_SIZE == SIDE
    # Frames as both prepare them, without resizing, which differs between libraries.
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    spec = {**PREPROCESSING[name], "do_resize": False, "do_center_crop": False}
    processor = getattr(need_transformers(), network.config_class.__name__.replace("Config", "VideoProcessor"))
    pixels = processor(**spec)(list(frames), return_tensors="pt")
    theirs_x = next(iter(pixels.values()))
    ours_x = build_preparation(model.config, train=False)(torch.from_numpy(frames)[None])
    torch.testing.assert_close(ours_x, theirs_x.transpose(1, 2).float(), atol=2e-3, rtol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(model.torch(ours_x), theirs_of(network, ours_x), atol=1e-4, rtol=1e-4)
    # What finetune and Model.save take from it.
    cfg, weights = find_model(str(tmp_path / "model"), "")
    assert cfg == model.config and weights == str(tmp_path / "model")
    model.save(tmp_path / "saved")
    again = videovit.load(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again.torch(ours_x), model.torch(ours_x))


def test_weights_in_several_files_and_in_old_ones(tmp_path: Path) -> None:
    network, x = save("hf_vivit", tmp_path / "one"), clip(1, 3, FRAMES, SIDE, SIDE)
    with torch.no_grad():
        expected = theirs_of(network, x)
    save("hf_vivit", tmp_path / "many")
    (tmp_path / "many" / "model.safetensors").unlink()
    network.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    shutil.copytree(tmp_path / "one", tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    with torch.no_grad():
        for kind in ("many", "old"):
            torch.testing.assert_close(videovit.load(tmp_path / kind).torch(x), expected, atol=1e-5, rtol=1e-5)
    index = tmp_path / "many" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../one/model.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"index.json: a file of the index is missing beside it; found '\.\./one"):
        read_file(index)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="not a readable index"):
        read_file(index)


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    need_transformers()
    config = tmp_path / "config.json"
    for text, message in (
        ('{"model_type": "videoma"}', "model_type videoma, expected one of .*did you mean videomae"),
        ("{", "not a readable JSON file"),
        ("[]", "not a JSON object"),
    ):
        config.write_text(text)
        with pytest.raises(UserError, match=message):
            read_hf(tmp_path)
    save("hf_videomae", tmp_path)
    for text, message in (
        ('{"image_std": "no"}', "preprocessor_config.json: malformed preprocessing"),
        ('{"image_std": [0, 0.5, 0.5]}', "DATA.STD: found 0.0, expected a number > 0"),
        ('{"size": {"shortest_edge": -1}}', "preprocessor_config.json: malformed .*a side of -1 pixels"),
        ('{"crop_size": {"height": 32, "width": 48}}', "preprocessor_config.json: malformed .*32 x 48 are not square"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read_hf(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="a folder without"):
        videovit.load(tmp_path)


HUGE: list[tuple[str, dict[str, Any], str]] = [
    *((name, {key: 10**9}, rf"config\.json: {key} is too large; found 1000000000, expected at most 65,536")
      for name in HF_SETTINGS for key in ("hidden_size", "image_size" if name != "hf_vjepa2" else "crop_size")),
    *((name, {"num_hidden_layers": 10**9}, r"num_hidden_layers is too large; .* at most 1,000")
      for name in HF_SETTINGS),
    ("hf_vivit", {"tubelet_size": [2, 10**9, 8]}, r"tubelet_size is too large"),
    ("hf_videomae", {"num_labels": 10**9, "id2label": None}, r"num_labels is too large"),
    # Within the limits, but far beyond the file.
    *((name, {"hidden_size": 20_000, "num_hidden_layers": 900}, r"much larger than its weights; found [\d,]+ bytes")
      for name in HF_SETTINGS),
    ("hf_timesformer", {"hidden_size": 2, "num_attention_heads": 1, "num_hidden_layers": 1000}, "much larger than its"),
    ("hf_videomae", {"image_size": 60_000, "patch_size": 1}, "too many positions; found [0-9,]+ of 24 channels"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), HUGE, ids=str)
def test_config_of_a_huge_model_beside_small_weights_is_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    need_transformers()
    save(name, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(UserError, match=message):
        videovit.load(tmp_path)


# ------------------------------------------------------------------------------------------------------- names of old


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As transformers 4 wrote them."""
    swap = (("attention.attention.query.bias", "attention.attention.q_bias"),
            ("attention.attention.value.bias", "attention.attention.v_bias"),
            ("vivit.layers.", "vivit.encoder.layer."), (".mlp.fc1.", ".intermediate.dense."),
            (".mlp.fc2.", ".output.dense."), (".attention.o_proj.", ".attention.output.dense."),
            (".attention.q_proj.", ".attention.attention.query."), (".attention.k_proj.", ".attention.attention.key."),
            (".attention.v_proj.", ".attention.attention.value."))  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        for new, old in swap:
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed


def test_biases_by_their_old_names_are_loaded_with_a_warning() -> None:
    model, x = tiny("hf_videomae"), clip(1, 3, FRAMES, SIDE, SIDE)
    state = old_names(model.state_dict())
    assert "videomae.encoder.layer.1.attention.attention.v_bias" in state
    other = tiny("hf_videomae")
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    report = load_pretrained(other, state)
    assert torch.equal(other(x), model(x)) and not report.missing
    assert any("q_bias and v_bias in this file; some versions of transformers 5" in note for note in report.notes)


def test_biases_that_transformers_lost_are_warned_of() -> None:
    model = tiny("hf_videomae")
    assert not load_pretrained(model, model.state_dict()).notes
    state = {n: torch.zeros_like(t) if n.endswith(("query.bias", "value.bias")) else t
             for n, t in model.state_dict().items()}  # fmt: skip
    report = load_pretrained(model, state)
    assert any("all biases of queries and values are zero" in note for note in report.notes)


def test_other_old_names_and_pretraining_load() -> None:
    model = tiny("hf_vivit")
    other = build_hf("hf_vivit", HF_SETTINGS["hf_vivit"], clip_size=(FRAMES, SIDE, SIDE), num_classes=CLASSES)
    assert not load_pretrained(other, old_names(model.state_dict())).missing
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    # Encoders alone, with what pre-training needed.
    mae, jepa = tiny("hf_videomae"), tiny("hf_vjepa2")
    encoder = {n: t for n, t in mae.state_dict().items() if n.startswith("videomae.")}
    extra = {"mask_token": torch.zeros(1, 1, 4), "encoder_to_decoder.weight": torch.zeros(4, 24)}
    report = load_pretrained(tiny("hf_videomae"), {**encoder, **extra})
    assert set(report.skipped) == extra.keys()
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "classifier.weight", "classifier.bias"}
    bare = {n.removeprefix("vjepa2."): t for n, t in jepa.state_dict().items() if n.startswith("vjepa2.")}
    report = load_pretrained(tiny("hf_vjepa2"), {**bare, "predictor.mask_tokens": torch.zeros(2)})
    assert report.skipped == ["vjepa2.predictor.mask_tokens"]
    assert all(name.startswith(("pooler.", "classifier.")) for name in report.missing)
