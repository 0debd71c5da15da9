"""`count_macs` against fvcore's counter, which traces the model and counts by rules of its own."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from tests.helpers.mvit_variants import tiny, tiny_v2
from videovit.models import MViT, VideoModel, count_macs, optimize_for_inference
from videovit.models.pit import PiT
from videovit.models.vit import ViT

SMALL_PIT = {
    "dims": (8, 16),
    "num_heads": (1, 2),
    "depths": (1, 2),
    "patch_kernel": (1, 8, 8),
    "patch_stride": (1, 4, 4),
}
MODELS = {
    "MViT": (tiny, (2, 3, 8, 32, 32)),
    "MViT, maximum pooling": (lambda: tiny(pool_mode="max"), (1, 3, 8, 32, 32)),
    "MViTv2": (tiny_v2, (2, 3, 8, 32, 32)),
    "MViTv2 without a class token": (lambda: tiny_v2(cls_token=False), (2, 3, 8, 32, 32)),
    "MViTv2 at another size": (tiny_v2, (1, 3, 12, 48, 40)),
    "ViT": (
        lambda: ViT(dim=24, depth=2, num_heads=3, clip_size=(4, 16, 16), patch_size=(2, 4, 4)), (2, 3, 4, 16, 16)
    ),
    "PiT": (lambda: PiT(**SMALL_PIT, clip_size=(1, 32, 32), distilled=True), (2, 3, 1, 32, 32)),
}  # fmt: skip


class Everything(nn.Module):
    """Logits and grid: fvcore drops what no output depends on, such as the grid in the last block of a class token."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens_BNC, _, cls_BXC = self.model.forward_features(x)
        return self.model.head(tokens_BNC.mean(1) if cls_BXC is None else cls_BXC[:, 0]), tokens_BNC


def einsum_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """One multiply-add per element of the output and of the axis that is summed, which is the last of the queries.

    fvcore's own rule reads the four digits that NumPy prints.
    """
    queries = next(iter(inputs[1].node().inputs()))
    return Counter({"einsum": math.prod(outputs[0].type().sizes()) * queries.type().sizes()[-1]})


def no_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Of norms, for which fvcore counts 5 per element of the output on top of the multiply-adds."""
    return Counter()


def fvcore_macs(model: VideoModel, size: tuple[int, ...]) -> int:
    analysis = FlopCountAnalysis(
        Everything(model) if isinstance(model, MViT) else model, torch.zeros(size)
    ).unsupported_ops_warnings(False)
    analysis.set_op_handle("aten::layer_norm", no_macs, "aten::einsum", einsum_macs)
    with torch.no_grad():  # else the depthwise convolution is an autograd function, which a tracer cannot see into
        return int(analysis.total())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize("name", MODELS)
def test_macs_equal_fvcores(name: str) -> None:
    build, size = MODELS[name]
    model = build().eval()
    macs = count_macs(model, size)
    assert macs == fvcore_macs(model.twin().plain_(), size)
    # Whatever state a model is in, what is counted is its plain form.
    assert count_macs(optimize_for_inference(model), size) == count_macs(model.train(), size) == macs
    assert model.training and not model.plain and not next(model.parameters()).is_meta
