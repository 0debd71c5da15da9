"""Detectors of a few blocks, for images of about 100 pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from videovit.config import Config, load_config
from videovit.models import Detector, build_detector

COMMON = (
    "TRAIN.ENABLE False TEST.ENABLE False MODEL.NUM_CLASSES 7 MODEL.DROPOUT_RATE 0.0 DATA.NUM_FRAMES 1 "
    "DATA.TRAIN_CROP_SIZE 32 DATA.INPUT_CHANNEL_NUM [3] "
    "DETECTOR.CHANNELS 32 DETECTOR.BOX_DIM 64 DETECTOR.PROPOSALS [100,50] DETECTOR.BOX_SAMPLES 32 "
)
BODIES = {
    "MViT": "MODEL.MODEL_NAME MViT MVIT.PATCH_2D True MVIT.PATCH_KERNEL [7,7] MVIT.PATCH_STRIDE [4,4] "
    "MVIT.PATCH_PADDING [3,3] MVIT.CLS_EMBED_ON False MVIT.DEPTH 4 MVIT.EMBED_DIM 16 MVIT.POOL_KVQ_KERNEL [1,3,3] "
    "MVIT.DIM_MUL [[1,2.0]] MVIT.HEAD_MUL [[1,2.0]] MVIT.POOL_Q_STRIDE [[1,1,2,2],[3,1,2,2]] "
    "MVIT.POOL_KV_STRIDE_ADAPTIVE [1,2,2] MVIT.USE_ABS_POS False MVIT.REL_POS_SPATIAL True "
    "MVIT.RESIDUAL_POOLING True MVIT.DIM_MUL_IN_ATT True MVIT.WINDOW 4 MVIT.GLOBAL_BLOCKS [3] ",
    "PiT": "MODEL.MODEL_NAME PiT PIT.EMBED_DIMS [8,16] PIT.NUM_HEADS [1,2] PIT.DEPTHS [1,2] PIT.PATCH_KERNEL [1,8,8] "
    "PIT.PATCH_STRIDE [1,4,4] ",
    "PSViT": "MODEL.MODEL_NAME PSViT PSVIT.PLAN BS|BB PSVIT.DIMS [16,32] PSVIT.HEADS [2,4] PSVIT.PATCH_SIZE 8 "
    "PSVIT.CLS none PSVIT.POOLING 2d ",
    "ImageResNet": "MODEL.MODEL_NAME ImageResNet IMAGE_RESNET.DEPTH 18 IMAGE_RESNET.FROZEN_NORMS True "
    "DETECTOR.NORM_MAPS False ",
    "ViT": "MODEL.MODEL_NAME ViT VIT.EMBED_DIM 24 VIT.DEPTH 3 VIT.NUM_HEADS 2 VIT.PATCH_SIZE [1,8,8] ",
}
"""Options of the models whose maps are read."""
HEADS = {
    "MaskRCNN": "DETECTOR.NAME MaskRCNN DETECTOR.STRIDES [4,8,16] DETECTOR.ANCHOR_SIZES [16,32,64,128] ",
    "FasterRCNN": "DETECTOR.NAME FasterRCNN DETECTOR.STRIDES [4,8,16] DETECTOR.ANCHOR_SIZES [16,32,64,128] ",
    "RetinaNet": "DETECTOR.NAME RetinaNet DETECTOR.STRIDES [4,8,16] DETECTOR.ANCHOR_SIZES [16,32,64,128,256] ",
    "DeformableDETR": "DETECTOR.NAME DeformableDETR DETECTOR.STRIDES [4,8,16] DETECTOR.QUERIES 20 "
    "DETECTOR.ENCODER_LAYERS 2 DETECTOR.DECODER_LAYERS 2 DETECTOR.FFN_DIM 64 DETECTOR.DROPOUT_RATE 0.0 "
    "DETECTOR.NUM_HEADS 4 ",
}
"""Options of the detectors."""


def tiny_config(head: str = "MaskRCNN", body: str = "MViT", options: str = "") -> Config:
    """The config of a tiny detector."""
    return load_config(opts=(COMMON + BODIES[body] + HEADS[head] + options).split())


def tiny_detector(head: str = "MaskRCNN", body: str = "MViT", options: str = "") -> Detector:
    """A tiny detector, the same on every call."""
    torch.manual_seed(0)
    return build_detector(tiny_config(head, body, options))


def images_and_targets() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes; two objects in the first one, none in the second."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 90, 70, generator=generator), torch.rand(3, 64, 101, generator=generator)]
    boxes = torch.tensor([[5.0, 5.0, 40.0, 45.0], [30.0, 20.0, 66.0, 80.0]])
    masks = torch.zeros(2, 90, 70, dtype=torch.uint8)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = 1
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return images, [
        {"boxes": boxes, "labels": torch.tensor([3, 7]), "masks": masks},
        {**none, "masks": torch.zeros(0, 64, 101, dtype=torch.uint8)},
    ]
