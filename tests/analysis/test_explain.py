"""Heat maps: what they are equal to, that they are defined for every family, and that they lie on what decides."""

from __future__ import annotations

import pytest
import torch

from tests.models.test_contract import built, every_model, inputs
from videovit.analysis.explain import METHODS
from videovit.errors import UserError
from videovit.models.contract import AttentionModel


@pytest.mark.parametrize("method", METHODS)
@every_model
def test_heat_is_defined(name: str, method: str) -> None:
    if name.startswith("ptv_") and (method == "occlusion" or name not in ("ptv_x3d_m", "ptv_slowfast_r50")):
        pytest.skip("slow, and the same code as for the others")
    model, x = built(name), inputs(name)
    if not isinstance(model, AttentionModel) and method == "rollout":
        with pytest.raises(UserError, match="multiplies attention maps, and PtvNetwork has none"):
            METHODS[method](model, x, torch.tensor([3, 5]))
        return
    heat = METHODS[method](model, x, torch.tensor([3, 5]))
    assert heat.shape == (2, *x.shape[2:]) and not heat.requires_grad
    assert heat.min() >= 0
    for highest in heat.flatten(1).amax(dim=1).tolist():  # 0: Grad-CAM finds nothing that speaks for the class
        assert highest == pytest.approx(1) or (method == "grad_cam" and highest == 0)
    # Each clip alone gives the same: clips of a batch do not mix.
    alone = METHODS[method](model, x[1:], torch.tensor([5]))
    torch.testing.assert_close(alone[0], heat[1], rtol=1e-3, atol=1e-3)
