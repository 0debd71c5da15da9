"""The sections of the page, each from the files that it is about; one that has nothing to show is left out."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from videovit.analysis.mistakes import Group
from videovit.config import Config, dump_config
from videovit.config.tree import TreeError, flatten, parse_tree
from videovit.engine.evaluation.error_report import calibration_table, pairs_table
from videovit.engine.evaluation.objects import ObjectEvaluator
from videovit.engine.evaluation.view_ensemble import MultiLabel, TopK
from videovit.engine.reporting.history import number
from videovit.messages import plural, printable
from videovit.report.blocks import (
    MOST_ROWS,
    Block,
    Cell,
    Charts,
    Code,
    Column,
    Matrix,
    Note,
    Picture,
    Section,
    Table,
    Tile,
    Tiles,
    clean,
    describe_column,
    table_of,
)
from videovit.report.charts import Chart, group_chart, interval_chart, line_chart, reliability_chart
from videovit.report.run_files import RunFiles, confusion_of, is_inside

MOST_PICTURE_BYTES = 3_000_000  # of all sampling points, or of all pictures of detections
MOST_CODE = 200_000  # letters of a file
KNOWN_ENVIRONMENT = ("videovit", "python", "torch", "cuda", "platform", "device", "threads", "processes")


def build_sections(run: RunFiles, between: Sequence[Section] = ()) -> list[Section]:
    """All sections that have something to show.

    Args:
        run: the files of a run; what cannot be used is added to its `unread`.
        between: sections about single videos, shown after the classes.
    """
    found = [build(run, *words) for *words, build in _BEFORE]
    found += between
    found += [build(run, *words) for *words, build in _AFTER]
    return [section for section in found if section.blocks]


def guarded(build: Callable[[RunFiles], list[Block]]) -> Callable[[RunFiles, str, str], Section]:
    """A section that is left out, and listed, if a file does not hold what it should."""

    def section(run: RunFiles, anchor: str, title: str) -> Section:
        try:
            return Section(anchor, title, build(run))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            run.unread.append(printable(f"{title}: {type(error).__name__}: {error}"))
            return Section(anchor, title, [])

    return section


def _summary(run: RunFiles) -> list[Block]:
    titles = {**TopK.columns, **MultiLabel.columns, **ObjectEvaluator.columns}
    full = {"top1_acc": "top-1 accuracy", "top5_acc": "top-5 accuracy", "mean_class_acc": "mean class accuracy"}
    tiles = [
        Tile(full.get(key, titles[key]), f"{round(value, 4):.1f}", "%")
        for key in titles
        if (value := number(run.test, key)) is not None
    ]
    videos = number(run.test, "num_videos")
    if videos is not None:
        skipped = int(number(run.test, "num_skipped") or 0)
        note = f"{skipped:,} unreadable" if skipped else str(clean(run.test.get("views") or ""))
        tiles.append(Tile(f"{run.noun}s tested", f"{int(videos):,}", "", note))
    calibration = run.errors.get("calibration", {})
    if (error := number(calibration, "ece")) is not None:
        tiles.append(Tile("calibration error", f"{error:.1f}", "%"))
    measured = run.history.measured()
    if measured and run.history.measure is not None:
        best = max(measured, key=lambda epoch: (measured[epoch], -epoch))
        tiles.append(
            Tile(f"best validation {run.history.measure.title}", f"{measured[best]:.1f}", "%", f"epoch {best}")
        )
    blocks: list[Block] = [Tiles(tiles)] if tiles else []
    if not run.test:
        blocks.append(Note("The run has not been tested yet."))
    if checkpoint := run.test.get("checkpoint"):
        blocks.append(Note(f"Weights: {clean(checkpoint)}"))
    return blocks


def _curves(run: RunFiles) -> list[Block]:
    epochs = run.history.epochs
    losses = {
        "training": [(float(e), number(records.train, "loss")) for e, records in epochs.items()],
        "validation": [(float(e), number(records.val, "loss")) for e, records in epochs.items()],
    }
    charts = [line_chart("Loss", losses, x_label="epoch")]
    if (measure := run.history.measure) is not None:
        points = [(float(epoch), value) for epoch, value in run.history.measured().items()]
        charts.append(line_chart(f"Validation {measure.title} (%)", {"": points}, x_label="epoch"))
    rates = [(float(e), number(records.train, "lr")) for e, records in epochs.items()]
    charts.append(line_chart("Learning rate", {"": rates}, x_label="epoch"))
    return _charts(charts)


def _charts(charts: Sequence[Chart | None]) -> list[Block]:
    drawn = [chart for chart in charts if chart is not None]
    return [Charts(drawn)] if drawn else []


def _classes(run: RunFiles) -> list[Block]:
    header, rows = run.per_class
    if not rows:
        return []
    # The accuracy of a class is its recall.
    kept = [k for k, name in enumerate(header) if not (name == "recall" and "accuracy" in header)]
    header, rows = [header[k] for k in kept], [[row[k] for k in kept] for row in rows]
    cells: list[list[Cell]] = [[_number_or_text(cell) for cell in row] for row in rows]
    columns = [describe_column(str(clean(name)), [row[k] for row in cells]) for k, name in enumerate(header)]
    shares = ("accuracy", "percent of videos", "precision", "recall", "F1", "average precision")
    columns = [Column(f"{c.name} (%)", "percent", 1) if c.name in shares else c for c in columns]
    columns = [replace(c, name=c.name.replace("percent of videos", "of its videos")) for c in columns]
    return [Table("classes", "", columns, cells)]


def _number_or_text(text: str) -> Cell:
    try:
        return int(text) if text.isdecimal() else clean(float(text))
    except ValueError:
        return clean(text)


def _confusion(run: RunFiles) -> list[Block]:
    counts = confusion_of(run)
    if not counts:
        return []
    inside = [[i, j, n] for (i, j), n in sorted(counts.items()) if i < len(run.names) and j < len(run.names)]
    return [Matrix([str(clean(name)) for name in run.names], inside)]


def _pairs(run: RunFiles) -> list[Block]:
    content = run.errors.get("pairs")
    if content is None and run.predictions:
        true, predicted = [row.true for row in run.predictions], [row.predicted for row in run.predictions]
        content = pairs_table(true, predicted, run.names)
    elif content is None:
        counts = confusion_of(run)
        videos = [(i, j) for (i, j), number in counts.items() for _ in range(number)]
        content = pairs_table([[i] for i, _ in videos], [j for _, j in videos], run.names) if videos else None
    if content is None:
        return []
    if not content["rows"]:
        return [Note("No video was taken for another class.")]
    return [table_of("pairs", {**content, "title": ""})]


def _calibration(run: RunFiles) -> list[Block]:
    content = run.errors.get("calibration")
    if content is None:
        if not run.predictions:
            return []
        arrays = (np.array([getattr(row, name) for row in run.predictions]) for name in ("score", "right"))
        content = calibration_table(*arrays)
        if "ece" in content:
            content["notes"].append("no temperature: it takes the scores of all classes, which a new test has")
    if "ece" not in content:
        return [Note(str(clean(note))) for note in content["notes"]]
    tiles = [
        Tile("calibration error (ECE)", f"{content['ece']:.2f}", "%", f"{content['num_bins']} bins"),
        Tile("mean confidence", f"{content['mean_confidence']:.1f}", "%"),
        Tile("accuracy", f"{content['accuracy']:.1f}", "%"),
    ]
    if (fitted := content.get("temperature")) is not None:
        word = (
            "too confident" if fitted["value"] > 1.02 else "not confident enough" if fitted["value"] < 0.98 else "fits"
        )
        tiles.append(Tile("temperature", f"{fitted['value']:.2f}", "", word))
        before = f"before {fitted['nll_before']:.3f}"
        tiles.append(Tile("NLL with it", f"{fitted['nll_after']:.3f}", "nats", before))
        if "ece_after" in fitted:
            tiles.append(Tile("error with it", f"{fitted['ece_after']:.2f}", "%", f"before {fitted['ece_before']:.2f}"))
    table = table_of("bins", {**content, "title": ""})
    unit = table.columns[2].name
    return [Tiles(tiles), Charts([reliability_chart(content["rows"], unit)]), table]


def _by_file(run: RunFiles) -> list[Block]:
    blocks: list[Block] = []
    charts: list[Chart] = []
    for i, content in enumerate(run.errors.get("by_file", [])):
        rows = content["rows"]
        if len(rows) < 2:  # nothing to compare
            alike = [f"{clean(content['columns'][0])} {clean(rows[0][0])}"] if rows else []
            blocks += [Note(f"All videos are alike: {text}") for text in alike]
            continue
        groups = [Group(0.0, 0.0, row[1], row[2] / 100, (row[3] / 100, row[4] / 100), row[5] / 100) for row in rows]
        charts.append(group_chart(str(clean(content["title"])), groups, [str(clean(row[0])) for row in rows]))
        blocks.append(table_of(f"by_file_{i}", content))
    return [*_charts(charts), *blocks]


def _orders(run: RunFiles) -> list[Block]:
    orders = run.shuffle_eval.get("orders", {})
    if not orders:
        return []
    groups = list(next(iter(orders.values()))["groups"])
    bars, rows = [], []
    for order, entry in orders.items():
        base = entry["top1_acc"] + entry["drop"]
        low, high = entry["drop_interval"]
        name = str(clean(order))
        bars.append((name, entry["top1_acc"], max(0.0, base - high), min(100.0, base - low)))
        cells = [name, entry["top1_acc"], entry["drop"], low, high, len(entry["top1_acc_per_seed"])]
        rows.append([*cells, *(entry["groups"].get(group) for group in groups)])
    columns = ["frames", "top-1 (%)", "drop (points)", "drop from", "drop to", "seeds", *(f"{g} (%)" for g in groups)]
    confidence = float(run.shuffle_eval["bootstrap"]["confidence"])
    notes = [f"{confidence:.0%} intervals of the drop: paired bootstrap over {run.shuffle_eval['num_videos']:,} videos"]
    table = {"title": "", "columns": columns, "rows": rows, "notes": notes}
    chart = interval_chart("Top-1 accuracy by order of the frames (%)", bars, x_label="top-1 (%)")
    return [*_weights(run, run.shuffle_eval), Charts([chart]), table_of("orders", table), *_orders_of_classes(orders)]


def _orders_of_classes(orders: dict[str, Any]) -> list[Block]:
    names = list(orders)
    classes = list(orders[names[0]]["class_acc"])
    rows = [[name, *(orders[order]["class_acc"].get(name) for order in names)] for name in classes]
    columns = ["class", *(f"{order} (%)" for order in names)]
    return [table_of("orders_of_classes", {"title": "Accuracy per class", "columns": columns, "rows": rows})]


def _attention(run: RunFiles) -> list[Block]:
    layers = run.analysis.get("attention", {}).get("layers", [])
    charts: list[Chart | None] = []
    if layers:
        curves = [(float(row["layer"]), float(row["entropy"])) for row in layers]
        even = [(float(row["layer"]), float(row["uniform_entropy"])) for row in layers]
        charts.append(
            line_chart("Entropy (nats)", {"attention": curves}, x_label="layer", guides={"spread evenly": even})
        )
        for kind in layers[0]["distance"]:
            curves = [(float(row["layer"]), float(row["distance"][kind])) for row in layers]
            even = [(float(row["layer"]), float(row["uniform_distance"][kind])) for row in layers]
            title = f"Distance: {clean(kind)} (of the clip)"
            charts.append(line_chart(title, {"attention": curves}, x_label="layer", guides={"spread evenly": even}))
    blocks = _charts(charts)
    if pairs := run.analysis.get("similarity", {}).get("pairs"):
        rows = [[*pair["layers"], pair["cosine"], pair["correlation"]] for pair in pairs]
        columns = ["layer", "and layer", "cosine", "correlation"]
        blocks.append(table_of("similarity", {"title": "Likeness of maps", "columns": columns, "rows": rows}))
    return [*_weights(run, run.analysis), *blocks, *_pictures(run)]


def _pictures(run: RunFiles) -> list[Block]:
    texts = {path: f"Sampling points: {printable(path.stem.removeprefix('points_'))}" for path in run.pictures}
    return _pictures_that_fit(texts, "More pictures of sampling points are in the folder analysis of the run.")


def _objects(run: RunFiles) -> list[Block]:
    texts = {path: f"{path.stem.split('_')[1].capitalize()} detections, beside the annotation" for path in run.found}
    return _pictures_that_fit(texts, "More pictures of detections are in the folder of the run.")


def _pictures_that_fit(texts: Mapping[Path, str], otherwise: str) -> list[Block]:
    blocks: list[Block] = []
    room = MOST_PICTURE_BYTES
    for path, text in texts.items():
        room -= path.stat().st_size
        if room < 0:
            return [*blocks, Note(otherwise)]
        blocks.append(_picture(path, text))
    return blocks


def _picture(path: Path, text: str) -> Picture:
    return Picture("data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"), text)


def _robustness(run: RunFiles) -> list[Block]:
    return _study(run, "robustness", run.robustness)


def _use_of_time(run: RunFiles) -> list[Block]:
    return _study(run, "use_of_time", run.use_of_time)


def _study(run: RunFiles, name: str, content: dict[str, Any]) -> list[Block]:
    """The table of a file, the tables in it, and the picture beside it."""
    if not content:
        return []
    # A file holds further tables by name or in a list.
    values = [*content.values(), *(listed if isinstance(listed := content.get("tables"), list) else [])]
    inside = [value for value in values if isinstance(value, dict) and {"columns", "rows"} <= value.keys()]
    tables: list[Block] = [table_of(f"{name}_{i}", part) for i, part in enumerate([content, *inside])]
    picture = run.folder / f"{name}.png"
    if picture.is_file() and is_inside(run, picture) and picture.stat().st_size <= MOST_PICTURE_BYTES:
        tables.insert(0, _picture(picture, ""))
    return [*_weights(run, content), *tables]


def _weights(run: RunFiles, study: dict[str, Any]) -> list[Block]:
    """A note if a study saw other weights than the test, such as those of an earlier training in the same folder.

    Checksums tell them apart; files of earlier versions have none, and then the names of the checkpoints are compared.
    """
    sums = {str(content["weights_crc32"]) for content in (run.test, study) if content.get("weights_crc32")}
    tested, studied = (os.path.basename(str(content.get("checkpoint") or "")) for content in (run.test, study))
    if not tested or not studied or (tested == studied and len(sums) < 2):  # a folder may have been moved since
        return []
    if tested == studied:
        return [Note(f"Other weights than those of the test, of the same name: {clean(study['checkpoint'])}")]
    return [Note(f"Other weights than those of the test: {clean(study['checkpoint'])}")]


def _videos(run: RunFiles) -> list[Block]:
    if not run.predictions:
        return []
    paths = [row.path for row in run.predictions]
    try:
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # absolute and relative paths
        root = ""
    names = [str(clean(name)) for name in run.names]
    single = all(len(row.true) == 1 for row in run.predictions)
    rows: list[list[Cell]] = []
    for row in run.predictions[:MOST_ROWS]:
        path = os.path.relpath(row.path, root) if root else row.path
        true: Cell = row.true[0] if single else "; ".join(names[k] for k in row.true)
        verdict = "right" if row.right else "wrong"
        rows.append(
            [clean(path), verdict, true, row.predicted, _percent(row.score), _percent(row.true_score), row.rank]
        )
    columns = [
        Column("video", "text"),
        Column("verdict", "text"),
        Column("true", "text"),
        Column("predicted", "text"),
        Column("score (%)", "percent", 1),
        Column("true score (%)", "percent", 1),
        Column("rank of true", "number"),
    ]
    notes = [f"paths are below {printable(root)}"] if root else []
    if len(paths) > MOST_ROWS:
        notes.append(f"the first {MOST_ROWS:,} of {len(paths):,} videos; all are in predictions.csv")
    return [Table("videos", "", columns, rows, notes, names=names, coded=[2, 3] if single else [3])]


def _percent(score: float) -> Cell:
    return clean(round(100 * score, 2))


def _settings(run: RunFiles) -> list[Block]:
    if not run.config:
        return []
    blocks: list[Block] = []
    try:
        given, usual = (flatten(parse_tree(text)) for text in (run.config, dump_config(Config())))
        rows = [[key, value, usual.get(key, "")] for key, value in given.items() if usual.get(key) != value]
        blocks.append(table_of("config", {"title": "", "columns": ["key", "value", "default"], "rows": rows}))
    except TreeError as error:
        run.unread.append(printable(f"config.yaml: {error}"))
    return [*blocks, Code("The whole config.yaml", printable(run.config[:MOST_CODE], keep_lines=True))]


def _environment(run: RunFiles) -> list[Block]:
    rows = []
    for record in run.environments:
        known = [record.get(key) for key in KNOWN_ENVIRONMENT]
        row = [record.get("config"), *(value if isinstance(value, str | int) else None for value in known)]
        if row not in rows:
            rows.append(row)
    columns = ["config", *KNOWN_ENVIRONMENT]
    return [table_of("environment", {"title": "", "columns": columns, "rows": rows})] if rows else []


def unread_section(run: RunFiles) -> list[Section]:
    """What could not be read, if anything."""
    if not run.unread:
        return []
    title = f"{plural(len(run.unread), 'file')} or section{'s' if len(run.unread) > 1 else ''} could not be read"
    return [Section("unread", title, [Note(str(clean(text))) for text in run.unread])]


_BEFORE = (
    ("summary", "Summary", guarded(_summary)),
    ("curves", "Training", guarded(_curves)),
    ("classes", "Classes", guarded(_classes)),
    ("objects", "Detections", guarded(_objects)),
    ("confusion", "Confusion", guarded(_confusion)),
    ("pairs", "Most confused pairs", guarded(_pairs)),
)
_AFTER = (
    ("calibration", "Calibration", guarded(_calibration)),
    ("files", "Kinds of files", guarded(_by_file)),
    ("orders", "Order of frames", guarded(_orders)),
    ("time", "Use of time", guarded(_use_of_time)),
    ("robustness", "Robustness", guarded(_robustness)),
    ("attention", "Attention", guarded(_attention)),
    ("videos", "All videos", guarded(_videos)),
    ("config", "Config", guarded(_settings)),
    ("environment", "Environment", guarded(_environment)),
)
