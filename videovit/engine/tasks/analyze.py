"""The analysis task: what a trained model does with the videos of its test list.

Every video is seen once: the central crop of one clip. Maps of attention are observed layer by layer while the model
runs, and only sums are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import simplejson

from videovit.analysis import drawing
from videovit.analysis.findings import Findings
from videovit.data.build import ClipLoader, build_loader
from videovit.data.records import Sample
from videovit.engine import distributed
from videovit.engine.checkpoints.weights import build_seeded_model, load_weights_to_test, test_dtype
from videovit.engine.evaluation.inference import Inference, prepared_chunks, readable, stoppable
from videovit.engine.problem import Problem
from videovit.engine.reporting.json_lines import make_folder, replacing
from videovit.engine.reporting.log import format_table, logger
from videovit.engine.run_context import Run, report_decoders
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.contract import VideoModel
from videovit.models.convert.checksums import state_crc

T = TypeVar("T")
FOLDER = "analysis"
REPORT = "analysis.json"
MAX_NAMED = 3  # layers named as candidates for sharing


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
        UserError: there are no weights, videos cannot be read, or no analysis applies to the model.
    """
    cfg = problem.cfg
    check_analyze(problem)
    model = build_seeded_model(cfg, run.device)
    samples = spread(problem.test.samples, cfg.ANALYSIS.NUM_VIDEOS)
    findings = Findings(cfg.ANALYSIS, model, titles(samples, problem.class_names, cfg.ANALYSIS.NUM_PICTURES))
    checkpoint, weights = load_weights_to_test(cfg, model), state_crc(model.state_dict())
    inference = problem.inference(model, run, batch_size=cfg.ANALYSIS.BATCH_SIZE, dtype=test_dtype(cfg))
    _see_all(findings, inference, _loader(problem, run, samples), run, log_period=cfg.LOG_PERIOD)
    others = distributed.gather(findings)
    findings.merge([part for rank, part in enumerate(others) if rank != run.rank])
    if not findings.num_clips:
        raise UserError("none of the videos can be read", where=f"the {cfg.TEST.DATASET} test list")
    found = findings.report()
    if run.rank == 0:
        described = {"model": cfg.MODEL.MODEL_NAME, "checkpoint": checkpoint, "weights_crc32": weights, **found}
        _write(findings, described, Path(cfg.OUTPUT_DIR))
    rows = found.get("attention", {}).get("layers", [])
    numbers = {"num_clips": float(findings.num_clips)}
    numbers |= {f"entropy_{row['layer']}": row["entropy"] for row in rows}
    numbers |= {f"distance_{row['layer']}": row["distance"]["space"] for row in rows}
    run.log.stats("analysis", {**numbers, "checkpoint": checkpoint})
    return numbers


def spread(samples: Sequence[T], number: int) -> list[T]:
    """At most `number` samples, evenly spaced, since lists are often sorted by class; 0 takes all."""
    return [samples[i] for i in evenly(len(samples), number or len(samples))]


def titles(samples: Sequence[Sample], names: Sequence[str], number: int) -> dict[int, str]:
    """Class and file of the videos that are drawn, by their number in the list."""
    chosen = {}
    for i in evenly(len(samples), number):
        file = Path(samples[i].path).name
        classes = ", ".join(names[label] for label in sorted(samples[i].class_ids))
        chosen[i] = f"{classes}: {file}" if classes else file
    return chosen


def evenly(total: int, number: int) -> list[int]:
    """At most `number` of 0 .. total - 1, evenly spaced."""
    return [round(i) for i in np.linspace(0, total - 1, min(number, total))]


def _loader(problem: Problem, run: Run, samples: Sequence[Sample]) -> ClipLoader:
    """One clip and crop of every sample."""
    cfg = problem.cfg
    one_view = replace(cfg, TEST=replace(cfg.TEST, NUM_ENSEMBLE_VIEWS=1, NUM_SPATIAL_CROPS=1))
    return build_loader(
        one_view, "test", rank=run.rank, world_size=run.world_size, spec=problem.test.spec, samples=samples
    )


def _see_all(findings: Findings, inference: Inference, loader: ClipLoader, run: Run, *, log_period: int) -> None:
    model = cast(VideoModel, inference.model)  # built as one
    progress = run.progress("analysis", len(loader), log_period=log_period)
    with inference.mode():
        for batch in readable(inference, stoppable(loader, len(loader)), progress):
            for chunk, x_BCTHW in prepared_chunks(inference, batch):
                findings.update(model, x_BCTHW, chunk.frames_BTHWC, chunk.videos_B.tolist())
    report_decoders(loader, run, "analysis")


def _write(findings: Findings, report: dict[str, Any], output_dir: Path) -> None:
    folder = output_dir / FOLDER
    make_folder(folder)
    with replacing(folder / REPORT) as partial:
        partial.write_text(simplejson.dumps(report, indent=1, ignore_nan=True) + "\n", encoding="utf-8")
    for name, figure in findings.figures(output_dir.name, report).items():
        with replacing(folder / f"{name}.png") as partial:
            figure.savefig(partial, dpi=80, format="png")
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
    make_folder(output)
    with replacing(path) as partial:
        drawing.draw_attention(shown).savefig(partial, dpi=80, format="png")
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
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        raise UserError(f"not a report of an analysis: {reason}", where=path) from error
    if not isinstance(report, dict):
        raise UserError("not a report of an analysis", where=path)
    return report
