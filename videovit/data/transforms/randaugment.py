"""RandAugment for clips: one operation, magnitude and sign for all frames of a clip.

The operations and their ranges are those of timm and PySlowFast, as are the strings that describe them
(`rand-m7-n4-mstd0.5-inc1`). Magnitudes ("levels") are in 0..10; each operation converts them to its own argument.
Drawing a plan and applying it are separate, so all backends apply the same plan.

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
    """A random change of a clip, drawn first and applied later: RandAugment, ColorJitter."""

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """Draw the operations of a clip."""

    def apply(self, frames_THWC: Tensor, plan: Sequence[Step], window: Box) -> Tensor:
        """Apply them to uint8 (T, H, W, 3); returns the window (T, h, w, 3) of the result."""


# Operations whose argument has a random sign, with its size at the highest level.
_SIGNED = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}
_ENHANCE = ("Color", "Contrast", "Brightness", "Sharpness")


def level_to_argument(name: str, level: float, *, increasing: bool, sign: int) -> float:
    """Convert a level to the argument of an operation.

    Args:
        name: key of OPERATIONS.
        level: 0..10.
        increasing: whether a higher level always changes the picture more (the `inc1` set of operations).
        sign: +1 or -1; ignored by operations with only one direction.

    Returns:
        Degrees (Rotate), bits kept (Posterize), a threshold (Solarize), an amount (SolarizeAdd), a blending factor
        with 1 for no change (Color, Contrast, Brightness, Sharpness), a slope (Shear), a fraction of the side
        (Translate); 0 for operations without an argument.

    Source: timm and PySlowFast, ranges of `rand_augment_transform`.
    """
    share = level / MAX_LEVEL
    if name in _SIGNED:
        return sign * share * _SIGNED[name]
    if name in _ENHANCE:
        return max(0.1, 1.0 + sign * share * 0.9) if increasing else share * 1.8 + 0.1
    # More bits change less, so `increasing` reverses the scale; likewise for Solarize.
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
        level_std: standard deviation of the magnitude; above 100, the magnitude is uniform between 0 and `level`.
        increasing: see `level_to_argument`.
        interpolation: key of RESAMPLING; "random" draws bilinear or bicubic for each operation.
        backend: key of APPLY; the draws do not depend on it.
        fill: color that operations move into the frame.
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
        """Draw the operations of a clip.

        Args:
            rng: source of randomness.

        Returns:
            The operations to apply, in order; at most `num_ops`.
        """
        # The order of the table is part of the reproducibility: draws are indices into it.
        names = list(OPERATIONS)
        choices = RESAMPLING[self.interpolation]
        plan = []
        for _ in range(self.num_ops):
            name = names[int(rng.integers(len(names)))]
            # All numbers are drawn, even if not used, so that the draws of one operation never depend on another.
            applied = rng.random() < self.prob
            # timm's convention for a uniform magnitude (mstd101 or mstdinf).
            if self.level_std > 100:
                level = float(rng.uniform(0.0, self.level))
            else:
                level = float(rng.normal(self.level, self.level_std))
            sign = 1 if rng.random() < 0.5 else -1
            resample = choices[int(rng.integers(len(choices)))]
            if applied:
                # A normal distribution exceeds the range of levels.
                level = min(max(level, 0.0), MAX_LEVEL)
                argument = level_to_argument(name, level, increasing=self.increasing, sign=sign)
                plan.append(Step(name, argument, resample, self.fill))
        return plan

    def apply(self, frames_THWC: Tensor, plan: Sequence[Step], window: Box) -> Tensor:
        """Apply drawn operations to a clip.

        Args:
            frames_THWC: uint8 (T, H, W, 3).
            plan: result of `draw`.
            window: part of the augmented frames to return.

        Returns:
            uint8 (T, h, w, 3), the window of the result; a view of `frames_THWC` if the plan is empty.
        """
        return APPLY[self.backend](frames_THWC, plan, window)


def parse_randaugment(text: str, *, interpolation: str = "bicubic", backend: str = "fast") -> RandAugment:
    """Parse timm's and PySlowFast's description of RandAugment.

        rand-m7-n4-mstd0.5-inc1
             |  |  |       operations only get stronger with the level (default 0)
             |  |  standard deviation of the level (default 0)
             |  operations per clip (default 2)
             level, 0..10 (default 10)                     p0.5: probability per operation (default 0.5)

    Args:
        text: "rand" and any of the parts m, n, p, mstd, inc in any order, joined by "-".
        interpolation: "bilinear", "bicubic", "nearest" or "random".
        backend: "fast" or "pil".

    Returns:
        A RandAugment.

    Raises:
        UserError: unknown or malformed part, value out of range, or unknown interpolation or backend.
    """
    if interpolation not in RESAMPLING:
        raise UserError(where="AUG.INTERPOLATION", found=interpolation, expected=f"one of {', '.join(RESAMPLING)}")
    if backend not in APPLY:
        raise UserError(where="AUG.BACKEND", found=backend, expected=f"one of {', '.join(APPLY)}")
    head, *parts = text.split("-")
    # timm's defaults.
    values = {"m": MAX_LEVEL, "n": 2.0, "p": 0.5, "mstd": 0.0, "inc": 0.0}
    for part in parts if head == "rand" else [head]:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", part)
        if head != "rand" or match is None or match[1] not in values:
            raise UserError(
                f"cannot parse {part!r} in {text!r}",
                where="AUG.AA_TYPE",
                expected="rand and any of m<level>, n<operations>, p<probability>, mstd<standard deviation>, "
                "inc<0 or 1>, such as rand-m7-n4-mstd0.5-inc1",
            )
        values[match[1]] = float(match[2])
    if values["m"] > MAX_LEVEL or values["p"] > 1 or not values["n"].is_integer() or values["inc"] not in (0, 1):
        raise UserError(
            where="AUG.AA_TYPE",
            found=text,
            expected=f"level m in 0..{MAX_LEVEL:g}, probability p in 0..1, integer n, and inc0 or inc1",
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
