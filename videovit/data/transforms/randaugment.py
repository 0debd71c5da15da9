"""RandAugment for clips: one operation, magnitude and sign for all frames of a clip.

The operations and their ranges are those of timm and PySlowFast, read from the same strings
(`rand-m7-n4-mstd0.5-inc1`). A magnitude (a "level") lies in 0..10; each operation turns it into its own argument.
Drawing a plan and applying it are apart: the same draws give the same plan, whichever backend applies it.

Legend: T frames, H W pixels, C channels (3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from videovit.data.transforms import fast_operations, pil_operations
from videovit.data.transforms.pil_operations import FILL, OPERATIONS, Step
from videovit.data.transforms.spatial import Box
from videovit.errors import UserError

MAX_LEVEL = 10.0
RESAMPLING = {
    "bilinear": (Image.Resampling.BILINEAR,),
    "bicubic": (Image.Resampling.BICUBIC,),
    "nearest": (Image.Resampling.NEAREST,),
    "random": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}

APPLY: dict[str, Callable[[Tensor, Sequence[Step], Box], Tensor]] = {
    "fast": fast_operations.apply_steps,
    "pil": pil_operations.apply_steps,
}


class Augment(Protocol):
    """A random change of a clip that is drawn first and applied later: RandAugment, ColorJitter."""

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """Draw what happens to a clip."""

    def apply(self, frames_THWC: Tensor, plan: Sequence[Step], window: Box) -> Tensor:
        """Apply what was drawn; uint8 (T, H, W, 3) to the window (T, h, w, 3) of the result."""


class AugmentError(UserError):
    """A RandAugment string, interpolation or backend that cannot be read."""


# Operations whose argument may take either sign, with its size at the highest level.
_SIGNED = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}
_ENHANCE = ("Color", "Contrast", "Brightness", "Sharpness")


def level_to_argument(name: str, level: float, *, increasing: bool, sign: int) -> float:
    """Turn a level into the argument of an operation.

    Args:
        name: key of OPERATIONS.
        level: 0..10.
        increasing: whether a higher level always changes the picture more (the `inc1` set of operations).
        sign: +1 or -1, for the operations that go both ways; the others ignore it.

    Returns:
        Degrees (Rotate), bits kept (Posterize), a threshold (Solarize), an amount (SolarizeAdd), a blending factor
        with 1 for no change (Color, Contrast, Brightness, Sharpness), a slope (Shear), a share of the side
        (Translate); 0 for the operations without an argument.

    Source: timm and PySlowFast, ranges of `rand_augment_transform`.
    """
    share = level / MAX_LEVEL
    if name in _SIGNED:
        return sign * share * _SIGNED[name]
    if name in _ENHANCE:
        return max(0.1, 1.0 + sign * share * 0.9) if increasing else share * 1.8 + 0.1
    if name == "Posterize":
        return 4 - int(share * 4) if increasing else int(share * 4)
    if name == "Solarize":
        threshold = min(256, int(share * 256))
        return 256 - threshold if increasing else threshold
    if name == "SolarizeAdd":
        return min(128, int(share * 110))
    return 0.0


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """A few operations drawn with replacement, each applied with a probability.

    Args:
        level: mean magnitude, 0..10.
        num_ops: operations drawn per clip.
        prob: probability that a drawn operation is applied.
        level_std: standard deviation of the magnitude; above 100: uniform between 0 and `level`.
        increasing: see `level_to_argument`.
        interpolation: key of RESAMPLING; "random" draws bilinear or bicubic for each operation.
        backend: key of APPLY; the draws do not depend on it.
        fill: colour of what moves into the frame from outside.
    """

    level: float = MAX_LEVEL
    num_ops: int = 2
    prob: float = 0.5
    level_std: float = 0.0
    increasing: bool = False
    interpolation: str = "bicubic"
    backend: str = "fast"
    fill: tuple[int, int, int] = FILL

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """Draw what happens to a clip.

        Args:
            rng: source of randomness.

        Returns:
            The operations to apply, in order; at most `num_ops`.
        """
        names = list(OPERATIONS)
        choices = RESAMPLING[self.interpolation]
        plan = []
        for _ in range(self.num_ops):
            name = names[int(rng.integers(len(names)))]
            # All draws are made whatever comes of them, so that one operation never changes the next one's luck.
            applied = rng.random() < self.prob
            if self.level_std > 100:
                level = float(rng.uniform(0.0, self.level))
            else:
                level = float(rng.normal(self.level, self.level_std))
            sign = 1 if rng.random() < 0.5 else -1
            resample = choices[int(rng.integers(len(choices)))]
            if applied:
                level = min(max(level, 0.0), MAX_LEVEL)
                argument = level_to_argument(name, level, increasing=self.increasing, sign=sign)
                plan.append(Step(name, argument, resample, self.fill))
        return plan

    def apply(self, frames_THWC: Tensor, plan: Sequence[Step], window: Box) -> Tensor:
        """Augment a clip as planned.

        Args:
            frames_THWC: uint8 (T, H, W, 3).
            plan: what `draw` gave.
            window: which part of the augmented frames is wanted.

        Returns:
            uint8 (T, h, w, 3), that part; a view of `frames_THWC` when the plan is empty.
        """
        return APPLY[self.backend](frames_THWC, plan, window)


def parse_randaugment(text: str, *, interpolation: str = "bicubic", backend: str = "fast") -> RandAugment:
    """Read timm's and PySlowFast's description of RandAugment.

        rand-m7-n4-mstd0.5-inc1
             |  |  |       operations that only get stronger with the level (default 0)
             |  |  standard deviation of the level (default 0)
             |  operations per clip (default 2)
             level, 0..10 (default 10)                     p0.5: probability per operation (default 0.5)

    Args:
        text: "rand" and any of the parts m, n, p, mstd, inc, in any order, joined by "-".
        interpolation: "bilinear", "bicubic", "nearest" or "random".
        backend: "fast" or "pil".

    Returns:
        A RandAugment.

    Raises:
        AugmentError: an unknown or malformed part, a value out of range, or an unknown interpolation or backend.
    """
    if interpolation not in RESAMPLING:
        raise AugmentError(f"AUG.INTERPOLATION is {interpolation!r}: expected one of {', '.join(RESAMPLING)}")
    if backend not in APPLY:
        raise AugmentError(f"AUG.BACKEND is {backend!r}: expected one of {', '.join(APPLY)}")
    head, *parts = text.split("-")
    values = {"m": MAX_LEVEL, "n": 2.0, "p": 0.5, "mstd": 0.0, "inc": 0.0}
    for part in parts if head == "rand" else [head]:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", part)
        if head != "rand" or match is None or match[1] not in values:
            raise AugmentError(
                f"AUG.AA_TYPE is {text!r}: cannot read {part!r}; expected rand and any of m<level>, n<operations>, "
                "p<probability>, mstd<standard deviation>, inc<0 or 1>, such as rand-m7-n4-mstd0.5-inc1"
            )
        values[match[1]] = float(match[2])
    if values["m"] > MAX_LEVEL or values["p"] > 1 or not values["n"].is_integer() or values["inc"] not in (0, 1):
        raise AugmentError(
            f"AUG.AA_TYPE is {text!r}: expected a level m of 0 to {MAX_LEVEL:g}, a probability p of 0 to 1, "
            "a whole number n, and inc0 or inc1"
        )
    return RandAugment(
        level=values["m"],
        num_ops=int(values["n"]),
        prob=values["p"],
        level_std=values["mstd"],
        increasing=bool(values["inc"]),
        interpolation=interpolation,
        backend=backend,
    )
