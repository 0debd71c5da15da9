"""One model on several processes: replicated, or sharded (weights, gradients and moments); gradients are averaged.

PyTorch's FSDP is imported inside functions, and sharded objects are recognized by their methods: importing it takes
half a second, which most runs do not need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from videovit.models.contract import LayeredModel

HOOKS = {"bf16": default_hooks.bf16_compress_hook, "fp16": default_hooks.fp16_compress_hook}


class Replicated(DistributedDataParallel):
    """DistributedDataParallel whose sums do not depend on how long the process has been running.

    PyTorch packs gradients into buckets, and after the first backward pass repacks them in the order in which they
    arrived. With three or more processes the order of additions depends on the place in the bucket. So the first step
    of a process would round differently from the same step of a process that has done others before, and a resumed run
    would drift from an uninterrupted one. One unused pass before the first step settles the buckets.
    """

    def __init__(self, module: nn.Module, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        # Two summands have only one sum: a + b = b + a.
        self._settled = self.find_unused_parameters or dist.get_world_size() <= 2

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self._settled and torch.is_grad_enabled():
            self._settled = True
            self._settle(*args, **kwargs)
        return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _settle(self, *args: Any, **kwargs: Any) -> None:
        """Run forward and backward once, then restore gradients, buffers and random numbers."""
        buffers = [buffer.clone() for buffer in self.module.buffers()]
        # With gradient accumulation the first pass may be one without synchronization, which packs no buckets.
        sync, self.require_backward_grad_sync = self.require_backward_grad_sync, True
        devices = sorted({p.device.index for p in self.module.parameters() if p.device.type == "cuda"})
        with torch.random.fork_rng(devices):
            output = super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]
            torch.autograd.backward(torch.stack([t.float().sum() for t in _tensors(output)]).sum())
        self.require_backward_grad_sync = sync
        self.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(self.module.buffers(), buffers, strict=True):
                buffer.copy_(before)


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.requires_grad:
            yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)


def replicate(
    model: nn.Module, device: torch.device, *, find_unused: bool = False, compression: str = "none"
) -> Replicated:
    """Wrap a model so that its gradients are averaged over all processes.

    Args:
        model: on `device`.
        device: of this process.
        find_unused: search for parameters without a gradient in every step; only for models that leave some out.
        compression: "bf16" or "fp16" halves the traffic and rounds the gradients; "none" sends them as they are.

    Returns:
        The wrapped model; `module` is the model itself.
    """
    gpus = [device.index] if device.type == "cuda" else None
    wrapped = Replicated(model, device_ids=gpus, find_unused_parameters=find_unused)
    if compression != "none":
        wrapped.register_comm_hook(None, HOOKS[compression])
    return wrapped


def shard(model: LayeredModel, device: torch.device) -> LayeredModel:
    """Keep on every process only its part of each parameter, gradient and moment of the optimizer.

    The parameters of each of `model.units_to_shard()` are gathered for its forward and backward pass, and released in
    between.

    Args:
        model: with the same weights on every process; changed in place.
        device: of this process.

    Returns:
        The same model.

    Source: ZeRO, stage 3 (arXiv 1910.02054), as PyTorch's FSDP implements it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in model.units_to_shard():
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether the model went through `shard`."""
    return hasattr(model, "set_requires_gradient_sync")  # a method of FSDPModule, see the top of this file


@contextmanager
def without_sync(model: nn.Module) -> Iterator[None]:
    """Keep gradients of backward passes in this block local; the next pass outside of it averages them too."""
    if is_sharded(model):
        sharded: Any = model
        sharded.set_requires_gradient_sync(False)
        yield
        sharded.set_requires_gradient_sync(True)
    elif isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


def unsharded(value: Any) -> Any:
    """Gather the sharded tensors in nested dicts and lists; a collective call.

    Args:
        value: left as it is where nothing is sharded.

    Returns:
        The same structure with whole tensors.
    """
    if hasattr(value, "full_tensor"):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: unsharded(item) for key, item in value.items()}
    return [unsharded(item) for item in value] if isinstance(value, list) else value


def shard_like(reference: Tensor, value: Tensor) -> Tensor:
    """Shard a tensor in the same way as another one.

    Args:
        reference: sharded, or whole.
        value: whole, and the same on every process.

    Returns:
        This process's part of `value`; `value` itself if `reference` is whole.
    """
    if not hasattr(reference, "device_mesh"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    # No rank has to send anything: all of them hold the whole tensor.
    return distribute_tensor(
        value.to(reference.device), reference.device_mesh, reference.placements, src_data_rank=None
    )


def load_unsharded(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a model that may be sharded; names and shapes must be those of the model."""
    model.load_state_dict({name: shard_like(own, state[name]) for name, own in model.state_dict().items()})
