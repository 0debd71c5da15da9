"""Evaluation of masked pre-training: the loss on masks that are the same in every validation, and pictures.

B clips, C channels, T H W pixels, M hidden cells.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from torch import Tensor

from videovit.data.records import Batch, Sample
from videovit.engine import distributed
from videovit.engine.evaluation.evaluator import Activation, Evaluator
from videovit.engine.evaluation.inference import ForwardPass, Inference, Sink
from videovit.engine.evaluation.reconstruction_pictures import Pictures
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.masked.masks import MaskSampler
from videovit.models.masked.model import MaskedModel, Reconstruction


@dataclass(frozen=True)
class ReconstructionPass:
    """Hides a part of every clip, and hands what the model predicts to an evaluator; see `ForwardPass`."""

    evaluator: ReconstructionEvaluator

    def run(self, inference: Inference, x_BCTHW: Tensor, batch: Batch) -> None:
        """See `ForwardPass.run`."""
        evaluator, model = self.evaluator, cast(MaskedModel, inference.model)
        keys = list(zip(batch.videos_B.tolist(), batch.views_B.tolist(), strict=True))
        # By the clip alone, so that losses of different epochs, and numbers of processes, can be compared.
        rngs = [np.random.default_rng((evaluator.seed, *key)) for key in keys]
        hidden_BM = evaluator.masks.draw_batch(model.mask_grid(x_BCTHW.shape[2:]), rngs).to(x_BCTHW.device)
        reconstruction: Reconstruction = model(x_BCTHW, hidden_BM)
        evaluator.add(keys, reconstruction.losses().tolist())
        evaluator.pictures.add([video for video, _ in keys], x_BCTHW, reconstruction, model.target)


class ReconstructionEvaluator(Evaluator):
    """The mean loss over clips, each of which is seen by one rank.

    Args:
        samples: the videos, in the order of their numbers in batches.
        num_views: clips per video.
        masks: draws what is hidden.
        seed: of the masks.
        pictures: draws some of the clips.
    """

    has_labels = False
    views = "masked clips"

    def __init__(
        self, samples: Sequence[Sample], num_views: int, *, masks: MaskSampler, seed: int, pictures: Pictures
    ) -> None:
        self.columns = {"loss": "loss"}
        self._samples, self._num_views = samples, num_views
        self.masks, self.seed, self.pictures = masks, seed, pictures
        self._losses: dict[tuple[int, int], float] = {}

    def forward_pass(self, activation: Activation, sinks: Sequence[Sink] = ()) -> ForwardPass:
        """See `Evaluator.forward_pass`; there is no activation, and there are no logits."""
        return ReconstructionPass(self)

    def add(self, keys: Sequence[tuple[int, int]], losses: Sequence[float]) -> None:
        """Take the losses of clips, each given by its video and view."""
        self._losses.update(zip(keys, losses, strict=True))

    def gather(self) -> Self:
        for part in distributed.gather(self._losses):
            self._losses.update(part)
        return self

    def result(self, *, skipped: Collection[int] = ()) -> dict[str, float]:
        kept = [number for number in range(len(self._samples)) if number not in skipped]
        keys = [(number, view) for number in kept for view in range(self._num_views)]
        missing = [number for number, view in keys if (number, view) not in self._losses]
        if missing or not kept:
            first = f", first: {self._samples[missing[0]].path}" if missing else ""
            raise UserError(f"{len(missing)} of {plural(len(keys), 'clip')} have no loss{first}")
        losses = [self._losses[key] for key in keys]
        bad = next((number for (number, _), loss in zip(keys, losses, strict=True) if not math.isfinite(loss)), None)
        if bad is not None:
            raise UserError(f"the loss of {self._samples[bad].path} is not finite")
        return {
            "loss": sum(losses) / len(losses),
            "num_videos": len(kept),
            "num_views": len(keys),
            "num_skipped": len(frozenset(skipped)),
        }

    def state(self) -> dict[str, Tensor]:
        """Nothing: there are no scores."""
        return {}

    def error_report(self, names: Sequence[str], worst: Sequence[Any]) -> None:
        """None: nothing is classified."""

    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """The pictures, which exist already."""
        return self.pictures.files
