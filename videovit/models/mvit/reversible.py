"""Reversible MViT and ViT: most blocks keep no activations, because their inputs follow from their outputs.

    forward     first  += attention(second)        backward    second -= mlp(first)
                second += mlp(first)                           first  -= attention(second)

Blocks that change the resolution or the channels cannot be undone: they join the two streams, and are computed as
usual.

B clips, C channels, T H W grid in tokens, M heads, D channels per head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from videovit.config.schema.models import StreamFusion
from videovit.errors import UserError
from videovit.models.contract import Grid
from videovit.models.layers.basic import DropPath, Mlp, add_branch
from videovit.models.layers.pooling import max_pool
from videovit.models.mvit.attention import MultiscaleAttention
from videovit.models.mvit.block_specs import NO_POOLING, BlockSpec
from videovit.models.mvit.model import MViT

ShortcutPooling = Literal["conv", "max"]
Gradients: TypeAlias = dict[nn.Parameter, Tensor]

_JOIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "avg": lambda first, second: (first + second) / 2,
    "add": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
}


class Streams(NamedTuple):
    """Two streams of tokens, or the gradients of two: (B, T, H, W, C) each."""

    first: Tensor
    second: Tensor


class Draws(NamedTuple):
    """What a block drew at random, to be drawn again.

    Attributes:
        factors_B: of the drop path, the same for both branches; None: nothing is dropped.
        states: of the generators of CPU and GPU before the attention; None: it draws nothing.
    """

    factors_B: Tensor | None
    states: tuple[Tensor, Tensor | None] | None


class AttentionBranch(nn.Module):
    """Norm and attention.

    Args:
        spec: widths, heads, kernels and strides.
        grid: (T, H, W) in tokens that relative tables are sized for.
        eps: of the norm.
        attention: further arguments of `MultiscaleAttention`.
    """

    def __init__(self, spec: BlockSpec, grid: Grid, *, eps: float, **attention: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.dim, eps=eps)
        self.attn = MultiscaleAttention(spec, grid, **attention)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T', H', W', C')"""
        branch, _, _ = self.attn(self.norm(x_BTHWC), None)
        assert isinstance(branch, Tensor)  # only a class token leaves it out
        return branch


