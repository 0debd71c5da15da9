"""Weights of masked pre-training: those of the encoder, by the names that a classifier has."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

_ENCODER = "encoder."
_HEAD = ("norm.", "projection.")  # of `MaskedFeatures`; a classifier has a norm of this name


def is_of_masked_model(names: Collection[str]) -> bool:
    """Whether these are the names of a `MaskedModel` of this project."""
    has_encoder = any(name.startswith(f"{_ENCODER}blocks.") for name in names)
    return has_encoder and any(name.startswith(("decoder.embed.", "projection.")) for name in names)


def without_encoder_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `MaskedModel` by the names of its encoder, others by names that `fit` skips (`PRETRAINING`)."""
    if not is_of_masked_model(state):
        return dict(state)
    return {
        f"pred_head.{name}" if name.startswith(_HEAD) else name.removeprefix(_ENCODER): tensor
        for name, tensor in state.items()
    }
