"""Every model of the table fulfills the contract of models."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.mvit_variants import clip, perturb
from tests.helpers.tiny_transformers import HF_SETTINGS, need_transformers, tiny_settings
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import MODELS, build_model, optimize_for_inference
from videovit.models.contract import AttentionModel, Features, HasPlainForm, VideoModel
from videovit.models.external.slowfast_names import SLOWFAST_NAMES
from videovit.models.layers.heads import ClassifierHead

FRAMES, SIDE, CLASSES = 8, 32, 7
MVIT = "MVIT.DEPTH 4 MVIT.EMBED_DIM 16 MVIT.PATCH_PADDING [1,3,3] MVIT.POOL_KVQ_KERNEL [3,3,3] MVIT.DIM_MUL [[1,2.0]] "
MVIT += "MVIT.HEAD_MUL [[1,2.0]] MVIT.POOL_Q_STRIDE [[1,1,2,2]] MVIT.POOL_KV_STRIDE_ADAPTIVE [1,4,4] "
RELATIVE = "MVIT.REL_POS_SPATIAL True MVIT.REL_POS_TEMPORAL True MVIT.USE_ABS_POS False MVIT.RESIDUAL_POOLING True "
PSVIT = "DATA.NUM_FRAMES 1 PSVIT.PLAN BS|BB PSVIT.DIMS [16,32] PSVIT.HEADS [2,4] PSVIT.PATCH_SIZE 8 "
CASES: dict[str, str] = {
    "MViT": MVIT + "MVIT.SEP_POS_EMBED True",
    "MViT v2": MVIT + RELATIVE + "MVIT.DIM_MUL_IN_ATT True MVIT.CLS_EMBED_ON False",
    "MViT with shared maps": MVIT + "MVIT.SHARE_ATTENTION [3]",
    "MViT with a norm after the stem": MVIT + "MVIT.NORM_STEM True MVIT.USE_MEAN_POOLING True",
    "ViT": "VIT.EMBED_DIM 24 VIT.DEPTH 3 VIT.NUM_HEADS 2 VIT.PATCH_SIZE [1,8,8]",
    "ViT distilled": "VIT.EMBED_DIM 24 VIT.DEPTH 3 VIT.NUM_HEADS 2 VIT.PATCH_SIZE [1,8,8] VIT.DISTILLED True",
    "PiT": "PIT.EMBED_DIMS [8,16] PIT.NUM_HEADS [1,2] PIT.DEPTHS [1,2] PIT.PATCH_KERNEL [1,8,8] "
    "PIT.PATCH_STRIDE [1,4,4]",
    "PS_ViT": "PS_VIT.EMBED_DIM 24 PS_VIT.NUM_HEADS 2 PS_VIT.ITERATIONS 2 PS_VIT.DEPTH 1 PS_VIT.POINTS [3,3]",
    "PSViT": PSVIT + "PSVIT.CLS apart PSVIT.HEAD_INPUT cls",
    "PSViT on a grid": PSVIT + "PSVIT.CLS none PSVIT.POOLING 2d PSVIT.POS_EMBED all",
    "ImageResNet": "DATA.NUM_FRAMES 1 IMAGE_RESNET.DEPTH 18",
    "PSViTSupernet": PSVIT + "SUPERNET.NUM_CELLS 2",
    "ResNet": "MODEL.ARCH slow RESNET.DEPTH 18 RESNET.WIDTH_PER_GROUP 8 RESNET.TRANS_FUNC basic_transform "
    "NONLOCAL.LOCATION [[[]],[[1]],[[]],[[]]]",
    "ResNet_nopool": "MODEL.ARCH c2d RESNET.DEPTH 18 RESNET.WIDTH_PER_GROUP 8 RESNET.TRANS_FUNC basic_transform",
    "SlowFast": "MODEL.ARCH slowfast RESNET.DEPTH 18 RESNET.WIDTH_PER_GROUP 8 SLOWFAST.ALPHA 4",
    "X3D": "MODEL.ARCH x3d RESNET.TRANS_FUNC x3d_transform X3D.BOTTLENECK_FACTOR 2.25",
    **{name: "" for name in MODELS if name.startswith("ptv_")},
    **{name: tiny_settings(name) for name in HF_SETTINGS},
}
CONVOLUTIONAL = ("ptv_", "ImageResNet", "ResNet", "SlowFast", "X3D")
FIXED_LENGTH = ("ptv_", "SlowFast")  # these pool over, or split, all frames of the clips that they were built for
NO_IMAGES = ("hf_videomae", "hf_vivit")  # with tubelets of two frames
# In the scope of the module, all tests of one model run one after the other, and it is built once.
every_model = pytest.mark.parametrize("name", CASES, scope="module")


def built(name: str, options: str = "") -> VideoModel:
    """A small model of one's own, perturbed and in evaluation mode."""
    return copy.deepcopy(_built(name, options))


