"""Logits and gradients equal torchvision's MViT on the same weights."""

import pytest
import torch
from mvit_variants import clip, mvit_v1_b, mvit_v2_s, perturb
from torchvision.models.video import mvit as torchvision_mvit
from torchvision.models.video import mvit_v1_b as torchvision_v1_b
from torchvision.models.video import mvit_v2_s as torchvision_v2_s

RENAMES = [
    ("conv_proj.", "patch_embed.proj."),
    (".attn.project.0.", ".attn.proj."),
    (".mlp.0.", ".mlp.fc1."),
    (".mlp.3.", ".mlp.fc2."),
    (".project.", ".proj."),
    (".pool.weight", ".weight"),
    ("head.1.", "head.projection."),
]
TABLES = {
    "pos_encoding.class_token": "cls_token",
    "pos_encoding.spatial_pos": "pos_embed_spatial",
    "pos_encoding.temporal_pos": "pos_embed_temporal",
    "pos_encoding.class_pos": "pos_embed_class",
}


def renamed(name):
    """Our name of a torchvision parameter."""
    if name in TABLES:
        return TABLES[name]
    for theirs, ours in RENAMES:
        name = name.replace(theirs, ours)
    for letter in "qkv":
        name = name.replace(f".pool_{letter}.norm_act.0.", f".norm_{letter}.")
    return name


def from_torchvision(state):
    """Our state dict with the values of torchvision's."""
    return {renamed(k): v.reshape(1, -1, v.shape[-1]) if k in TABLES else v for k, v in state.items()}


def perturbed_pair(theirs, ours):
    """A torchvision model and ours with the same weights, both in evaluation mode."""
    reference = perturb(theirs()).eval()
    model = ours().eval()
    model.load_state_dict(from_torchvision(reference.state_dict()))
    return reference, model


BOTH = pytest.mark.parametrize(
    ("theirs", "ours"), [(torchvision_v1_b, mvit_v1_b), (torchvision_v2_s, mvit_v2_s)], ids=["v1_b", "v2_s"]
)


@BOTH
def test_logits_equal_torchvision(theirs, ours):
    reference, model = perturbed_pair(lambda: theirs(weights=None), ours)
    x = clip(1, 3, 16, 224, 224)
    with torch.inference_mode():
        expected, logits = reference(x), model(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@BOTH
def test_gradients_equal_torchvision(theirs, ours, monkeypatch):
    full = torchvision_mvit.MViT  # whose builders fix the clip size; smaller clips make the test quick
    small = {"spatial_size": (64, 64), "temporal_size": 8}
    monkeypatch.setattr(torchvision_mvit, "MViT", lambda **arguments: full(**{**arguments, **small}))
    reference, model = perturbed_pair(lambda: theirs(weights=None), lambda: ours(clip_size=(8, 64, 64)))
    # In fp64: rounding could otherwise move which token wins a maximum, and with it a whole gradient.
    reference, model = reference.double(), model.double()
    x, weights = clip(1, 3, 8, 64, 64).double(), torch.linspace(-1, 1, 400).double()
    (reference(x) @ weights).sum().backward()
    (model(x) @ weights).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in reference.named_parameters():
        if "norm_k.bias" in renamed(name):  # a shift of all keys does not move a softmax: zero but for rounding
            continue
        grad = gradients[renamed(name)]
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        error = (grad.flatten() - expected.flatten()).norm()
        assert error <= 1e-9 * expected.norm() + 1e-12, (name, error, expected.norm())
