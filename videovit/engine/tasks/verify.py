"""Verification of the zoo on a machine with network: every file is fetched, checked, loaded and run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videovit.config import Config
from videovit.errors import UserError
from videovit.models import build_model, load_pretrained
from videovit.models.contract import VideoModel
from videovit.models.download import cached_path, file_sha256, local_file
from videovit.models.external.peers import Peer, peers
from videovit.models.external.pytorchvideo import ALPHA
from videovit.models.layers.pathways import slow_pathway
from videovit.models.zoo import ENCODER, PREFIX, ZooModel, load_zoo_config, sha256_of


@dataclass(frozen=True)
class Verified:
    """What was found for a row of the zoo.

    Attributes:
        name: of the row.
        path: of the file.
        num_bytes: its size.
        sha256: its hash; `is_stated`: whether the zoo states one, which it then has.
        layout: that was detected.
        loaded: number of tensors that were loaded.
        notes: remarks of the loader.
        peer: the package and model that the logits were compared with; empty without one.
        difference: the largest difference of a logit from the peer's.
        seconds: of everything.
        error: why the row failed; empty if it did not.
    """

    name: str
    path: str = ""
    num_bytes: int = 0
    sha256: str = ""
    is_stated: bool = False
    layout: str = ""
    loaded: int = 0
    notes: str = ""
    peer: str = ""
    difference: float | None = None
    seconds: float = 0.0
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As the report has it."""
        return asdict(self)


TOLERANCE = 1e-3
"""Of logits; float32 kernels of two packages round differently."""


def verify(rows: Iterable[ZooModel]) -> Iterator[Verified]:
    """Verify rows one after the other; a row that fails does not end the others."""
    for entry in rows:
        start = time.perf_counter()
        result = Verified(entry.name)
        try:
            for step in _verify(entry):
                result = step
        except (UserError, RuntimeError, OSError) as error:
            result = replace(result, error=str(error))
        yield replace(result, seconds=time.perf_counter() - start)


def _verify(entry: ZooModel) -> Iterator[Verified]:
    """Yield what is known of a row after each check.

    Raises:
        UserError, RuntimeError: a check failed.
    """
    path = local_file(PREFIX + entry.name)
    url = next(url for url in entry.urls if cached_path(url) == path)
    result = Verified(
        entry.name,
        path=str(path),
        num_bytes=path.stat().st_size,
        sha256=file_sha256(path),
        is_stated=bool(sha256_of(url)),
    )
    yield result
    cfg = load_zoo_config(entry)
    model = build_model(cfg).eval()
    report = load_pretrained(model, path)
    result = replace(result, layout=report.source, loaded=len(report.loaded), notes="; ".join(report.notes))
    yield result
    if report.skipped or (report.missing and entry.note != ENCODER):
        raise UserError(f"tensors were not loaded: {', '.join([*report.skipped, *report.missing])}")
    x = _clip(cfg)
    with torch.inference_mode():
        logits = model(x)
    if not logits.isfinite().all():
        raise UserError("logits are not finite")
    peer = next((peer for peer in peers(entry) if _reads(peer, url)), None)
    # A class token takes part in residual pooling there, and not here (the loader notes it).
    if peer is None or "class token" in result.notes:
        return
    difference = _difference(peer, path, model, x)
    yield replace(result, peer=f"{peer.package} {peer.model}", difference=difference)
    if difference > TOLERANCE:
        raise UserError(f"logits differ from those of {peer.package} {peer.model} by {difference:.2g}")


def _reads(peer: Peer, url: str) -> bool:
    """Whether the peer reads the file of a URL: timm reads those of the authors, too."""
    return peer.package == "timm" or url.startswith(peer.url)


def _clip(cfg: Config) -> Tensor:
    """A random clip (1, C, T, H, W) of the size that the model is trained on."""
    side = cfg.DATA.TRAIN_CROP_SIZE
    shape = (1, cfg.DATA.INPUT_CHANNEL_NUM[0], cfg.DATA.NUM_FRAMES, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _difference(peer: Peer, path: Path, model: VideoModel, x_BCTHW: Tensor) -> float:
    """The largest difference of a logit, or of a score if the peer ends in a softmax."""
    theirs: nn.Module = peer.load(path)
    has_two_pathways = peer.model.startswith("slowfast")
    x: Any = [slow_pathway(x_BCTHW, ALPHA), x_BCTHW] if has_two_pathways else x_BCTHW
    with torch.inference_mode():
        expected: Tensor = theirs(x_BCTHW[:, :, 0] if x_BCTHW.shape[2] == 1 else x)
        logits: Tensor = model(x_BCTHW)
    if (expected.sum(dim=-1) - 1.0).abs().max() < 1e-4 and expected.min() >= 0:
        logits = logits.softmax(dim=-1)
    return float((logits - expected).abs().max())
