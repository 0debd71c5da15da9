"""The data sets by name (TRAIN.DATASET, TEST.DATASET). A new one is a reader and one row here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from videovit.config.errors import UserError
from videovit.data.readers import kinetics
from videovit.data.records import Sample


@dataclass(frozen=True)
class DatasetSpec:
    """How to read a data set.

    Attributes:
        read: list file -> samples, with the arguments of `readers.kinetics.read`.
        list_file: name of the list of a split inside DATA.PATH_TO_DATA_DIR; `{split}` is train, val or test.
    """

    read: Callable[..., list[Sample]]
    list_file: str


DATASETS: dict[str, DatasetSpec] = {"kinetics": DatasetSpec(read=kinetics.read, list_file="{split}.csv")}


def find_dataset(name: str) -> DatasetSpec:
    """The row of a data set, by its name in any case.

    Raises:
        UserError: no such data set; names those there are and the nearest.
    """
    if name.lower() not in DATASETS:
        near = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        hint = f"; nearest: {near[0]!r}" if near else ""
        raise UserError(
            f"TRAIN.DATASET or TEST.DATASET: unknown data set {name!r}; expected one of {sorted(DATASETS)}{hint}"
        )
    return DATASETS[name.lower()]
