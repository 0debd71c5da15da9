"""Rules about the networks: their names, patches and blocks."""

from __future__ import annotations

from collections.abc import Iterator

from videovit.config.rules.broken import Broken
from videovit.config.schema import Config

_CONVOLUTIONAL = {
    "2d": "ResNet",
    "c2d": "ResNet",
    "i3d": "ResNet",
    "slowfast": "SlowFast",
    "x3d": "X3D",
}
"""MODEL.ARCH -> the network it belongs to; without slow, which PySlowFast's reversible MViT calls itself."""


def architecture(cfg: Config) -> Iterator[Broken]:
    """SlowFast's early configs name a network by MODEL.ARCH alone."""
    arch, keys = cfg.MODEL.ARCH, ("MODEL.ARCH", "MODEL.MODEL_NAME")
    if cfg.MODEL.MODEL_NAME == "MViT" and arch in _CONVOLUTIONAL:
        what = f"{arch} is a convolutional network, but MODEL.MODEL_NAME is MViT"
        yield Broken(keys, what, ({keys[0]: "mvit"}, {keys[1]: _CONVOLUTIONAL[arch]}))


def patches(cfg: Config) -> Iterator[Broken]:
    """Patches of clips have three sides, those of images two; and they fit into the clip."""
    mvit = cfg.MVIT
    sizes = {name: getattr(mvit, name) for name in ("PATCH_KERNEL", "PATCH_STRIDE", "PATCH_PADDING")}
    in_time = {"PATCH_KERNEL": 3, "PATCH_STRIDE": 2, "PATCH_PADDING": 1}  # MViT's
    wanted = 2 if mvit.PATCH_2D else 3
    wrong = [name for name, values in sizes.items() if len(values) != wanted]
    for name in wrong:
        what = f"{list(sizes[name])} must have {wanted} values, because MVIT.PATCH_2D is {mvit.PATCH_2D}"
        right = sizes[name][1:] if mvit.PATCH_2D else (in_time[name], *sizes[name])
        yield Broken((f"MVIT.{name}", "MVIT.PATCH_2D"), what, ({f"MVIT.{name}": right},))
    if mvit.PATCH_2D and cfg.DATA.NUM_FRAMES != 1:
        what = f"two-dimensional patches need images, but DATA.NUM_FRAMES is {cfg.DATA.NUM_FRAMES}"
        advice = ({"MVIT.PATCH_2D": False}, {"DATA.NUM_FRAMES": 1})
        yield Broken(("MVIT.PATCH_2D", "DATA.NUM_FRAMES"), what, advice)
    if wrong or mvit.PATCH_2D:
        return
    frames, kernel, padding = cfg.DATA.NUM_FRAMES, mvit.PATCH_KERNEL[0], mvit.PATCH_PADDING[0]
    if frames + 2 * padding < kernel:
        what = f"{frames} frames and padding {padding} are shorter than the patch, {kernel} (MVIT.PATCH_KERNEL)"
        keys = ("DATA.NUM_FRAMES", "MVIT.PATCH_KERNEL", "MVIT.PATCH_PADDING")
        padded = ((kernel - frames + 1) // 2, *mvit.PATCH_PADDING[1:])
        yield Broken(keys, what, ({keys[0]: kernel - 2 * padding}, {keys[2]: padded}))


def blocks(cfg: Config) -> Iterator[Broken]:
    """Lists name blocks that exist; widths may also change after the last one."""
    depth = cfg.MVIT.DEPTH
    for name in ("DIM_MUL", "HEAD_MUL", "POOL_Q_STRIDE", "POOL_KV_STRIDE"):
        rows, key = getattr(cfg.MVIT, name), f"MVIT.{name}"
        highest = max((row[0] for row in rows), default=0)
        last = depth if name in ("DIM_MUL", "HEAD_MUL") else depth - 1
        if highest > last:
            what = f"names block {highest}, but the last block of MVIT.DEPTH {depth} is {depth - 1}"
            advice = ({key: tuple(row for row in rows if row[0] <= last)}, {"MVIT.DEPTH": depth + highest - last})
            yield Broken((key, "MVIT.DEPTH"), what, advice)
