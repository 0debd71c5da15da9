"""The splits of a data set, and the division of own files into them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

SPLITS = ("train", "val", "test")


def split_of(name: str, fractions: Mapping[str, float], seed: int) -> str:
    """The split of a file, which depends only on its name and the seed: new files do not move old ones.

    Args:
        name: for example its path in the folder of the data set.
        fractions: split -> fraction of the files; they sum to 1.
        seed: seed of the division.
    """
    digest = hashlib.blake2b(os.fsencode(f"{seed}/{name}"), digest_size=8).digest()
    # The hash as a uniform number in [0, 1).
    place, end = int.from_bytes(digest, "big") / 2**64, 0.0
    for split, share in fractions.items():
        end += share
        if place < end:
            return split
    return list(fractions)[-1]
