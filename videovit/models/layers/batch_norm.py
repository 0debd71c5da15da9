"""Batch norms of clips whose statistics are those of a part of the batch, or of the batches of several processes.

Names of parameters and buffers are those of `nn.BatchNorm3d`, so weights of one kind load into the other.

B clips, C channels, T H W frames, rows and columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from videovit.errors import UserError


class SplitBatchNorm3d(nn.BatchNorm3d):
    """A batch norm that normalizes parts of the batch by themselves in training.

    In evaluation it uses the statistics of all parts together, which the state dict holds, as in PySlowFast's
    checkpoints. After loading them, each part begins with the common ones; `load_part_statistics` continues a run.

    Args:
        num_features: C.
        num_splits: parts; they divide B. Clip i belongs to part i modulo `num_splits`.

    Source: multigrid training (arXiv 1912.00998), section 3.3.
    """

    part_mean: Tensor
    part_var: Tensor

    def __init__(self, num_features: int, num_splits: int) -> None:
        super().__init__(num_features)
        self.num_splits = num_splits
        self.register_buffer("part_mean", torch.zeros(num_splits, num_features), persistent=False)
        self.register_buffer("part_var", torch.ones(num_splits, num_features), persistent=False)
        self.register_load_state_dict_post_hook(_share_statistics)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor) -> Tensor:
        """Same shape.

        Raises:
            UserError: in training, the parts do not divide the batch.
        """
        if not self.training:
            return super().forward(input)
        B, C = input.shape[:2]
        if B % self.num_splits:
            raise UserError(
                f"a batch of {B} clips cannot be divided into {self.num_splits} parts", where="BN.NUM_SPLITS"
            )
        assert self.momentum is not None and self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        x = input.reshape(B // self.num_splits, self.num_splits * C, *input.shape[2:])
        mean, var = self.part_mean.view(-1), self.part_var.view(-1)  # changed in place, and by nothing else
        x = F.batch_norm(x, mean, var, training=True, momentum=self.momentum, eps=self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.copy_(self.part_mean.mean(dim=0))
            spread = (self.part_mean - self.running_mean).square()
            self.running_var.copy_((self.part_var + spread).mean(dim=0))
        return x.reshape(input.shape) * self.weight.view(-1, 1, 1, 1) + self.bias.view(-1, 1, 1, 1)


def _share_statistics(module: nn.Module, _: object = None) -> None:
    assert isinstance(module, SplitBatchNorm3d)
    assert module.running_mean is not None and module.running_var is not None
    module.part_mean.copy_(module.running_mean.expand_as(module.part_mean))
    module.part_var.copy_(module.running_var.expand_as(module.part_var))


def part_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Name -> statistics of the parts of all `SplitBatchNorm3d`, which the state dict of a model leaves out."""
    norms = [(name, norm) for name, norm in model.named_modules() if isinstance(norm, SplitBatchNorm3d)]
    return {f"{name}.{part}": norm.get_buffer(part) for name, norm in norms for part in ("part_mean", "part_var")}


def load_part_statistics(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Continue with the statistics of parts of an earlier run.

    Args:
        model: has its weights already.
        saved: from `part_statistics`. Without those of a norm, or with another number of parts, its parts keep theirs.
    """
    for name, statistics in part_statistics(model).items():
        if name in saved and saved[name].shape == statistics.shape:
            statistics.copy_(saved[name])


def share_statistics(model: nn.Module) -> None:
    """Let the parts of all `SplitBatchNorm3d` begin with the statistics of the whole batch."""
    for norm in model.modules():
        if isinstance(norm, SplitBatchNorm3d):
            _share_statistics(norm)


class SyncedBatchNorm3d(nn.BatchNorm3d):
    """A batch norm over the batches of several processes, which have the same size.

    Args:
        num_features: C.
        num_processes: neighbors that share statistics; 0 for all.

    Source: PySlowFast's BN.NUM_SYNC_DEVICES and BN.GLOBAL_SYNC.
    """

    def __init__(self, num_features: int, num_processes: int) -> None:
        super().__init__(num_features)
        self.num_processes = num_processes

    def forward(self, input: Tensor) -> Tensor:
        """Same shape.

        Raises:
            UserError: in training, the processes cannot be divided into such groups.
        """
        size = _group_size(self.num_processes)
        if not self.training or size == 1:
            return super().forward(input)
        assert self.momentum is not None and self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        wide = input.float()
        dims = [0, *range(2, input.dim())]
        moments_2C = torch.stack([wide.mean(dim=dims), wide.square().mean(dim=dims)])
        shared_2C = all_reduce(moments_2C, group=_group(size)) / size  # type: ignore[no-untyped-call]
        mean_C = shared_2C[0]
        var_C = shared_2C[1] - mean_C.square()
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean_C.detach(), self.momentum)
            self.running_var.lerp_(var_C.detach(), self.momentum)
        scale_C = self.weight * (var_C + self.eps).rsqrt()
        shift_C = self.bias - mean_C * scale_C
        y: Tensor = (wide * scale_C.view(-1, 1, 1, 1) + shift_C.view(-1, 1, 1, 1)).to(input.dtype)
        return y


def _group_size(num_processes: int) -> int:
    """Processes that share statistics."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    return world if num_processes == 0 else min(num_processes, world)


@functools.cache
def _group(size: int) -> dist.ProcessGroup:
    """The group of this process among neighbors; all processes call this together, in their first forward pass."""
    world, rank = dist.get_world_size(), dist.get_rank()
    if world % size:
        raise UserError(f"{world} processes cannot be divided into groups of {size}", where="BN.NUM_SYNC_DEVICES")
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world, size)]
    group = groups[rank // size]
    assert isinstance(group, dist.ProcessGroup)
    return group


def replace_batch_norms(model: nn.Module, new: Callable[[int], nn.BatchNorm3d]) -> None:
    """Replace every batch norm of clips by another kind with the same parameters and statistics, in place.

    Args:
        model: its `nn.BatchNorm3d` are replaced, not their subclasses.
        new: channels -> batch norm.
    """
    for module in list(model.modules()):
        for name, norm in list(module.named_children()):
            if type(norm) is not nn.BatchNorm3d:
                continue
            with torch.device(norm.weight.device):
                other = new(norm.num_features)
            other.eps, other.momentum = norm.eps, norm.momentum
            other.weight, other.bias = norm.weight, norm.bias
            other.running_mean, other.running_var = norm.running_mean, norm.running_var
            other.num_batches_tracked = norm.num_batches_tracked
            setattr(module, name, other)
