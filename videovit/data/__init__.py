"""From annotation files and videos to batches of clips."""

from videovit.data.build import build_loader
from videovit.data.decode import DecodeError, open_video
from videovit.data.records import AnnotationError, Batch, Clip, Failure, Item, Sample, collate

__all__ = [
    "AnnotationError",
    "Batch",
    "Clip",
    "DecodeError",
    "Failure",
    "Item",
    "Sample",
    "build_loader",
    "collate",
    "open_video",
]