@functools.lru_cache(maxsize=1)
def _built(name: str, options: str) -> VideoModel:
    common = f"MODEL.MODEL_NAME {name.split()[0]} MODEL.NUM_CLASSES {CLASSES} MODEL.DROPOUT_RATE 0.0 "
    common += f"DATA.NUM_FRAMES {FRAMES} DATA.TRAIN_CROP_SIZE {SIDE} DATA.INPUT_CHANNEL_NUM [3] "
    if name.startswith("hf_"):
        need_transformers()
    torch.manual_seed(0)
    model = build_model(load_config(opts=(common + CASES[name] + " " + options).split()))
    perturb(model)
    return model.eval()


def inputs(name: str, batch: int = 2) -> Tensor:
    return clip(batch, 3, 1 if name.startswith(("PSViT", "ImageResNet")) else FRAMES, SIDE, SIDE)


def test_every_model_is_listed() -> None:
    """PySlowFast's names for pytorchvideo's networks are other sizes of the class of `ptv_*`."""
    assert {name.split()[0] for name in CASES} == MODELS.keys() - SLOWFAST_NAMES.keys()


@every_model
def test_logits_of_clips_and_images(name: str) -> None:
    model, x = built(name), inputs(name)
    assert isinstance(model, VideoModel)
    logits = model(x)
    assert logits.shape == (2, CLASSES) and logits.std() > 0
    images = x[:, :, 0]
    assert torch.equal(model.as_clips(images), x[:, :, :1])
    if not name.startswith(FIXED_LENGTH + NO_IMAGES):
        assert torch.equal(model(images), model(x[:, :, :1]))


@every_model
def test_wrong_inputs_are_named(name: str) -> None:
    model, x = built(name), inputs(name)
    wrong = {
        r"numpy\.ndarray, expected a torch\.Tensor": x.numpy(),
        r"shape \(3, 32, 32\), expected clips \(B, C, T, H, W\) or images": x[0, :, 0],
        r"shape \(1, 2, 3, \d, 32, 32\), expected clips": x[None],
        r"4 channels in dimension 1, expected 3": torch.cat([x, x[:, :1]], dim=1),
    }
    for message, bad in wrong.items():
        for call in (model, model.forward_features, model.forward_stages):
            with pytest.raises(UserError, match=message):
                call(bad)
    with pytest.raises(UserError, match="takes no boxes"):
        model(x, torch.zeros(1, 5))


@every_model
def test_features_are_those_of_the_grid(name: str) -> None:
    features = built(name).forward_features(inputs(name))
    assert isinstance(features, Features)
    assert features.tokens_BNC.shape[:2] == (2, math.prod(features.grid))
    if features.cls_BXC is not None:
        B, X, C = features.cls_BXC.shape
        assert B == 2 and X in (1, 2) and features.tokens_BNC.shape[2] == C


@every_model
def test_stages_go_from_fine_to_coarse(name: str) -> None:
    model, x = built(name), inputs(name)
    stages = model.forward_stages(x)
    assert stages and all(map_.dim() == 5 and map_.shape[0] == 2 for map_ in stages)
    sizes = [math.prod(map_.shape[2:]) for map_ in stages]
    assert sizes == sorted(sizes, reverse=True)
    images = x[:, :, 0]
    if not name.startswith(FIXED_LENGTH + NO_IMAGES):
        for map_, of_clip in zip(model.forward_stages(images), model.forward_stages(images[:, :, None]), strict=True):
            assert torch.equal(map_, of_clip)


@every_model
def test_layers_partition_the_parameters(name: str) -> None:
    model = built(name)
    layers = model.layers_of_parameters()
    assert layers.keys() == dict(model.named_parameters()).keys()
    assert set(layers.values()) == set(range(model.num_layers + 2))
    groups = [*model.layers(), model.head_modules()]
    ids = [{id(p) for module in modules for p in module.parameters()} for modules in groups]
    assert sum(map(len, ids)) == len(set().union(*ids))  # no parameter belongs to two layers
    first = next(iter(layers))
    assert model.layer_of(first) == layers[first]
    with pytest.raises(KeyError):
        model.layer_of("no.such.parameter")


