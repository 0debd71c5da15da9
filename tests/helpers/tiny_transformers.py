"""Small models of transformers: their settings, and the package itself if it is installed."""

from __future__ import annotations

from typing import Any

import pytest

_COMMON: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
HF_SETTINGS: dict[str, dict[str, Any]] = {
    "hf_videomae": {**_COMMON, "intermediate_size": 48, "patch_size": 8, "tubelet_size": 2},
    "hf_timesformer": {**_COMMON, "intermediate_size": 48, "patch_size": 8},
    "hf_vivit": {**_COMMON, "intermediate_size": 48, "tubelet_size": (2, 8, 8)},
    "hf_vjepa2": {**_COMMON, "mlp_ratio": 2.0, "patch_size": 8, "tubelet_size": 2, "num_pooler_layers": 1},
}
"""MODEL.MODEL_NAME -> settings; for clips of any size with sides of 8 pixels or more."""
_DROPS = {
    **dict.fromkeys(("hf_videomae", "hf_timesformer", "hf_vivit"), "hidden_dropout_prob"),
    "hf_vjepa2": "drop_path_rate",
}


def need_transformers() -> Any:
    """The package; skips the test without it."""
    return pytest.importorskip("transformers", reason='transformers is not installed (pip install -e ".[hf]")')


def tiny_settings(name: str, *, drop: bool = False) -> str:
    """KEY VALUE of HF.CONFIG."""
    settings = HF_SETTINGS[name] | ({_DROPS[name]: 0.5} if drop else {})
    rows = (f"[{key},{list(value) if isinstance(value, tuple) else value}]" for key, value in settings.items())
    return f"HF.CONFIG [{','.join(rows)}]".replace(", ", ",")
