"""The models of torchvision, timm and pytorchvideo that rows of the zoo were published for, found by URL."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

import torch
from torch import nn

from videovit.models.zoo import ZooModel

_TIMM_URL = re.compile(r"https://huggingface\.co/timm/([^/]+)/")


@dataclass(frozen=True)
class Peer:
    """A model of another package.

    Attributes:
        package: its name.
        model: the name of the model there.
        url: of the row, by which it was found.
        build: returns it with random weights.
    """

    package: str
    model: str
    url: str
    build: Callable[[], nn.Module]

    def load(self, path: Path) -> nn.Module:
        """The model with the weights of a file, in evaluation mode, read by the package's own loader.

        Raises:
            RuntimeError: they do not fit.
        """
        if self.package == "timm":
            import timm

            overlay = {"file": str(path), "hf_hub_id": None, "url": ""}
            loaded: nn.Module = timm.create_model(self.model, pretrained=True, pretrained_cfg_overlay=overlay)
            return loaded.eval()
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        model = self.build()
        model.load_state_dict(content.get("model_state", content))
        return model.eval()


def peers(entry: ZooModel) -> list[Peer]:
    """The models that other packages, as far as they are installed, build for the files of a row."""
    found = []
    for url in (urldefrag(url)[0] for url in entry.urls):
        for find in (_torchvision, _timm, _pytorchvideo):
            try:
                peer = find(url)
            except ImportError:
                continue
            found += [peer] if peer else []
    return found


def _torchvision(url: str) -> Peer | None:
    from torchvision.models import get_model, get_model_weights

    for name in ("mvit_v1_b", "mvit_v2_s"):
        if any(weights.url == url for weights in get_model_weights(name)):
            return Peer("torchvision", name, url, partial(get_model, name, weights=None))
    return None


def _timm(url: str) -> Peer | None:
    if not (match := _TIMM_URL.match(url)):
        return None
    import timm

    return Peer("timm", match[1], url, partial(timm.create_model, match[1], pretrained=False))


def _pytorchvideo(url: str) -> Peer | None:
    from pytorchvideo.models import hub

    for module in ("csn", "r2plus1d", "resnet", "slowfast", "vision_transformers", "x3d"):
        paths: dict[str, str] = importlib.import_module(f"pytorchvideo.models.hub.{module}").checkpoint_paths
        for name, path in paths.items():
            if path == url:
                # The hub builds its only image model with 400 classes by default.
                classes = {"head_num_classes": 1000} if "/imagenet/" in url else {}
                return Peer("pytorchvideo", name, url, partial(getattr(hub, name), pretrained=False, **classes))
    return None
