"""Export of weights from a checkpoint: to start from, to publish, or for other projects."""

from __future__ import annotations

from pathlib import Path

from videovit.config import Config, dump_config
from videovit.engine.checkpoints.saving import to_host, write_checkpoint
from videovit.engine.checkpoints.weights import load_all_weights
from videovit.models import build_model, export_state_dict
from videovit.models.convert import pool_norm_eps, save_safetensors

OWN = "own"
CONTAINED = (OWN, "pyslowfast", "pytorchvideo")  # layouts whose projects expect weights under `model_state`


def export_weights(cfg: Config, checkpoint: str, path: str | Path, *, layout: str = OWN) -> str:
    """Write the weights of a checkpoint, or with TEST.USE_EMA their moving average, to a file.

    Args:
        cfg: the config of the model.
        checkpoint: a file, or the OUTPUT_DIR of a run, whose newest checkpoint is taken.
        path: ends in `.safetensors`, or else becomes a PyTorch file. That has the weights under `model_state`, and the
            config; in the layout of another project, it has the form that this project reads, which may be the state
            dict alone.
        layout: naming scheme of the weights; "own" or one of `models.export_state_dict`.

    Returns:
        The file that the weights came from.

    Raises:
        CheckpointError: the checkpoint is unreadable or has no average, its weights do not fit the model, are not
            finite or have no name in the layout, or the file cannot be written.
    """
    path = Path(path)
    model = build_model(cfg).eval()
    source = load_all_weights(model, checkpoint, use_ema=cfg.TEST.USE_EMA, which=cfg.TEST.CHECKPOINT)
    state = model.state_dict() if layout == OWN else export_state_dict(model, layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_safetensors(state, path, model=model)
    elif layout not in CONTAINED:
        write_checkpoint(path, to_host(state))
    else:
        beside = {"cfg": dump_config(cfg), "pool_norm_eps": pool_norm_eps(model)} if layout == OWN else {}
        write_checkpoint(path, {"model_state": to_host(state), **beside})
    return source
