"""Names of published weights of transformers as those of its version 5, which the models hf_... have.

here                                published
videomae ... attention.query.bias   attention.q_bias (likewise value); the keys have none
vivit.layers.i.attention.q_proj     vivit.encoder.layer.i.attention.attention.query (likewise k, v, o; mlp.fc1, fc2)
videomae., timesformer., ...        nothing, in files of an encoder alone
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from videovit.models.external.hf_network import HfNetwork

_PUBLISHED_BIAS = re.compile(r"\.attention\.attention\.([qv])_bias$")
_VIVIT = (
    (r"\bencoder\.layer\.", "layers."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def from_transformers(state: Mapping[str, Tensor], model: HfNetwork) -> dict[str, Tensor]:
    """A state dict by the names of `model`; the weights of other models keep theirs.

    Args:
        state: published, of any version of transformers.
        model: gets it.
    """
    is_encoder = not any(name.startswith(f"{model.body}.") for name in state)
    is_classifier = any(name.startswith(model.head_names) for name in state)
    renamed = {}
    for name, tensor in state.items():
        if is_classifier and name.startswith("vjepa2.predictor."):  # every file has it, and no classifier reads it
            continue
        new = _PUBLISHED_BIAS.sub(lambda m: f".attention.attention.{ {'q': 'query', 'v': 'value'}[m[1]] }.bias", name)
        if model.model_type == "vivit":
            for pattern, replacement in _VIVIT:
                new = re.sub(pattern, replacement, new)
        if is_encoder and not new.startswith((*model.head_names, "fc_norm.", "pooler.")):
            new = f"{model.body}.{new}"
        renamed[new] = tensor
    return renamed


def notes_of_transformers(state: Mapping[str, Tensor]) -> list[str]:
    """A warning about weights that some versions of transformers 5 lose.

    Args:
        state: as published.
    """
    if any(_PUBLISHED_BIAS.search(name) for name in state):
        return [
            "biases of queries and values are named q_bias and v_bias in this file; some versions of "
            "transformers 5 do not know these and load zeros, so their logits may differ from those here"
        ]
    biases = [t for name, t in state.items() if re.search(r"\.attention\.attention\.(query|value)\.bias$", name)]
    has_key_biases = any(name.endswith(".attention.attention.key.bias") for name in state)
    if biases and not has_key_biases and not any(bias.any() for bias in biases):
        return [
            "all biases of queries and values are zero: a version of transformers 5 that does not know their "
            "published names, q_bias and v_bias, has probably written this file. Results will be worse; use the "
            "original file"
        ]
    return []
