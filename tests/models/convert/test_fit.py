"""What `load_pretrained` tolerates and refuses, and how it reports both."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from tests.helpers.mvit_variants import TINY, TINY_V2, clip, perturb, tiny, tiny_v2
from videovit.models import CheckpointError, expand, load_pretrained
from videovit.models.convert import adapt, pool_norm_eps
from videovit.models.mvit.model import MViT
from videovit.models.pit import PiT
from videovit.models.pooling_sharing.model import PSViT
from videovit.models.pooling_sharing.plan import PoolingSharingShape
from videovit.models.progressive_sampling import ProgressiveSamplingViT
from videovit.models.vit import ViT

IMAGE = {"clip_size": (1, 32, 32), "patch_kernel": (1, 7, 7), "patch_stride": (1, 4, 4), "patch_padding": (0, 3, 3)}
IMAGE_KERNEL = {"pool_kvq_kernel": [1, 3, 3]}
PAPER_ERA = {"pool_kv_stride_adaptive": None, "pool_kv_stride": [[0, 1, 4, 4], [1, 1, 2, 2], [2, 1, 2, 2]]}


def image_v1(**changes):
    """The tiny v1 model for images: joint positions."""
    return tiny(blocks=expand(**{**TINY, **IMAGE_KERNEL}), sep_pos_embed=False, **IMAGE, **changes)


def image_v2(**changes):
    """The tiny v2 model for images: no class token."""
    blocks = expand(**{**TINY_V2, **IMAGE_KERNEL})
    return tiny_v2(blocks=blocks, rel_pos_temporal=False, **{"cls_token": False, **IMAGE, **changes})


def logits_of(model, x):
    """Logits in evaluation, without gradients."""
    with torch.no_grad():
        return model.eval()(x)


def test_own_weights_load_unchanged():
    source, model = perturb(tiny()), tiny()
    report = load_pretrained(model, {"epoch": 3, "model_state": source.state_dict()})
    assert len(report.loaded) == len(model.state_dict())
    assert not report.resized + report.skipped + report.missing
    x = clip(1, 3, 8, 32, 32)
    assert torch.equal(logits_of(model, x), logits_of(source, x))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "backbone."])
def test_wrapper_prefixes_are_removed(prefix):
    source, model = perturb(tiny()), tiny()
    load_pretrained(model, {prefix + n: t for n, t in source.state_dict().items()})
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_moving_average_loads_without_its_counter():
    source, model = perturb(tiny()), tiny()
    load_pretrained(model, AveragedModel(source).state_dict())
    assert torch.equal(model.head.projection.weight, source.head.projection.weight)


def test_wrapped_model_loads():
    source, model = perturb(tiny()), tiny()
    load_pretrained(torch.nn.DataParallel(torch.compile(model)), source.state_dict())
    assert torch.equal(model.norm.weight, source.norm.weight)


def test_names_of_the_model_are_not_shortened():
    source, model = (torch.nn.ModuleDict({"model": torch.nn.Linear(3, 2)}) for _ in range(2))
    report = load_pretrained(model, source.state_dict())
    assert report.loaded == ["model.weight", "model.bias"]
    assert load_pretrained(model, {f"module.{n}": t for n, t in source.state_dict().items()}).loaded == report.loaded


@pytest.mark.parametrize(("of_file", "of_model"), [(True, False), (False, True)])
def test_joint_and_separate_qkv_load_into_each_other(of_file, of_model):
    source, model = perturb(tiny(separate_qkv=of_file)), tiny(separate_qkv=of_model)
    load_pretrained(model, source.state_dict(), "pyslowfast")
    x = clip(1, 3, 8, 32, 32)
    torch.testing.assert_close(logits_of(model, x), logits_of(source, x), atol=1e-6, rtol=0)


def test_paper_era_last_stage_loads_into_its_model():
    source = perturb(tiny(blocks=expand(**{**TINY, **PAPER_ERA}), pool_norm_eps=1e-5))
    assert not any(".pool_k" in name for name in source.state_dict() if name.startswith("blocks.3."))
    model = tiny(blocks=expand(**{**TINY, **PAPER_ERA}))
    report = load_pretrained(model, source.state_dict())
    assert pool_norm_eps(model) == report.pool_norm_eps == 1e-5
    x = clip(1, 3, 8, 32, 32)
    assert torch.equal(logits_of(model, x), logits_of(source, x))


def test_last_stage_of_2021_in_other_model_names_keys():
    source, model = tiny(blocks=expand(**{**TINY, **PAPER_ERA})), tiny()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_pretrained(model, source.state_dict())
    message = str(error.value)
    assert "blocks.3.attn.pool_k.weight: missing in the weights" in message
    assert "MVIT.POOL_KV_STRIDE: [[0, 1, 4, 4], [1, 1, 2, 2], [2, 1, 2, 2]]" in message
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_weights_of_another_model_get_no_hints_about_mvit():
    source, model = tiny(blocks=expand(**{**TINY, **PAPER_ERA})), tiny()
    with pytest.raises(CheckpointError) as error:
        load_pretrained(model, {"model_state": source.state_dict(), "cfg": "MODEL:\n  MODEL_NAME: PiT\n"})
    assert str(error.value).endswith("\nthe config in the file says MODEL.MODEL_NAME PiT")
    with pytest.raises(CheckpointError, match=r"MVIT\.POOL_KV_STRIDE"):
        load_pretrained(model, {"model_state": source.state_dict(), "cfg": "MODEL:\n  MODEL_NAME: MViT\n"})


def test_container_of_deepspeed_loads():
    source, model = perturb(tiny()), tiny()
    load_pretrained(model, {"module": source.state_dict(), "lr_scheduler": None, "global_steps": 3})
    assert torch.equal(model.norm.weight, source.norm.weight)


def test_missing_counter_of_batch_norms_is_tolerated():
    def ps_vit():
        return ProgressiveSamplingViT(dim=8, num_heads=2, iterations=2, depth=1, points=(2, 2), num_classes=3)

    source, model = perturb(ps_vit()), ps_vit()
    state = {name: t for name, t in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(state) < len(source.state_dict())
    report = load_pretrained(model, state)
    assert not report.missing + report.skipped
    assert torch.equal(model.stem.norm.running_var, source.stem.norm.running_var)
    del state["stem.norm.running_var"]
    with pytest.raises(CheckpointError, match=r"stem\.norm\.running_var: missing"):
        load_pretrained(model, state)


def image_vit(depth=1):
    """A ViT for images of 32 pixels."""
    return ViT(dim=8, depth=depth, num_heads=2, num_classes=3, clip_size=(1, 32, 32), patch_size=(1, 16, 16))


def small_pit():
    return PiT(dims=(8, 16), num_heads=(2, 2), depths=(1, 1), num_classes=3, clip_size=(1, 32, 32))


def small_psvit():
    return PSViT(shape=PoolingSharingShape((8, 16), (2, 2), image_size=32, num_classes=3), plan="B|B")


def deit(**more):
    """Weights by the names of timm and DeiT, and of networks that were made from it."""
    state = {name.replace("head.projection", "head"): t for name, t in image_vit().state_dict().items()}
    return {**state, **{name: torch.zeros(8) for name in more.values()}}


@pytest.mark.parametrize(
    ("state", "model", "message"),
    [
        (
            deit(q="blocks.0.attn.q_bias", v="blocks.0.attn.v_bias"),
            image_vit,
            r"VideoMAE or BEiT.*blocks\.0\.attn\.q_bias",
        ),
        (deit(q="blocks.0.attn.q_bias"), tiny, "VideoMAE or BEiT"),
        (deit(t="blocks.0.temporal_attn.qkv.weight"), image_vit, "TimeSformer"),
        (deit(g="blocks.0.gamma_1"), image_vit, r"another network: no transformer here has blocks\.0\.gamma_1"),
        ({"layer1.0.conv1.weight": torch.zeros(8), "fc.weight": torch.zeros(8)}, tiny, "a ResNet"),
        (deit(), small_pit, "are those of MODEL.MODEL_NAME ViT$"),
        (small_pit().state_dict(), tiny, "are those of MODEL.MODEL_NAME PiT$"),
        (small_pit().state_dict(), image_vit, "are those of MODEL.MODEL_NAME PiT$"),
        (tiny().state_dict(), image_vit, "are those of MODEL.MODEL_NAME MViT$"),
        (small_psvit().state_dict(), tiny, "are those of MODEL.MODEL_NAME PSViT$"),
        (image_vit(2).state_dict(), tiny, r"MVIT\.DEPTH: 2   \(here: 4\)"),
    ],
)
def test_weights_of_another_family_get_a_true_message(state, model, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_pretrained(model(), state)
    assert ("MVIT." in str(error.value)) == ("MVIT" in message)


def test_weights_of_the_same_family_are_not_sent_to_it():
    for state in (image_vit(2).state_dict(), {**image_vit(2).state_dict(), "head.weight": torch.zeros(3, 8)}):
        with pytest.raises(CheckpointError, match=r"blocks\.1\.norm1\.weight: unknown") as error:
            load_pretrained(image_vit(), {"model_state": state, "cfg": "MODEL:\n  MODEL_NAME: ViT\n"})
        assert "MODEL_NAME" not in str(error.value) and "MVIT" not in str(error.value)


def test_tensors_that_the_model_lacks_are_refused():
    source, model = tiny(), tiny(blocks=expand(**{**TINY, **PAPER_ERA}))
    with pytest.raises(CheckpointError, match=r"blocks\.3\.attn\.pool_k\.weight: unknown to the model"):
        load_pretrained(model, source.state_dict())


def test_other_kernels_are_refused_by_shape():
    source, model = tiny(blocks=expand(**{**TINY, "pool_kvq_kernel": None})), tiny()
    with pytest.raises(CheckpointError, match=r"MVIT\.POOL_KVQ_KERNEL: None   \(here: \[3, 3, 3\]\)"):
        load_pretrained(model, source.state_dict())


def test_head_for_other_classes_is_dropped_whole():
    source, model = perturb(tiny(num_classes=7)), tiny(num_classes=5)
    bias = model.head.projection.bias.clone()
    report = load_pretrained(model, source.state_dict())
    names = ["head.projection.weight", "head.projection.bias"]
    assert sorted(report.skipped) == sorted(report.missing) == sorted(names)
    assert torch.equal(model.head.projection.bias, bias)
    assert torch.equal(model.norm.weight, source.norm.weight)
    assert "classifier" in str(report)


def test_missing_head_is_tolerated_and_nothing_else():
    state = adapt.drop_head(perturb(tiny()).state_dict(), ("head.",))
    assert load_pretrained(tiny(), state).missing == ["head.projection.weight", "head.projection.bias"]
    del state["norm.weight"]
    with pytest.raises(CheckpointError, match=r"norm\.weight: missing in the weights, model 64"):
        load_pretrained(tiny(), state)


def test_absolute_tables_stretch_bicubic_in_space_linear_in_time():
    source, model = perturb(tiny()), tiny(clip_size=(16, 48, 48))
    report = load_pretrained(model, source.state_dict())
    assert sorted(report.resized) == ["pos_embed_spatial", "pos_embed_temporal"]
    assert report.how["pos_embed_spatial"] == "1x64x16 -> 1x144x16"
    table = source.pos_embed_spatial.detach().reshape(1, 8, 8, 16).permute(0, 3, 1, 2)
    stretched = torch.nn.functional.interpolate(table, size=(12, 12), mode="bicubic")
    assert torch.equal(model.pos_embed_spatial, stretched.permute(0, 2, 3, 1).reshape(1, 144, 16))
    time = torch.nn.functional.interpolate(source.pos_embed_temporal.detach().mT, size=8, mode="linear").mT
    torch.testing.assert_close(model.pos_embed_temporal.data, time)


@pytest.mark.parametrize("size", [(8, 48, 48), (16, 32, 32)])
def test_joint_table_stretches(size):
    source, model = perturb(tiny(sep_pos_embed=False)), tiny(sep_pos_embed=False, clip_size=size)
    report = load_pretrained(model, source.state_dict())
    assert report.resized == ["pos_embed"]
    assert report.how["pos_embed"].endswith("(read as made for 4x8x8)")
    assert torch.equal(model.pos_embed[:, 0], source.pos_embed[:, 0])
    x = clip(1, 3, *size)
    torch.testing.assert_close(logits_of(model, x), logits_of(source, x), atol=1e-5, rtol=0)


def test_relative_tables_stretch():
    source, model = perturb(tiny_v2()), tiny_v2(clip_size=(8, 64, 64))
    report = load_pretrained(model, source.state_dict())
    assert {n.rsplit(".", 1)[1] for n in report.resized} == {"rel_pos_h", "rel_pos_w"}
    x = clip(1, 3, 8, 64, 64)
    torch.testing.assert_close(logits_of(model, x), logits_of(source, x), atol=1e-5, rtol=0)


def test_table_of_another_width_is_refused():
    source = perturb(tiny())
    state = {**source.state_dict(), "pos_embed_spatial": torch.zeros(1, 64, 8)}
    with pytest.raises(CheckpointError, match="pos_embed_spatial: weights 1x64x8, model 1x64x16"):
        load_pretrained(tiny(), state)


@pytest.mark.parametrize("separate", [True, False])
def test_image_v1_to_clips_keeps_the_logits_of_a_still(separate):
    image, video = perturb(image_v1(cls_token=False)), tiny(cls_token=False, sep_pos_embed=separate)
    report = load_pretrained(video, image.state_dict())
    tables = {"pos_embed_spatial", "pos_embed_temporal"} if separate else {"pos_embed"}
    assert {"patch_embed.proj.weight", *tables} <= set(report.resized)
    picture = clip(2, 3, 1, 32, 32)
    still = logits_of(video, picture.expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(still, logits_of(image, picture), atol=1e-5, rtol=0)


def test_image_v1_to_clips_splits_off_the_class_row():
    image, video = perturb(image_v1()), tiny()
    report = load_pretrained(video, image.state_dict())
    assert {"cls_token", "pos_embed_class"} <= set(report.loaded)
    assert torch.equal(video.pos_embed_class, image.pos_embed[:, :1])
    assert torch.equal(video.pos_embed_spatial, image.pos_embed[:, 1:])
    assert video.pos_embed_temporal.abs().max() == 0


def test_image_v2_to_clips_keeps_the_class_token_and_zeroes_time():
    image, video = perturb(image_v2()), tiny_v2()
    report = load_pretrained(video, image.state_dict())
    assert report.missing == ["cls_token"]
    assert video.blocks[0].attn.rel_pos_t.abs().max() == 0
    assert "blocks.0.attn.rel_pos_t" in report.resized


def test_inflated_v2_without_class_token_keeps_logits_of_still():
    image, video = perturb(image_v2()), tiny_v2(cls_token=False)
    load_pretrained(video, image.state_dict())
    picture = clip(2, 3, 1, 32, 32)
    still = logits_of(video, picture.expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(still, logits_of(image, picture), atol=1e-5, rtol=0)


def test_four_dimensional_stem_and_pools_load():
    image, model = perturb(image_v2()), image_v2()
    state = image.state_dict()
    flat = {n: t.squeeze(2) if t.dim() == 5 else t for n, t in state.items()}
    report = load_pretrained(model, flat, "mvit")
    assert len(report.loaded) == len(state)
    picture = clip(1, 3, 1, 32, 32)
    assert torch.equal(logits_of(model, picture), logits_of(image, picture))


def test_clips_to_images_sums_kernels():
    video, image = perturb(tiny()), image_v1()
    load_pretrained(image, video.state_dict())
    torch.testing.assert_close(image.patch_embed.proj.weight, video.patch_embed.proj.weight.sum(2, keepdim=True))
    assert torch.equal(image.pos_embed[:, 1:], video.pos_embed_spatial)


@pytest.mark.parametrize(("how", "total"), [("center", 1.0), ("repeat", 3.0), ("mean", 1.0)])
def test_inflation_of_a_kernel_keeps_its_sum_or_repeats_it(how, total):
    weight = clip(4, 3, 1, 5, 5)
    inflated = adapt.inflate_kernel(weight, 3, how)
    torch.testing.assert_close(inflated.sum(2, keepdim=True), total * weight)
    assert (inflated[:, :, 0].abs().max() == 0) == (how == "center")


def test_kernel_of_several_frames_has_no_rule():
    with pytest.raises(ValueError, match="over 3 frames"):
        adapt.inflate_kernel(clip(4, 3, 3, 5, 5), 5)


def test_split_and_joined_qkv_are_equal():
    state = perturb(tiny()).state_dict()
    split = adapt.split_qkv(state)
    assert "blocks.0.attn.qkv.weight" not in split
    joined = adapt.join_qkv(split)
    assert sorted(joined) == sorted(state)
    assert all(torch.equal(joined[n], state[n]) for n in state)


@pytest.mark.parametrize(
    ("cfg", "eps"),
    [
        ("MVIT:\n  POOL_NORM_EPS: 0.0002\n", 2e-4),
        ("MVIT:\n  MODE: conv\n  POOL_FIRST: false\n", 1e-5),
        ("MVIT:\n  MODE: conv\n  RESIDUAL_POOLING: false\n", 1e-6),
    ],
)
def test_eps_from_the_config_in_the_file(cfg, eps):
    model = tiny(pool_norm_eps=1e-3)
    report = load_pretrained(model, {"model_state": tiny().state_dict(), "cfg": cfg})
    assert pool_norm_eps(model) == report.pool_norm_eps == eps
    assert "eps of the pooling norms 0.001 ->" in str(report)


def test_eps_from_the_source_or_a_note():
    state = tiny().state_dict()
    model = tiny()
    report = load_pretrained(model, state)
    assert report.pool_norm_eps is None
    assert "do not determine the eps" in str(report)
    assert load_pretrained(model, state, "pyslowfast_old").pool_norm_eps == pool_norm_eps(model) == 1e-5
    assert load_pretrained(model, {"model_state": state, "pool_norm_eps": 1e-3}).pool_norm_eps == 1e-3
    assert load_pretrained(model, state, "pyslowfast").pool_norm_eps == 1e-6
    assert load_pretrained(tiny(pool_mode="max"), tiny(pool_mode="max").state_dict()).notes == []


def test_unknown_source_and_foreign_projects():
    with pytest.raises(CheckpointError, match="known: auto, pyslowfast"):
        load_pretrained(tiny(), tiny().state_dict(), "mmaction")
    with pytest.raises(CheckpointError, match="mmaction2"):
        load_pretrained(tiny(), {"state_dict": {"backbone.patch_embed.projection.weight": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="mmaction2"):
        names = ("backbone.patch_embed.projection.weight", "cls_head.fc_cls.weight")
        load_pretrained(tiny(), {"state_dict": dict.fromkeys(names, torch.zeros(1))})
    with pytest.raises(CheckpointError, match="those of a reversible MViT: MVIT.REV.ENABLE True"):
        load_pretrained(tiny(), {"rev_backbone.layers.0.F.attn.q.weight": torch.zeros(1)})


def test_pretraining_extras_are_skipped():
    state = {**tiny().state_dict(), "mask_token": torch.zeros(1, 1, 64)}
    report = load_pretrained(tiny(), state)
    assert report.skipped == ["mask_token"]
    assert report.how["mask_token"] == "belongs to pretraining"


def test_masked_pretraining_initializes_a_classifier():
    """PySlowFast's MaskFeat has no last norm and no classifier, but prediction layers and filters for its target."""
    source, model = perturb(tiny_v2()), tiny_v2(mean_pooling=True)
    state = {name: t for name, t in source.state_dict().items() if not name.startswith(("norm.", "head."))}
    theirs = {
        "mask_token": torch.zeros(1, 1, 16),
        "hogs.0.weight_x": torch.zeros(3, 1, 3, 3),
        "hogs.0.weight_y": torch.zeros(3, 1, 3, 3),
        "pred_head.projections.0.weight": torch.zeros(108, 64),
    }
    report = load_pretrained(model, {"model_state": {**state, **theirs}})
    assert sorted(report.skipped) == sorted(theirs)
    assert sorted(report.missing) == ["head.projection.bias", "head.projection.weight", "norm.bias", "norm.weight"]
    assert torch.equal(model.norm.weight, torch.ones(64))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items() if name in state)
    with pytest.raises(CheckpointError, match=r"norm\.weight: missing"):
        load_pretrained(tiny_v2(), state)


