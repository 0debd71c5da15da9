"""Masked models: what the encoder sees, where gradients flow, and which parameters there are."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.mvit_variants import perturb
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import build_model, build_network, count_macs, count_params, load_pretrained
from videovit.models.masked.masks import masks_from_config
from videovit.models.masked.model import MaskedModel, Reconstruction

COMMON = "MASK.ENABLE True TEST.ENABLE False DATA.NUM_FRAMES 4 DATA.TRAIN_CROP_SIZE 32 DATA.TEST_CROP_SIZE 32 "
COMMON += "DATA.TRAIN_JITTER_SCALES [32,40] MODEL.DROPOUT_RATE 0.0 MVIT.DROPPATH_RATE 0.0 MVIT.DEPTH 3 VIT.DEPTH 3 "
COMMON += "MASK.PRETRAIN_DEPTH [2] DATA.INPUT_CHANNEL_NUM [3] "
MAE = COMMON + "MASK.MAE_ON True MASK.MAE_RND_MASK True AUG.MASK_TUBE True AUG.MASK_RATIO 0.75 "
MAE += "MASK.HEAD_TYPE separate_xformer MASK.DECODER_DEPTH 1 MASK.DECODER_EMBED_DIM 16 "
FEATURES = COMMON + "MASK.PRED_HOG True AUG.MASK_RATIO 0.4 AUG.MASK_WINDOW_SIZE [2,2,2] "
VIT = "MODEL.MODEL_NAME ViT VIT.EMBED_DIM 24 VIT.NUM_HEADS 2 VIT.PATCH_SIZE [2,8,8] "
FLAT = "MVIT.EMBED_DIM 24 MVIT.NUM_HEADS 2 MVIT.PATCH_KERNEL [2,8,8] MVIT.PATCH_STRIDE [2,8,8] "
FLAT += "MVIT.PATCH_PADDING [0,0,0] MVIT.SEP_POS_EMBED True "
POOLING = "MVIT.EMBED_DIM 16 MVIT.PATCH_KERNEL [3,7,7] MVIT.PATCH_PADDING [1,3,3] MVIT.DIM_MUL [[1,2.0]] "
POOLING += "MVIT.HEAD_MUL [[1,2.0]] MVIT.POOL_Q_STRIDE [[1,1,2,2]] MVIT.POOL_KV_STRIDE_ADAPTIVE [1,2,2] "
POOLING += "MVIT.POOL_KVQ_KERNEL [3,3,3] MVIT.REL_POS_SPATIAL True MVIT.REL_POS_TEMPORAL True MVIT.USE_ABS_POS False "
CASES = {
    "MAE of ViT": MAE + VIT,
    "MAE of MViT": MAE + FLAT + "MASK.DECODER_SEP_POS_EMBED True",
    "MAE without class token": MAE + FLAT + "MVIT.CLS_EMBED_ON False MASK.TIME_STRIDE_LOSS False",
    "MAE of images": MAE + VIT.replace("[2,8,8]", "[1,8,8]") + "DATA.NUM_FRAMES 1",
    "MaskFeat of MViT": FEATURES + POOLING,
    "MaskFeat of ViT": FEATURES + VIT,
}
every_case = pytest.mark.parametrize("name", CASES)


@functools.lru_cache(maxsize=1)
def case(name: str) -> tuple[MaskedModel, Tensor, Tensor]:
    """A small model, two clips, and their hidden cells."""
    cfg = load_config(opts=CASES[name].split())
    torch.manual_seed(0)
    model = build_network(cfg)
    assert isinstance(model, MaskedModel)
    perturb(model)
    x = torch.randn(2, 3, cfg.DATA.NUM_FRAMES, 32, 32, generator=torch.Generator().manual_seed(1))
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    return model, x, masks_from_config(cfg).draw_batch(model.mask_grid(x.shape[2:]), rngs)


def pixels_of(hidden_BTHW: Tensor, x: Tensor) -> Tensor:
    """(B, 1, T, H, W), true for pixels of hidden tokens."""
    factors = [size // tokens for size, tokens in zip(x.shape[2:], hidden_BTHW.shape[1:], strict=True)]
    for axis, factor in enumerate(factors, 1):
        hidden_BTHW = hidden_BTHW.repeat_interleave(factor, axis)
    return hidden_BTHW[:, None]


@every_case
def test_loss_is_the_mean_error_of_hidden_tokens(name: str) -> None:
    model, x, hidden_BM = case(name)
    found: Reconstruction = model(x, hidden_BM)
    predicted, target, hidden = (part.flatten(1, 3) for part in found)
    assert found.predicted_BTHWD.shape == found.target_BTHWD.shape
    losses = [((predicted[i] - target[i]) ** 2)[hidden[i]].mean() for i in range(2)]
    torch.testing.assert_close(found.losses(), torch.stack(losses))
    share = found.hidden_BTHW.float().mean((1, 2, 3))
    assert torch.allclose(share, share[:1]) and 0.3 < share[0] < 0.8
    torch.testing.assert_close(found.target_BTHWD, model.target(x))


@every_case
def test_gradients_flow_to_all_parameters_and_to_visible_pixels_alone(name: str) -> None:
    model, x, hidden_BM = case(name)
    x = x.clone().requires_grad_()
    found = model(x, hidden_BM)
    assert not found.target_BTHWD.requires_grad
    gradients = torch.autograd.grad(found.losses().sum(), [x, *model.parameters()])
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, gradient in zip(names, gradients[1:], strict=True) if not gradient.any()] == []
    hidden = pixels_of(found.hidden_BTHW, x).expand_as(x)
    if name != "MaskFeat of MViT":  # whose patches overlap
        assert not gradients[0][hidden].any()
    assert gradients[0][~hidden].any()
    # Of the loss: only hidden tokens count.
    of_predicted = torch.autograd.grad(model(x, hidden_BM).losses().sum(), model.parameters(), allow_unused=True)
    assert all(gradient is not None for gradient in of_predicted)


@pytest.mark.parametrize("name", ["MAE of ViT", "MAE of MViT", "MAE without class token"])
def test_encoder_of_visible_patches_equals_the_whole_one_if_nothing_is_hidden(name: str) -> None:
    model, x, _ = case(name)
    everything = torch.arange(2 * 4 * 4).expand(2, -1)
    with torch.no_grad():
        seen = model.encoder.encode_visible(x, everything)
        features = model.encoder.forward_features(x)
    whole = features.tokens_BNC if features.cls_BXC is None else torch.cat([features.cls_BXC, features.tokens_BNC], 1)
    torch.testing.assert_close(seen, whole)
    # The order in which patches are given is the order of the output.
    turned = model.encoder.encode_visible(x, everything.flip(1))
    num_cls = seen.shape[1] - everything.shape[1]
    torch.testing.assert_close(turned[:, num_cls:].flip(1), seen[:, num_cls:])


def test_replaced_patches_are_the_only_ones_that_change() -> None:
    model, x, _ = case("MaskFeat of ViT")
    none, token = torch.zeros(2, 2, 4, 4, dtype=torch.bool), torch.zeros(1, 1, 24)
    with torch.no_grad():
        plain = model.encoder.encode_replaced(x, none, token)
        last = model.encoder.forward_stages(x)[-1].permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(plain, last)
    assert not torch.allclose(model.encoder.encode_replaced(x, ~none, token), last)


@pytest.mark.parametrize("name", ["MAE of ViT", "MaskFeat of MViT"])
def test_training_on_one_batch_lowers_the_loss(name: str) -> None:
    model, x, hidden_BM = case(name)
    case.cache_clear()  # this one is changed
    y = torch.linspace(0, 6, 32)
    x = (torch.sin(y)[:, None] * torch.cos(2 * y)).expand_as(x) + 0.01 * x
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = model(x, hidden_BM).losses().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@every_case
def test_layers_are_those_of_the_encoder(name: str) -> None:
    model, _, _ = case(name)
    layers = model.layers_of_parameters()
    assert set(layers.values()) == set(range(5)) and model.num_layers == 3
    assert {layer for name, layer in layers.items() if name.startswith(("decoder.", "projection."))} == {4}
    assert layers["encoder.blocks.1.norm1.weight"] == 2 and layers["encoder.patch_embed.proj.weight"] == 0
    tables = {name for name in layers if "pos_embed" in name or name.endswith(("mask_token", "cls_token"))}
    assert tables <= model.no_weight_decay()


@every_case
def test_fine_tuning_takes_the_encoder_and_leaves_the_rest(name: str) -> None:
    model, _, _ = case(name)
    off = "MASK.ENABLE False TEST.ENABLE True MODEL.NUM_CLASSES 7 DATA.INPUT_CHANNEL_NUM [3]"
    classifier = build_model(load_config(opts=f"{CASES[name]} {off}".split()))
    report = load_pretrained(classifier, {"model_state": model.state_dict()})
    own = dict(model.encoder.named_parameters())
    found = dict(classifier.named_parameters())
    assert own.keys() == found.keys() - {"head.projection.weight", "head.projection.bias"} - set(report.missing)
    assert all(torch.equal(own[n], found[n]) for n in own)
    assert "belongs to pretraining" in str(report)
    # The reverse: pre-training goes on from a classifier, and from another pre-training.
    cfg = load_config(opts=CASES[name].split())
    again = build_network(cfg)
    assert isinstance(again, MaskedModel)
    load_pretrained(again, classifier.state_dict())
    assert all(torch.equal(own[n], p) for n, p in again.encoder.named_parameters())
    whole = load_pretrained(again, model.state_dict())
    assert not (whole.missing or whole.skipped)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_published_layouts_are_taken_for_fine_tuning() -> None:
    """Names of facebookresearch/mae and of PySlowFast's MaskMViT, with the decoders that are left out."""
    vit = build_model(load_config(opts=f"{VIT.replace('[2,8,8]', '[1,8,8]')} DATA.NUM_FRAMES 1 VIT.DEPTH 3".split()))
    state = {n: torch.randn_like(t) for n, t in vit.state_dict().items() if not n.startswith("head.")}
    mae = {n: t[:, :, 0] if n == "patch_embed.proj.weight" else t for n, t in state.items()}
    extra = ["mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight"]
    extra += ["decoder_norm.weight", "decoder_pred.weight"]
    report = load_pretrained(vit, {"model": mae | {n: torch.zeros(2, 2) for n in extra}})
    assert sorted(report.skipped) == sorted(extra) and {n.partition(".")[0] for n in report.missing} == {"head"}
    assert torch.equal(vit.state_dict()["blocks.2.mlp.fc1.weight"], state["blocks.2.mlp.fc1.weight"])

    mvit = build_model(load_config(opts=f"{COMMON} {POOLING} MASK.ENABLE False TEST.ENABLE True".split()))
    state = {n: torch.randn_like(t) for n, t in mvit.state_dict().items() if not n.startswith(("head.", "norm."))}
    extra = ["mask_token", "pred_head.transforms.0.0.weight", "pred_head.projections.0.weight", "hogs.0.weight_x"]
    report = load_pretrained(mvit, {"model_state": state | {n: torch.zeros(2, 2) for n in extra}})
    assert sorted(report.skipped) == sorted(extra) and {n.partition(".")[0] for n in report.missing} == {"head", "norm"}
    assert torch.equal(mvit.state_dict()["blocks.1.attn.rel_pos_t"], state["blocks.1.attn.rel_pos_t"])


