"""Heat maps: what they are equal to, that they are defined for every family, and that they lie on the object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.bare_model import BareModel
from tests.models.test_contract import CASES, CONVOLUTIONAL, built, every_model, inputs
from videovit.analysis.explain import METHODS, find_method
from videovit.analysis.grad_cam import grad_cam, hires_cam
from videovit.analysis.gradient import gradient_x_input
from videovit.analysis.last_grid import Places, spread
from videovit.analysis.occlusion import occlusion
from videovit.analysis.pointing import pointing_game, rank_correlation
from videovit.analysis.rollout import attention_rollout
from videovit.errors import UserError
from videovit.models.contract import AttentionModel
from videovit.models.detection.roi_head import RoIHead
from videovit.models.mvit.model import MViT
from videovit.models.vit import ViT


def lively(name: str, options: str = "") -> AttentionModel:
    """A model whose attention is neither even nor saturated, so that rounding does not matter."""
    model = built(name, options)
    assert isinstance(model, AttentionModel)
    torch.manual_seed(0)
    for key, parameter in model.named_parameters():
        if parameter.dim() > 1:
            fan_in = parameter.shape[-1] if parameter.shape[0] == 1 else parameter[0].numel()
            nn.init.normal_(parameter, std=fan_in**-0.5)
        else:
            nn.init.constant_(parameter, 0.0 if key.endswith("bias") else 1.0)
    return model


CLASSES_OF_TWO = torch.tensor([3, 5])
SLOW = {name for name in CASES if name.startswith("ptv_")} - {"ptv_x3d_m", "ptv_slowfast_r50"}


@pytest.mark.parametrize("method", METHODS)
@every_model
def test_heat_is_defined(name: str, method: str) -> None:
    if name in SLOW or (method == "occlusion" and name not in ("MViT", "PSViT")):
        pytest.skip("slow, and the code is that of the other cases")
    model, x = built(name) if name.startswith(CONVOLUTIONAL) else lively(name), inputs(name)
    if not isinstance(model, AttentionModel) and method == "rollout":
        with pytest.raises(UserError, match=f"multiplies attention maps, and {type(model).__name__} has none"):
            METHODS[method](model, x, CLASSES_OF_TWO)
        return
    model.train()
    heat = METHODS[method](model, x, CLASSES_OF_TWO)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert heat.shape == (2, *x.shape[2:]) and not heat.requires_grad
    assert heat.min() >= 0
    for highest in heat.flatten(1).amax(dim=1).tolist():  # 0: nothing in the last grid speaks for the class
        assert highest == pytest.approx(1) or (method.endswith("cam") and highest == 0)
    alone = METHODS[method](model, x[1:], CLASSES_OF_TWO[1:])
    torch.testing.assert_close(alone[0], heat[1], rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------------------------------ equal to other computations


def differences(score: nn.Module, a_NC: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of a score of tokens (B, N, C) -> (B,), by central differences."""
    steps = step * torch.eye(a_NC.numel(), dtype=a_NC.dtype).view(-1, *a_NC.shape)
    return ((score(a_NC + steps) - score(a_NC - steps)) / (2 * step)).view_as(a_NC)


class AfterGrid(nn.Module):
    """The score of a class from the grid tokens that the attention of the last block of a ViT or MViT reads."""

    def __init__(self, model: ViT | MViT, x: Tensor, label: int) -> None:
        super().__init__()
        self.model, self.label = model, label
        if isinstance(model, ViT):
            tokens = model.with_cls(model.patch_embed(x).flatten(1, 3)) + model.positions(model.grid)
            for block in model.blocks[:-1]:
                tokens = block(tokens)
            self.cls = tokens[:, :1]
            self.grid = model.blocks[-1].norm1(tokens)[0, 1:]
        else:
            grid, cls = model._embed(x)
            for block in model.blocks[:-1]:
                grid, cls, _ = block(grid, cls)
            assert cls is not None
            self.sides, self.cls = grid.shape[1:4], cls
            self.grid = model.blocks[-1].norm1(grid)[0].flatten(0, 2)

    def forward(self, grid_BNC: Tensor) -> Tensor:
        last, cls = self.model.blocks[-1], self.cls.expand(len(grid_BNC), -1, -1)
        normed = last.norm1(cls)
        if isinstance(self.model, ViT):
            read = last.attn(torch.cat([normed, grid_BNC], dim=1))[:, :1]
        else:
            _, read, _ = last.attn(grid_BNC.unflatten(1, self.sides), normed)
        cls = cls + read
        cls = cls + last.mlp(last.norm2(cls))
        return self.model.head(self.model.norm(cls)[:, 0])[:, self.label]


