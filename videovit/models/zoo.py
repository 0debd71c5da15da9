"""The zoo: published weight files that models of this project load, by name.

`ZOO` is the table; `download.local_file("zoo:NAME")` fetches a file, and `load_zoo_config` is the config that fits it.
Accuracies are as published, in percent, with the protocol of whoever published them. Files that only exist behind dead
links, or whose architecture is not built here, are not listed (docs/zoo.md).
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
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
            f"no model {plain!r} in the zoo",
            near=did_you_mean(plain, ZOO),
            hint="List all: videovit zoo",
        )
    return found


def _normal(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def load_zoo_config(entry: ZooModel, opts: tuple[str, ...] = ()) -> Config:
    """The config that fits a row: the shipped one, with the overrides of the row and then `opts`."""
    return load_config(entry.config, [*entry.overrides, *opts])


def read_measured() -> dict[str, tuple[float, float]]:
    """Top-1 and top-5 accuracy in percent that this project's own test measured, of the rows that it has measured."""
    with open(Path(__file__).with_name("measured.csv"), newline="", encoding="utf-8") as file:
        return {row["name"]: (float(row["top1"]), float(row["top5"])) for row in csv.DictReader(file)}


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
_V2 = f"{_SLOWFAST}/model_zoo/mvitv2/pysf_video_models"
_MASKED = f"{_SLOWFAST}/masked_models"
_V2_IMAGE = "https://dl.fbaipublicfiles.com/mvit/mvitv2_models"
_PTV = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo"
_TORCHVISION = "https://download.pytorch.org/models"
_DEIT = "https://dl.fbaipublicfiles.com/deit"
_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="

_K400 = ("Kinetics-400", "kinetics400")
_K600 = ("Kinetics-600", "")
_SSV2 = ("Something-Something v2", "")
_CHARADES = ("Charades", "")
_IN1K = ("ImageNet-1K", "imagenet1k")
_IN21K = ("ImageNet-21K, 19,168 classes", "")
_APACHE, _BSD, _MIT = "Apache-2.0", "BSD-3-Clause", "MIT"

ENCODER = "an encoder without classifier, to fine-tune: TRAIN.CHECKPOINT_FILE_PATH; accuracy is that after fine-tuning"
_CLASS_TOKEN = "residual pooling with a class token differs from the authors': fine-tune it first (docs/models.md)"
_UNSTATED = "the order of color channels is not stated; if the accuracy is low, try DATA.REVERSE_INPUT_CHANNEL True"
_BY_HAND = "on Google Drive, which may refuse programs: the message then says where to put the file"

Accuracy = tuple[float | None, float | None, str]  # top-1, top-5, protocol


def _row(
    name: str,
    config: str,
    urls: str | tuple[str, ...],
    params: int,
    accuracy: Accuracy,
    data: tuple[str, str],
    layout: str = "pyslowfast",
    overrides: str = "",
    *,
    license: str = _APACHE,
    note: str = "",
) -> ZooModel:
    """A row; the hash is read from the name of the file, and `overrides` is split at spaces outside of brackets."""
    top1, top5, protocol = accuracy
    return ZooModel(
        name=name,
        config=config,
        overrides=tuple(re.findall(r"\[.*?\](?= [A-Z]|$)|\S+", overrides)),
        urls=tuple(map(with_hash, (urls,) if isinstance(urls, str) else urls)),
        layout=layout,
        data_set=data[0],
        classes="" if note == ENCODER else data[1],
        params=params,
        top1=top1,
        top5=top5,
        protocol=protocol,
        license=license,
        note=note,
    )


def with_hash(url: str) -> str:
    """The URL, with the hash that its file name contains by torch.hub's convention."""
    match = _HASH_IN_NAME.search(url)
    return f"{url}#sha256={match[1]}" if match else url


def _timm(model: str) -> str:
    return f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors"


