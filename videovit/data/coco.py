"""Images with objects in COCO's form: from the config (section COCO) to samples, categories and ground truth."""

from __future__ import annotations

import logging
from pathlib import Path

from videovit.config import Config
from videovit.config.schema.detection import Coco
from videovit.data.readers import coco
from videovit.data.readers.coco import Annotations, read_annotations
from videovit.data.records import AnnotationError, Sample
from videovit.messages import plural

logger = logging.getLogger("videovit")


def read_coco(cfg: Config, split: str) -> list[Sample]:
    """Read the images of a split, and their objects; validation and test are the same.

    Raises:
        AnnotationError: the annotations cannot be used, or do not have MODEL.NUM_CLASSES categories, or not those of
            validation.
    """
    training = split == "train"
    annotations = read_split(cfg, training=training)
    of_validation = _path(cfg.DATA.PATH_TO_DATA_DIR, cfg.COCO, training=False)
    if training and of_validation.is_file() and annotations.categories != read_split(cfg, training=False).categories:
        what = f"the categories are not those of {of_validation}, so that classes would be confused"
        raise AnnotationError(what, where=annotations.path)
    samples = coco.read(
        annotations,
        Path(cfg.DATA.PATH_TO_DATA_DIR) / (cfg.COCO.TRAIN_IMAGES if training else cfg.COCO.VAL_IMAGES),
        # Evaluation takes masks from the annotations themselves.
        masks=training and cfg.COCO.MASKS,
        skip_empty=training and cfg.COCO.SKIP_EMPTY,
    )
    if training:
        single = sum(not row.get("iscrowd", 0) for row in annotations.annotations)
        left_out = single - sum(int((~s.image.crowd_R).sum()) for s in samples if s.image is not None)
        if left_out:
            what = "a box in the image, or a mask" if cfg.COCO.MASKS else "a box in the image"
            text = "%s: %s of %s without %s left out (datasets/coco/prepare.py --check lists them)"
            logger.warning(text, annotations.path, f"{left_out:,}", plural(single, "object"), what)
    return samples


def read_split(cfg: Config, *, training: bool) -> Annotations:
    """The annotations of training, or those of validation and test.

    Raises:
        AnnotationError: they cannot be used, or do not have MODEL.NUM_CLASSES categories.
    """
    annotations = read_annotations(_path(cfg.DATA.PATH_TO_DATA_DIR, cfg.COCO, training=training))
    found = len(annotations.categories)
    if found != cfg.MODEL.NUM_CLASSES:
        raise AnnotationError(
            f"the annotations have {found} categories, but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}",
            where=annotations.path,
            hint=f"Set MODEL.NUM_CLASSES {found}",
        )
    return annotations


def read_coco_names(cfg: Config) -> list[str]:
    """The name of every category, in the order of their ids.

    Raises:
        AnnotationError: see `read_split`.
    """
    return list(
        read_split(
            cfg, training=not _path(cfg.DATA.PATH_TO_DATA_DIR, cfg.COCO, training=False).is_file()
        ).categories.values()
    )


def _path(folder: str, coco: Coco, *, training: bool) -> Path:
    return Path(folder) / (coco.TRAIN_ANNOTATIONS if training else coco.VAL_ANNOTATIONS)
