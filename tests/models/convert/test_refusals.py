"""Weights that fit, or nearly fit, and must not be used silently."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers.mvit_variants import TINY, tiny
from videovit.config import load_config
from videovit.models import CheckpointError, build_network, expand, load_pretrained
from videovit.models.mvit.model import MViT
from videovit.models.vit import ViT


def plain_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """A state dict of unknown origin."""
    return dict(model.state_dict())


@pytest.mark.parametrize(("theirs", "ours", "key"), [(3, 1, "[3]"), (1, 3, "[1]")])
@pytest.mark.parametrize("kind", [MViT, ViT])
def test_other_channels_are_named(kind: type, theirs: int, ours: int, key: str) -> None:
    def model(channels: int) -> torch.nn.Module:
        if kind is MViT:
            return tiny(in_channels=channels)
        return ViT(dim=8, depth=1, num_heads=2, clip_size=(1, 32, 32), in_channels=channels)

    with pytest.raises(CheckpointError) as error:
        load_pretrained(model(ours), plain_state(model(theirs)))
    names = {1: "1 channel (gray)", 3: "3 channels (RGB)"}
    kinds = f"the weights are for pictures of {names[theirs]}, the model for {names[ours]}"
    assert f"{kinds}: set DATA.INPUT_CHANNEL_NUM {key}" in str(error.value)


def unpooled(**changes: object) -> MViT:
    """An MViT whose pooling learns nothing."""
    blocks = expand(**{**TINY, "dim_mul_in_attention": True, **changes})
    return tiny(blocks=blocks, pool_mode="max", cls_token=False)


def test_names_of_hiera_are_explained() -> None:
    """They are those of an MViT without learned pooling, of which other sizes would be recommended."""
    state = plain_state(unpooled(embed_dim=32))
    with pytest.raises(CheckpointError, match="names and shapes are those of Hiera") as error:
        load_pretrained(unpooled(), state)
    assert "MVIT.EMBED_DIM" not in str(error.value)
    # If the sizes fit, only the origin of the weights shows it.
    source = unpooled()
    assert "Hiera" in str(load_pretrained(unpooled(), plain_state(source)))
    for known in (source.state_dict(), {"model_state": plain_state(source), "cfg": "MVIT: {MODE: max}\n"}):
        assert "Hiera" not in str(load_pretrained(unpooled(), known))
    assert "Hiera" not in str(load_pretrained(tiny(), plain_state(tiny())))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_not_finite_are_refused(number: float, dtype: torch.dtype) -> None:
    model, state = tiny(), plain_state(tiny())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["norm.weight"] = torch.full_like(state["norm.weight"], number, dtype=dtype)
    with pytest.raises(CheckpointError, match=r"not finite in 1 tensor, norm\.weight first"):
        load_pretrained(model, state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    # The classifier for other classes is not used.
    state = plain_state(tiny(num_classes=9))
    state["head.projection.bias"].fill_(number)
    load_pretrained(model, state)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("SlowFast", "X3D"), ("X3D", "ResNet"), ("ResNet", "SlowFast"), ("SlowFast", "MViT")]
)
def test_convolutional_weights_in_another_model_are_named(theirs: str, ours: str) -> None:
    def model(name: str) -> torch.nn.Module:
        arch = {"SlowFast": "slowfast", "X3D": "x3d", "ResNet": "slow"}.get(name, "mvit")
        sizes = ["RESNET.WIDTH_PER_GROUP", 8, "DATA.NUM_FRAMES", 8, "MVIT.EMBED_DIM", 8]
        return build_network(load_config(None, ["MODEL.MODEL_NAME", name, "MODEL.ARCH", arch, *sizes]))

    with pytest.raises(CheckpointError) as error:
        load_pretrained(model(ours), plain_state(model(theirs)))
    assert str(error.value).splitlines()[-1] == f"the weights are those of MODEL.MODEL_NAME {theirs}"
    assert "INPUT_CHANNEL_NUM" not in str(error.value)