# fmt: off
_VIDEO_MVIT = (
    _row("mvitv1_b_16x4_k400", "Kinetics/MVIT_B_16x4_CONV", (f"{_TORCHVISION}/mvit_v1_b-dbeb1030.pth",
         f"{_PTV}/kinetics/MVIT_B_16x4.pyth"), 36_610_672, (78.477, 93.582, "5 x 1"), _K400, "torchvision",
         license=_BSD),
    _row("mvitv1_b_32x3_k400", "Kinetics/MVIT_B_32x3_CONV", f"{_SLOWFAST}/model_zoo/mvit/k400.pyth",
         53_115_280, (80.4, 94.8, "5 x 1"), _K400),
    _row("mvitv1_b_32x3_16l_k400", "Kinetics/MVIT_B_32x3_16L_CONV", f"{_PTV}/kinetics/MVIT_B_32x3_f294077834.pyth",
         36_611_440, (80.3, None, "not stated"), _K400, "pytorchvideo"),
    _row("mvitv1_b_32x3_k600", "Kinetics/MVIT_B_32x3_CONV_K600", f"{_SLOWFAST}/model_zoo/mvit/k600.pyth",
         53_269_080, (83.9, 96.5, "5 x 1"), _K600),
    _row("mvitv2_s_16x4_k400", "Kinetics/MVITv2_S_16x4", (f"{_TORCHVISION}/mvit_v2_s-ae3be167.pth",
         f"{_V2}/MViTv2_S_16x4_k400_f302660347.pyth"), 34_537_744, (80.757, 94.665, "5 x 1"), _K400, "torchvision",
         license=_BSD),
    _row("mvitv2_b_32x3_k400", "Kinetics/MVITv2_B_32x3", f"{_V2}/MViTv2_B_32x3_k400_f304025456.pyth",
         51_230_128, (82.9, 95.7, "5 x 1"), _K400),
    _row("mvitv2_l_40x3_k400", "Kinetics/MVITv2_L_40x3_test", f"{_V2}/MViTv2_L_40x3_k400_f306903192.pyth",
         213_390_112, (86.1, 97.0, "5 x 3"), _K400, note="312 pixels, pre-trained on ImageNet-21K"),
    _row("mvitv2_s_16x4_ssv2", "SSv2/MVITv2_S_16x4", f"{_V2}/MViTv2_S_16x4_ssv2_f308341823.pyth",
         34_363_950, (68.2, 91.4, "1 x 3"), _SSV2),
    _row("mvitv2_b_32x3_ssv2", "SSv2/MVITv2_B_32x3", f"{_V2}/MViTv2_B_32x3_ssv2_f305803282.pyth",
         51_056_334, (70.5, 92.7, "1 x 3"), _SSV2),
    _row("mvitv2_l_40x3_ssv2", "SSv2/MVITv2_L_40x3", f"{_V2}/MViTv2_L_40x3_ssv2_f309603968.pyth",
         213_129_534, (73.3, 94.1, "1 x 3"), _SSV2, note="312 pixels, pre-trained on ImageNet-21K and Kinetics-400"),
)
_V2_ENCODER = "MVIT.DIM_MUL_IN_ATT False MVIT.USE_MEAN_POOLING True"
_VIT_CLIPS = ("DATA.NUM_FRAMES 16 DATA.SAMPLING_RATE 4 MVIT.SEP_POS_EMBED True MVIT.PATCH_KERNEL [2, 16, 16] "
              "MVIT.PATCH_STRIDE [2, 16, 16] MVIT.USE_MEAN_POOLING True MVIT.EMBED_DIM {} MVIT.DEPTH {} "
              "MVIT.NUM_HEADS {}")