def test_foreign_module_loads_by_its_own_names():
    source, model = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert load_pretrained(model, source.state_dict()).loaded == ["weight", "bias"]
    assert torch.equal(model.weight, source.weight)
    with pytest.raises(CheckpointError, match="weight: weights 2x4, model 2x3"):
        load_pretrained(model, torch.nn.Linear(4, 2).state_dict())


def test_joint_table_of_an_image_repeats_in_every_frame():
    def vit(frames):
        blocks = expand(depth=2, embed_dim=32, num_heads=2)
        patch = {"patch_kernel": (1, 8, 8), "patch_stride": (1, 8, 8), "patch_padding": (0, 0, 0)}
        return MViT(
            blocks=blocks, num_classes=5, clip_size=(frames, 32, 32), sep_pos_embed=False, cls_token=False, **patch
        )

    image, video = perturb(vit(1)), vit(6)
    report = load_pretrained(video, image.state_dict())
    assert report.how["pos_embed"] == "repeated in every frame"
    assert torch.equal(video.pos_embed[:, 16:32], image.pos_embed)
    picture = clip(2, 3, 1, 32, 32)
    still = logits_of(video, picture.expand(-1, -1, 6, -1, -1))
    torch.testing.assert_close(still, logits_of(image, picture), atol=1e-5, rtol=0)
