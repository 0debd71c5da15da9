"""The keys and values of all configuration files of SlowFast, as facts: what each of them sets.

They are in `tests/config/slowfast_files/`, one text file per family: the values that most of its files share, and then
the differences of each. `sides 2x1 1x2` stands for a list with one entry [block, 1, side, side] per block: two blocks
of side 1, one of side 2.
"""

from __future__ import annotations

import functools
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "config" / "slowfast_files"

BROKEN = {"ImageNet/MVITv2_B": "MVIT:\n  QKV_BIAS: True\n DROPPATH_RATE: 0.3\n"}
"""A file that is not valid YAML there -> the lines at fault."""

REFUSED: dict[str, tuple[str, str]] = {
    **{
        name: (
            "MULTIGRID.SHORT_CYCLE",
            "multigrid training is not supported: the sizes of its batches and clips change",
        )
        for name in (
            "Charades/SLOWFAST_16x8_R50_multigrid",
            "Kinetics/SLOWFAST_8x8_R50_stepwise_multigrid",
            "SSv2/SLOWFAST_16x8_R50_multigrid",
        )
    },
    **{
        f"contrastive_ssl/{name}": ("MODEL.MODEL_NAME", "contrastive pre-training is not supported: its queues")
        for name in ("BYOL_SlowR50_8x8", "MoCo_SlowR50_8x8", "SimCLR_SlowR50_8x8", "SwAV_Slow_R50_8x8")
    },
}
"""Files of features that are refused -> the key that the message is about, and the reason."""

OVERRIDES = {"masked_ssl/k400_VIT_B_16x4_FT": ("NUM_GPUS", "1")}
"""KEY VALUE without which a file cannot train, there and here: 1 video per step cannot be divided among 8 GPUs."""


@functools.cache
def slowfast_files() -> dict[str, dict[str, str]]:
    """Name of every file that can be read -> its keys and values, as text."""
    files: dict[str, dict[str, str]] = {}
    for path in sorted(FOLDER.glob("*.txt")):
        base: dict[str, str] = {}
        current = base
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                current = files.setdefault(line.strip("[]"), dict(base))
            elif line.startswith("-"):
                del current[line[1:]]
            elif line and not line.startswith("#"):
                key, _, value = line.partition(" ")
                current[key] = _sides(value) if value.startswith("sides ") else value
    return files


def as_yaml(keys: dict[str, str]) -> str:
    """The text of a file that sets these keys."""
    return "".join(f"{key}: {value}\n" for key, value in keys.items())


def _sides(text: str) -> str:
    runs = [run.split("x") for run in text.split()[1:]]
    sides = [side for number, side in runs for _ in range(int(number))]
    return "[" + ", ".join(f"[{block}, 1, {side}, {side}]" for block, side in enumerate(sides)) + "]"
