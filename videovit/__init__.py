"""videovit: video understanding with multiscale vision transformers.

    import videovit

    cfg = videovit.load_config("Kinetics/MVITv2_S_16x4")
    model = videovit.build_model(cfg)
    videovit.load_pretrained(model, "weights.pyth")

Importing the package is quick: PyTorch is imported when a function that needs it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videovit.config import load_config
    from videovit.finetuning.session import finetune
    from videovit.models import build_model, load_pretrained

__version__ = "0.1.0"
__all__ = ["__version__", "build_model", "finetune", "load_config", "load_pretrained"]

_HOMES = {
    "build_model": "videovit.models",
    "finetune": "videovit.finetuning.session",
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
