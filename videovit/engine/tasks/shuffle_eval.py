"""The shuffle evaluation: does the model use time? A multi-view test with the frames of every clip in other orders.

Models are trained as usual, and tested on clips whose frames are permuted. Each clip has a permutation of its own,
drawn from (seed, video, clip); all crops of a clip share it. Videos are decoded once for all orders.

Source: the frame-shuffling study of MViT (arXiv 2104.11227, section 4.2, Table 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
import torch
from torch import Tensor

from videovit.data.files.class_names import read_class_groups
from videovit.data.records import Batch
from videovit.data.transforms.frame_orders import COVERED, frame_order
from videovit.engine.checkpoints.weights import build_seeded_model, load_weights_to_test, test_dtype
from videovit.engine.evaluation.bootstrap import CONFIDENCE, FEW_VIDEOS, NUM_RESAMPLES, bootstrap_mean
from videovit.engine.evaluation.class_report import plain_names, short_name
from videovit.engine.evaluation.evaluator import ScoreSink
from videovit.engine.evaluation.inference import Pass, evaluate_split
from videovit.engine.evaluation.measures import class_accuracy
from videovit.engine.evaluation.view_ensemble import TopK
from videovit.engine.problem import Problem, build_ensembles
from videovit.engine.reporting.json_lines import replacing
from videovit.engine.reporting.log import format_table, logger
from videovit.engine.run_context import Run
from videovit.engine.tasks.test import check_test
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.convert.checksums import state_crc

BASELINE = "ordered"


def is_random(order: str) -> bool:
    """Whether an order depends on the seed ("shuffled", "window4")."""
    return order == "shuffled" or order.startswith("window")


def reorder_frames(order: str, *, seed: int, num_crops: int) -> Callable[[Tensor, Batch], Tensor]:
    """A change of the input for `Pass`: x (B, 3, T, H, W) with the frames of each clip in another order.

    Args:
        order: see `frame_order`.
        seed: seed of the permutations.
        num_crops: crops per clip; view = clip * num_crops + crop.
    """

    def change(x_BCTHW: Tensor, batch: Batch) -> Tensor:
        if order == BASELINE:
            return x_BCTHW
        views = zip(batch.videos_B.tolist(), batch.views_B.tolist(), strict=True)
        indices = [
            frame_order(x_BCTHW.shape[2], order, np.random.default_rng((seed, video, view // num_crops)))
            for video, view in views
        ]
        index_B1T11 = torch.from_numpy(np.stack(indices)).to(x_BCTHW.device)[:, None, :, None, None]
        moved_BCTHW = x_BCTHW.gather(2, index_B1T11.clamp(min=0).expand_as(x_BCTHW))
        return moved_BCTHW.masked_fill_(index_B1T11 == COVERED, 0.0)  # the mean color, after normalization

    return change


def check_shuffle_eval(problem: Problem) -> None:
    """Check what the study needs; see `check_test`.

    Raises:
        UserError: a file cannot be used, or videos have more than one class.
    """
    check_one_class(problem, "SHUFFLE_EVAL.ENABLE")
    check_test(problem)
    read_groups(problem)


def check_one_class(problem: Problem, key: str) -> None:
    """Check that top-1 accuracies can be compared.

    Raises:
        UserError: videos have more than one class.
    """
    if problem.test.spec.evaluation != "top-k":
        raise UserError(
            f"the study compares top-1 accuracies, but videos of {problem.cfg.TEST.DATASET!r} have more than one class",
            where=key,
            expected="a data set with one class per video",
        )


def read_groups(problem: Problem) -> dict[str, list[int]]:
    """The groups of classes in SHUFFLE_EVAL.CLASS_GROUPS_FILE."""
    cfg = problem.cfg
    return read_class_groups(cfg.SHUFFLE_EVAL.CLASS_GROUPS_FILE, problem.class_names, cfg.DATA.PATH_TO_DATA_DIR)


def shuffle_eval(problem: Problem, run: Run) -> dict[str, float]:
    """Test with every order of `SHUFFLE_EVAL.*`; writes shuffle_eval.json and shuffle_eval.png to `OUTPUT_DIR`.

    Returns:
        `<order>_top1_acc` of every order, in percent (mean over seeds).

    Raises:
        UserError: see `check_shuffle_eval`.
    """
    cfg = problem.cfg
    check_shuffle_eval(problem)
    # Drops are measured against the ordered clips, so these are always included.
    orders = [BASELINE, *(o for o in cfg.SHUFFLE_EVAL.ORDERS if o != BASELINE)]
    orders = list(dict.fromkeys([*orders, *(f"window{w}" for w in cfg.SHUFFLE_EVAL.WINDOWS)]))
    groups = read_groups(problem)
    variants = [
        (order, cfg.SHUFFLE_EVAL.SEED + k)
        for order in orders
        for k in range(cfg.SHUFFLE_EVAL.NUM_SEEDS if is_random(order) else 1)
    ]
    model = build_seeded_model(cfg, run.device)
    checkpoint, weights = load_weights_to_test(cfg, model), state_crc(model.state_dict())
    loader = problem.test.loader(run)
    new_ensemble = build_ensembles(TopK, cfg, "test")
    ensembles = [new_ensemble(loader.dataset) for _ in variants]
    passes = [
        Pass(
            [ScoreSink(ensemble, problem.activation)],
            reorder_frames(order, seed=seed, num_crops=cfg.TEST.NUM_SPATIAL_CROPS),
        )
        for (order, seed), ensemble in zip(variants, ensembles, strict=True)
    ]
    inference = problem.inference(
        model, run, batch_size=cfg.TEST.BATCH_SIZE, dtype=test_dtype(cfg), engine=cfg.TEST.ENGINE
    )
    skipped = evaluate_split(inference, loader, passes, run, name="shuffle eval", log_period=cfg.LOG_PERIOD)
    results: dict[str, list[TopK]] = {order: [] for order in orders}
    for (order, _), ensemble in zip(variants, ensembles, strict=True):
        ensemble.gather().result(skipped=skipped)  # raises if a view is missing
        results[order].append(ensemble)
    report = summarize(
        results,
        names=problem.class_names,
        groups=groups,
        num_resamples=cfg.SHUFFLE_EVAL.NUM_RESAMPLES,
        seed=cfg.SHUFFLE_EVAL.SEED,
    )
    report["num_videos"] = len(results[BASELINE][0].labels) - len(skipped)
    report |= {"checkpoint": checkpoint, "weights_crc32": weights}
    report["views"] = ensembles[0].views
    if run.rank == 0:
        _write(report, Path(cfg.OUTPUT_DIR), problem.class_names)
    accuracy = {f"{order}_top1_acc": float(report["orders"][order]["top1_acc"]) for order in orders}
    run.log.stats("shuffle_eval", {**accuracy, "checkpoint": checkpoint}, step=cfg.SOLVER.MAX_EPOCH)
    return accuracy


def summarize(
    results: dict[str, list[TopK]],
    *,
    names: Sequence[str],
    groups: dict[str, list[int]],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy per order, drop against the ordered clips, and the most frequent prediction per class.

    The interval of a drop is that of the paired bootstrap over videos (`bootstrap_mean`): a video's value is its hit
    with ordered frames, minus its mean hit over the seeds.

    Args:
        results: order -> one gathered ensemble per seed; "ordered" has one.
        names: K class names.
        groups: name -> class indices, for accuracies over a subset of the classes.
        num_resamples, seed: of the bootstrap.

    Returns:
        {"bootstrap": {confidence, num_resamples, seed}, "orders": {order: {top1_acc, top1_acc_per_seed, drop,
        drop_interval: [low, high], drop_standard_error (over seeds; None with one seed),
        groups: {name: acc}, class_acc: {name: acc}, class_drop: {name: points},
        read_as: {name: [most frequent prediction, percent]}}}}; percent and points.
    """
    (base,) = results[BASELINE]
    kept = base.seen_VN.any(dim=1).numpy()
    labels_V = base.labels.numpy()[kept]
    base_hits_V = base.predictions()[kept] == labels_V
    base_class_K = class_accuracy(base.predictions()[kept], labels_V, len(names))
    bootstrap = {"confidence": CONFIDENCE, "num_resamples": num_resamples, "seed": seed}
    report: dict[str, Any] = {"bootstrap": bootstrap, "orders": {}}
    for order, ensembles in results.items():
        predictions_SV = np.stack([e.predictions()[kept] for e in ensembles])
        hits_SV = predictions_SV == labels_V
        per_seed = 100.0 * hits_SV.mean(axis=1)
        class_K = np.mean([class_accuracy(p, labels_V, len(names)) for p in predictions_SV], axis=0)
        error = float(per_seed.std(ddof=1) / math.sqrt(len(per_seed))) if len(per_seed) > 1 else None
        drops_V = 100.0 * (base_hits_V - hits_SV.mean(axis=0))
        interval = bootstrap_mean(drops_V, num_resamples=num_resamples, seed=seed)
        report["orders"][order] = {
            "top1_acc": float(per_seed.mean()),
            "top1_acc_per_seed": per_seed.tolist(),
            "drop": float(100.0 * base_hits_V.mean() - per_seed.mean()),
            "drop_interval": [interval.low, interval.high],
            "drop_standard_error": error,
            "groups": {
                name: float(100.0 * hits_SV[:, np.isin(labels_V, members)].mean())
                for name, members in groups.items()
                if np.isin(labels_V, members).any()
            },
            "class_acc": _by_name(class_K, names),
            "class_drop": _by_name(base_class_K - class_K, names),
            "read_as": {
                name: _most_frequent(predictions_SV[:, labels_V == k], names)
                for k, name in enumerate(names)
                if (labels_V == k).any()
            },
        }
    return report


