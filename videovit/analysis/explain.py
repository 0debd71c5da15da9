"""The methods that show why a model predicts a class, by name."""

from __future__ import annotations

import warnings
from typing import Protocol

from torch import Tensor

from videovit.analysis.grad_cam import grad_cam, hires_cam
from videovit.analysis.gradient import gradient_x_input
from videovit.analysis.occlusion import occlusion
from videovit.analysis.rollout import attention_rollout
from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.contract import AttentionModel, VideoModel


class Method(Protocol):
    """Heat maps of clips."""

    def __call__(
        self, model: VideoModel, x: Tensor, classes: Tensor, boxes_R5: Tensor | None = None, *, scale: bool = True
    ) -> Tensor:
        """(B, T, H, W), from 0 to 1 with `scale`; see `grad_cam`."""


METHODS: dict[str, Method] = {
    "grad_cam": grad_cam,
    "hires_cam": hires_cam,
    "rollout": attention_rollout,
    "occlusion": occlusion,
    "gradient": gradient_x_input,
}
DEFAULT_METHOD = "gradient"
"""The one that found what decides most often; docs/analysis.md has the measurement."""


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        UserError: there is none.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(
            "method", found=name, expected=f"one of {', '.join(METHODS)}", near=did_you_mean(str(name), METHODS)
        )
    return METHODS[name]


def warn_of_limits(name: str, model: VideoModel) -> None:
    """Warn if a method is known to point beside what decides for models of this kind."""
    if name == "grad_cam" and isinstance(model, AttentionModel):
        warnings.warn(
            "the heat of grad_cam often lies beside what decides in models with attention, see docs/analysis.md; "
            "gradient, the default, is more reliable",
            stacklevel=2,
        )