def test_visible_patches_alone_are_counted() -> None:
    model, x, _ = case("MAE of ViT")
    tokens, dim, out = 2 * 4 * 4, 24, model.target.dim
    seen = 1 + tokens // 4

    def blocks(number: int, tokens: int, dim: int) -> int:
        return number * (12 * tokens * dim**2 + 2 * tokens**2 * dim)

    encoder = (seen - 1) * dim * 3 * 2 * 8 * 8 + blocks(3, seen, dim)
    decoder = seen * dim * 16 + blocks(1, 1 + tokens, 16) + tokens * 16 * out
    assert count_macs(model, (1, *x.shape[1:])) == encoder + decoder


def test_published_sizes_have_their_parameters() -> None:
    """MAE's ViT-B with PySlowFast's decoder of clips, by arithmetic: encoder, its norm, decoder, linear layer."""
    opts = f"{MAE} {VIT} DATA.NUM_FRAMES 16 DATA.TRAIN_CROP_SIZE 224 DATA.TEST_CROP_SIZE 224 VIT.PATCH_SIZE [2,16,16] "
    opts += "DATA.TRAIN_JITTER_SCALES [256,320] VIT.EMBED_DIM 768 VIT.DEPTH 12 VIT.NUM_HEADS 12 "
    opts += "MASK.DECODER_DEPTH 4 MASK.DECODER_EMBED_DIM 512 MASK.PRETRAIN_DEPTH [11]"
    with torch.device("meta"):
        model = build_network(load_config(opts=opts.split()))

    def block(dim: int) -> int:
        return 12 * dim**2 + 13 * dim

    N, dim, small = 8 * 14 * 14, 768, 512
    encoder = (3 * 2 * 16 * 16 + 1) * dim + (N + 2) * dim + 12 * block(dim) + 2 * dim
    decoder = (dim + 1) * small + small + (N + 1) * small + 4 * block(small) + 2 * small + (small + 1) * 16 * 16 * 3
    assert count_params(model) == encoder + decoder


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (MAE + POOLING, "MASK.MAE_ON .*MVIT.POOL_Q_STRIDE"),
        (MAE.replace("AUG.MASK_RATIO 0.75", "") + VIT, "AUG.MASK_RATIO: nothing is hidden.*"),
        (MAE + VIT + "MASK.PRETRAIN_DEPTH [1]", r"MASK.PRETRAIN_DEPTH: \[1\] is not the last block, 2"),
        (MAE + VIT + "MASK.DECODER_DEPTH 0", "MASK.DECODER_DEPTH: 0 does not fit"),
        (FEATURES + VIT + "MASK.HEAD_TYPE separate_xformer", "MASK.HEAD_TYPE: separate_xformer is the decoder of"),
        (MAE + VIT + "TEST.ENABLE True", "TEST.ENABLE: has no meaning in masked pre-training"),
        (MAE + VIT + "TRAIN.BEST top1_acc", "TRAIN.BEST: has no meaning"),
        ("MODEL.LOSS_FUNC multi_mse", "MODEL.LOSS_FUNC: multi_mse is the loss of masked pre-training"),
        ("DATA.TRAIN_CROP_NUM_TEMPORAL 2 TRAIN.DATASET imagenet TEST.DATASET imagenet", "imagenet has one per step"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_advice(opts: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(opts=opts.split())


def test_models_that_cannot_be_pre_trained_are_refused() -> None:
    pit = load_config(opts=f"{COMMON} MODEL.MODEL_NAME PiT AUG.MASK_RATIO 0.5".split())
    with pytest.raises(UserError, match="only models of patches are pre-trained by masking"):
        build_network(pit)
    with pytest.raises(UserError, match="multiples of 2 x 8 x 8"):
        build_network(load_config(opts=f"{MAE} {VIT} DATA.TRAIN_CROP_SIZE 30 DATA.TRAIN_JITTER_SCALES [30,40]".split()))
    with pytest.raises(UserError, match="a model in masked pre-training has no classifier"):
        build_model(load_config(opts=f"{MAE} {VIT}".split()))
