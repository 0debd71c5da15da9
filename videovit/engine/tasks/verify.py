"""Verification of the zoo on a machine with network: every file is fetched, checked, loaded and run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videovit.config import Config
from videovit.errors import UserError
from videovit.messages import Plain, printable
from videovit.models import build_model, load_pretrained
from videovit.models.contract import VideoModel
from videovit.models.convert import LoadReport
from videovit.models.convert.layouts import LAYOUTS
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


MOST_NAMED = 5  # tensors in a message
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
    _check_layout(entry, report, model, is_first=url == entry.urls[0])
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


def _check_layout(entry: ZooModel, report: LoadReport, model: VideoModel, *, is_first: bool) -> None:
    """Compare the names and shapes of a file with those that its row promises.

    Args:
        entry: the row.
        report: of loading the file.
        model: that it was loaded into.
        is_first: the file is that of the first URL, whose layout the row states.

    Raises:
        UserError: they differ.
    """
    # Some layouts have two names and one reader; that of `own` is none.
    if is_first and LAYOUTS.get(report.source) is not LAYOUTS.get(entry.layout):
        raise UserError("names of tensors are of another layout", found=report.source, expected=entry.layout)
    if report.resized:
        raise UserError(f"tensors have other shapes than those of the model: {_listed(report.resized)}")
    is_encoder = entry.note == ENCODER  # comes with a decoder, and without a classifier and the norm before it
    if report.skipped and not is_encoder:
        raise UserError(f"tensors of the file are unknown to the model: {_listed(report.skipped)}")
    absent = (*model.head_names, "norm.") if is_encoder else ()
    if missing := [name for name in report.missing if not name.startswith(absent)]:
        raise UserError(f"tensors of the model are not in the file: {_listed(missing)}")
    num_params = sum(parameter.numel() for parameter in model.parameters())
    if num_params != entry.params:
        found = Plain(f"{num_params:,} parameters")
        raise UserError("the model has another size than its row states", found=found, expected=f"{entry.params:,}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(printable, names[:MOST_NAMED]))
    return shown + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


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