@pytest.mark.parametrize("name", ["ViT", "MViT"])
def test_cam_equals_one_by_differences(name: str) -> None:
    model, x = lively(name, "DATA.NUM_FRAMES 2").double(), inputs(name)[:1, :, :2].double()
    assert isinstance(model, ViT | MViT)
    with torch.no_grad():
        rest = AfterGrid(model, x, label=2)
        assert rest(rest.grid[None]).item() == pytest.approx(model(x)[0, 2].item())
        gradient_NC = differences(rest, rest.grid)
        sides = rest.sides if isinstance(model, MViT) else model.grid
        for method, weights_NC in ((grad_cam, gradient_NC.mean(0, keepdim=True)), (hires_cam, gradient_NC)):
            values_N = (weights_NC * rest.grid).sum(1).clamp(min=0)
            expected = nn.functional.interpolate(values_N.view(1, 1, *sides), x.shape[2:], mode="trilinear")[0]
            assert expected.max() > 0
            found = method(model, x, torch.tensor([2]), scale=False)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("name", ["ViT", "PiT"])
def test_grad_cam_equals_pytorch_grad_cam(name: str) -> None:
    library = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam (package grad-cam) is not installed")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, x = lively(name, "DATA.NUM_FRAMES 1"), inputs(name)[:, :, :1]
    T, H, W = model.forward_features(x).grid

    def as_images(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (T, H, W))[:, :, 0]

    layers = [model.get_submodule("blocks")[-1].norm1]
    for method, kind in ((grad_cam, library.GradCAM), (hires_cam, library.HiResCAM)):
        with kind(model=model, target_layers=layers, reshape_transform=as_images) as cam:
            expected = cam(x[:, :, 0], [ClassifierOutputTarget(3), ClassifierOutputTarget(5)])
        found = method(model, x, CLASSES_OF_TWO)[:, 0]
        lowest, highest = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
        found = (found - lowest) / (1e-7 + highest - lowest)  # the library makes the lowest value 0
        assert found.max() > 0.9
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


def test_rollout_equals_its_formula() -> None:
    model, x = lively("ViT"), inputs("ViT")
    product = torch.eye(model.attention_maps(x)[0].shape[-1])
    for map_BMNN in model.attention_maps(x):
        product = (0.5 * map_BMNN.mean(1) + 0.5 * torch.eye(map_BMNN.shape[-1])) @ product
    tokens = product[:, 0, 1:].unflatten(1, model.grid)
    expected = nn.functional.interpolate(tokens[:, None], x.shape[2:], mode="trilinear")[:, 0]
    found = attention_rollout(model, x, CLASSES_OF_TWO, scale=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["MViT", "MViT v2", "PiT", "PS_ViT", "PSViT", "PSViT on a grid"])
