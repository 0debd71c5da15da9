"""Position tables of another size: how the grid that they were made for is found, and what is refused."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.helpers.mvit_variants import clip, perturb, tiny
from videovit.config import dump_config, load_config
from videovit.models import CheckpointError, build_model, load_pretrained
from videovit.models.contract import Grid
from videovit.models.convert import save_safetensors
from videovit.models.layers.position import resize_pos_embed
from videovit.models.pit import PiT
from videovit.models.pooling_sharing.model import PSViT
from videovit.models.pooling_sharing.plan import PoolingSharingShape
from videovit.models.vit import ViT


def vit(grid: Grid, *, frames: int = 2) -> ViT:
    """A ViT with patches of `frames` x 4 x 4 pixels."""
    size = (frames * grid[0], 4 * grid[1], 4 * grid[2])
    model = ViT(dim=8, depth=1, num_heads=2, num_classes=3, clip_size=size, patch_size=(frames, 4, 4))
    perturb(model)
    return model


def bare(model: nn.Module) -> dict[str, Tensor]:
    """The tensors alone, as other programs save them."""
    return dict(model.state_dict())


def stretched(model: ViT, old: Grid, new: Grid) -> Tensor:
    return resize_pos_embed(model.pos_embed.detach()[:, 1:], old, new)


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(x)
    return logits


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((4, 14, 14), (16, 14, 14)),  # 16 x 7 x 7 has as many rows
        ((16, 14, 14), (4, 14, 14)),
        ((1, 14, 14), (16, 14, 14)),
        ((8, 6, 9), (2, 6, 9)),
        ((4, 6, 6), (4, 10, 10)),
        ((4, 3, 5), (4, 9, 15)),  # the same shape of picture, three times as large
    ],
)
def test_bare_joint_table_uses_grid_of_model(old: Grid, new: Grid) -> None:
    source, model = vit(old), vit(new)
    report = load_pretrained(model, {"model_state": bare(source)})
    assert torch.equal(model.pos_embed[:, 1:], stretched(source, old, new))
    assert report.how["pos_embed"].endswith(f"(read as made for {'x'.join(map(str, old))})")


def test_second_reading_is_named_in_a_note() -> None:
    report = load_pretrained(vit((16, 14, 14)), bare(vit((4, 14, 14))))
    assert any("16x7x7" in note and "grid=" in note for note in report.notes)
    assert load_pretrained(vit((16, 14, 14)), vit((4, 14, 14)).state_dict()).notes == []


@pytest.mark.parametrize("new", [(8, 14, 14), (16, 14, 14), (4, 28, 28), (8, 5, 5), (8, 7, 28)])
def test_state_dict_of_this_project_says_its_grid(new: Grid, tmp_path: Path) -> None:
    source, models = vit((16, 7, 7)), [vit(new) for _ in range(4)]
    torch.save(source.state_dict(), tmp_path / "state.pyth")
    save_safetensors(source.state_dict(), tmp_path / "state.safetensors", model=source)
    load_pretrained(models[0], source.state_dict())
    load_pretrained(models[1], tmp_path / "state.pyth")
    load_pretrained(models[2], tmp_path / "state.safetensors")
    load_pretrained(models[3], {"state_dict": nn.DataParallel(source).state_dict()})
    for model in models:
        assert torch.equal(model.pos_embed[:, 1:], stretched(source, (16, 7, 7), new))
    assert "grid" not in safetensors.torch.load_file(tmp_path / "state.safetensors")


FAMILIES = {
    "ViT": "VIT.PATCH_SIZE [2,8,8] VIT.DEPTH 1 VIT.EMBED_DIM 8 VIT.NUM_HEADS 2",
    "MViT": "MVIT.PATCH_KERNEL [3,7,7] MVIT.PATCH_STRIDE [2,8,8] MVIT.PATCH_PADDING [1,3,3] MVIT.SEP_POS_EMBED False "
    "MVIT.DEPTH 1 MVIT.EMBED_DIM 8",
}


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize(("frames", "side", "grid"), [(8, 112, (4, 14, 14)), (32, 56, (16, 7, 7))])
def test_config_in_the_file_settles_the_grid(name: str, frames: int, side: int, grid: Grid) -> None:
    def config(frames: int, side: int) -> list[str]:
        size = f"DATA.NUM_FRAMES {frames} DATA.TRAIN_CROP_SIZE {side} MODEL.NUM_CLASSES 3 MODEL.MODEL_NAME {name} "
        return (size + FAMILIES[name]).split()

    cfg = load_config(None, config(frames, side))
    source, model = perturb(build_model(cfg)), build_model(load_config(None, config(32, 112)))
    load_pretrained(model, {"model_state": bare(source), "cfg": dump_config(cfg)})
    table = source.pos_embed.detach()[:, 1:]
    assert torch.equal(model.pos_embed[:, 1:], resize_pos_embed(table, grid, (16, 14, 14)))


def test_config_of_another_patch_or_damaged_config_does_not_decide() -> None:
    for cfg in ("DATA: {NUM_FRAMES: 99, TRAIN_CROP_SIZE: 99}", "DATA: [", "DATA: {NUM_FRAMES: x}", "[" * 9999):
        source, model = vit((4, 14, 14)), vit((16, 14, 14))
        load_pretrained(model, {"model_state": bare(source), "cfg": cfg})
        assert torch.equal(model.pos_embed[:, 1:], stretched(source, (4, 14, 14), (16, 14, 14)))


def test_caller_says_the_grid() -> None:
    source, model = vit((16, 7, 7)), vit((16, 14, 14))
    load_pretrained(model, source.state_dict(), grid=(4, 14, 14))  # even against what the weights say
    assert torch.equal(model.pos_embed[:, 1:], stretched(source, (4, 14, 14), (16, 14, 14)))
    with pytest.raises(CheckpointError, match=r"pos_embed: 784 rows are not the grid 8x7x7 that the caller names"):
        load_pretrained(model, source.state_dict(), grid=(8, 7, 7))


@pytest.mark.parametrize("value", [(4, 14), (0, 14, 14), "4x14x14", (4.0, 14, 14)])
def test_grid_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match="three whole numbers"):
        load_pretrained(vit((4, 14, 14)), bare(vit((4, 14, 14))), grid=value)  # type: ignore[arg-type]


def test_several_readings_are_refused_with_their_names() -> None:
    source, model = vit((8, 7, 7)), vit((16, 16, 16))
    before = model.pos_embed.detach().clone()
    with pytest.raises(CheckpointError, match=r"pos_embed: 392 rows .*2x14x14.*8x7x7.*grid="):
        load_pretrained(model, bare(source))
    assert torch.equal(model.pos_embed, before)
    load_pretrained(model, bare(source), grid=(8, 7, 7))
    assert torch.equal(model.pos_embed[:, 1:], stretched(source, (8, 7, 7), (16, 16, 16)))


def test_rectangle_with_as_many_rows_is_stretched() -> None:
    source, model = vit((4, 6, 10)), vit((4, 5, 12))
    load_pretrained(model, source.state_dict())
    assert torch.equal(model.pos_embed[:, 1:], stretched(source, (4, 6, 10), (4, 5, 12)))
    unchanged = vit((4, 5, 12))
    load_pretrained(unchanged, bare(source))  # nothing says otherwise
    assert torch.equal(unchanged.pos_embed, source.pos_embed)


def test_rectangular_spatial_table_is_stretched() -> None:
    source, model = perturb(tiny(clip_size=(8, 16, 64))), tiny(clip_size=(8, 32, 32))
    assert source.pos_embed_spatial.shape == model.pos_embed_spatial.shape
    load_pretrained(model, source.state_dict())
    wanted = resize_pos_embed(source.pos_embed_spatial.detach(), (1, 4, 16), (1, 8, 8))
    assert torch.equal(model.pos_embed_spatial, wanted)
    joint = tiny(clip_size=(8, 32, 32), sep_pos_embed=False)
    load_pretrained(joint, source.state_dict())
    assert torch.equal(joint.pos_embed[0, 1], wanted[0, 0] + source.pos_embed_temporal[0, 0])


def test_spatial_table_of_two_readings_is_refused() -> None:
    source, model = tiny(clip_size=(8, 16, 64)), tiny(clip_size=(8, 8, 32))
    with pytest.raises(CheckpointError, match=r"pos_embed_spatial: 64 rows .*4x16.*8x8"):
        load_pretrained(model, bare(source))
    load_pretrained(model, bare(source), grid=(4, 4, 16))


def test_images_of_another_size_stay_images() -> None:
    source, model = vit((1, 14, 14), frames=1), vit((1, 7, 7), frames=1)  # 4 x 7 x 7 has as many rows
    load_pretrained(model, bare(source))
    assert torch.equal(model.pos_embed[:, 1:], stretched(source, (1, 14, 14), (1, 7, 7)))


def test_clips_and_images_with_one_frame_patches_are_distinguished() -> None:
    source, model = vit((4, 14, 14), frames=1), vit((8, 14, 14), frames=1)  # 784 rows are 28 x 28, too
    load_pretrained(model, bare(source))
    assert torch.equal(model.pos_embed[:, 1:], stretched(source, (4, 14, 14), (8, 14, 14)))
    image = vit((1, 28, 28), frames=1)
    load_pretrained(model, image.state_dict())
    assert torch.equal(model.pos_embed[:, 1:], stretched(image, (1, 28, 28), (1, 14, 14)).repeat(1, 8, 1))
    with pytest.raises(CheckpointError, match=r"1x14x14.*4x7x7"):
        load_pretrained(vit((4, 10, 10), frames=1), bare(vit((4, 7, 7), frames=1)))


def test_pit_stretches_a_rectangle() -> None:
    def pit(*sides: int) -> PiT:
        model = PiT(dims=(8, 16), num_heads=(2, 2), depths=(1, 1), num_classes=3, clip_size=(1, *sides))
        perturb(model)
        return model

    source, model = pit(32, 96), pit(48, 48)
    load_pretrained(model, source.state_dict())
    wanted = resize_pos_embed(source.pos_embed_spatial.detach(), source.grid, model.grid)
    assert torch.equal(model.pos_embed_spatial, wanted)


@pytest.mark.parametrize(
    "choices",
    [
        {"pooling": "1d", "cls": "joint", "pos_embed": "all"},
        {"pooling": "1d", "cls": "apart", "pos_embed": "all"},
        {"pooling": "2d", "cls": "none", "pos_embed": "all"},
        {"pooling": "2d", "cls": "apart", "pos_embed": "all"},
        {},
    ],
)
@pytest.mark.parametrize("side", [24, 48])
def test_psvit_of_another_size_computes_what_the_old_one_computes(choices: dict[str, str], side: int) -> None:
    def psvit(side: int) -> PSViT:
        shape = PoolingSharingShape((8, 16), (2, 2), image_size=side, patch_size=4, num_classes=3, **choices)
        return PSViT(shape=shape, plan="BS|B")

    source, model = psvit(32), psvit(side)
    perturb(source)
    report = load_pretrained(model, bare(source))
    assert set(report.resized) == {name for name in bare(model) if name.startswith("pos_embed.")}
    x = clip(2, 3, 1, side, side)
    torch.testing.assert_close(logits_of(model, x), logits_of(source, x), atol=1e-5, rtol=0)