_ENCODERS = (
    _row("mvitv2_s_16x4_maskfeat_k400", "Kinetics/MVITv2_S_16x4", f"{_MASKED}/k400_MVIT_S_MaskFeat_PT_epoch_00300.pyth",
         36_475_120, (82.2, None, "10 x 1"), _K400, overrides=_V2_ENCODER, note=ENCODER),
    _row("mvitv2_l_16x4_maskfeat_k400", "Kinetics/MVITv2_L_40x3_test",
         f"{_MASKED}/k400_MVIT_L_MaskFeat_PT_epoch_00800.pyth", 217_578_064, (84.3, None, "10 x 1"), _K400,
         overrides=f"{_V2_ENCODER} DATA.NUM_FRAMES 16 DATA.SAMPLING_RATE 4 DATA.TRAIN_CROP_SIZE 224 "
         "DATA.TEST_CROP_SIZE 224 DATA.MEAN [0.45, 0.45, 0.45] DATA.STD [0.225, 0.225, 0.225]", note=ENCODER),
    _row("vit_b_16x4_mae_k400", "Kinetics/VIT_B_8x8", f"{_MASKED}/VIT_B_16x4_MAE_PT.pyth", 86_702_224,
         (81.3, None, "7 x 3"), _K400, overrides=_VIT_CLIPS.format(768, 12, 12), note=ENCODER),
    _row("vit_l_16x4_mae_k400", "Kinetics/VIT_B_8x8", f"{_MASKED}/VIT_L_16x4_MAE_PT.pyth", 304_506_256,
         (84.8, None, "7 x 3"), _K400, overrides=_VIT_CLIPS.format(1024, 24, 16), note=ENCODER),
    _row("vit_h_16x4_mae_k400", "Kinetics/VIT_B_8x8", f"{_MASKED}/VIT_H_16x4_MAE_PT_400e_85.1.pyth", 632_424_080,
         (85.1, None, "7 x 3"), _K400, overrides=_VIT_CLIPS.format(1280, 32, 16), note=ENCODER),
    _row("vit_b_maskfeat_in1k", "ImageNet/DEIT_B", f"{_MASKED}/in1k_VIT_B_MaskFeat_PT_epoch_01600.pyth", 86_567_656,
         (84.0, None, "center crop"), _IN1K, note=ENCODER),
    _row("vit_l_maskfeat_in1k", "ImageNet/DEIT_B", f"{_MASKED}/in1k_VIT_L_MaskFeat_PT_epoch_01600.pyth", 304_326_632,
         (85.7, None, "center crop"), _IN1K, overrides="VIT.EMBED_DIM 1024 VIT.DEPTH 24 VIT.NUM_HEADS 16",
         note=ENCODER),
)
_21K = "MVIT.CLS_EMBED_ON True MODEL.NUM_CLASSES 19168"
_CROP = "center crop"
_IMAGE_MVIT = (
    _row("mvitv1_b_in1k", "ImageNet/MVIT_B_16_CONV", f"{_PTV}/imagenet/MVIT_B_16_f292487636.pyth", 36_982_696,
         (83.0, None, _CROP), _IN1K, "pytorchvideo", "MVIT.SEP_POS_EMBED True"),
    *(_row(f"mvitv2_{size.lower()}_in1k", f"ImageNet/MVITv2_{size}", (f"{_V2_IMAGE}/MViTv2_{size}_in1k.pyth",
           _timm(f"mvitv2_{long}.fb_in1k")), params, (top1, None, _CROP), _IN1K, "mvit")
      for size, long, params, top1 in (("T", "tiny", 24_173_320, 82.3), ("S", "small", 34_870_216, 83.6),
                                       ("B", "base", 51_472_744, 84.4), ("L", "large", 217_992_952, 85.3))),
    *(_row(f"mvitv2_{size.lower()}_in21k", f"ImageNet/MVITv2_{size}", (f"{_V2_IMAGE}/MViTv2_{size}_in21k.pyth",
           _timm(f"mvitv2_{long}_cls.fb_inw21k")), params, (None, None, _CROP), _IN21K, "mvit", overrides,
           note=_CLASS_TOKEN)
      for size, long, params, overrides in (("B", "base", 65_444_032, _21K),
                                            ("L", "large", 234_583_216, f"{_21K} MVIT.DIM_MUL_IN_ATT True"),
                                            ("H", "huge", 694_804_128, ""))),
)
_PIT = tuple(
    _row(f"pit_{size}{'_distilled' * distilled}_in1k", f"ImageNet/PIT_{size.upper()}{'_DISTILLED' * distilled}",
         _timm(f"pit_{size}{'_distilled' * distilled}_224.in1k"), params, (top1, None, _CROP), _IN1K, "pit")
    for size, distilled, params, top1 in (
        ("ti", 0, 4_847_272, 73.0), ("xs", 0, 10_618_888, 78.1), ("s", 0, 23_461_912, 80.9), ("b", 0, 73_764_840, 82.0),
        ("ti", 1, 5_104_336, 74.6), ("xs", 1, 11_003_984, 79.1), ("s", 1, 24_039_056, 81.9), ("b", 1, 74_790_096, 84.0),
    )
)
_LARGE = "DATA.TRAIN_CROP_SIZE 384 DATA.TEST_CROP_SIZE 384"
_DEIT_ROWS = tuple(
    _row(f"deit_{size}{'_distilled' * distilled}{'_384' * large}_in1k", f"ImageNet/DEIT_{size.upper()}",
         (f"{_DEIT}/{file}.pth", _timm(f"{file.rpartition('-')[0]}.fb_in1k")), params, (top1, top5, _CROP), _IN1K,
         "deit", " ".join(["VIT.DISTILLED True"] * distilled + [_LARGE] * large))
    for size, distilled, large, file, params, top1, top5 in (
        ("ti", 0, 0, "deit_tiny_patch16_224-a1311bcf", 5_717_416, 72.202, 91.124),
        ("s", 0, 0, "deit_small_patch16_224-cd65a155", 22_050_664, 79.854, 94.968),
        ("b", 0, 0, "deit_base_patch16_224-b5f2ef4d", 86_567_656, 81.846, 95.594),
        ("ti", 1, 0, "deit_tiny_distilled_patch16_224-b40b3cf7", 5_910_800, 74.476, 91.920),
        ("s", 1, 0, "deit_small_distilled_patch16_224-649709d9", 22_436_432, 81.164, 95.376),
        ("b", 1, 0, "deit_base_distilled_patch16_224-df68dfff", 87_338_192, 83.372, 96.482),
        ("b", 0, 1, "deit_base_patch16_384-8de9b5d1", 86_859_496, 82.890, 96.222),
        ("b", 1, 1, "deit_base_distilled_patch16_384-d0272ac0", 87_630_032, 85.224, 97.186),
    )
)
_PS_VIT = (
    _row("ps_vit_b_14_in1k", "ImageNet/PS_VIT_B_14", f"{_DRIVE}1FAAOCbpgPKlSe3dWIzQLg8JK6okvZkC5", 21_344_302,
         (81.7, None, _CROP), _IN1K, "ps_vit", "TEST.USE_EMA False", license=_MIT, note=_BY_HAND),
    _row("ps_vit_b_18_in1k", "ImageNet/PS_VIT_B_18", f"{_DRIVE}1KG4TdrfbNNdbNImCPCdSeQ5Y-gkDMlnr", 21_344_302,
         (82.3, None, _CROP), _IN1K, "ps_vit", "TEST.USE_EMA False", license=_MIT, note=_BY_HAND),
)
_PTV_SSV2 = "MODEL.NUM_CLASSES 174 TEST.DATASET ssv2 TEST.NUM_ENSEMBLE_VIEWS 1"
_PTV_CHARADES = ("MODEL.NUM_CLASSES 157 TEST.DATASET charades DATA.MULTI_LABEL True DATA.ENSEMBLE_METHOD max "
                 "MODEL.LOSS_FUNC bce_logit MODEL.HEAD_ACT sigmoid")
