"""The splits of a data set, and the division of own files into them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test"}
"""What folders and columns of splits are called."""


def place_of(name: str, seed: int) -> float:
    """A number in [0, 1) that depends only on a name and the seed."""
    digest = hashlib.blake2b(os.fsencode(f"{seed}/{name}"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(name: str, fractions: Mapping[str, float], seed: int) -> str:
    """The split of a file, which depends only on its name and the seed: new files do not move old ones.

    Args:
        name: for example its path in the folder of the data set.
        fractions: split -> fraction of the files; they sum to 1.
        seed: seed of the division.
    """
    place, end = place_of(name, seed), 0.0
    for split, share in fractions.items():
        end += share
        if place < end:
            return split
    return list(fractions)[-1]


def stratified_split(
    names: Sequence[str], classes: Sequence[Collection[str]], fractions: Mapping[str, float], seed: int
) -> list[str]:
    """Divide videos so that every class is in every split, as far as its videos suffice.

    The rarest class is divided first. Within a class, videos are ordered by a hash of their names, so a new video moves
    at most a few of the others.

    Args:
        names: of the videos; different, and independent of where they are.
        classes: of every video; several in multi-label data.
        fractions: split -> fraction of the videos; the first split gets the rest, and at least one video per class.
        seed: seed of the division.

    Returns:
        The split of every video.

    Source: iterative stratification (Sechidis et al., ECML PKDD 2011), without its random ties.
    """
    rest = next(iter(fractions))
    members: dict[str, list[int]] = {}
    for number, of_video in enumerate(classes):
        for name in of_video:
            members.setdefault(name, []).append(number)
    found: dict[int, str] = {}
    for name in sorted(members, key=lambda name: (len(members[name]), name)):
        waiting = sorted(
            (i for i in members[name] if i not in found), key=lambda i: (place_of(names[i], seed), names[i])
        )
        for split, number in _shares(len(members[name]), fractions).items():
            number -= sum(found.get(i) == split for i in members[name])
            found |= dict.fromkeys(waiting[: max(0, number)], split)
            waiting = waiting[max(0, number) :]
        found |= dict.fromkeys(waiting, rest)
    return [found.get(number, rest) for number in range(len(names))]


def _shares(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """How many of a class's videos each split but the first gets; with few of them, the last split comes first."""
    left, shares = total - 1, {}
    for split in list(fractions)[:0:-1]:
        number = min(left, max(1, int(total * fractions[split] + 0.5))) if fractions[split] else 0
        shares[split] = number
        left -= number
    return shares
