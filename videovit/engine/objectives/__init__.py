"""What is minimized in training. A new objective is a file here and a row in `OBJECTIVES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from videovit.config import Config
from videovit.engine.objectives.classification import Classification, build_classification
from videovit.engine.objectives.detection import Detection
from videovit.engine.objectives.distillation import Distillation, Teacher, build_distillation
from videovit.engine.objectives.losses import Loss, build_loss
from videovit.engine.objectives.masked import MaskedModeling, build_masked_modeling
from videovit.engine.objectives.objective import Example, Losses, Objective, StepKey
from videovit.engine.objectives.paths import HasPaths, PathSampling
from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.contract import LayeredModel

__all__ = [
    "OBJECTIVES",
    "SUPERNETS",
    "Classification",
    "Detection",
    "Distillation",
    "Example",
    "Loss",
    "Losses",
    "MaskedModeling",
    "Objective",
    "PathSampling",
    "StepKey",
    "Teacher",
    "build_loss",
    "build_objective",
]

OBJECTIVES: dict[str, Callable[[Config, LayeredModel, torch.device], Objective]] = {
    "classification": lambda cfg, model, device: build_classification(cfg),
    "distillation": lambda cfg, model, device: build_distillation(cfg, device),
    "detection": lambda cfg, model, device: Detection(),
    "masked": lambda cfg, model, device: build_masked_modeling(cfg, model),
}
"""Name -> what builds the objective from the config, for a model, with models of its own on the device."""

SUPERNETS = ("PSViTSupernet",)
"""Models (`MODEL.MODEL_NAME`) of which a step trains one path; see `PathSampling`."""


def build_objective(cfg: Config, model: LayeredModel, device: torch.device) -> Objective:
    """The objective of a config.

    Args:
        cfg: TRAIN.OBJECTIVE names it; `auto` is detection with DETECTOR.NAME, masked with MASK.ENABLE, distillation
            with DISTILL.TYPE, else classification. The model of MODEL.MODEL_NAME may train one path per step.
        model: what is trained, without a distributed wrapper.
        device: where it is trained.

    Raises:
        UserError: the objective is unknown.
    """
    name = cfg.TRAIN.OBJECTIVE
    if name == "auto":
        given = {"detection": cfg.DETECTOR.NAME, "masked": cfg.MASK.ENABLE, "distillation": cfg.DISTILL.TYPE != "none"}
        name = next((objective for objective, is_on in given.items() if is_on), "classification")
    if name not in OBJECTIVES:
        known = ("auto", *OBJECTIVES)
        raise UserError(
            where="TRAIN.OBJECTIVE",
            found=name,
            expected=f"one of {', '.join(known)}",
            near=did_you_mean(name, known),
        )
    objective = OBJECTIVES[name](cfg, model, device)
    if cfg.MODEL.MODEL_NAME in SUPERNETS:
        return PathSampling(objective, cast(HasPaths, model))
    return objective
