"""One model on several processes: replicated, or sharded (weights, gradients, moments); gradients are averaged.

What sharding needs of PyTorch is imported where it is used, and told by its methods: importing it takes half a second.
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

HOOKS = {"bf16": default_hooks.bf16_compress_hook, "fp16": default_hooks.fp16_compress_hook}


class Replicated(DistributedDataParallel):
    """DistributedDataParallel whose sums depend on the gradients alone, not on how long the process has been running.

    PyTorch packs gradients into buckets, and after the first backward pass packs them anew, in the order in which they
    came. Three or more processes add the elements of a bucket in an order that depends on the place in the bucket, so
    the first step of a process rounds differently from the same step of a process that has done others before it; a
    resumed run would drift from an uninterrupted one. One pass for nothing before the first step settles the buckets.
    """

    def __init__(self, module: nn.Module, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        self._settled = self.find_unused_parameters or dist.get_world_size() <= 2  # a + b is b + a

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self._settled and torch.is_grad_enabled():
            self._settled = True
            self._settle(*args, **kwargs)
        return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _settle(self, *args: Any, **kwargs: Any) -> None:
        """Forward and backward once, and leave no trace: gradients, buffers and random numbers are as before."""
        buffers = [buffer.clone() for buffer in self.module.buffers()]
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


def _tensors(output: Any) -> Iterator[Tensor]:
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
        find_unused: look for parameters without a gradient in every step; only for models that leave some out.
        compression: "bf16" or "fp16" halve what is sent, and round it; "none" sends gradients as they are.
    """
    gpus = [device.index] if device.type == "cuda" else None
    wrapped = Replicated(model, device_ids=gpus, find_unused_parameters=find_unused)
    if compression != "none":
        wrapped.register_comm_hook(None, HOOKS[compression])
    return wrapped


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """Leave on every process only its part of each parameter; so are gradients, and the moments of an optimiser.

    A block's parameters are gathered for its forward and backward pass, and let go of in between. The last block stays
    with the rest of the model, since MViT reads some of its parameters outside of it.

    Args:
        model: with a list of `blocks`; the same weights on every process. It is changed in place.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in list(model.get_submodule("blocks").children())[:-1]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was here."""
    return hasattr(model, "set_requires_gradient_sync")  # of FSDPModule


@contextmanager
def without_sync(model: nn.Module) -> Iterator[None]:
    """Gradients of backward passes in this block stay in their process; those of the next one take them along."""
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


def whole(value: Any) -> Any:
    """Nested dicts and lists with their sharded tensors in one piece; a collective call."""
    if hasattr(value, "full_tensor"):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


def as_in(like: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, the same on every process, cut as `like` is: of no effect where that one is whole too."""
    if not hasattr(like, "device_mesh"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    # No rank has to send anything: all hold the whole tensor.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights in one piece into a model that may be sharded; names and shapes are those of the model."""
    model.load_state_dict({name: as_in(own, state[name]) for name, own in model.state_dict().items()})
