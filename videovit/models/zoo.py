"""The zoo: published weight files that models of this project load, by name.

`ZOO` is the table; `download.local_file("zoo:NAME")` fetches a file, and `load_zoo_config` is the config that fits it.
Accuracies are as published, in percent, with the protocol of whoever published them. Files that only exist behind dead
links, or whose architecture is not built here, are not listed (docs/zoo.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from videovit.config import Config, load_config
from videovit.errors import UserError
from videovit.messages import did_you_mean

PREFIX = "zoo:"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")  # torch.hub's convention: the start of the SHA-256


@dataclass(frozen=True)
class ZooModel:
    """A published weight file and how to use it.

    Attributes:
        name: for `zoo:NAME`.
        config: the shipped config of the model, by name.
        urls: where the file is, in order of preference. `#sha256=...` is its hash or the start of it.
        layout: of the names in the file at the first URL; a key of `models.convert.LAYOUTS`, or `own`.
        data_set: that it was trained on.
        protocol: of the accuracy: clips x crops, or `center crop`.
        params: number of parameters.
        top1, top5: published accuracy in percent; None: not published.
        license: of the project that published it.
        overrides: KEY VALUE KEY VALUE ... on top of the config.
        classes: key of `CLASS_LISTS`; empty if the names of the classes are not known here.
        note: what a user has to know; empty if nothing.
    """

    name: str
    config: str
    urls: tuple[str, ...]
    layout: str
    data_set: str
    protocol: str
    params: int
    top1: float | None
    top5: float | None
    license: str
    overrides: tuple[str, ...] = ()
    classes: str = ""
    note: str = ""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file at the first URL, or the start of it; empty if none was published."""
        return sha256_of(self.urls[0])

    @property
    def num_bytes(self) -> int:
        """About the size of the file: four bytes per parameter."""
        return 4 * self.params


def sha256_of(url: str) -> str:
    """The hash that a URL states after `#sha256=`; empty if it states none."""
    return urlsplit(url).fragment.removeprefix("sha256=")


def find(name: str) -> ZooModel:
    """The row of a name; `zoo:` in front is optional, and so is the case of letters.

    Raises:
        UserError: no such row; the message suggests the closest name.
    """
    plain = name.removeprefix(PREFIX)
    if plain in ZOO:
        return ZOO[plain]
    normal = _normal(plain)
    found = next((row for row in ZOO.values() if _normal(row.name) == normal), None)
    if found is None:
        raise UserError(
            "no such model in the zoo",
            found=plain,
            near=did_you_mean(plain, ZOO),
            hint="List all: videovit zoo",
        )
    return found


def _normal(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def load_zoo_config(entry: ZooModel, opts: tuple[str, ...] = ()) -> Config:
    """The config that fits a row: the shipped one, with the overrides of the row and then `opts`."""
    return load_config(entry.config, [*entry.overrides, *opts])


def class_names(entry: ZooModel) -> list[str] | None:
    """The names of the classes in the order of the logits; None if they are not known here."""
    return list(CLASS_LISTS[entry.classes]()) if entry.classes else None


def _kinetics400() -> list[str]:
    from torchvision.models.video import MViT_V1_B_Weights

    names: list[str] = MViT_V1_B_Weights.KINETICS400_V1.meta["categories"]
    return names


def _imagenet1k() -> list[str]:
    from torchvision.models import ResNet50_Weights

    names: list[str] = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    return names


CLASS_LISTS = {"kinetics400": _kinetics400, "imagenet1k": _imagenet1k}
"""Name of a list of classes -> function that returns it."""

_SLOWFAST = "https://dl.fbaipublicfiles.com/pyslowfast"
_V2_VIDEO = f"{_SLOWFAST}/model_zoo/mvitv2/pysf_video_models"
_V2_IMAGE = "https://dl.fbaipublicfiles.com/mvit/mvitv2_models"
_PTV = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo"
_TORCHVISION = "https://download.pytorch.org/models"
_DEIT = "https://dl.fbaipublicfiles.com/deit"
_HUB = "https://huggingface.co/timm"
_APACHE, _BSD = "Apache-2.0", "BSD-3-Clause"


def _hashed(url: str) -> str:
    """The URL, with the hash that its file name contains by torch.hub's convention."""
    match = _HASH_IN_NAME.search(url)
    return f"{url}#sha256={match[1]}" if match else url


def _timm(model: str) -> str:
    return f"{_HUB}/{model}/resolve/main/model.safetensors"


def _kinetics(
    name: str,
    config: str,
    urls: tuple[str, ...],
    params: int,
    top1: float | None,
    top5: float | None,
    protocol: str = "5 x 1",
    *,
    layout: str = "pyslowfast",
    license: str = _APACHE,
    overrides: tuple[str, ...] = (),
    note: str = "",
) -> ZooModel:
    return ZooModel(
        name, f"Kinetics/{config}", tuple(map(_hashed, urls)), layout, "Kinetics-400", protocol, params, top1, top5,
        license, overrides, "kinetics400", note,
    )  # fmt: skip


_ROWS = (
    _kinetics(
        "mvitv1_b_16x4_k400",
        "MVIT_B_16x4_CONV",
        (f"{_TORCHVISION}/mvit_v1_b-dbeb1030.pth", f"{_PTV}/kinetics/MVIT_B_16x4.pyth"),
        36_610_672,
        78.477,
        93.582,
        layout="torchvision",
        license=_BSD,
    ),
    _kinetics(
        "mvitv2_s_16x4_k400",
        "MVITv2_S_16x4",
        (f"{_TORCHVISION}/mvit_v2_s-ae3be167.pth", f"{_V2_VIDEO}/MViTv2_S_16x4_k400_f302660347.pyth"),
        34_537_744,
        80.757,
        94.665,
        layout="torchvision",
        license=_BSD,
    ),
    _kinetics(
        "mvitv1_b_32x3_k400", "MVIT_B_32x3_CONV", (f"{_SLOWFAST}/model_zoo/mvit/k400.pyth",), 53_115_280, 80.4, 94.8
    ),
    _kinetics(
        "mvitv2_b_32x3_k400",
        "MVITv2_B_32x3",
        (f"{_V2_VIDEO}/MViTv2_B_32x3_k400_f304025456.pyth",),
        51_230_128,
        82.9,
        95.7,
    ),
    _kinetics(
        "mvitv2_l_40x3_k400",
        "MVITv2_L_40x3_test",
        (f"{_V2_VIDEO}/MViTv2_L_40x3_k400_f306903192.pyth",),
        213_390_112,
        86.1,
        97.0,
        "5 x 3",
    ),
)

ZOO: dict[str, ZooModel] = {row.name: row for row in _ROWS}
"""Name -> row."""
