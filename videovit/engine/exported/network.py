"""Exported files as models: the network, and the config and class names in its metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import torch
from torch import Tensor, nn

from videovit.config import Config, with_opts
from videovit.engine.checkpoints.saved_model import read_described
from videovit.engine.checkpoints.sources import ARCHITECTURE
from videovit.engine.exported.engines import Engine, OnnxRuntime, OpenVino
from videovit.errors import UserError
from videovit.models.contract import VideoModel

READERS: dict[str, type[Engine]] = {engine.suffix: engine for engine in (OnnxRuntime, OpenVino)}
"""Suffix -> engine that reads such files."""
IN_THE_FILE = (
    *ARCHITECTURE,
    "DATA.NUM_FRAMES",
    "DATA.TEST_CROP_SIZE",
    "DATA.MEAN",
    "DATA.STD",
    "DATA.REVERSE_INPUT_CHANNEL",
    "DATA.INPUT_CHANNEL_NUM",
    "TEST.ENGINE",
    "TEST.MIXED_PRECISION",
)
"""Sections and keys of the config that an exported file has fixed."""


class ExportedNetwork(nn.Module):
    """A network in a file. It computes logits of frames, and has nothing else that models have.

    Args:
        path: of the file.
        engine: that has opened the file.
    """

    def __init__(self, path: Path, engine: Engine) -> None:
        super().__init__()
        self._path, self._engine = path, engine
        self.on_cpu = nn.Parameter(torch.empty(0), requires_grad=False)  # callers ask parameters for the device

    def forward(self, frames_BTSSC: Tensor) -> Tensor:
        """(B, K) of uint8 (B, T, S, S, 3)."""
        size = self._engine.frames[0] or len(frames_BTSSC)
        logits = []
        for part in torch.split(frames_BTSSC, size):
            # A network for a fixed number of clips is filled up with copies of the last one.
            filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
            logits.append(self._engine(filled)[0][: len(part)])
        return torch.cat(logits)

    def twin(self) -> Self:
        """Itself: it does not change."""
        return self

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse what only the original model can do.

        Raises:
            UserError: always.
        """
        hint = "Load the model that it was exported from"
        raise UserError("an exported network computes scores and nothing else", where=self._path, hint=hint)

    as_clips = forward_features = forward_stages = attention_maps = state_dict = reset_head = refuse
    takes_boxes = grid = property(refuse)


def is_network(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a file that `read_network` can read."""
    return Path(source).suffix in READERS and Path(source).is_file()


def read_network(path: Path, opts: Sequence[object], **chosen: object) -> tuple[Config, VideoModel, list[str]]:
    """The config, the network and the class names of an exported file. Reading it runs no code that is in it.

    Args:
        path: of one of the suffixes of `READERS`.
        opts: KEY VALUE KEY VALUE ... that override the config.
        chosen: options by name that other models have, such as the engine; must be None.

    Raises:
        UserError: an option that the file has fixed is given; or the file was not exported by videovit, cannot be read,
            or is a detector; or the engine is not installed.
    """
    fixed = [name for name, value in chosen.items() if value is not None]
    if fixed := [*fixed, *(key for key in map(str, opts[::2]) if key.startswith(IN_THE_FILE))]:
        hint = "Leave it out, or load the model that it was exported from"
        raise UserError(f"{fixed[0]} is fixed in an exported network", where=path, hint=hint)
    reader = READERS[path.suffix]
    engine = reader(path)
    metadata = engine.metadata()
    cfg, class_names = read_described(metadata, path)
    if cfg.DETECTION.ENABLE or cfg.DETECTOR.NAME:
        hint = "Load the model that it was exported from"
        raise UserError("an exported detector cannot be used as a model", where=path, hint=hint)
    side = cfg.DATA.TEST_CROP_SIZE
    expected = (cfg.DATA.NUM_FRAMES, side, side, 3)
    if engine.frames[1:] != expected:
        raise UserError(
            "clips of another size than in its config", where=path, found=engine.frames[1:], expected=str(expected)
        )
    if "bf16" in metadata.get("precision", ""):  # int8 may leave the rest of the network in bf16
        engine = reader(path, torch.bfloat16)
    return with_opts(cfg, opts), cast(VideoModel, ExportedNetwork(path, engine)), class_names
