"""Wrappers around a model during training, and the prefixes that they leave in names."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
COUNTERS = ("n_averaged",)  # of PyTorch's AveragedModel, beside the weights
# PySlowFast's contrastive models hold the network, a second one that follows it, and queues.
_FIRST, _SECOND = "backbone.", "backbone_hist."


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and `torch.compile`."""
    while True:
        inner = model._modules.get("_orig_mod")
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def strip_prefixes(state: Mapping[str, Tensor], own_names: Collection[str] = ()) -> dict[str, Tensor]:
    """Names without the prefixes of wrappers and trainers, which all of them share.

    Args:
        state: name -> tensor.
        own_names: names that are right as they are, whatever they begin with.

    Returns:
        The same tensors by shorter names; of a contrastive model those of its network alone.
    """
    own = set(own_names)
    if any(name.startswith(_SECOND) for name in state) and not own.intersection(state):
        state = {name: tensor for name, tensor in state.items() if name.startswith(_FIRST)}
    names = list(state)
    while not own.issuperset(names) and (prefix := _shared_prefix(names)):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _shared_prefix(names: list[str]) -> str:
    return next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), "")
