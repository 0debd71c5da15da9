"""Load a trained model by name, folder or file.

model = videovit.load("output/mine")
model.predict("video.mp4").top
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from videovit.config.schema.evaluation import EngineName
from videovit.engine.checkpoints.bounded import bounded
from videovit.engine.checkpoints.sources import find_source
from videovit.engine.checkpoints.weights import load_all_weights
from videovit.engine.exported.network import is_network, read_network
from videovit.engine.tasks.model_choices import Dtype, check_path, find_device
from videovit.model import Model, ObjectModel
from videovit.models import Detector, build_network
from videovit.models.contract import VideoModel


def load(
    source: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: Dtype | None = None,
    engine: EngineName | None = None,
    class_names: Sequence[str] | None = None,
    opts: Sequence[object] = (),
) -> Model:
    """Load a trained model.

    Args:
        source: one of

            - the OUTPUT_DIR of a run: the checkpoint that its test takes, the newest or with TEST.CHECKPOINT the best,
              and with TEST.USE_EMA the moving average in it;
            - `zoo:NAME`, such as `zoo:mvitv2_s_16x4_k400`; `zoo:` may be left out;
            - a folder written by `Model.save`;
            - a folder that transformers wrote (docs/hugging_face.md);
            - a file of `videovit export --format`: onnx and openvino give predictions alone, safetensors everything;
            - `hf://user/name`, or `hf://user/name@revision`: a folder of one of these kinds on the Hugging Face Hub;
            - a config, by file or by the name of one that comes with videovit, together with `checkpoint`.
        checkpoint: other weights than those of the source: a file, the OUTPUT_DIR of a run, `zoo:NAME`, or a URL.
        device: where it runs; "auto" takes a GPU if there is one.
        dtype: precision of prediction; None for the config's (TEST.MIXED_PRECISION).
        engine: what computes predictions and features: "torch", "onnxruntime" or "openvino", the last two on a CPU;
            None for the config's (TEST.ENGINE).
        class_names: of all classes; None for those that the source knows.
        opts: KEY VALUE KEY VALUE ... on top of the config, such as `["PREDICT.TOP_K", 3]`.

    Returns:
        The model; of a detector of objects in images an `ObjectModel`.

    Raises:
        UserError: there is no such source, or it lacks a file or weights, or the device is not available, or `opts`
            would change the architecture of a model that brings its config.
        CheckpointError: the weights are damaged or do not fit.
        ConfigError: the config is not valid.
    """
    name = check_path("source", source)
    if is_network(name):
        cfg, network, own = read_network(Path(name), opts, checkpoint=checkpoint, dtype=dtype, engine=engine)
        return Model(cfg, network, own if class_names is None else class_names)
    where = find_device(device)  # a mistake in it shows before anything is read
    found = find_source(name, opts, named=checkpoint is not None)
    if device == "auto" and (engine or found.cfg.TEST.ENGINE) != "torch":
        where = find_device("cpu")
    with bounded(found.weights):
        module = build_network(found.cfg)
    if checkpoint is not None:
        test = found.cfg.TEST
        load_all_weights(module, check_path("checkpoint", checkpoint), use_ema=test.USE_EMA, which=test.CHECKPOINT)
    else:
        found.load_weights(found.cfg, module)
    module, names = module.to(where), found.class_names if class_names is None else class_names
    if isinstance(module, Detector):
        return ObjectModel(found.cfg, module, names, dtype=dtype)
    assert isinstance(module, VideoModel)  # there is nothing else to build
    return Model(found.cfg, module, names, dtype=dtype, engine=engine)
