"""The digest of a list of videos, which shows whether a resumed run trains on the list that it began with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from videovit.config import Config
from videovit.data.columns import CHUNK
from videovit.data.records import Sample
from videovit.data.sample_list import SampleList


def list_digest(samples: Sequence[Sample], folders: Sequence[str]) -> dict[str, object]:
    """The number of videos, and a digest of their paths and labels in order.

    Args:
        samples: the videos.
        folders: that a path counts from, since data may move between runs; empty ones are ignored.

    Returns:
        {"rows": N, "digest": text}.
    """
    starts = tuple(sorted((os.path.join(folder, "") for folder in folders if folder), key=len, reverse=True))
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(samples, SampleList) and samples.has_one_label:
        # The same text as below, without a Sample per row.
        for first in range(0, len(samples), CHUNK):
            last = min(first + CHUNK, len(samples))
            paths, labels = samples.paths_between(first, last), samples.label_N[first:last].tolist()
            rows = zip((_without(path, starts) for path in paths), labels, strict=True)
            text = "".join(f"({path!r}, {label!r}, None, None, None)\n" for path, label in rows)
            digest.update(text.encode("utf-8", "surrogateescape"))
        return {"rows": len(samples), "digest": digest.hexdigest()}
    for sample in samples:
        row: tuple[object, ...] = (
            _without(sample.path, starts),
            sample.label,
            sample.num_frames,
            sample.actions,
            sample.key,
        )
        if sample.image is not None:  # added later: digests of other lists stay as they are
            row += (sample.image,)
        digest.update(f"{row!r}\n".encode("utf-8", "surrogateescape"))
    return {"rows": len(samples), "digest": digest.hexdigest()}


def _without(path: str, starts: Sequence[str]) -> str:
    """A path without the first of these folders that it is in."""
    for start in starts:
        if path.startswith(start):
            return path[len(start) :]
    return path


def data_folders(cfg: Config) -> list[str]:
    """The folders that listed paths are relative to."""
    return [cfg.DATA.PATH_PREFIX, cfg.DATA.PATH_TO_DATA_DIR, cfg.AVA.MOVIE_DIR, cfg.AVA.FRAME_DIR]
