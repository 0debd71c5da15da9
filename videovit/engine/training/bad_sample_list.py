"""The list of training videos that could not be read, and the limit on their number.

A decoder gives the verdict (`DecodeError`), and `data/dataset.py` draws the replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, cast

import simplejson

from videovit.data.records import Failure
from videovit.engine import distributed
from videovit.engine.reporting.json_lines import append_record, read_records, replacing
from videovit.engine.reporting.log import logger
from videovit.errors import UserError
from videovit.messages import plural, printable


class Entry(TypedDict):
    """A line of the list: a video, why and by which decoder it was refused, and how often it was drawn."""

    path: str
    reason: str
    backend: str
    count: int


class BadSamples:
    """Collects unreadable training videos in `OUTPUT_DIR/bad_samples.jsonl`: path, reason, backend, count.

    A line is appended as soon as a video fails for the first time, so nothing is lost if the run is killed; `sync`
    merges the counts of all ranks. Counts of an earlier run in the same folder are continued.

    Args:
        output_dir: folder of the run.
        num_samples: rows of the training list.
        max_fraction: share of unreadable videos above which the run stops, in [0, 1].
    """

    def __init__(self, output_dir: Path, *, num_samples: int, max_fraction: float) -> None:
        self.path = output_dir / "bad_samples.jsonl"
        self.num_samples, self.max_fraction = num_samples, max_fraction
        self._known: dict[str, Entry] = {}  # of all ranks, until the last sync
        self._new: dict[str, Entry] = {}  # of this rank, since then
        self._failed: set[str] = set()  # in this run alone: videos that failed earlier may have been repaired
        for entry in read_records(self.path, word='"count"'):
            if isinstance(entry.get("path"), str) and isinstance(entry.get("count"), int):  # otherwise damaged
                _add(self._known, cast(Entry, entry))

    def __len__(self) -> int:
        return len(self._known.keys() | self._new.keys())

    def record(self, failures: Sequence[Failure]) -> None:
        """Record failures of this rank.

        Raises:
            UserError: the limit is exceeded.
        """
        for failure in failures:
            entry: Entry = {"path": failure.path, "reason": failure.reason, "backend": failure.backend, "count": 1}
            if failure.path not in self._known and failure.path not in self._new:
                logger.warning("unreadable, replaced: %s: %s", printable(failure.path), failure.reason)
                append_record(self.path, entry)
            _add(self._new, entry)
            self._failed.add(failure.path)
        self._check()

    def _check(self) -> None:
        if len(self._failed) > self.max_fraction * self.num_samples:
            raise UserError(
                f"{len(self._failed)} of {plural(self.num_samples, 'training video')} are unreadable, more than "
                f"DATA.MAX_BAD_FRACTION {self.max_fraction:g} allows; {self.path} lists them with the reasons"
            )

    def sync(self) -> None:
        """Merge the counts of all ranks and rewrite the list; a collective call.

        Raises:
            UserError: the limit is exceeded by all ranks together; on all of them.
        """
        for part, failed in distributed.gather((self._new, self._failed)):
            self._failed |= failed
            for entry in part.values():
                _add(self._known, entry)
        self._new = {}
        if self._known and distributed.rank() == 0:
            with replacing(self.path) as partial:
                partial.write_text("".join(simplejson.dumps(e) + "\n" for e in self._known.values()), encoding="utf-8")
        self._check()


def _add(entries: dict[str, Entry], entry: Entry) -> None:
    if entry["path"] in entries:
        entries[entry["path"]]["count"] += entry["count"]
    else:
        entries[entry["path"]] = entry.copy()