def test_rollout_keeps_all_shares(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    seen: list[Tensor] = []

    def kept(values_BN: Tensor, at: Places, size: tuple[int, int, int]) -> Tensor:
        seen.append(values_BN)
        return spread(values_BN, at, size)

    monkeypatch.setattr("videovit.analysis.rollout.spread", kept)
    model, x = built(name), inputs(name)
    attention_rollout(model, x, CLASSES_OF_TWO)
    (values_BN,) = seen
    assert values_BN.min() > 0
    total = values_BN.sum(dim=1)  # the rest is at the class token
    assert (total < 1 - 1e-4 if name in ("MViT", "PiT", "PSViT") else total <= 1 + 1e-5).all()
    if name in ("MViT v2", "PSViT on a grid"):
        torch.testing.assert_close(total, torch.ones(2))


class Corner(BareModel):
    """Scores of class k: (k + 1) times the sum of the pixels in a part of the clip."""

    PART = (slice(2, 4), slice(8, 12), slice(0, 4))

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        total_B = x_BCTHW[(slice(None), slice(None), *self.PART)].sum((1, 2, 3, 4))
        return total_B[:, None] * torch.tensor([1.0, 2.0])


def test_maps_of_a_known_score() -> None:
    x = torch.rand(2, 3, 8, 16, 16) + 0.5
    inside = torch.zeros(8, 16, 16, dtype=torch.bool)
    inside[Corner.PART] = True
    pixels = gradient_x_input(Corner(), x, torch.tensor([1, 0]), scale=False)
    torch.testing.assert_close(pixels, x.sum(1) * inside * torch.tensor([2.0, 1.0]).view(2, 1, 1, 1))
    tubes = occlusion(Corner(), x, torch.tensor([1, 0]), tube=(2, 4, 4), stride=(2, 4, 4), scale=False, batch_size=5)
    sums = (x.sum(1) * inside).sum((1, 2, 3)) * torch.tensor([2.0, 1.0])
    torch.testing.assert_close(tubes, sums.view(2, 1, 1, 1) * inside, rtol=1e-4, atol=1e-4)
    # With overlap, a pixel gets the mean over the tubes that cover it.
    half = occlusion(Corner(), x, torch.tensor([1, 0]), tube=(2, 4, 4), stride=(2, 4, 2), scale=False)
    assert 0 < half[0, 2, 8, 5] < half[0, 2, 8, 1]
    with pytest.raises(UserError, match=r"has no layers, and so no map to look at"):
        grad_cam(Corner(), x, torch.tensor([1, 0]))


def test_scattered_tokens_are_hot_where_they_are() -> None:
    where = torch.tensor([[[0.5, 0.25, 0.75], [0.5, 0.25, 0.72], [0.5, 0.8, 0.2]]])
    heat = spread(torch.tensor([[1.0, 1.0, 1.5]]), Places((1, 4, 4), where), (1, 32, 32))
    row, column = divmod(int(heat[0, 0].argmax()), 32)
    assert abs(row - 7.5) <= 1 and abs(column - 23) <= 1  # two that gather beat the stronger one
    assert heat[0, 0, 16, 16] == 0


# -------------------------------------------------------------------------------------------------- boxes and mistakes


def detector() -> MViT:
    model = built("MViT")
    assert isinstance(model, MViT)
    model.reset_head(RoIHead(32, 7, resolution=3))
    nn.init.normal_(model.head.projection.weight)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_every_box_has_its_own_map(method: str) -> None:
    model, x = detector(), inputs("MViT")
    boxes = torch.tensor([[1.0, 0, 0, 12, 12], [0, 16, 16, 32, 32], [1, 16, 16, 32, 32]])
    labels = torch.tensor([1, 2, 2])
    heat = METHODS[method](model, x, labels, boxes)
    assert heat.shape == (3, *x.shape[2:])
    other = METHODS[method](model, x[1:], labels[2:], boxes[2:] * torch.tensor([0.0, 1, 1, 1, 1]))
    torch.testing.assert_close(other[0], heat[2], rtol=1e-3, atol=1e-3)
    assert rank_correlation(heat[0], heat[2]) < 0.99
    with pytest.raises(UserError, match="no boxes to explain"):
        METHODS[method](model, x, labels[:0], boxes[:0])


def test_mistakes_are_named() -> None:
    model, x = built("ViT"), inputs("ViT")
    for wrong in (["gradient"], None, "gradeint"):
        with pytest.raises(UserError, match="method; found .*, expected one of grad_cam, "):
            find_method(wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"classes; found \(1,\), expected one per clip, \(2,\)"):
        grad_cam(model, x, torch.tensor([1]))
    with pytest.raises(UserError, match=r"classes; found \[1, 7\], expected 0 to 6"):
        grad_cam(model, x, torch.tensor([1, 7]))
    with pytest.raises(UserError, match="boxes: this model takes no boxes"):
        grad_cam(model, x, torch.tensor([1, 2]), torch.zeros(2, 5))
    with pytest.raises(UserError, match="this model classifies boxes: which one"):
        grad_cam(detector(), x, torch.tensor([1, 2]))
    with pytest.raises(UserError, match=r"clips of boxes; found \[2\], expected 0 to 1"):
        grad_cam(detector(), x, torch.tensor([1]), torch.tensor([[2.0, 0, 0, 8, 8]]))
    with pytest.raises(UserError, match=r"expected 1 <= stride <= tube <= \(8, 32, 32\)"):
        occlusion(model, x, torch.tensor([1, 2]), tube=(2, 4, 4), stride=(2, 5, 4))
    with pytest.raises(UserError, match="did you mean grad_cam"):
        find_method("gradcam")
    with torch.no_grad():
        model.head.get_submodule("projection").bias.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        grad_cam(model, x, torch.tensor([1, 2]))


# ------------------------------------------------------------------------------------------------- do they make sense?

SIDE, PATCH = 32, 4


def marked_images(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a patch of stripes somewhere, whose direction is the class; and the mask of the patch.

    The patch is no brighter and has no more contrast than the rest, so that only a trained model can find it.
    """
    x_BCHW = torch.randn(number, 1, SIDE, SIDE, generator=generator)
    labels_B = torch.randint(2, (number,), generator=generator)
    mask_BHW = torch.zeros(number, SIDE, SIDE, dtype=torch.bool)
    stripes = torch.tensor([1.0, -1.0]).repeat(PATCH)[:, None].expand(-1, 2 * PATCH)
    for x_CHW, label, mask_HW in zip(x_BCHW, labels_B, mask_BHW, strict=True):
        row, column = (PATCH * torch.randint(SIDE // PATCH - 1, (2,), generator=generator)).tolist()
        place = (slice(row, row + 2 * PATCH), slice(column, column + 2 * PATCH))
        x_CHW[(0, *place)] = stripes if label else stripes.T
        mask_HW[place] = True
    return x_BCHW, labels_B, mask_BHW


def small_vit(seed: int) -> ViT:
    torch.manual_seed(seed)
    sizes = {"clip_size": (1, SIDE, SIDE), "patch_size": (1, PATCH, PATCH), "in_channels": 1}
    # One block: deeper, tokens exchange what they know, and what the last ones hold has left its place.
    return ViT(dim=32, depth=1, num_heads=2, num_classes=2, mlp_ratio=2.0, **sizes)


@pytest.fixture(scope="module")
def models() -> tuple[ViT, ViT]:
    """A ViT trained for seconds, and one with random weights."""
    generator = torch.Generator().manual_seed(0)
    model = small_vit(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        x, labels, _ = marked_images(32, generator)
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, labels, _ = marked_images(64, torch.Generator().manual_seed(1))
    assert (model.eval()(x).argmax(1) == labels).float().mean() > 0.9
    return model, small_vit(1).eval()


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_a_trained_model_point_at_what_decides(models: Sequence[ViT], method: str) -> None:
    x, labels, mask = marked_images(48, torch.Generator().manual_seed(1))
    options = {"tube": (1, 8, 8), "stride": (1, 4, 4), "batch_size": 64} if method == "occlusion" else {}
    shares = []
    for model in models:
        hits_B, _ = pointing_game(METHODS[method](model, x, labels, **options), mask[:, None])
        shares.append(hits_B.float().mean().item())
    trained, random = shares
    chance = mask.float().mean().item()
    assert chance == pytest.approx(1 / 16)
    assert trained > 0.4 > 0.15 > random, (trained, random)
