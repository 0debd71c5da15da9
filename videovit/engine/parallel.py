"""One model on several processes: replicated with averaged gradients, or with its weights sharded among them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

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
    """Divide weights, gradients and optimiser state among all processes (FSDP2), in place, block by block.

    Weights of a block are gathered when it computes and let go after; its activations are computed again in the
    backward pass. To be called before the optimiser is made; names of parameters stay.

    Source: PyTorch `fully_shard`; ZeRO stage 3 (arXiv 1910.02054).
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    blocks = [block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module]
    for block in blocks:
        if any(True for _ in block.parameters()):
            # inside, so that the weights are gathered once for both the second forward and the backward pass
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)
