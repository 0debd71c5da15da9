"""AdamP by the config: its step by the formula of the paper, and the error without timm."""

import sys

import pytest
import torch
from torch import nn

from tests.helpers.bare_model import BareModel
from videovit.config import load_config
from videovit.engine.training.optim import build_optimizer
from videovit.errors import UserError

LR, DECAY = 0.01, 0.5
OPTIONS = ["SOLVER.OPTIMIZING_METHOD", "adamp", "SOLVER.BASE_LR", LR, "SOLVER.WEIGHT_DECAY", DECAY]


class Weights(BareModel):
    """A matrix and a vector whose gradients are given."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix, self.vector = nn.Parameter(matrix.clone()), nn.Parameter(torch.tensor([1.0, -2.0]))


def first_step(matrix: torch.Tensor, gradient: torch.Tensor) -> Weights:
    model = Weights(matrix)
    optimizer = build_optimizer(load_config(opts=OPTIONS), model)
    model.matrix.grad, model.vector.grad = gradient.clone(), torch.tensor([3.0, 4.0])
    optimizer.step()
    return model


def test_step_along_the_weights_equals_adamw() -> None:
    matrix, gradient = torch.tensor([[3.0, 4.0], [1.0, 2.0]]), torch.tensor([[3.0, 4.0], [1.0, 2.0]])
    model = first_step(matrix, gradient)
    torch.testing.assert_close(model.matrix.data, matrix * (1 - LR * DECAY) - LR)  # Adam's first step is the sign
    torch.testing.assert_close(model.vector.data, torch.tensor([1.0, -2.0]) * (1 - LR * DECAY) - LR)


def test_scale_invariant_weights_lose_the_radial_part() -> None:
    matrix, gradient = torch.tensor([[3.0, 4.0], [8.0, -6.0]]), torch.tensor([[4.0, -3.0], [3.0, 4.0]])
    model = first_step(matrix, gradient)
    direction = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    radial = matrix / matrix.norm(dim=1, keepdim=True)
    tangent = direction - radial * (radial * direction).sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.matrix.data, matrix * (1 - LR * DECAY * 0.1) - LR * tangent)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim.adamp", None)
    with pytest.raises(UserError, match="pip install timm"):
        build_optimizer(load_config(opts=OPTIONS), Weights(torch.ones(2, 2)))
