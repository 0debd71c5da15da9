"""Export in int8: the network is written, and compared with full precision in accuracy, time and size."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videovit.config import Config
from videovit.config.rules import changed
from videovit.data.build import build_dataset
from videovit.data.catalog import build_spec
from videovit.data.files.video_files import LIST_SUFFIXES, find_videos
from videovit.data.readers import kinetics
from videovit.data.records import Failure, Sample
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.evaluation.inference import describe_unreadable
from videovit.engine.exported.engines import OpenVino
from videovit.engine.exported.formats import BF16, Job, Runner, openvino_metadata
from videovit.engine.exported.int8 import computes_bf16, find_nncf, quantize, save_half
from videovit.engine.exported.network import ExportedNetwork
from videovit.engine.exported.openvino_file import save_openvino
from videovit.engine.reporting.log import format_table
from videovit.engine.tasks.export import TOLERANCES, check, difference, find_format, replacing_all
from videovit.engine.tasks.inputs import list_inputs
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.contract import VideoModel

NUM_CLIPS = 300  # NNCF's own default
FEWEST_HELD_OUT = 10  # a list of less than twice as many videos is used twice
TOLERANCE = 0.5
"""Largest difference of logits from full precision, root mean square over clips and classes, as a share of their
standard deviation. Single logits may be further off: what counts is accuracy, which is printed."""


class ClipsOfList:
    """The middle crop of the middle clip of some videos of a list, read as the test reads them.

    Args:
        cfg: of the model.
        samples: all videos of the list.
        chosen: indices of the videos.
    """

    def __init__(self, cfg: Config, samples: Sequence[Sample], chosen: Sequence[int]) -> None:
        views = {"TEST.NUM_ENSEMBLE_VIEWS": 1, "TEST.NUM_TEMPORAL_CLIPS": ()}
        cfg = changed(cfg, views)
        self._skip = cfg.TEST.SKIP_UNREADABLE
        self._dataset = build_dataset(cfg, "test", [samples[i] for i in chosen], build_spec(cfg, "test"))

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        """Frames uint8 (T, S, S, 3), and the class, or -1.

        Raises:
            UserError: a video cannot be read, and TEST.SKIP_UNREADABLE is False; or none can.
        """
        failures: list[Failure] = []
        for index, sample in enumerate(self._dataset.samples):
            item = self._dataset[(0, index)]
            failures += item.failures
            if item.clips:
                yield item.clips[len(item.clips) // 2].frames_THWC, sample.label
            elif not self._skip or len(failures) == len(self):
                raise UserError(describe_unreadable(failures))


class Calibration:
    """Clips as inputs of the network, one array (B, T, S, S, 3) after the other; can be read any number of times."""

    def __init__(self, clips: ClipsOfList, size: int) -> None:
        self._clips, self._size = clips, size

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (frames_BTSSC.numpy() for frames_BTSSC, _ in batches(self._clips, self._size))


def batches(clips: ClipsOfList, size: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Inputs of `size` clips each (B, T, S, S, 3), the last one filled up with copies; and the classes of the clips."""
    frames: list[Tensor] = []
    labels: list[int] = []
    for one, label in clips:
        frames.append(one)
        labels.append(label)
        if len(frames) == size:
            yield torch.stack(frames), labels
            frames, labels = [], []
    if frames:
        yield torch.stack([*frames, *frames[-1:] * (size - len(frames))]), labels


def read_list(cfg: Config, name: str) -> tuple[Sequence[Sample], bool]:
    """The videos of a list or folder, and whether every one has a class.

    Raises:
        UserError: it cannot be read, or the model is a detector.
    """
    if Path(name).is_dir():
        return [Sample(path) for path in list_inputs(cfg, [name])], False
    if Path(name).suffix.lower() not in LIST_SUFFIXES:
        raise UserError(
            where="--int8", found=name, expected=f"a folder, or a list ({', '.join(sorted(LIST_SUFFIXES))})"
        )
    data = cfg.DATA
    labeled = not data.MULTI_LABEL and any(video.label for video in find_videos([name], prefix=data.PATH_PREFIX))
    samples = kinetics.read(
        name,
        num_classes=cfg.MODEL.NUM_CLASSES,
        separator=data.PATH_LABEL_SEPARATOR,
        prefix=data.PATH_PREFIX,
        skip_rows=data.SKIP_ROWS,
        several=data.MULTI_LABEL,
        labeled=labeled,
    )
    return samples, labeled


