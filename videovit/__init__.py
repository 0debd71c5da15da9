"""videovit: video understanding with multiscale vision transformers.

    import videovit

    model = videovit.load("output/mine")
    model.predict("video.mp4").top

Importing the package is quick: PyTorch is imported when a function that needs it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videovit.config import load_config
    from videovit.finetuning.session import finetune
    from videovit.loading import load
    from videovit.model import Model, ObjectModel
    from videovit.models import build_model, load_pretrained

__version__ = "0.1.0"
__all__ = ["Model", "ObjectModel", "__version__", "build_model", "finetune", "load", "load_config", "load_pretrained"]

_HOMES = {
    "Model": "videovit.model",
    "ObjectModel": "videovit.model",
    "build_model": "videovit.models",
    "finetune": "videovit.finetuning.session",
    "load": "videovit.loading",
    "load_config": "videovit.config",
    "load_pretrained": "videovit.models",
}


def __getattr__(name: str) -> object:
    """Import a public function when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
