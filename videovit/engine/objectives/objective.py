"""What an objective is: how a batch becomes an example to train on, and what the loss of a model on it is.

    batch --example, prepare: once per step--> example --split--> pieces --__call__, once per piece--> losses

A new objective subclasses `Objective`, in a file of its own, and gets a row in `OBJECTIVES`. Masked pre-training draws
its masks in `prepare` and returns an `Example` that carries them; a detector returns one term per loss.

B clips, C channels, T frames, H W pixels, K classes, R boxes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from torch import Tensor, nn

from videovit.data.records import Batch, clip_labels


@dataclass(frozen=True)
class StepKey:
    """Identifies one training step on one rank; all randomness of a step, except that of its clips, follows from it.

    Attributes:
        seed: `RNG_SEED`.
        epoch, step: both counted from 0; `step` within the epoch.
        rank: this process.
    """

    seed: int
    epoch: int
    step: int
    rank: int

    def torch_seed(self) -> int:
        """Seed of PyTorch's generators: dropout and drop path."""
        state: np.ndarray = self._sequence().generate_state(1, np.uint64)
        return int(state[0]) & (2**63 - 1)  # PyTorch takes 63 bits without a sign

    def rng(self) -> np.random.Generator:
        """Generator of what is drawn per batch, such as mixup; starts anew on every call."""
        return np.random.default_rng(self._sequence())

    def _sequence(self) -> np.random.SeedSequence:
        return np.random.SeedSequence((self.seed, self.epoch, self.step, self.rank))


@dataclass(frozen=True)
class Example:
    """What one step trains on: a batch as the model gets it.

    Attributes:
        x_BCTHW: clips, normalized.
        targets: class numbers (B,), or rows of class probabilities (B, K), or (R, K) for boxes.
        boxes_R5: index of the clip in the batch, then x1, y1, x2, y2 in pixels; None if whole clips are classified.
    """

    x_BCTHW: Tensor
    targets: Tensor
    boxes_R5: Tensor | None = None

    @property
    def num_targets(self) -> int:
        """The number of items that the loss is a mean over."""
        return len(self.targets)

    def described(self) -> object:
        """The targets, for `TRAIN.TRACE`; JSON."""
        return self.targets.tolist()

    def split(self, number: int) -> list[Self]:
        """Cut into micro-batches.

        Args:
            number: of micro-batches; those that would get no clip are left out.
        """
        pieces, start = [], 0
        for x_BCTHW in self.x_BCTHW.tensor_split(number):
            end = start + len(x_BCTHW)
            if end > start:
                targets, boxes_R5 = clip_labels(self.targets, self.boxes_R5, start, end)
                pieces.append(replace(self, x_BCTHW=x_BCTHW, targets=targets, boxes_R5=boxes_R5))
            start = end
        return pieces


@dataclass(frozen=True)
class Losses:
    """The loss of an example.

    Attributes:
        total: what is minimized; a scalar, the mean over the targets of the example.
        terms: its terms by name, unweighted; reported beside the total if there is more than one.
    """

    total: Tensor
    terms: Mapping[str, Tensor]


class Objective(ABC):
    """What is minimized in training.

    Attributes:
        uses_all_parameters: whether every step gives every parameter a gradient.
    """

    uses_all_parameters: bool = True

    def example(self, x_BCTHW: Tensor, batch: Batch) -> Example:
        """What of a batch is trained on.

        Args:
            x_BCTHW: the frames of the batch, as the input of a model.
            batch: on the same device.
        """
        return Example(x_BCTHW, batch.labels, batch.boxes_R5)

    def prepare(self, example: Example, key: StepKey) -> Example:
        """Change a whole batch before it is cut into micro-batches.

        Args:
            example: may be overwritten.
            key: the only source of randomness.
        """
        return example

    @abstractmethod
    def __call__(self, model: nn.Module, example: Example) -> Losses:
        """Run the model on one micro-batch.

        Args:
            model: in training mode; possibly replicated or sharded.
            example: from `prepare`, or a piece of it.
        """