def divide(num: int, most: int, seed: int) -> tuple[list[int], list[int]]:
    """Videos whose clips set the ranges, and videos to compare on, both spread evenly over a list.

    They are different ones, unless the list has less than twice `FEWEST_HELD_OUT` videos.

    Args:
        num: length of the list.
        most: at most so many of each.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    everything = list(range(num))
    if num < 2 * FEWEST_HELD_OUT:
        chosen = _spread(everything, most, rng)
        return chosen, chosen
    chosen = _spread(everything, min(most, num // 2), rng)
    return chosen, _spread(sorted({*everything} - {*chosen}), most, rng)


def _spread(indices: Sequence[int], most: int, rng: np.random.Generator) -> list[int]:
    """One of each of `most` parts of equal length. Drawn, since every n-th line of a list may be of the same class."""
    ends = np.linspace(0, len(indices), min(most, len(indices)) + 1).astype(int)
    return [indices[int(rng.integers(low, high))] for low, high in pairwise(ends)]


@dataclass(frozen=True)
class Measured:
    """A network, measured.

    Attributes:
        top1: share of clips whose class it finds, in percent; None without classes.
        agreement: share of clips with the same first class as in full precision, in percent.
        difference: of logits from full precision, root mean square, as a share of their standard deviation.
        largest_difference: the largest one.
        cpu_s: CPU time per clip, median.
        megabytes: of its files.
    """

    top1: float | None
    agreement: float
    difference: float
    largest_difference: float
    cpu_s: float
    megabytes: float


@dataclass(frozen=True)
class Int8:
    """What was written, and how it compares.

    Attributes:
        paths: of the files.
        calibration: number of clips that set the ranges.
        compared: number of clips of the comparison.
        held_out: whether these are others.
        networks: by name; the last one is what was written.
    """

    paths: list[Path]
    calibration: int
    compared: int
    held_out: bool
    networks: dict[str, Measured]

    @property
    def lines(self) -> list[str]:
        """The comparison as text."""
        header = ["", "top-1 %", "same answer %", "difference", "largest", "CPU s/clip", "MB"]
        rows = [
            [
                name,
                None if one.top1 is None else f"{one.top1:.1f}",
                f"{one.agreement:.1f}",
                f"{one.difference:.1e}",
                f"{one.largest_difference:.1e}",
                f"{one.cpu_s:.4g}",
                f"{one.megabytes:.1f}",
            ]
            for name, one in self.networks.items()
        ]
        labeled = next(iter(self.networks.values())).top1 is not None
        which = "others" if self.held_out else "the same, as the list is short: accuracy may be flattered"
        return [
            f"ranges from {plural(self.calibration, 'clip')}; compared on {self.compared} {which}",
            *([] if labeled else ["no classes in the list: loss of accuracy unknown, agreement with fp32 alone"]),
            *format_table(header, rows).splitlines(),
            f"difference of logits from fp32, root mean square, in their standard deviations; allowed: {TOLERANCE:g}",
        ]


def write_int8(
    cfg: Config,
    model: VideoModel,
    class_names: list[str],
    path: Path,
    list_name: str,
    *,
    batch: int = 0,
    half: bool = False,
    most: int = NUM_CLIPS,
) -> Int8:
    """Write a network of OpenVINO in int8, which takes frames as uint8 and returns logits.

    Args:
        cfg, model, class_names, path, batch: see `write_network`.
        list_name: list or folder of videos, which set the ranges of numbers, and on which the network is compared.
        half: what is not in int8 is in bf16.
        most: at most so many videos set the ranges, and at most so many are compared.

    Raises:
        UserError: see `write_network`; or a video or the list cannot be used, or the model is a detector, or the
            answers differ too much from full precision (`TOLERANCE`).
    """
    if model.takes_boxes:
        raise UserError("a detector of actions is exported in fp32 or bf16 alone", where="--int8", hint="Leave it out")
    find_nncf()  # if it is missing, better now than in a minute
    row = find_format("openvino", path, half=half)
    samples, labeled = read_list(cfg, list_name)
    chosen, others = divide(len(samples), most, cfg.RNG_SEED)
    calibration, compared = (ClipsOfList(cfg, samples, indices) for indices in (chosen, others))
    job = Job(cfg, model.eval(), build_preparation(cfg, train=False), class_names, batch)
    with TemporaryDirectory(prefix="videovit-int8-") as folder, replacing_all(row, path) as partial:
        files = {name: Path(folder) / f"{name}{row.suffix}" for name in ("fp32", "bf16", "int8")}
        row.write(job, files["fp32"])
        check(job, row.open(files["fp32"], job))  # what is different below is int8's work
        if computes_bf16():
            save_half(files["fp32"], files["bf16"])
        else:
            del files["bf16"]
        quantized = quantize(files["fp32"], Calibration(calibration, batch or 1), -(-len(calibration) // (batch or 1)))
        save_openvino(quantized, files["int8"], half=half)
        types = {"fp32": None, "bf16": BF16, "int8": BF16 if half else None}
        networks = {name: ExportedNetwork(file, OpenVino(file, types[name])) for name, file in files.items()}
        sizes = {name: sum(one.stat().st_size for one in row.files(file)) / 1e6 for name, file in files.items()}
        logits, measured = compare(networks, compared, batch or 1, sizes, labeled=labeled)
        done = Int8(row.files(path), len(calibration), len(logits), chosen != others, measured)
        _refuse_difference(measured["int8"])
        job = replace(job, half=BF16 if half else None)
        save_openvino(quantized, partial, _metadata(job, done), half=half)
        _check_again(row.open(partial, job), compared, batch or 1, logits)
    return done


def _refuse_difference(one: Measured) -> None:
    if not one.difference <= TOLERANCE:
        raise UserError(
            f"logits differ from full precision by {one.difference:.2f} of their standard deviation (root mean square),"
            f" at most {TOLERANCE:g} is allowed; {one.agreement:.0f} % of the first classes agree; nothing was written",
            where="--int8",
            hint="Give other or more clips (--clips), or --half bf16 without --int8",
        )


def _check_again(engine: Runner, clips: ClipsOfList, size: int, logits_NK: Tensor) -> None:
    frames, labels = next(batches(clips, size))
    (again,) = engine(frames)
    if not difference(again[: len(labels)], logits_NK[: len(labels)]) < TOLERANCES[None]:
        raise UserError("the file does not compute what was measured; nothing was written", where="--int8")


def _metadata(job: Job, done: Int8) -> dict[str, str]:
    measured = {
        "calibration_clips": done.calibration,
        "compared_clips": done.compared,
        "held_out": done.held_out,
        "networks": {name: asdict(one) for name, one in done.networks.items()},
    }
    return {
        **openvino_metadata(job, ["nncf"]),
        "precision": "int8, fp32" if job.half is None else "int8, bf16",
        "int8": json.dumps(measured),
    }


def compare(
    networks: Mapping[str, ExportedNetwork],
    clips: ClipsOfList,
    size: int,
    megabytes: Mapping[str, float],
    *,
    labeled: bool,
) -> tuple[Tensor, dict[str, Measured]]:
    """Classify clips by several networks, which take turns, so that other load on the machine hits all alike.

    Args:
        networks: by name; the first one is full precision.
        clips: of the comparison.
        size: clips per call.
        megabytes: of the files of the networks, by name.
        labeled: the clips have classes.

    Returns:
        Logits (N, K) of the last network, and the measurements by name.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in networks}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    labels: list[int] = []
    for frames, classes in batches(clips, size):
        if not labels:
            for network in networks.values():
                network(frames)  # compiles it
        labels += classes
        for name, network in networks.items():
            start = time.process_time()
            logits = network(frames)
            seconds[name].append((time.process_time() - start) / size)
            found[name].append(logits[: len(classes)])
    logits_NK = {name: torch.cat(parts) for name, parts in found.items()}
    expected_NK = next(iter(logits_NK.values()))
    truth_N = torch.tensor(labels) if labeled else None
    measured = {
        name: _measured(one, expected_NK, truth_N, statistics.median(seconds[name]), megabytes[name])
        for name, one in logits_NK.items()
    }
    return list(logits_NK.values())[-1], measured


def _measured(
    found_NK: Tensor, expected_NK: Tensor, truth_N: Tensor | None, cpu_s: float, megabytes: float
) -> Measured:
    first_N = found_NK.argmax(1)
    spread = expected_NK.std().clamp(min=1e-9)
    return Measured(
        None if truth_N is None else _percent(first_N == truth_N),
        _percent(first_N == expected_NK.argmax(1)),
        float((found_NK - expected_NK).square().mean().sqrt() / spread),
        difference(found_NK, expected_NK),
        cpu_s,
        megabytes,
    )


def _percent(right_N: Tensor) -> float:
    return 100 * float(right_N.float().mean())
