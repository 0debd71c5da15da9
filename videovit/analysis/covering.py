"""The center of a clip covered: does a model need what is there?

B clips, C channels, T frames, H W pixels.
"""

from __future__ import annotations

from torch import Tensor


def cover_center(x_BCTHW: Tensor, share: float, fill: Tensor | float = 0.0) -> Tensor:
    """Cover the middle of every frame: of a clip, a tube through all its frames.

    Args:
        x_BCTHW: normalized clips.
        share: of the height and of the width that is covered; 0.5 covers 112 x 112 of 224 x 224 pixels.
        fill: what covers it, in units of the normalized input; 0 is the mean color of the data set.

    Returns:
        A copy.

    Source: PiT (arXiv 2103.16302), Table 6, where the center patch is zeroed; it does not say before or after
        normalization.
    """
    covered_BCTHW = x_BCTHW.clone()
    H, W = x_BCTHW.shape[3:]
    height, width = round(share * H), round(share * W)
    top, left = (H - height) // 2, (W - width) // 2
    covered_BCTHW[..., top : top + height, left : left + width] = fill
    return covered_BCTHW
