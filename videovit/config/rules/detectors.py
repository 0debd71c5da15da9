"""Rules about object detectors and the models whose maps they read."""

from __future__ import annotations

from collections.abc import Iterator

from videovit.config.rules.broken import Broken, Change
from videovit.config.schema import Config


def strides(cfg: Config) -> Iterator[Broken]:
    """Maps are halved from one to the next, and there is one or more."""
    found, key = cfg.DETECTOR.STRIDES, "DETECTOR.STRIDES"
    if not cfg.DETECTOR.NAME:
        return
    if not found and cfg.DETECTOR.NAME != "DeformableDETR":
        what = f"{cfg.DETECTOR.NAME} needs the strides of its maps; only DeformableDETR takes the stages as they are"
        yield Broken((key, "DETECTOR.NAME"), what, ({key: (4, 8, 16, 32)}, {"DETECTOR.NAME": "DeformableDETR"}))
    right = tuple(found[0] * 2**i for i in range(len(found))) if found else ()
    if found != right or any(stride & (stride - 1) for stride in found):
        what = f"{list(found)} must be powers of two, each twice the one before"
        yield Broken((key,), what, ({key: (4, 8, 16, 32)},))


def windows(cfg: Config) -> Iterator[Broken]:
    """Windows hold all tokens that attend, and global blocks are exceptions among them."""
    mvit, key = cfg.MVIT, "MVIT.WINDOW"
    if mvit.WINDOW and mvit.CLS_EMBED_ON:
        what = "a class token is in no window"
        yield Broken((key, "MVIT.CLS_EMBED_ON"), what, ({"MVIT.CLS_EMBED_ON": False}, {key: 0}))
    if mvit.GLOBAL_BLOCKS and not mvit.WINDOW:
        what = f"{list(mvit.GLOBAL_BLOCKS)} has no effect: all blocks are global with {key} 0"
        advice: tuple[Change, ...] = ({"MVIT.GLOBAL_BLOCKS": ()},)
        yield Broken(("MVIT.GLOBAL_BLOCKS", key), what, advice)
