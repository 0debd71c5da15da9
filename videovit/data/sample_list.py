"""The videos of a split as columns: a million of them take some 60 MB, which all workers share.

A `Sample` is made when it is indexed. A path is stored in two parts, since many videos share a folder:

    roots          folders            names
    /data/k400 /   abseiling/         0wR5jVB-WPk_000417_000427.mp4
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videovit.data.columns import (
    CHUNK,
    Array,
    Columns,
    DamagedColumnsError,
    Texts,
    check_ends,
    columns_in_memory,
    texts,
)
from videovit.data.records import Action, Box, KeyFrame, Sample

NOT_STATED = -1  # number of images of a folder


class SampleList(Sequence[Sample]):
    """The videos of a list; equal to any sequence of the same samples.

    Args:
        columns: as `sample_columns` makes them.
        roots: folders that paths are joined to; empty for none.
        roots_N: number of the root of each video; None: 0.

    Raises:
        DamagedColumnsError: the columns contradict each other.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, columns: Columns, roots: Sequence[str] = ("",), roots_N: NDArray[np.int8] | None = None) -> None:
        self._columns = columns
        self._roots = tuple(roots)
        self._roots_N = roots_N
        try:
            self.folders = Texts(columns["folders"], columns["folder_ends"])
            self.names = Texts(columns["names"], columns["name_ends"])
            self.folder_N, self.label_N = columns["folder"], columns["label"]
            _check_numbers(self.folder_N, len(self.folders), len(self.names))
            if len(self.label_N) != len(self.names):
                raise DamagedColumnsError("columns of different lengths")
            self._parts: list[_Part] = [part(columns, len(self.names)) for part in PARTS if part.column in columns]
        except KeyError as error:
            raise DamagedColumnsError(f"no column {error}") from None

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> SampleList:
        """Samples as columns, in memory.

        Args:
            samples: without `image`.
        """
        if isinstance(samples, SampleList):
            return samples
        return cls(columns_in_memory(sample_columns(list(samples))))

    def __len__(self) -> int:
        return len(self.label_N)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._between(index, index + 1)[0]

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self), CHUNK):
            yield from self._between(start, min(start + CHUNK, len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    def __reduce__(self) -> tuple[object, ...]:
        return SampleList, (self._columns, self._roots, self._roots_N)

    @property
    def has_one_label(self) -> bool:
        """Whether samples have a path and a label, and nothing else."""
        return not self._parts

    def column(self, name: str) -> Array | None:
        """A column, if the list has it; see `sample_columns`."""
        return self._columns.get(name)

    def paths(self) -> Iterator[str]:
        """The paths of all videos."""
        for start in range(0, len(self), CHUNK):
            yield from self.paths_between(start, min(start + CHUNK, len(self)))

    def paths_between(self, start: int, stop: int) -> list[str]:
        """The paths of the videos from `start` up to `stop`."""
        folders = {number: self.folders[number] for number in set(self.folder_N[start:stop].tolist())}
        parts = zip(self.folder_N[start:stop].tolist(), self.names.between(start, stop), strict=True)
        paths = [folders[number] + name for number, name in parts]
        if self._roots_N is not None:
            chosen = [self._roots[number] for number in self._roots_N[start:stop].tolist()]
            return [os.path.join(root, path) if root else path for root, path in zip(chosen, paths, strict=True)]
        root = self._roots[0]
        return [os.path.join(root, path) for path in paths] if root else paths

    def _between(self, start: int, stop: int) -> list[Sample]:
        fields: dict[str, list[Any]] = {part.field: part.between(start, stop) for part in self._parts}
        paths, labels = self.paths_between(start, stop), self.label_N[start:stop].tolist()
        if not fields:
            return list(map(Sample, paths, labels))
        others = [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]
        rows = zip(paths, labels, others, strict=True)
        return [Sample(path, label, **other) for path, label, other in rows]


class Paths(Sequence[str]):
    """The paths of samples.

    Args:
        samples: the samples.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        found = self._samples[index]
        return [sample.path for sample in found] if isinstance(index, slice) else found.path

    def __iter__(self) -> Iterator[str]:
        if isinstance(self._samples, SampleList):
            return self._samples.paths()
        return (sample.path for sample in self._samples)


def labels_of(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """(N,): the label of every sample."""
    if isinstance(samples, SampleList):
        return samples.label_N.astype(np.int64)
    return np.array([sample.label for sample in samples], dtype=np.int64)


class _Part:
    """Fields of samples that only some data sets have.

    Attributes:
        column: a column that lists with the field have.
        field: of `Sample`.
    """

    column: str
    field: str

    def __init__(self, columns: Columns, num_samples: int) -> None:
        raise NotImplementedError

    def between(self, start: int, stop: int) -> list[Any]:
        """The fields of the samples from `start` up to `stop`."""
        raise NotImplementedError

    @staticmethod
    def columns_of(samples: Sequence[Sample]) -> dict[str, Array]:
        """The columns; none if no sample has the field."""
        raise NotImplementedError


class _NumFrames(_Part):
    column, field = "num_frames", "num_frames"

    def __init__(self, columns: Columns, num_samples: int) -> None:
        self._numbers_N = columns["num_frames"]
        if len(self._numbers_N) != num_samples:
            raise DamagedColumnsError("columns of different lengths")

    def between(self, start: int, stop: int) -> list[int | None]:
        return [None if n == NOT_STATED else n for n in self._numbers_N[start:stop].tolist()]

    @staticmethod
    def columns_of(samples: Sequence[Sample]) -> dict[str, Array]:
        if all(sample.num_frames is None for sample in samples):
            return {}
        numbers = [NOT_STATED if sample.num_frames is None else sample.num_frames for sample in samples]
        return {"num_frames": np.array(numbers, dtype=np.int32)}


class _Actions(_Part):
    column, field = "action_ends", "actions"

    def __init__(self, columns: Columns, num_samples: int) -> None:
        self._ends_N, self._classes_A, self._times_A2 = (
            columns[name] for name in ("action_ends", "action_classes", "action_times")
        )
        check_ends(self._ends_N, len(self._classes_A))
        if len(self._ends_N) != num_samples or self._times_A2.shape != (len(self._classes_A), 2):
            raise DamagedColumnsError("columns of different lengths")

    def between(self, start: int, stop: int) -> list[tuple[Action, ...]]:
        first, ends = _part_of(self._ends_N, start, stop)
        classes = self._classes_A[first : first + ends[-1]].tolist()
        times = self._times_A2[first : first + ends[-1]].tolist()
        actions = [Action(k, *interval) for k, interval in zip(classes, times, strict=True)]
        return [tuple(actions[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    @staticmethod
    def columns_of(samples: Sequence[Sample]) -> dict[str, Array]:
        if all(sample.actions is None for sample in samples):
            return {}
        listed = [sample.actions for sample in samples if sample.actions is not None]
        if len(listed) < len(samples):
            raise ValueError("some samples of a list have actions, and others have not")
        actions = [action for row in listed for action in row]
        return {
            "action_ends": np.cumsum([len(row) for row in listed], dtype=np.int64),
            "action_classes": np.array([action.class_id for action in actions], dtype=np.int32),
            "action_times": np.array([(a.start_s, a.end_s) for a in actions], dtype=np.float64).reshape(-1, 2),
        }


class _KeyFrames(_Part):
    column, field = "key_video", "key"

    def __init__(self, columns: Columns, num_samples: int) -> None:
        self._videos = Texts(columns["videos"], columns["video_ends"])
        self._video_N, self._time_N, self._ends_N = (columns[name] for name in ("key_video", "key_time", "box_ends"))
        self._corners_R4, self._score_R, self._class_ends_R, self._class_ids = (
            columns[name] for name in ("box_corners", "box_score", "box_class_ends", "box_classes")
        )
        number = len(self._score_R)
        check_ends(self._ends_N, number)
        check_ends(self._class_ends_R, len(self._class_ids))
        _check_numbers(self._video_N, len(self._videos), num_samples)
        if len(self._time_N) != num_samples or len(self._ends_N) != num_samples:
            raise DamagedColumnsError("columns of different lengths")
        if self._corners_R4.shape != (number, 4) or len(self._class_ends_R) != number:
            raise DamagedColumnsError("columns of different lengths")

    def between(self, start: int, stop: int) -> list[KeyFrame]:
        first, ends = _part_of(self._ends_N, start, stop)
        boxes = self._boxes(first, first + ends[-1])
        rows = zip(self._video_N[start:stop].tolist(), self._time_N[start:stop].tolist(), strict=True)
        places = zip([0, *ends[:-1]], ends, strict=True)
        return [
            KeyFrame(self._videos[video], time_s, tuple(boxes[a:b]))
            for (video, time_s), (a, b) in zip(rows, places, strict=True)
        ]

    def _boxes(self, start: int, stop: int) -> list[Box]:
        if start == stop:
            return []
        first, ends = _part_of(self._class_ends_R, start, stop)
        classes = self._class_ids[first : first + ends[-1]].tolist()
        places = zip([0, *ends[:-1]], ends, strict=True)
        corners, scores = self._corners_R4[start:stop].tolist(), self._score_R[start:stop].tolist()
        return [
            Box(x1, y1, x2, y2, tuple(classes[a:b]), score)
            for (x1, y1, x2, y2), score, (a, b) in zip(corners, scores, places, strict=True)
        ]

    @staticmethod
    def columns_of(samples: Sequence[Sample]) -> dict[str, Array]:
        if all(sample.key is None for sample in samples):
            return {}
        keys = [sample.key for sample in samples if sample.key is not None]
        if len(keys) < len(samples):
            raise ValueError("some samples of a list have a key frame, and others have not")
        names: dict[str, int] = {}
        video_N = np.array([names.setdefault(key.video, len(names)) for key in keys], dtype=np.int32)
        boxes = [box for key in keys for box in key.boxes]
        return {
            **dict(zip(("videos", "video_ends"), texts(list(names)), strict=True)),
            "key_video": video_N,
            "key_time": np.array([key.time_s for key in keys], dtype=np.float64),
            "box_ends": np.cumsum([len(key.boxes) for key in keys], dtype=np.int64),
            "box_corners": np.array([(b.x1, b.y1, b.x2, b.y2) for b in boxes], dtype=np.float64).reshape(-1, 4),
            "box_score": np.array([box.score for box in boxes], dtype=np.float64),
            "box_class_ends": np.cumsum([len(box.class_ids) for box in boxes], dtype=np.int64),
            "box_classes": np.array([k for box in boxes for k in box.class_ids], dtype=np.int32),
        }


PARTS: tuple[type[_Part], ...] = (_NumFrames, _Actions, _KeyFrames)


def sample_columns(samples: Sequence[Sample]) -> dict[str, Array]:
    """Samples as arrays.

    Args:
        samples: without `image`; all of them with actions or a key frame, or none.

    Returns:
        folders, folder_ends, names, name_ends (see `Texts`), folder (N,), label (N,), and the columns of PARTS.

    Raises:
        ValueError: samples of different kinds.
    """
    if any(sample.image is not None for sample in samples):
        raise ValueError("images with objects are not stored in columns")
    split = [split_path(sample.path) for sample in samples]
    numbers: dict[str, int] = {}
    folder_N = np.array([numbers.setdefault(folder, len(numbers)) for folder, _ in split], dtype=np.int32)
    names = texts([name for _, name in split])
    label_N = np.array([sample.label for sample in samples], dtype=np.int64)
    found = path_columns(texts(list(numbers)), names, folder_N, label_N)
    for part in PARTS:
        found |= part.columns_of(samples)
    return found


def path_columns(
    folders: tuple[Array, Array], names: tuple[Array, Array], folder_N: Array, label_N: Array
) -> dict[str, Array]:
    """The columns of samples with a path and a label; the first two as `texts` makes them."""
    return {
        **dict(zip(("folders", "folder_ends"), folders, strict=True)),
        **dict(zip(("names", "name_ends"), names, strict=True)),
        "folder": folder_N,
        "label": label_N,
    }


def split_path(path: str) -> tuple[str, str]:
    """The folder of a path, with its last slash, and the name; together they are the path."""
    place = path.rfind("/") + 1
    return path[:place], path[place:]


def _part_of(ends_N: Array, start: int, stop: int) -> tuple[int, list[int]]:
    """Where the parts of `start` begin, and where those up to `stop` end from there."""
    first = int(ends_N[start - 1]) if start else 0
    return first, (ends_N[start:stop] - first).tolist()


def _check_numbers(numbers_N: Array, limit: int, length: int) -> None:
    if len(numbers_N) != length or (length and not 0 <= numbers_N.min() <= numbers_N.max() < limit):
        raise DamagedColumnsError("a number outside of its table")
