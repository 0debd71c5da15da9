"""Object detectors: DETECTOR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from videovit.config.limits import AboveZero, Depth, DropRate, Fraction, Positive, Width

DetectorName = Literal["", "MaskRCNN", "FasterRCNN", "RetinaNet", "DeformableDETR"]


@dataclass(frozen=True)
class Detector:
    """DETECTOR (ours): find objects in images, from the maps of MODEL.MODEL_NAME. MODEL.NUM_CLASSES counts objects."""

    NAME: DetectorName = ""  # empty: a model that classifies
    STRIDES: tuple[Positive, ...] = (4, 8, 16, 32)  # pixels; of the maps, finest first; those of no stage are made;
    # empty, for DeformableDETR: the stages as they are
    NORM_MAPS: bool = True  # a LayerNorm per map; convolutional networks have norms of their own
    CHANNELS: Width = 256  # of all maps after the pyramid, and of a query of DeformableDETR
    MIN_SCORE: Fraction = 0.05  # detections below it are left out
    MAX_DETECTIONS: Positive = 100  # per image
    NMS_IOU: Fraction = 0.5  # boxes of one class that overlap more are one object; not of DeformableDETR
    ANCHOR_SIZES: tuple[AboveZero, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)  # pixels; one per map, and one or more
    ASPECT_RATIOS: tuple[AboveZero, ...] = (0.5, 1.0, 2.0)  # height over width of an anchor
    PROPOSALS: tuple[Positive, Positive] = (2000, 1000)  # per image, in training and evaluation; of the R-CNNs
    ANCHOR_SAMPLES: Positive = 256  # per image, in the loss of the proposals
    BOX_SAMPLES: Positive = 512  # proposals per image in the loss of the boxes
    BOX_DIM: Width = 1024  # of the vector of a box
    QUERIES: Positive = 300  # objects that DeformableDETR can find in an image
    LEVELS: Positive = 4  # maps that it reads; those beyond STRIDES are strided convolutions of the last
    ENCODER_LAYERS: Depth = 6
    DECODER_LAYERS: Depth = 6
    NUM_HEADS: Positive = 8
    POINTS: Positive = 4  # sampled per head and map
    FFN_DIM: Width = 1024
    DROPOUT_RATE: DropRate = 0.1
