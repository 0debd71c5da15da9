"""A model of the contract with nothing in it, for tests that need parameters but no forward pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from videovit.models.contract import Features, VideoModel


class BareModel(VideoModel):
    """A model without layers; subclasses add parameters, and layers if the test is about them."""

    in_channels, grid = 3, None

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        return []

    def head_modules(self) -> Sequence[nn.Module]:
        return []

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        raise NotImplementedError

    def _features(self, x_BCTHW: Tensor) -> Features:
        raise NotImplementedError

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        raise NotImplementedError