_PTV_ROWS = (
    *(_row(f"{config.lower()}_k400", f"Kinetics/{config}", f"{_PTV}/kinetics/{file}.pyth", params,
           (top1, top5, "10 x 3"), _K400, "own")
      for config, file, params, top1, top5 in (
        ("C2D_R50_8x8", "C2D_8x8_R50", 24_327_632, 71.46, 89.68),
        ("I3D_R50_8x8", "I3D_8x8_R50", 28_043_472, 73.27, 90.70),
        ("SLOW_R50_4x16", "SLOW_4x16_R50", 32_454_096, 72.40, 90.18),
        ("SLOW_R50_8x8", "SLOW_8x8_R50", 32_454_096, 74.58, 91.63),
        ("SLOWFAST_R50_8x8", "SLOWFAST_8x8_R50", 34_566_488, 76.94, 92.69),
        ("CSN_R101_32x2", "CSN_32x2_R101", 22_213_776, 77.00, 92.90),
        ("R2PLUS1D_R50_16x4", "R2PLUS1D_16x4_R50", 28_107_600, 76.01, 92.23),
        ("X3D_XS", "X3D_XS", 3_794_274, 69.12, 88.63),
        ("X3D_S", "X3D_S", 3_794_274, 73.33, 91.27),
        ("X3D_M", "X3D_M", 3_794_274, 75.94, 92.72),
    )),
    _row("slow_r50_8x8_ssv2", "Kinetics/SLOW_R50_8x8", f"{_PTV}/ssv2/SLOW_8x8_R50.pyth", 31_991_022,
         (60.04, 85.19, "1 x 3"), _SSV2, "own", _PTV_SSV2, note=_UNSTATED),
    _row("slowfast_r50_8x8_ssv2", "Kinetics/SLOWFAST_R50_8x8", f"{_PTV}/ssv2/SLOWFAST_8x8_R50.pyth", 34_045_558,
         (61.68, 86.92, "1 x 3"), _SSV2, "own", _PTV_SSV2, note=_UNSTATED),
    _row("slow_r50_8x8_charades", "Kinetics/SLOW_R50_8x8", f"{_PTV}/charades/SLOW_8x8_R50.pyth", 31_956_189,
         (None, None, "10 x 3"), _CHARADES, "own", _PTV_CHARADES, note="34.72 mAP"),
    _row("slowfast_r50_8x8_charades", "Kinetics/SLOWFAST_R50_8x8", f"{_PTV}/charades/SLOWFAST_8x8_R50.pyth", 34_006_373,
         (None, None, "10 x 3"), _CHARADES, "own", _PTV_CHARADES, note="37.24 mAP"),
)
# fmt: on

_ROWS = (*_VIDEO_MVIT, *_PTV_ROWS, *_IMAGE_MVIT, *_DEIT_ROWS, *_PIT, *_PS_VIT, *_ENCODERS)

ZOO: dict[str, ZooModel] = {row.name: row for row in _ROWS}
"""Name -> row."""
