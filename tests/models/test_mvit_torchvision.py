"""Logits and gradients equal torchvision's MViT on the same weights."""

import pytest
import torch
from mvit_variants import clip, mvit_v1_b, mvit_v2_s, perturb
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


@pytest.mark.parametrize(
    ("theirs", "ours"), [(torchvision_v1_b, mvit_v1_b), (torchvision_v2_s, mvit_v2_s)], ids=["v1_b", "v2_s"]
)
def test_logits_and_gradients_equal_torchvision(theirs, ours):
    reference = perturb(theirs(weights=None)).eval()
    model = ours().eval()
    model.load_state_dict(from_torchvision(reference.state_dict()))
    x = clip(1, 3, 16, 224, 224)

    expected, logits = reference(x), model(x)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)

    weights = torch.linspace(-1, 1, 400)
    (expected @ weights).sum().backward()
    (logits @ weights).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert expected.std() > 0.1
    for name, parameter in reference.named_parameters():
        grad, expected_grad = gradients[renamed(name)], parameter.grad
        if "norm_k.bias" in renamed(name):  # a shift of all keys does not move a softmax: zero but for rounding
            continue
        if expected_grad is None:
            expected_grad = torch.zeros_like(parameter)
        error = (grad.flatten() - expected_grad.flatten()).norm()
        assert error <= 2e-3 * expected_grad.norm() + 1e-6, (name, error, expected_grad.norm())
