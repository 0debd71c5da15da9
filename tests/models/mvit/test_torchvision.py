"""Logits and gradients equal torchvision's MViT on the same weights."""

import pytest
import torch
from torchvision.models.video import mvit as torchvision_mvit
from torchvision.models.video import mvit_v1_b as torchvision_v1_b
from torchvision.models.video import mvit_v2_s as torchvision_v2_s

from tests.helpers.mvit_variants import clip, mvit_v1_b, mvit_v2_s, perturb
from videovit.models import load_pretrained, optimize_for_inference


def perturbed_pair(theirs, ours):
    """A torchvision model and ours with the same weights, both in evaluation mode."""
    reference = perturb(theirs()).eval()
    model = ours().eval()
    load_pretrained(model, reference.state_dict(), source="torchvision")
    return reference, model


BOTH = pytest.mark.parametrize(
    ("theirs", "ours"), [(torchvision_v1_b, mvit_v1_b), (torchvision_v2_s, mvit_v2_s)], ids=["v1_b", "v2_s"]
)


@BOTH
def test_logits_equal_torchvision(theirs, ours):
    reference, model = perturbed_pair(lambda: theirs(weights=None), ours)
    x = clip(1, 3, 16, 224, 224)
    with torch.inference_mode():
        expected = reference(x)
        assert expected.std() > 0.1
        for kind in (model, optimize_for_inference(model)):
            torch.testing.assert_close(kind(x), expected, atol=1e-5, rtol=0)


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
    # Their gradients go the way of their weights, into a second model of ours.
    theirs_here = ours(clip_size=(8, 64, 64)).double()
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in reference.named_parameters()}
    load_pretrained(theirs_here, grads, source="torchvision")
    expected = dict(theirs_here.named_parameters())
    assert expected.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        if "norm_k.bias" in name:  # a shift of all keys does not move a softmax: zero but for rounding
            continue
        error = (parameter.grad - expected[name]).norm()
        assert error <= 1e-9 * expected[name].norm() + 1e-12, (name, error, expected[name].norm())