def _by_name(values_K: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    return {name: float(v) for name, v in zip(names, values_K, strict=True) if not np.isnan(v)}


def _most_frequent(predictions: np.ndarray, names: Sequence[str]) -> tuple[str, float]:
    counts = np.bincount(predictions.ravel(), minlength=len(names))
    return names[int(counts.argmax())], float(100.0 * counts.max() / counts.sum())


def format_report(report: dict[str, Any]) -> str:
    """Format a table with one row per order."""
    groups = list(report["orders"][BASELINE]["groups"])
    rows = []
    for order, entry in report["orders"].items():
        error = entry["drop_standard_error"]
        drop = "-" if order == BASELINE else f"{entry['drop']:.2f}" + (f" ± {error:.2f}" if error is not None else "")
        accuracies = [f"{entry['groups'][g]:.2f}" for g in groups]
        interval = "-" if order == BASELINE else "{:.2f} to {:.2f}".format(*entry["drop_interval"])
        rows.append([order, f"{entry['top1_acc']:.2f}", drop, interval, len(entry["top1_acc_per_seed"]), *accuracies])
    return format_table(["frames", "top-1", "drop", f"{CONFIDENCE:.0%} interval", "seeds", *groups], rows)


def _write(report: dict[str, Any], output_dir: Path, names: Sequence[str]) -> None:
    path = output_dir / "shuffle_eval.json"
    with replacing(path) as partial:
        partial.write_text(simplejson.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw(report, output_dir / "shuffle_eval.png")
    logger.info("\n%s", format_report(report))
    if report["num_videos"] < FEW_VIDEOS:
        logger.warning(
            "the frame-order test has %s: below %d, drops and their intervals are unreliable",
            *(plural(report["num_videos"], "video"), FEW_VIDEOS),
        )
    if len(names) <= 30:
        logger.info("\n%s", format_readings(report))
    logger.info("written: %s and %s", path, path.with_suffix(".png"))


def format_readings(report: dict[str, Any]) -> str:
    """Format a table of the most frequent prediction per class and order, with its share of the videos."""
    orders = list(report["orders"])
    classes = list(report["orders"][BASELINE]["read_as"])
    rows = [
        [name, *("{} {:.0f}%".format(*report["orders"][order]["read_as"][name]) for order in orders)]
        for name in classes
    ]
    return format_table(["class", *(f"read as ({order})" for order in orders)], rows)


@plain_names()
def draw(report: dict[str, Any], path: Path, *, num_classes: int = 20) -> None:
    """Plot accuracy per order and group, and the classes that lose most when frames are reordered.

    Args:
        report: see `summarize`.
        path: of the PNG file.
        num_classes: that are shown.
    """
    from matplotlib.figure import Figure

    orders = report["orders"]
    changed = [order for order in orders if order != BASELINE]
    figure = Figure(figsize=(6.0 + 4.5 * min(1, len(changed)), 4.8), layout="constrained")
    axes = figure.subplots(1, 2 if changed else 1, squeeze=False)[0]
    groups = ["all", *orders[BASELINE]["groups"]]
    width = 0.8 / len(groups)
    for i, group in enumerate(groups):
        heights = [e["top1_acc"] if group == "all" else e["groups"][group] for e in orders.values()]
        places = np.arange(len(orders)) + (i - (len(groups) - 1) / 2) * width
        axes[0].bar(places, heights, width, label=short_name(group))
        if group == "all":
            known = [(x, e) for x, e in zip(places, orders.values(), strict=True) if e.get("drop_interval")]
            errors = [_error_bar(entry) for _, entry in known]
            axes[0].errorbar(
                [x for x, _ in known],
                [e["top1_acc"] for _, e in known],
                yerr=np.reshape(errors, (-1, 2)).T,
                fmt="none",
                ecolor="black",
                capsize=4,
            )
    axes[0].set_xticks(range(len(orders)), list(orders))
    axes[0].set(
        ylabel="top-1 (%)", ylim=(0, 105), title=f"accuracy by frame order, {CONFIDENCE:.0%} interval of the drop"
    )
    if len(groups) > 1:
        axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)  # below the bars
    if changed:
        focus = "shuffled" if "shuffled" in changed else changed[0]
        drops = sorted(orders[focus]["class_drop"].items(), key=lambda item: item[1])[-num_classes:]
        axes[1].barh([short_name(name, 28) for name, _ in drops], [drop for _, drop in drops])
        axes[1].set(xlabel="points lost", title=f"classes that lose most ({focus})")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)


def _error_bar(entry: dict[str, Any]) -> tuple[float, float]:
    """How far the accuracy may be below and above its bar: the interval of the drop, upside down."""
    low, high = entry["drop_interval"]
    return max(0.0, high - entry["drop"]), max(0.0, entry["drop"] - low)
