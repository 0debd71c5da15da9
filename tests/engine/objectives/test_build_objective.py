"""TRAIN.OBJECTIVE names a row of OBJECTIVES."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.bare_model import BareModel
from videovit.config import load_config
from videovit.engine import objectives
from videovit.engine.objectives import Classification, build_objective
from videovit.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["auto", "classification"])
def test_build_objective_without_teacher_classifies(name: str) -> None:
    objective = build_objective(load_config(None, ["TRAIN.OBJECTIVE", name]), BareModel(), CPU)
    assert type(objective) is Classification


def test_build_objective_auto_with_teacher_distills(monkeypatch: pytest.MonkeyPatch) -> None:
    built = Classification(objectives.build_loss("cross_entropy"))
    monkeypatch.setitem(objectives.OBJECTIVES, "distillation", lambda cfg, model, device: built)
    opts = ["DISTILL.TYPE", "soft", "DISTILL.TEACHER_CFG", "a.yaml", "DISTILL.CHECKPOINT_FILE_PATH", "a.pyth"]
    for name in ("auto", "distillation"):
        assert build_objective(load_config(None, [*opts, "TRAIN.OBJECTIVE", name]), BareModel(), CPU) is built


def test_build_objective_unknown_name_suggests_nearest() -> None:
    cfg = load_config(None, ["TRAIN.OBJECTIVE", "classificaton"])
    with pytest.raises(UserError) as caught:
        build_objective(cfg, BareModel(), CPU)
    assert str(caught.value) == (
        "TRAIN.OBJECTIVE: found 'classificaton', expected one of auto, classification, distillation, detection, "
        "masked; did you mean classification?"
    )
