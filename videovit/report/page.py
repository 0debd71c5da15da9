"""One page about a run, as a single HTML file that needs no server and no network."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import simplejson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import videovit
from videovit.analysis.explain import DEFAULT_METHOD, find_method
from videovit.config import Config, load_config
from videovit.data.build import build_decode_options
from videovit.data.catalog import find_dataset
from videovit.engine.problem import Problem
from videovit.engine.reporting.json_lines import check_replaceable, replacing
from videovit.engine.reporting.log import logger
from videovit.errors import UserError
from videovit.loading import load
from videovit.messages import plural, printable, table_cell
from videovit.report.blocks import Block, Clips, Note, Section
from videovit.report.clips import draw_mistakes
from videovit.report.run_files import RunFiles, read_run, worst_mistakes
from videovit.report.sections import build_sections, unread_section
from videovit.report.video_files import read_shapes, tables_by_file

PAGE = "report.html"


def write_report(
    folder: Path,
    output: Path | None = None,
    *,
    num_mistakes: int = 8,
    method: str = DEFAULT_METHOD,
    open_videos: bool = True,
) -> Path:
    """Write one page about a run.

    Args:
        folder: OUTPUT_DIR of the run.
        output: the HTML file; None for report.html in the folder.
        num_mistakes: that are shown with moving pictures and heat maps; 0 loads no model.
        method: of the heat maps.
        open_videos: False reads the files of the run alone: neither mistakes nor properties of videos.

    Returns:
        The file.

    Raises:
        UserError: there is no run, no such method, or the page cannot be written.
    """
    find_method(method)
    run, path = read_run(folder), output or folder / PAGE
    check_replaceable(path)
    mistakes = _about_videos(run, num_mistakes=num_mistakes, method=method) if open_videos else []
    html = render(run, mistakes)
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def render(run: RunFiles, mistakes: list[Section]) -> str:
    """The page.

    Args:
        run: files of a run.
        mistakes: sections about single videos.
    """
    environment = build_environment()
    style, script = (_own(environment, name) for name in ("style.css", "script.js"))
    sections = build_sections(run, mistakes)
    return environment.get_template("page.html").render(
        title=run.name,
        folder=str(run.folder),
        version=videovit.__version__,
        sections=[*sections, *unread_section(run)],
        style=style,
        script=script,
        # Nothing is loaded from anywhere, and only these two texts are run or applied, whatever else is on the page.
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
    )


def build_environment() -> Environment:
    """What renders the templates: it escapes whatever is not markup of theirs."""
    environment = Environment(
        loader=PackageLoader("videovit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.policies["json.dumps_function"] = simplejson.dumps
    environment.policies["json.dumps_kwargs"] = {"ignore_nan": True, "separators": (",", ":")}
    return environment


def _visible(value: Any) -> Any:
    """Names of strangers hold control characters; markup has been escaped already."""
    return printable(value, keep_lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


def _own(environment: Environment, name: str) -> Markup:
    """A file of this package that goes into the page as it is."""
    assert environment.loader is not None
    text, *_ = environment.loader.get_source(environment, name)
    return Markup(text)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _about_videos(run: RunFiles, *, num_mistakes: int, method: str) -> list[Section]:
    """What needs the videos: properties of files, which are added to errors.json, and the worst mistakes."""
    if not run.predictions:
        return []
    try:
        cfg = load_config(run.folder / "config.yaml")
        paths = _paths(run, cfg)
    except UserError as error:
        run.unread.append(f"videos of the test: {error}")
        return []
    if "by_file" not in run.errors:
        images = find_dataset(cfg.TEST.DATASET).images
        shapes = read_shapes(paths, build_decode_options(cfg), images=images)
        run.errors["by_file"] = tables_by_file(run.predictions, shapes, images=images)
        # A disk with the videos may be missing today, and a damaged file is left to its owner.
        if len(shapes) == len(paths) and not run.is_unread(run.errors_name):
            _keep(run)
    return _mistakes(run, paths, number=num_mistakes, method=method)


def _paths(run: RunFiles, cfg: Config) -> dict[int, str]:
    """Where the videos of the test are, by their number.

    Raises:
        UserError: the list cannot be read, or has changed since the test.
    """
    samples = Problem(cfg).test.samples
    changed = [
        row for row in run.predictions if row.video >= len(samples) or table_cell(samples[row.video].path) != row.path
    ]
    if changed:
        raise UserError("the test list has changed since the test", found=changed[0].path, hint="Test again")
    return {row.video: samples[row.video].path for row in run.predictions}


def _keep(run: RunFiles) -> None:
    """Write errors.json again with what was read from the videos, so that the next page need not open them."""
    try:
        with replacing(run.folder / run.errors_name) as partial:
            partial.write_text(simplejson.dumps(run.errors, indent=1, ignore_nan=True) + "\n", encoding="utf-8")
    except UserError as error:
        logger.warning("%s", error)


def _mistakes(run: RunFiles, paths: dict[int, str], *, number: int, method: str) -> list[Section]:
    rows = list(worst_mistakes(run, number))
    if not rows:
        return []
    try:
        model = load(run.folder)
    except UserError as error:
        run.unread.append(f"model of the run, for the worst mistakes: {error}")
        return []
    wrong = sum(not row.right for row in run.predictions)
    which = f"{len(rows)} most confident of " if wrong > len(rows) else ""
    whole = "The pictures show windows of the whole video, which may be more than the clips of the test. "
    if find_dataset(model.config.TEST.DATASET).images:
        whole = ""
    text = f"The {which}{plural(wrong, 'mistake')}. {whole}Heat by {method}: a hint, not a proof."
    blocks: list[Block] = [Note(text), Clips(draw_mistakes(model, rows, paths, run.names, method=method))]
    return [Section("mistakes", "Worst mistakes", blocks)]