@every_model
def test_layers_are_numbered_in_the_order_of_their_run(name: str) -> None:
    model, order = built(name), []
    layers = model.layers_of_parameters()
    owners = {module: f"{n}." if n else "" for n, module in model.named_modules() if len([*module.parameters(False)])}
    for module, prefix in owners.items():
        layer = min(layers[f"{prefix}{n}"] for n, _ in module.named_parameters(recurse=False))
        if prefix:
            module.register_forward_pre_hook(lambda _, args, layer=layer: order.append(layer))
    model(inputs(name))
    first_runs = [layer for i, layer in enumerate(order) if layer not in order[:i]]
    assert first_runs == sorted(first_runs) and len(first_runs) > 2


@every_model
def test_tables_without_weight_decay_exist(name: str) -> None:
    model = built(name)
    names = dict(model.named_parameters()).keys()
    spared = model.no_weight_decay()
    assert spared <= names
    parts = ("cls_token", "pos_embed", "rel_pos", "position_embeddings", "time_embeddings", "query_tokens")
    assert spared == {n for n in names if any(part.startswith(parts) for part in n.split("."))}


@every_model
def test_a_new_head_classifies(name: str) -> None:
    model = built(name)
    width = model.head.projection.in_features if isinstance(model.head, ClassifierHead) else model.head.in_features
    model.reset_head(nn.Linear(width, 3))
    assert model(inputs(name)).shape == (2, 3)
    heads = [n for n in model.layers_of_parameters() if n.startswith(model.head_names)]
    assert heads and all(model.layer_of(n) == model.num_layers + 1 for n in heads)


@every_model
def test_units_to_shard_are_parts_of_the_model(name: str) -> None:
    model = built(name)
    units = list(model.units_to_shard())
    assert units and len(set(units)) == len(units)
    modules = set(model.modules()) - {model}
    assert set(units) <= modules
    # Units inside of others come first, as PyTorch requires.
    for i, unit in enumerate(units):
        assert not set(unit.modules()) - {unit} & set(units[i + 1 :])


@every_model
def test_freezing_stops_parameters_and_batch_norms(name: str) -> None:
    model = built(name)
    for num in (1, model.num_layers + 1, 0):
        model.freeze(num)
        layers = model.layers_of_parameters()
        assert all(p.requires_grad == (layers[n] >= num) for n, p in model.named_parameters())
        norms = {n: m for n, m in model.train().named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        assert all(norm.training == (layers[f"{n}.weight"] >= num) for n, norm in norms.items())
        assert not any(norm.training for norm in model.eval().modules())
    for num in (-1, model.num_layers + 2):
        with pytest.raises(UserError, match=f"layers to freeze; found {num}, expected 0 to {model.num_layers + 1}"):
            model.freeze(num)


@every_model
def test_linear_probe_trains_the_classifier_alone(name: str) -> None:
    model = built(name)
    model.freeze_all_but_classifier()
    classifier = tuple(f"{head}." for head in model.head_names)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.startswith(classifier)} and trained
    modes = {n: m.training for n, m in model.train().named_modules() if not any(True for _ in m.children())}
    assert not any(mode for n, mode in modes.items() if not f"{n}.".startswith(classifier))


@every_model
def test_frozen_batch_norms_keep_their_statistics(name: str) -> None:
    model = built(name)
    model.freeze(model.num_layers + 1)
    before = {n: buffer.clone() for n, buffer in model.named_buffers()}
    model.train()(inputs(name))
    layers = model.layers_of_parameters()
    for n, buffer in model.named_buffers():
        is_frozen = layers.get(f"{n.rpartition('.')[0]}.weight", 0) <= model.num_layers
        assert not is_frozen or torch.equal(buffer, before[n]), n


