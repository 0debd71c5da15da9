"""How well heat maps point at the object that is known to decide the class.

B clips, T H W frames and pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pointing_game(heat_BTHW: Tensor, masks_BTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the hottest pixel lies on the object, and how much of the heat does.

    Args:
        heat_BTHW: not negative.
        masks_BTHW: bool, the object.

    Returns:
        Bool (B,), a hit if the hottest pixel of all frames is in the mask, of which a map without heat is none; and the
        share of the heat in the mask (B,), 0 to 1.

    Source: pointing game of Zhang et al. (arXiv 1608.00507), section 4.2.
    """
    heat_BP, masks_BP = heat_BTHW.flatten(1), masks_BTHW.flatten(1)
    highest_B, place_B = heat_BP.max(dim=1)
    hits_B = masks_BP.gather(1, place_B[:, None])[:, 0] & (highest_B > 0)
    total_B = heat_BP.sum(dim=1).clamp_min(torch.finfo(heat_BP.dtype).tiny)
    return hits_B, (heat_BP * masks_BP).sum(dim=1) / total_B


def rank_correlation(one: Tensor, two: Tensor) -> float:
    """Spearman's correlation of two maps of the same shape, -1 to 1; equal values are ranked by their place.

    Source: sanity checks of Adebayo et al. (arXiv 1810.03292), section 3.1.
    """
    ranks = torch.stack([m.flatten().argsort(stable=True).argsort() for m in (one, two)]).double()
    return float(torch.corrcoef(ranks)[0, 1])
