"""The list of videos that could not be read, and the limit on how many may be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import simplejson

from videovit.data.records import Failure
from videovit.engine import distributed
from videovit.engine.reporting.json_lines import append_record, read_records
from videovit.engine.reporting.log import logger
from videovit.errors import UserError


class TooManyBadSamplesError(UserError):
    """More of the data is unreadable than `DATA.MAX_BAD_FRACTION` allows."""


class BadSamples:
    """Collects unreadable videos of training in `OUTPUT_DIR/bad_samples.jsonl`: path, reason, backend, count.

    A line is appended the moment a file is first met (nothing is lost when the run is killed); `sync` merges the
    ranks' counts. A file of an earlier run in the same folder is read first, so that counts go on.

    Args:
        output_dir: folder of the run.
        num_samples: rows of the training list.
        max_fraction: stop when a larger part of them is unreadable, in [0, 1].
    """

    def __init__(self, output_dir: Path, *, num_samples: int, max_fraction: float) -> None:
        self.path = output_dir / "bad_samples.jsonl"
        self.num_samples, self.max_fraction = num_samples, max_fraction
        self._known: dict[str, dict[str, Any]] = {}  # from before the last sync, all ranks
        self._new: dict[str, dict[str, Any]] = {}  # since then, this rank
        self._met: set[str] = set()  # by this run, earlier ones left out: their files may have been mended
        for entry in read_records(self.path, word='"count"'):
            _add(self._known, entry)

    def __len__(self) -> int:
        return len(self._known.keys() | self._new.keys())

    def record(self, failures: Sequence[Failure]) -> None:
        """Note failures of this rank.

        Raises:
            TooManyBadSamplesError: the limit is passed.
        """
        for failure in failures:
            entry = {"path": failure.path, "reason": failure.reason, "backend": failure.backend, "count": 1}
            if failure.path not in self._known and failure.path not in self._new:
                logger.warning("warning: unreadable, replaced: %s: %s", failure.path, failure.reason)
                append_record(self.path, entry)
            _add(self._new, entry)
            self._met.add(failure.path)
        self._check()

    def _check(self) -> None:
        if len(self._met) > self.max_fraction * self.num_samples:
            raise TooManyBadSamplesError(
                f"{len(self._met)} of {self.num_samples} training videos are unreadable, more than "
                f"DATA.MAX_BAD_FRACTION {self.max_fraction:g} allows; they and the reasons are listed in {self.path}"
            )

    def sync(self) -> None:
        """Merge the counts of all ranks and rewrite the list; a collective call.

        Raises:
            TooManyBadSamplesError: the limit is passed by all ranks together, on all of them.
        """
        for part, met in distributed.gather((self._new, self._met)):
            self._met |= met
            for entry in part.values():
                _add(self._known, entry)
        self._new = {}
        if self._known and distributed.rank() == 0:
            partial = self.path.with_suffix(f".{os.getpid()}.tmp")
            partial.write_text("".join(simplejson.dumps(e) + "\n" for e in self._known.values()), encoding="utf-8")
            os.replace(partial, self.path)
        self._check()


def _add(entries: dict[str, dict[str, Any]], entry: dict[str, Any]) -> None:
    if entry["path"] in entries:
        entries[entry["path"]]["count"] += entry["count"]
    else:
        entries[entry["path"]] = dict(entry)