DROPS = {
    "MViT": "MVIT.DROPOUT_RATE 0.5 MVIT.DROPPATH_RATE 0.5",
    "ViT": "VIT.DROPOUT_RATE 0.5 VIT.DROPPATH_RATE 0.5",
    "PiT": "PIT.DROPOUT_RATE 0.5 PIT.DROPPATH_RATE 0.5",
    "PS_ViT": "PS_VIT.DROPOUT_RATE 0.5 PS_VIT.DROPPATH_RATE 0.5",
    "PSViT": "PSVIT.DROPOUT_RATE 0.5 PSVIT.DROPPATH_RATE 0.5",
    "PSViTSupernet": "PSVIT.DROPOUT_RATE 0.5 PSVIT.DROPPATH_RATE 0.5",
    **{name: tiny_settings(name, drop=True) for name in HF_SETTINGS},
}


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(CONVOLUTIONAL)])
def test_frozen_layers_drop_nothing(name: str) -> None:
    model, x = built(name, DROPS[name.split()[0]]), inputs(name)
    with torch.no_grad():
        expected = model.forward_features(x).tokens_BNC
        model.train().freeze(model.num_layers + 1)
        assert model.training and model.head.training
        close(model.forward_features(x).tokens_BNC, expected, 1e-5)
        model.freeze(0)
        assert not torch.allclose(model.train().forward_features(x).tokens_BNC, expected)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.float(), expected, atol=tolerance * expected.abs().max().item(), rtol=tolerance)


@every_model
def test_the_plain_form_gives_equal_logits(name: str) -> None:
    model, x = built(name), inputs(name)
    with torch.no_grad():
        expected = model(x)
        close(model.twin().plain_()(x), expected, 1e-5)
        close(model.plain_().plain_(False)(x), expected, 0)


@every_model
def test_optimized_model_equal_logits_shared_parameters(name: str) -> None:
    model, x = built(name), inputs(name)
    optimized = optimize_for_inference(model.train())
    assert model.training and not optimized.training
    assert isinstance(optimized, type(model))
    assert not set(optimized.modules()) & set(model.modules())
    own, shared = model.state_dict(keep_vars=True), optimized.state_dict(keep_vars=True)
    assert own.keys() == shared.keys() and all(own[n] is shared[n] for n in own)
    model.eval()
    with torch.inference_mode():
        expected = model(x)
        for again in (optimized, optimized, copy.deepcopy(optimized)):
            close(again(x), expected, 1e-5)
        if name != "ptv_x3d_m":  # pytorchvideo hides a lambda in it, which no pickle can hold
            close(pickle.loads(pickle.dumps(optimized))(x), expected, 1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            close(optimized(x), expected, 0.1)
        close(optimize_for_inference(optimized)(x[:1]), expected[:1], 1e-5)


@every_model
def test_threads_share_an_optimized_model(name: str) -> None:
    optimized = optimize_for_inference(built(name))
    clips = [inputs(name, batch) for batch in (1, 2, 3)]

    def infer(x: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=len(x) == 2):
            return optimized(x)

    expected = [infer(x) for x in clips]
    optimized = optimize_for_inference(optimized)  # with nothing kept yet
    with ThreadPoolExecutor(3) as pool:
        for found, alone in zip(pool.map(infer, clips * 4), expected * 4, strict=True):
            torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(CONVOLUTIONAL)])
def test_attention_maps_are_distributions(name: str) -> None:
    model, x = built(name), inputs(name)
    assert isinstance(model, AttentionModel)
    for kind in (model, optimize_for_inference(model)):
        maps = kind.attention_maps(x)
        assert maps
        for map_BMNL in maps:
            torch.testing.assert_close(map_BMNL.sum(-1), torch.ones(map_BMNL.shape[:-1]))
    assert not any(isinstance(m, HasPlainForm) and m.plain for m in model.modules())


def test_weights_of_tables_are_decayed_on_request() -> None:
    assert built("MViT", "MVIT.ZERO_DECAY_POS_CLS False").no_weight_decay() == frozenset()
    assert built("ViT", "MVIT.ZERO_DECAY_POS_CLS False").no_weight_decay() == {"cls_token", "pos_embed"}


def test_the_norm_after_the_stem_belongs_to_the_embedding() -> None:
    assert built("MViT with a norm after the stem").layer_of("norm_stem.weight") == 0


@pytest.mark.parametrize("name", ["MViT", "MViT v2", "ViT", "PiT"])
def test_blocks_are_layers(name: str) -> None:
    """The numbers that layer decay has used since the first release."""
    model = built(name)
    depth = len(model.get_submodule("blocks"))
    for n, layer in model.layers_of_parameters().items():
        if n.startswith("blocks."):
            assert layer == int(n.split(".")[1]) + 1
        else:
            assert layer == (0 if n.startswith(("patch_embed", "cls_token", "pos_embed")) else depth + 1), n


def test_arrays_are_not_taken_for_tensors() -> None:
    with pytest.raises(UserError, match="from_numpy"):
        built("ViT")(np.zeros((1, 3, FRAMES, SIDE, SIDE), np.float32))
