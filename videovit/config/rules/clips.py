"""Rules about clips: how many, how large, in which colors and in which order."""

from __future__ import annotations

import re
from collections.abc import Iterator

from videovit.config.rules.broken import Broken
from videovit.config.rules.tasks import tests
from videovit.config.schema import Config
from videovit.config.schema.evaluation import ORDERS
from videovit.messages import did_you_mean, problem


def whole_videos(cfg: Config) -> Iterator[Broken]:
    """A clip of ssv2 is the whole video, so there is one."""
    test = cfg.TEST
    if test.DATASET.lower() != "ssv2" or not tests(cfg):
        return
    what = "a clip of ssv2 covers the whole video, so several clips would be equal"
    if test.NUM_ENSEMBLE_VIEWS != 1:
        key = "TEST.NUM_ENSEMBLE_VIEWS"
        yield Broken((key, "TEST.DATASET"), what, ({key: 1},))
    if any(number != 1 for number in test.NUM_TEMPORAL_CLIPS):
        key = "TEST.NUM_TEMPORAL_CLIPS"
        yield Broken((key, "TEST.DATASET"), what, ({key: (1,)},))


def channels(cfg: Config) -> Iterator[Broken]:
    """Models get RGB, or gray."""
    data, key = cfg.DATA, "DATA.INPUT_CHANNEL_NUM"
    numbers = data.INPUT_CHANNEL_NUM
    if set(numbers) not in ({1}, {3}):
        what = f"found {list(numbers)}, but videos have 3 channels (RGB), which can be converted to 1 (gray)"
        yield Broken((key,), what, ({key: (3,)}, {key: (1,)}))
    elif numbers[0] == 1:
        for name, values in (("MEAN", data.MEAN), ("STD", data.STD)):
            if len(set(values)) > 1:
                what = f"{list(values)} are the values of three channels, but {key} [1] makes one of them"
                gray = round(sum(values) / len(values), 4)
                yield Broken((f"DATA.{name}", key), what, ({f"DATA.{name}": (gray,)},))


def crops(cfg: Config) -> Iterator[Broken]:
    """Ranges increase, and frames are not scaled up after decoding."""
    data = cfg.DATA
    smallest, largest = data.TRAIN_JITTER_SCALES
    if smallest > largest:
        key = "DATA.TRAIN_JITTER_SCALES"
        yield Broken((key,), f"[{smallest}, {largest}] must be increasing", ({key: (largest, smallest)},))
    for name in ("TRAIN_JITTER_SCALES_RELATIVE", "TRAIN_JITTER_ASPECT_RELATIVE"):
        limits, key = getattr(data, name), f"DATA.{name}"
        if limits and limits[0] > limits[1]:
            yield Broken((key,), f"{list(limits)} must be increasing", ({key: tuple(sorted(limits))},))
        elif limits and limits[1] > 1 and name == "TRAIN_JITTER_SCALES_RELATIVE":
            what = f"{list(limits)} are shares of the frame, so they cannot exceed 1"
            yield Broken((key,), what, ({key: (min(limits[0], 1.0), 1.0)},))
    if data.NUM_FRAMES == 1:
        return  # images are cropped by rules of their own
    for name, crop in (("DECODE_SHORT_SIDE", "TRAIN_CROP_SIZE"), ("TEST_DECODE_SHORT_SIDE", "TEST_CROP_SIZE")):
        side, least, key = getattr(data, name), getattr(data, crop), f"DATA.{name}"
        if 0 < side < least:
            what = f"{side} is below DATA.{crop} {least}: frames would be scaled up again"
            yield Broken((key, f"DATA.{crop}"), what, ({key: least}, {key: 0}))


def short_sides(cfg: Config) -> Iterator[Broken]:
    """An Inception crop in training can be scaled up; a single crop in validation and test cannot exceed the frame."""
    data = cfg.DATA
    if data.NUM_FRAMES == 1:
        return
    smallest, largest = data.TRAIN_JITTER_SCALES
    inception = data.TRAIN_JITTER_SCALES_RELATIVE or data.TRAIN_JITTER_ASPECT_RELATIVE
    side, key = smallest, "DATA.TRAIN_JITTER_SCALES"
    if data.TEST_SHORT_SIDE:
        side, key = data.TEST_SHORT_SIDE, "DATA.TEST_SHORT_SIDE"

    def enlarged(key: str, crop: int) -> dict[str, object]:
        return {key: crop if key == "DATA.TEST_SHORT_SIDE" else (crop, max(crop, largest))}

    train, test = data.TRAIN_CROP_SIZE, data.TEST_CROP_SIZE
    if cfg.TRAIN.ENABLE and not inception and smallest < train:
        scales = "DATA.TRAIN_JITTER_SCALES"
        what = f"{train} is larger than the smallest short side, {smallest} ({scales})"
        yield Broken(
            ("DATA.TRAIN_CROP_SIZE", scales), what, (enlarged(scales, train), {"DATA.TRAIN_CROP_SIZE": smallest})
        )
    elif cfg.TRAIN.ENABLE and side < train:
        what = f"{train} is larger than the short side in validation, {side} ({key})"
        yield Broken(("DATA.TRAIN_CROP_SIZE", key), what, (enlarged(key, train), {"DATA.TRAIN_CROP_SIZE": side}))
    one_crop = cfg.TEST.NUM_SPATIAL_CROPS == 1 or cfg.DETECTION.ENABLE
    if (one_crop or data.TEST_SHORT_SIDE) and side < test:  # otherwise frames are scaled to the crops
        what = f"{test} is larger than the short side in the test, {side} ({key})"
        yield Broken(("DATA.TEST_CROP_SIZE", key), what, (enlarged(key, test), {"DATA.TEST_CROP_SIZE": side}))


def orders(cfg: Config) -> Iterator[Broken]:
    """Frame orders are known, and there is at least one."""
    key, named = "SHUFFLE_EVAL.ORDERS", cfg.SHUFFLE_EVAL.ORDERS
    wrong = [order for order in named if not _is_order(order)]
    near = {order: did_you_mean(order, (*ORDERS, "window4")) for order in wrong}
    mended = tuple(dict.fromkeys(near.get(order, order) for order in named if near.get(order, order))) or ORDERS
    for order in wrong:
        what = problem(found=order, expected=f"{', '.join(ORDERS)} or window<frames>")
        yield Broken((key,), what, ({key: mended},))
    if cfg.SHUFFLE_EVAL.ENABLE and not named and not cfg.SHUFFLE_EVAL.WINDOWS:
        yield Broken((key,), "is empty, and so is SHUFFLE_EVAL.WINDOWS", ({key: ORDERS},))


def _is_order(order: str) -> bool:
    return order in ORDERS or bool(re.fullmatch(r"window[1-9]\d*", order))
