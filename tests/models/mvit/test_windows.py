"""Hybrid window attention of MViTv2."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.helpers.mvit_variants import perturb
from tests.helpers.project import CONFIGS
from tests.helpers.tiny_detectors import tiny_config
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import build_model, count_macs
from videovit.models.build import build_backbone
from videovit.models.mvit.attention import MultiscaleAttention
from videovit.models.mvit.block_specs import BlockSpec
from videovit.models.mvit.model import MViT


def built(options: str) -> MViT:
    """A tiny MViTv2 for 32 pixels, which are 8 x 8 tokens."""
    torch.manual_seed(0)
    model = build_backbone(tiny_config("MaskRCNN", "MViT", options))
    perturb(model)
    assert isinstance(model, MViT)
    return model.eval()


def images(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", [(32, 32), (24, 32), (20, 12)])
def test_one_window_that_covers_all_is_plain_attention(size: tuple[int, int]) -> None:
    x = images(*size)
    with torch.no_grad():
        plain, windowed = (
            built("MVIT.WINDOW 0 MVIT.GLOBAL_BLOCKS []")(x),
            built("MVIT.WINDOW 8 MVIT.GLOBAL_BLOCKS []")(x),
        )
        local = built("MVIT.WINDOW 4 MVIT.GLOBAL_BLOCKS []")(x)
    torch.testing.assert_close(windowed, plain, atol=1e-5, rtol=1e-5)
    assert (local - plain).abs().max() > 1e-3


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("grid", [(8, 12), (6, 9)])
def test_tokens_attend_to_their_own_window(grid: tuple[int, int], positions: bool) -> None:
    """Without pooling a window is an image of its own, also one that the border cuts."""
    spec = BlockSpec(dim=8, dim_attention=16, dim_out=16, num_heads=2)
    torch.manual_seed(0)
    whole = MultiscaleAttention(spec, (1, 4, 4), rel_pos_spatial=positions).eval()
    whole.init_rel_pos()
    windowed = MultiscaleAttention(replace(spec, window=4), (1, 4, 4), rel_pos_spatial=positions).eval()
    windowed.load_state_dict(whole.state_dict())
    x = torch.randn(2, 1, *grid, 8)
    with torch.no_grad():
        found, _, _ = windowed(x, None)
        windowed.plain = True
        plain, _, _ = windowed(x, None)
        assert found is not None and plain is not None
        torch.testing.assert_close(plain, found)
        for top in range(0, grid[0], 4):
            for left in range(0, grid[1], 4):
                window = x[:, :, top : top + 4, left : left + 4]
                # Relative positions belong to whole windows; they would be stretched for a smaller image.
                if positions and window.shape[2:4] != (4, 4):
                    continue
                expected, _, _ = whole(window, None)
                torch.testing.assert_close(found[:, :, top : top + 4, left : left + 4], expected)


def test_pooled_keys_have_the_windows_of_their_queries() -> None:
    """Strides of keys and queries divide the window, and fillings at the border are never attended to."""
    x = images(44, 52)
    model = built("MVIT.WINDOW 4 MVIT.GLOBAL_BLOCKS [3]")
    with torch.no_grad():
        found = model(x)
        torch.testing.assert_close(model.plain_()(x), found, atol=1e-5, rtol=1e-5)
        model.plain_(False)
        alone = model(x[:1])
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(x).float(), found, atol=0.05, rtol=0.1)
    torch.testing.assert_close(alone, found[:1])


def test_cost_grows_with_the_area() -> None:
    costs = {}
    for window in (0, 4):
        with torch.device("meta"):
            model = build_backbone(tiny_config("MaskRCNN", "MViT", f"MVIT.WINDOW {window} MVIT.GLOBAL_BLOCKS []"))
        costs[window] = [count_macs(model, (1, 3, 256, side)) for side in (256, 512, 1024)]
    head = 32 * 7
    first, second, third = (cost - head for cost in costs[4])
    assert second == 2 * first and third == 4 * first
    first, second, third = costs[0]
    assert second > 3 * first and third > 3.5 * second


def test_weights_of_the_classifier_fit_without_a_change() -> None:
    with torch.device("meta"):
        detector = build_backbone(load_config(CONFIGS / "COCO/MASK_RCNN_MVITv2_T.yaml"))
        classifier = build_model(load_config(CONFIGS / "ImageNet/MVITv2_T.yaml"))
    shapes = {name: tensor.shape for name, tensor in classifier.state_dict().items() if "head" not in name}
    assert {name: t.shape for name, t in detector.state_dict().items() if "head" not in name} == shapes
    # detectron2's windows: tokens of the blocks' inputs; the last blocks of all stages but the first are global.
    assert [spec.window for spec in detector.specs] == [56, 56, 0, 28, 14, 14, 14, 0, 14, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "MVIT.WINDOW 3",
            r"WINDOW: block 0 has windows of 3 tokens, which its stride of keys, \(1, 2, 2\), must divide",
        ),
        ("MVIT.WINDOW 1", r"WINDOW: block 0 has windows of 1 tokens"),
        ("MVIT.GLOBAL_BLOCKS [4]", r"GLOBAL_BLOCKS: block 4 is outside 0\.\.3"),
        ("MVIT.POOL_KVQ_KERNEL [1,2,2]", "windows need odd kernels"),
        ("MVIT.POOL_Q_STRIDE [[1,1,2,2]] MVIT.SHARE_ATTENTION [3] MVIT.GLOBAL_BLOCKS []", "block 3 shares the map"),
    ],
)
def test_windows_that_do_not_fit_are_named(options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(options)


def test_windows_and_a_class_token_exclude_each_other() -> None:
    spec = BlockSpec(dim=8, dim_attention=8, dim_out=8, num_heads=1, window=4)
    with pytest.raises(UserError, match="a class token is in no window"):
        MViT(blocks=[spec], clip_size=(1, 32, 32), patch_kernel=(1, 7, 7), patch_stride=(1, 4, 4))


def test_windows_have_no_map_of_all_tokens() -> None:
    with pytest.raises(UserError, match="no map of all tokens"):
        built("").attention_maps(images(32, 32))