class MlpBranch(nn.Module):
    """Norm and MLP.

    Args:
        dim: channels.
        mlp_ratio: hidden over these.
        eps: of the norm.
    """

    def __init__(self, dim: int, *, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C)"""
        branch: Tensor = self.mlp(self.norm(x))
        return branch


class ReversibleBlock(nn.Module):
    """A block whose input follows from its output.

    Args:
        spec: without pooled queries, and as wide at the end as at the beginning.
        grid: (T, H, W) in tokens that relative tables are sized for.
        mlp_ratio: hidden over other channels of the MLP.
        drop_path: probability of dropping both branches.
        dropout: inside the attention.
        eps: of the norms.
        attention: further arguments of `MultiscaleAttention`.

    Source: Reversible Vision Transformers (CVPR 2022), section 3.3.2.
    """

    def __init__(
        self,
        spec: BlockSpec,
        grid: Grid,
        *,
        mlp_ratio: float,
        drop_path: float,
        dropout: float,
        eps: float,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.attention = AttentionBranch(spec, grid, eps=eps, dropout=dropout, **attention)
        self.mlp = MlpBranch(spec.dim, mlp_ratio=mlp_ratio, eps=eps)
        self.drop_path = DropPath(drop_path)

    def forward(self, streams: Streams, draws: Draws | None = None) -> Streams:
        """The streams after this block.

        Args:
            streams: before it.
            draws: of `draw`; None draws the drop path anew.
        """
        factors_B = self.drop_path.draw(streams.first) if draws is None else draws.factors_B
        first = add_branch(streams.first, self.attention(streams.second), factors_B)
        return Streams(first, add_branch(streams.second, self.mlp(first), factors_B))

    def draw(self, x: Tensor) -> Draws:
        """Draw for a forward pass that will be undone."""
        factors_B = self.drop_path.draw(x)
        if not (self.training and self.attention.attn.dropout):
            return Draws(factors_B, None)
        return Draws(factors_B, (torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if x.is_cuda else None))

    def undo(self, outputs: Streams, gradients: Streams, draws: Draws, found: Gradients) -> tuple[Streams, Streams]:
        """The inputs and their gradients.

        Args:
            outputs: of `forward`.
            gradients: of the outputs.
            draws: with which they were computed.
            found: gradients of parameters are added to it.
        """
        first, second = outputs
        branch, through = _differentiate(self.mlp, first, gradients.second, draws.factors_B, found)
        second = second - branch
        of_first = gradients.first + through
        with _drawn_again(draws, second.device):
            branch, through = _differentiate(self.attention, second, of_first, draws.factors_B, found)
        return Streams(first - branch, second), Streams(of_first, gradients.second + through)


class TransitionBlock(nn.Module):
    """A block that joins the streams, and pools queries or widens the tokens.

    Args:
        spec: widths, heads, kernels and strides; `dim` is that of one stream.
        grid: (T, H, W) in tokens that relative tables are sized for.
        fusion: how the streams become one: side by side (`concat`, with `_linear_2` after an MLP), or by an operation.
        shortcut_pooling: by the convolution and the norm of the queries, or by a maximum.
        mlp_ratio, drop_path, dropout, eps, attention: see `ReversibleBlock`.

    Source: Reversible Vision Transformers (CVPR 2022), section 3.3.1.
    """

    def __init__(
        self,
        spec: BlockSpec,
        grid: Grid,
        *,
        fusion: StreamFusion,
        shortcut_pooling: ShortcutPooling,
        mlp_ratio: float,
        drop_path: float,
        dropout: float,
        eps: float,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.spec, self.fusion, self.shortcut_pooling = spec, fusion, shortcut_pooling
        width = spec.dim if fusion in _JOIN else 2 * spec.dim
        self.fuse = Mlp(width, 2 * width, width) if fusion == "concat_linear_2" else None
        self.attention = AttentionBranch(replace(spec, dim=width), grid, eps=eps, dropout=dropout, **attention)
        self.mlp = MlpBranch(spec.dim_out, mlp_ratio=mlp_ratio, eps=eps)
        self.proj = nn.Linear(width, spec.dim_out) if width != spec.dim_out else None
        self.drop_path = DropPath(drop_path)

    def forward(self, streams: Streams) -> Tensor:
        """(B, T', H', W', C')"""
        x_BTHWC = self._joined(streams)
        shortcut = self._pool_shortcut(x_BTHWC if self.proj is None else self.proj(x_BTHWC))
        x_BTHWC = shortcut + self.attention(x_BTHWC)
        out: Tensor = x_BTHWC + self.mlp(x_BTHWC)
        # As published, the tokens themselves are dropped, and not only what the branches add to them.
        factors_B = self.drop_path.draw(out)
        return out if factors_B is None else out * factors_B.view(-1, 1, 1, 1, 1)

    def _joined(self, streams: Streams) -> Tensor:
        if self.fusion in _JOIN:
            return _JOIN[self.fusion](*streams)
        both = torch.cat(streams, dim=-1)
        return both if self.fuse is None else both + self.fuse(both)

    def _pool_shortcut(self, x_BTHWC: Tensor) -> Tensor:
        """The shortcut at the resolution of the queries."""
        if self.shortcut_pooling == "conv":
            pooled: Tensor = self.attention.attn.pool_as_queries(x_BTHWC)
            return pooled.flatten(-2)
        t, h, w = self.spec.stride_q
        return max_pool(x_BTHWC, (t + (t > 1), h + (h > 1), w + (w > 1)), self.spec.stride_q)


class ReversibleMViT(MViT):
    """MViT of reversible blocks, without a class token; without pooling, a reversible ViT.

    Each run of reversible blocks begins with two equal streams. The last two are classified side by side.

    Args:
        transitions: numbers of the blocks that are not reversible.
        fusion, shortcut_pooling: of these, see `TransitionBlock`.
        arguments: of `MViT`.

    Attributes:
        keeps_activations: train by PyTorch's backward pass; for comparison.

    Raises:
        UserError: a block that pools or widens is not among the transitions; or one of them is the first or the last
            block, or follows another.

    Source: Reversible Vision Transformers (CVPR 2022).
    """

    num_streams = 2

    def __init__(
        self,
        *,
        blocks: Sequence[BlockSpec],
        transitions: Sequence[int] = (),
        fusion: StreamFusion = "avg",
        shortcut_pooling: ShortcutPooling = "conv",
        **arguments: Any,
    ) -> None:
        _check_transitions(blocks, transitions)
        # Read while the blocks are built.
        self.transitions, self.fusion, self.shortcut_pooling = frozenset(transitions), fusion, shortcut_pooling
        self.keeps_activations = False
        super().__init__(blocks=blocks, cls_token=False, **arguments)

    def _build_block(self, number: int, spec: BlockSpec, grid: Grid, **options: Any) -> nn.Module:
        if number in self.transitions:
            return TransitionBlock(spec, grid, fusion=self.fusion, shortcut_pooling=self.shortcut_pooling, **options)
        return ReversibleBlock(spec, grid, **options)

    def _encode(self, x_BCTHW: Tensor, cls_only: bool) -> tuple[Tensor | None, Tensor | None]:
        if not (self.training and torch.is_grad_enabled()) or self.keeps_activations:
            x_BTHWC, _ = super()._encode(x_BCTHW, cls_only)
            assert x_BTHWC is not None
        else:
            x_BTHWC, _ = self._embed(x_BCTHW)
            streams = Streams(x_BTHWC, x_BTHWC)
            for run in self._runs():
                if isinstance(run, TransitionBlock):
                    x_BTHWC = run(streams)
                    streams = Streams(x_BTHWC, x_BTHWC)
                else:
                    streams = run_reversible(run, streams)
            x_BTHWC = torch.cat(streams, dim=-1)
        return nn.functional.dropout(x_BTHWC, self.dropout, self.training), None

    def _blocks_on(
        self, tokens: tuple[Tensor | None, Tensor | None], cls_only: bool = False
    ) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        """As `MViT`: the grid after every block, both streams side by side after a reversible one."""
        x_BTHWC, _ = tokens
        assert x_BTHWC is not None
        streams = Streams(x_BTHWC, x_BTHWC)
        for block in self.blocks:
            if isinstance(block, TransitionBlock):
                x_BTHWC = block(streams)
                streams = Streams(x_BTHWC, x_BTHWC)
                yield x_BTHWC, None
            else:
                streams = block(streams)
                yield torch.cat(streams, dim=-1), None

    def _runs(self) -> Iterator[TransitionBlock | list[ReversibleBlock]]:
        """The blocks in order, reversible ones that follow each other together."""
        run: list[ReversibleBlock] = []
        for block in self.blocks:
            if isinstance(block, ReversibleBlock):
                run.append(block)
            elif isinstance(block, TransitionBlock):
                yield run
                yield block
                run = []
        yield run


def run_reversible(blocks: Sequence[ReversibleBlock], streams: Streams) -> Streams:
    """The streams after some blocks, of which nothing but the last streams is kept for the backward pass."""
    parameters = [parameter for block in blocks for parameter in block.parameters()]
    return Streams(*cast(tuple[Tensor, Tensor], _Run.apply(blocks, *streams, *parameters)))


class _Run(torch.autograd.Function):
    """See `run_reversible`. Parameters are inputs, so that their gradients go the usual way, to hooks and reducers."""

    @staticmethod
    def forward(ctx: Any, blocks: Sequence[ReversibleBlock], first: Tensor, second: Tensor, *_: Tensor) -> Streams:
        ctx.blocks, ctx.draws = blocks, []
        device = first.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        streams = Streams(first, second)
        for block in blocks:
            ctx.draws.append(block.draw(streams.first))
            streams = block(streams, ctx.draws[-1])
        ctx.save_for_backward(*streams)
        return streams

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_first: Tensor, of_second: Tensor) -> tuple[Tensor | None, ...]:
        streams, gradients = Streams(*ctx.saved_tensors), Streams(of_first, of_second)
        found: Gradients = {}
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype, enabled):
            for block, draws in zip(reversed(ctx.blocks), reversed(ctx.draws), strict=True):
                streams, gradients = block.undo(streams, gradients, draws, found)
        parameters = [parameter for block in ctx.blocks for parameter in block.parameters()]
        return None, *gradients, *(found.get(parameter) for parameter in parameters)


def _differentiate(
    branch: nn.Module, x: Tensor, gradient: Tensor, factors_B: Tensor | None, found: Gradients
) -> tuple[Tensor, Tensor]:
    """The output of a branch, times its factors, and the gradient of its input."""
    parameters = [parameter for parameter in branch.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out: Tensor = branch(x)
        if factors_B is not None:
            out = out * factors_B.to(out.dtype).view(-1, 1, 1, 1, 1)
    of_x, *rest = torch.autograd.grad(out, [x, *parameters], gradient.to(out.dtype))
    found.update(zip(parameters, rest, strict=True))
    return out.detach(), of_x


@contextlib.contextmanager
def _drawn_again(draws: Draws, device: torch.device) -> Iterator[None]:
    """Generators as they were before the attention of a block; afterwards they are as they are now."""
    if draws.states is None:
        yield
        return
    on_cpu, on_gpu = draws.states
    with torch.random.fork_rng([] if on_gpu is None else [device]):
        torch.set_rng_state(on_cpu)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)
        yield


def _check_transitions(blocks: Sequence[BlockSpec], transitions: Sequence[int]) -> None:
    where, last = "MVIT.REV.BUFFER_LAYERS", len(blocks) - 1
    needed = [i for i, spec in enumerate(blocks) if spec.stride_q != NO_POOLING or spec.dim != spec.dim_out]
    if missing := sorted(set(needed) - set(transitions)):
        what = f"block {missing[0]} pools queries or widens the tokens, so it cannot be undone"
        raise UserError(what, where=where, found=list(transitions), expected=f"these blocks among them: {needed}")
    if wrong := [i for i in transitions if not 0 < i < last]:
        what = f"block {wrong[0]} is the first or the last of {len(blocks)}, or none of them"
        raise UserError(what, where=where, found=list(transitions), expected=f"blocks from 1 to {last - 1}")
    if (two := next(((a, b) for a, b in pairwise(sorted(transitions)) if b == a + 1), None)) is not None:
        what = f"between the blocks {two[0]} and {two[1]} there is none whose two streams could be joined"
        raise UserError(what, where=where, found=list(transitions))
