"""The analysis task: what a trained model does with the videos of its test list.

Every video is seen once: the central crop of one clip. Maps of attention are observed layer by layer while the model
runs, and only sums are kept.

I iterations, B clips, N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejson
from torch import Tensor

from videovit.analysis import drawing
from videovit.analysis.attention import DISTANCES, AttentionStatistics, LayerStatistics
from videovit.analysis.sampling_points import PointStatistics, as_fractions
from videovit.analysis.similarity import MapSimilarity, sharing_candidates
from videovit.config import Config
from videovit.data.build import ClipLoader, build_loader
from videovit.data.records import Batch, Sample
from videovit.engine import distributed
from videovit.engine.checkpoints.weights import build_seeded_model, load_weights_to_test, test_dtype
from videovit.engine.evaluation.inference import Inference, prepared_chunks, readable, stoppable
from videovit.engine.problem import Problem
from videovit.engine.reporting.json_lines import writing
from videovit.engine.reporting.log import format_table, logger
from videovit.engine.run_context import Run, report_decoders
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.contract import AttentionModel, VideoModel
from videovit.models.layers.maps import observe_attention
from videovit.models.progressive_sampling import ProgressiveSamplingViT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "analysis"
REPORT = "analysis.json"
MAX_NAMED = 3  # layers named as candidates for sharing


@dataclass(frozen=True)
class Picture:
    """A clip whose sampling points are drawn.

    Attributes:
        video: number in the test list.
        title: class and file.
        frames_THW3: uint8, the crop that the model saw.
        points_IN3: from `as_fractions`.
    """

    video: int
    title: str
    frames_THW3: np.ndarray
    points_IN3: np.ndarray


class Findings:
    """What the analyses have found in the clips so far; None for analyses that were not requested.

    Args:
        cfg: ANALYSIS.
        model: what it has nothing to show for is left out.
        names: of classes.
        samples: of the test list that are seen.

    Raises:
        UserError: the model has nothing to show for any requested analysis.
    """

    def __init__(self, cfg: Config, model: VideoModel, names: Sequence[str], samples: Sequence[Sample]) -> None:
        self._options, self._names, self._samples = cfg.ANALYSIS, names, samples
        what = cfg.ANALYSIS.WHAT
        has_maps, has_points = isinstance(model, AttentionModel), isinstance(model, ProgressiveSamplingViT)
        self.attention = AttentionStatistics(cfg.ANALYSIS.DISTANCE) if "attention" in what and has_maps else None
        self.similarity = MapSimilarity() if "similarity" in what and has_maps else None
        self.points = PointStatistics() if "points" in what and has_points else None
        self.pictures: list[Picture] = []
        self.num_clips = 0
        if self.attention is None and self.similarity is None and self.points is None:
            possible = [*(["attention", "similarity"] if has_maps else []), *(["points"] if has_points else [])]
            raise UserError(
                f"{cfg.MODEL.MODEL_NAME} has nothing to show for {', '.join(what) or 'no analysis'}",
                where="ANALYSIS.WHAT",
                expected=f"one of {', '.join(possible)}" if possible else "a vision transformer",
            )

    def update(self, model: VideoModel, batch: Batch, x_BCTHW: Tensor) -> None:
        """Add clips.

        Args:
            model: in evaluation mode.
            batch: where the clips are from.
            x_BCTHW: the model's input for them.
        """
        if isinstance(model, AttentionModel) and (self.attention is not None or self.similarity is not None):
            self._observe(model, x_BCTHW)
        if isinstance(model, ProgressiveSamplingViT) and self.points is not None:
            H, W = x_BCTHW.shape[3:]
            points_IBN3 = as_fractions(model.sampling_points(x_BCTHW).float(), (H, W))
            self.points.update(points_IBN3)
            self._take_pictures(batch, points_IBN3)
        self.num_clips += len(batch)

    def _observe(self, model: AttentionModel, x_BCTHW: Tensor) -> None:
        tokens = model.attention_tokens(x_BCTHW)
        last = len(tokens) - 1

        def add(layer: int, query: int, map_BMNL: Tensor) -> None:
            here = tokens[layer]
            if self.attention is not None and (layer < last or self._options.LAST_BLOCK):
                self.attention.update(layer, query, map_BMNL, here)
            if self.similarity is not None:
                self.similarity.update(layer, query, map_BMNL, here.num_cls + here.queries_BN3.shape[1])

        observe_attention(model, x_BCTHW, add)
        if self.similarity is not None:
            self.similarity.end_batch()

    def _take_pictures(self, batch: Batch, points_IBN3: Tensor) -> None:
        num_pictures = min(self._options.NUM_PICTURES, len(self._samples))
        chosen = set(np.linspace(0, len(self._samples) - 1, num_pictures).round().astype(int).tolist())
        for clip, video in enumerate(batch.videos_B.tolist()):
            if video in chosen:
                sample = self._samples[video]
                classes = ", ".join(self._names[label] for label in sorted(sample.class_ids))
                title = f"{classes}: {Path(sample.path).name}" if classes else Path(sample.path).name
                frames, points = batch.frames_BTHWC[clip], points_IBN3[:, clip]
                self.pictures.append(Picture(video, title, frames.cpu().numpy(), points.cpu().numpy()))

    def gather(self) -> None:
        """Add what other ranks have found; a collective call."""
        mine = (self.attention, self.similarity, self.points, self.pictures, self.num_clips)
        attention, similarity, points, pictures, counts = zip(*distributed.gather(mine), strict=True)
        if self.attention is not None:
            self.attention = AttentionStatistics(self._options.DISTANCE).merge(attention)
        if self.similarity is not None:
            self.similarity = MapSimilarity().merge(similarity)
        if self.points is not None:
            self.points = PointStatistics().merge(points)
        self.pictures = sorted((one for part in pictures for one in part), key=lambda one: one.video)
        self.num_clips = sum(counts)

    def report(self) -> dict[str, Any]:
        """All numbers, as they are written to `analysis.json`; layers count from 1."""
        report: dict[str, Any] = {"num_clips": self.num_clips}
        if self.attention is not None:
            layers = [describe_layer(number, layer) for number, layer in enumerate(self.attention.layers(), 1)]
            report["attention"] = {"norm": self.attention.norm, "layers": layers}
        if self.similarity is not None:
            pairs = self.similarity.pairs()
            report["similarity"] = {
                "num_layers": self.similarity.num_layers,
                "pairs": [
                    {"layers": [one + 1, two + 1], "cosine": like.cosine, "correlation": like.correlation}
                    for (one, two), like in sorted(pairs.items())
                ],
                "sharing_candidates": [
                    {"layer": layer + 1, "map_of": layer, "cosine": like.cosine, "correlation": like.correlation}
                    for layer, like in sharing_candidates(pairs)
                ],
            }
        if self.points is not None:
            report["points"] = {"moved": self.points.moved().tolist(), "density": self.points.density().tolist()}
        return report

    def figures(self, name: str, report: dict[str, Any]) -> dict[str, Figure]:
        """The pictures of a report, by file name without `.png`."""
        figures: dict[str, Figure] = {}
        if report.get("attention", {}).get("layers"):
            figures["attention"] = drawing.draw_attention({name: report})
        if self.similarity is not None:
            figures["similarity"] = drawing.draw_similarity(report)
        if self.points is not None:
            figures["points_density"] = drawing.draw_density(report)
            for one in self.pictures:
                figures[f"points_{one.video:05d}"] = drawing.draw_points(one.frames_THW3, one.points_IN3, one.title)
        return figures


def describe_layer(number: int, layer: LayerStatistics) -> dict[str, Any]:
    """One layer as JSON values. Distances in time are left out if there is one point in time."""
    kinds = [k for k, kind in enumerate(DISTANCES) if kind == "space" or layer.uniform_K[1] > 0]
    return {
        "layer": number,
        "heads": len(layer.entropy_M),
        "queries": layer.num_queries,
        "keys": layer.num_keys,
        "entropy": layer.entropy_M.mean().item(),
        "uniform_entropy": layer.uniform_entropy,
        "entropy_per_head": layer.entropy_M.tolist(),
        "distance": {DISTANCES[k]: layer.distance_KM[k].mean().item() for k in kinds},
        "uniform_distance": {DISTANCES[k]: layer.uniform_K[k].item() for k in kinds},
        "distance_per_head": {DISTANCES[k]: layer.distance_KM[k].tolist() for k in kinds},
        "cls_share": layer.cls_share_M.mean().item(),
    }


def check_analyze(problem: Problem) -> None:
    """Read the files that the task will need, to fail early.

    Raises:
        UserError: the list or the class names cannot be used.
    """
    _ = problem.test.samples, problem.class_names


def analyze(problem: Problem, run: Run) -> dict[str, float]:
    """Run the analyses of `ANALYSIS.*`; writes numbers and pictures to `OUTPUT_DIR/analysis`.

    Returns:
        num_clips, and per layer `entropy_<layer>` and `distance_<layer>` (in space).

    Raises:
        UserError: there are no weights, videos cannot be read, or the model has nothing to show.
    """
    cfg = problem.cfg
    check_analyze(problem)
    model = build_seeded_model(cfg, run.device)
    samples = spread(problem.test.samples, cfg.ANALYSIS.NUM_VIDEOS)
    findings = Findings(cfg, model, problem.class_names, samples)
    checkpoint = load_weights_to_test(cfg, model)
    inference = problem.inference(model, run, batch_size=cfg.ANALYSIS.BATCH_SIZE, dtype=test_dtype(cfg))
    _see_all(findings, inference, _loader(problem, run, samples), run, log_period=cfg.LOG_PERIOD)
    findings.gather()
    if not findings.num_clips:
        raise UserError("none of the videos can be read", where=f"the {cfg.TEST.DATASET} test list")
    found = findings.report()
    if run.rank == 0:
        described = {"model": cfg.MODEL.MODEL_NAME, "checkpoint": checkpoint, **found}
        _write(findings, described, Path(cfg.OUTPUT_DIR))
    rows = found.get("attention", {}).get("layers", [])
    numbers = {"num_clips": float(findings.num_clips)}
    numbers |= {f"entropy_{row['layer']}": row["entropy"] for row in rows}
    numbers |= {f"distance_{row['layer']}": row["distance"]["space"] for row in rows}
    run.log.stats("analysis", {**numbers, "checkpoint": checkpoint})
    return numbers


def spread(samples: Sequence[Sample], number: int) -> list[Sample]:
    """At most `number` samples, evenly spaced, since lists are often sorted by class; 0 takes all."""
    if not number or number >= len(samples):
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, number).round().astype(int)]


def _loader(problem: Problem, run: Run, samples: list[Sample]) -> ClipLoader:
    """One clip and crop of every sample."""
    cfg = problem.cfg
    one_view = replace(cfg, TEST=replace(cfg.TEST, NUM_ENSEMBLE_VIEWS=1, NUM_SPATIAL_CROPS=1))
    return build_loader(
        one_view, "test", rank=run.rank, world_size=run.world_size, spec=problem.test.spec, samples=samples
    )


def _see_all(findings: Findings, inference: Inference, loader: ClipLoader, run: Run, *, log_period: int) -> None:
    progress = run.progress("analysis", len(loader), log_period=log_period)
    with inference.mode():
        for batch in readable(inference, stoppable(loader, len(loader)), progress):
            for chunk, x_BCTHW in prepared_chunks(inference, batch):
                findings.update(inference.model, chunk, x_BCTHW)
    report_decoders(loader)


def _write(findings: Findings, report: dict[str, Any], output_dir: Path) -> None:
    folder = output_dir / FOLDER
    path = folder / REPORT
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(simplejson.dumps(report, indent=1, ignore_nan=True) + "\n", encoding="utf-8")
    for name, figure in findings.figures(output_dir.name, report).items():
        with writing(folder / f"{name}.png"):
            figure.savefig(folder / f"{name}.png", dpi=80)
    logger.info("\n%s", format_report(report))
    logger.info("%s analyzed; numbers and pictures: %s", plural(report["num_clips"], "clip"), folder)


def format_report(report: dict[str, Any]) -> str:
    """The numbers per layer as a table, and in words the layers that could share maps, and how far points move."""
    parts = []
    if rows := report.get("attention", {}).get("layers"):
        kinds = list(rows[0]["distance"])
        table = [
            [
                row["layer"],
                row["heads"],
                f"{row['queries']} x {row['keys']}",
                f"{row['entropy']:.3f} of {row['uniform_entropy']:.3f}",
                *(f"{row['distance'][kind]:.3f} ({row['uniform_distance'][kind]:.3f})" for kind in kinds),
                f"{100 * row['cls_share']:.1f}",
            ]
            for row in rows
        ]
        header = ["layer", "heads", "queries x keys", "entropy (nats)", *(f"{k} (uniform)" for k in kinds)]
        parts.append(format_table([*header, "% to class tokens"], table))
    if "similarity" in report:
        named = [
            f"layer {one['layer']} with that of layer {one['map_of']} (cosine {one['cosine']:.3f}, correlation "
            f"{one['correlation']:.3f})"
            for one in report["similarity"]["sharing_candidates"][:MAX_NAMED]
        ]
        parts.append(
            f"maps that could be shared at the least cost: {'; '.join(named)}"
            if named
            else "no two adjacent layers have maps of equal size that they do not share already"
        )
    if "points" in report:
        steps = ", ".join(f"{100 * step:.1f} %" for step in report["points"]["moved"])
        parts.append(f"sampling points move by {steps or 'nothing'} of the side of the frame, iteration by iteration")
    return "\n".join(parts)


def compare(folders: Sequence[Path], output: Path) -> Path | None:
    """Draw the attention curves of several analyzed models into `attention_compared.png`.

    Args:
        folders: OUTPUT_DIR of each; models without attention maps are left out.
        output: folder of the picture; created if absent.

    Returns:
        The picture; None if fewer than two models have curves.

    Raises:
        UserError: a report cannot be read, or the picture cannot be written.
    """
    names = [folder.name for folder in folders]
    unique = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    reports = {name: read_report(folder) for name, folder in zip(unique, folders, strict=True)}
    shown = {name: report for name, report in reports.items() if report.get("attention", {}).get("layers")}
    if len(shown) < 2:
        return None
    path = output / "attention_compared.png"
    with writing(path):
        output.mkdir(parents=True, exist_ok=True)
        drawing.draw_attention(shown).savefig(path, dpi=80)
    return path


def read_report(output_dir: Path) -> dict[str, Any]:
    """What `analyze` wrote to an OUTPUT_DIR.

    Raises:
        UserError: there is no report, or it is not one.
    """
    path = output_dir / FOLDER / REPORT
    try:
        report = simplejson.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"not a report of an analysis: {error}", where=path) from error
    if not isinstance(report, dict):
        raise UserError("not a report of an analysis", where=path)
    return report
