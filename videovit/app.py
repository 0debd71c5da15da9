"""A page in the browser for one model: drop a video, see its classes over time and where the model looks.

It is served to this machine alone unless another address is given. Videos come from strangers: they are limited in
size, decoded within the limits of the config, and deleted when they have been shown.
"""

from __future__ import annotations

import html
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from videovit.analysis.explain import DEFAULT_METHOD, METHODS
from videovit.data.catalog import find_dataset
from videovit.engine.evaluation.class_report import short_name
from videovit.engine.tasks.explain import SHEET, VIDEO
from videovit.engine.tasks.prediction import Prediction
from videovit.errors import UserError
from videovit.messages import printable
from videovit.model import Model

NO_HEAT = "none"
STYLES = ("-", "--", "-.", ":", (0, (1, 3)))  # so that curves differ without colors
WAITING = 20  # requests that may wait; one is computed at a time
KEPT_S = 600  # uploads and results are deleted after it
FONTS = ("system-ui", "sans-serif")  # Gradio's own would be loaded from the network


def import_gradio() -> ModuleType:
    """The package gradio, told to report nothing.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise UserError("the package gradio is not installed", hint='pip install "videovit[app]"') from error
    module: ModuleType = gradio
    return module


def serve(model: Model, name: str, *, host: str = "127.0.0.1", port: int = 7860, max_mb: int = 500) -> None:
    """Show the page until Ctrl-C.

    Args:
        model: that predicts.
        name: shown as the title.
        host: address that is listened on; the default is reached from this machine alone.
        port: to listen on; 0 takes a free one.
        max_mb: of an uploaded file, in 10^6 bytes.

    Raises:
        UserError: gradio is not installed, or the port is in use.
    """
    gradio = import_gradio()
    import uvicorn  # Gradio's own server, started here: its `launch` asks hosts of its makers for news
    from fastapi import FastAPI

    app = build_app(model, name)
    app.queue(max_size=WAITING, default_concurrency_limit=1)
    server = uvicorn.Server(
        uvicorn.Config(
            gradio.mount_gradio_app(
                FastAPI(openapi_url=None),
                app,
                path="/",
                max_file_size=max_mb * 10**6,
                theme=gradio.themes.Base(font=FONTS, font_mono=("ui-monospace", "monospace")),
                footer_links=[],
                show_error=False,
                ssr_mode=False,
            ),
            log_level="warning",
        )
    )
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"port {port} of {host} cannot be used: {error}", hint="Choose another by --port") from error
    with listening:
        print(f"open http://{host}:{listening.getsockname()[1]} in a browser; end with Ctrl-C", flush=True)
        server.run(sockets=[listening])


def build_app(model: Model, name: str) -> Any:
    """The page, as `gradio.Blocks`.

    Args:
        model: that predicts.
        name: shown as the title.
    """
    gradio = import_gradio()
    of_images = find_dataset(model.config.TEST.DATASET).images
    with gradio.Blocks(title=f"{printable(name)} – videovit", delete_cache=(KEPT_S, KEPT_S)) as app:
        # Not Markdown: a name may hold markup.
        gradio.HTML(f"<h1>{html.escape(printable(name))}</h1>")
        with gradio.Row():
            with gradio.Column():
                if of_images:
                    given = gradio.Image(label="Image", type="filepath", sources=["upload"])
                else:
                    given = gradio.Video(label="Video", sources=["upload"])
                method = gradio.Dropdown(
                    [NO_HEAT, *METHODS], value=DEFAULT_METHOD, label="Heat map", elem_id="method", filterable=False
                )
                button = gradio.Button("Predict", variant="primary", elem_id="predict")
            with gradio.Column():
                top = gradio.Label(label="Classes", num_top_classes=5, elem_id="top")
                curves = gradio.Plot(label="Over time", show_label=False, visible=not of_images, elem_id="curves")
                shown = {"label": "Heat of the best class", "interactive": False, "elem_id": "heat"}
                heat = gradio.Image(**shown) if of_images else gradio.Video(autoplay=True, loop=True, **shown)

        def answer(path: str | None, chosen: str) -> Iterator[tuple[object, object, object]]:
            if not path:
                raise gradio.Error("Choose a file first.", print_exception=False)
            try:
                prediction = model.predict(path)
                scores = {printable(label): min(max(score, 0.0), 1.0) for label, score in prediction.top}
                picture = None if of_images else draw_curves(prediction, model.class_names)
                yield scores, picture, None
                if chosen == NO_HEAT:
                    return
                with tempfile.TemporaryDirectory() as folder:
                    model.explain(path, method=chosen).write(Path(folder))
                    # The page has a copy of the file before this goes on.
                    yield scores, picture, str(Path(folder) / (SHEET if of_images else VIDEO))
            except UserError as error:
                # Shown as HTML, and the message holds names of strangers.
                text = html.escape(str(error).replace(path, Path(path).name))
                raise gradio.Error(text, print_exception=False) from error

        button.click(answer, [given, method], [top, curves, heat])
    return app


def draw_curves(prediction: Prediction, class_names: list[str]) -> Figure:
    """The scores of the best classes over time.

    Args:
        prediction: of a video.
        class_names: of all classes.
    """
    times_s = [(start_s + end_s) / 2 for start_s, end_s, _ in prediction.windows]
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        for (name, _), style in zip(prediction.top, STYLES, strict=False):
            values = 100 * prediction.window_scores[:, class_names.index(name)]
            axes.plot(times_s, values.tolist(), linestyle=style, marker="o", markersize=3, label=short_name(name))
        axes.set(xlabel="seconds", ylabel="score (%)", ylim=(0, 100), xlim=(0, prediction.windows[-1][1]))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure
