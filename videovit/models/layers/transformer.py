"""Blocks of a plain vision transformer, and the base of models that classify by a class token.

B clips, N tokens, C channels, M heads, D head width, X class tokens (one, or two with distillation), K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videovit.errors import UserError
from videovit.models.contract import AttentionModel, DistilledLogits, Features, Grid, HasPlainForm
from videovit.models.layers.basic import DropPath, Mlp, add_branch
from videovit.models.layers.heads import ClassifierHead
from videovit.models.layers.maps import attention_maps
from videovit.models.layers.scaled_dot_product import apply_map, attend, attention_map


class Attention(HasPlainForm):
    """Multi-head self-attention over all tokens.

    Args:
        dim: C.
        num_heads: M.
        qkv_bias: biases of the projections into queries, keys and values.
        dropout: after the output projection.

    Raises:
        UserError: `num_heads` does not divide `dim`.

    Source: Transformer (arXiv 1706.03762), section 3.2.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise UserError(f"{dim} channels cannot be divided among {num_heads} heads equally")
        self.num_heads, self.width = num_heads, dim // num_heads
        self.scale = self.width**-0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) of (B, N, C)."""
        qkv = torch.unflatten(self.qkv(x_BNC), -1, (3, self.num_heads, self.width))
        q_BNMD, k_BNMD, v_BNMD = qkv.unbind(2)
        if self.plain:
            out_BNMD = apply_map(attention_map(q_BNMD, k_BNMD, self.scale), v_BNMD)
        else:
            out_BNMD = self._attend(q_BNMD, k_BNMD, v_BNMD)
        out_BNC: Tensor = self.dropout(self.proj(out_BNMD.flatten(2)))
        return out_BNC

    def _attend(self, q_BNMD: Tensor, k_BLMD: Tensor, v_BLMD: Tensor) -> Tensor:
        return attend(q_BNMD, k_BLMD, v_BLMD, self.scale)


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a shortcut.

    Args:
        dim: C.
        num_heads: M.
        mlp_ratio: hidden channels of the MLP over C.
        qkv_bias: as in `Attention`.
        dropout: after the attention, and inside the MLP.
        drop_path: probability of dropping a branch.
        eps: of both norms.

    Source: ViT (arXiv 2010.11929), eqs. 2 and 3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qkv_bias=qkv_bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim, dropout=dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) of (B, N, C)."""
        x_BNC = add_branch(x_BNC, self.attn(self.norm1(x_BNC)), self.drop_path.draw(x_BNC))
        return add_branch(x_BNC, self.mlp(self.norm2(x_BNC)), self.drop_path.draw(x_BNC))


class ClassTokenModel(AttentionModel):
    """Base of models that classify by a class token, and with distillation also by a second one.

    A subclass sets `in_channels`, `grid` and `blocks`, and implements `_encode`.

    Args:
        dim: channels of the first tokens.
        dim_out: channels of the last tokens.
        num_classes: K.
        cls_token: whether there is a class token; a subclass without one overrides `_logits`.
        distilled: add a distillation token with a classifier of its own.
        head_dropout: before the classifiers.
        eps: of the last norm.
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Source: ViT (arXiv 2010.11929); DeiT (arXiv 2012.12877), section 4.
    """

    head_names: ClassVar[tuple[str, ...]] = ("head", "head_dist")
    position_tables: ClassVar[tuple[str, ...]] = ()
    """Names of the position tables; a model may lack some of them."""

    blocks: nn.ModuleList

    def __init__(
        self,
        *,
        dim: int,
        dim_out: int,
        num_classes: int,
        cls_token: bool = True,
        distilled: bool = False,
        head_dropout: float = 0.0,
        eps: float = 1e-6,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.num_cls = cls_token + distilled
        self.act_checkpoint = act_checkpoint
        self.cls_token = nn.Parameter(torch.zeros(1, self.num_cls, dim)) if self.num_cls else None
        self.norm = nn.LayerNorm(dim_out, eps=eps)
        self.head = ClassifierHead(dim_out, num_classes, dropout=head_dropout)
        self.head_dist = ClassifierHead(dim_out, num_classes, dropout=head_dropout) if distilled else None

    # ------------------------------------------------------------------------------------------------- the contract

    def reset_head(self, head: nn.Module) -> None:
        """Replace the head; the classifier of a distillation token, which belongs to the old classes, is dropped."""
        super().reset_head(head)
        self.head_dist = None

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        """One layer per block."""
        return [[block] for block in self.blocks]

    def head_modules(self) -> Sequence[nn.Module]:
        """The last norm and the classifiers."""
        classifiers = [self.head] if self.head_dist is None else [self.head, self.head_dist]
        return [self.norm, *classifiers]

    def no_weight_decay(self) -> frozenset[str]:
        """Class tokens and position tables."""
        own = {name for name, _ in self.named_parameters(recurse=False)}
        return frozenset(own.intersection({"cls_token", *self.position_tables}))

    def units_to_shard(self) -> Iterator[nn.Module]:
        """All blocks but the last."""
        yield from list(self.blocks)[:-1]

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """One map per block, class tokens first; see `AttentionModel.attention_maps`."""
        return attention_maps(self, x)

    def _logits(self, x_BCTHW: Tensor) -> Tensor | DistilledLogits:
        return self.classify(self._encode(x_BCTHW)[0])

    def _features(self, x_BCTHW: Tensor) -> Features:
        x_BNC, grid = self._encode(x_BCTHW)
        x_BNC = self.norm(x_BNC)
        return Features(x_BNC[:, self.num_cls :], grid, x_BNC[:, : self.num_cls] if self.num_cls else None)

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        return [self.as_map(*self._encode(x_BCTHW))]

    @abstractmethod
    def _encode(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        """Tokens (B, X + N, C) of the last block, class tokens first, and the grid of the others."""

    # ------------------------------------------------------------------------------------------- parts of subclasses

    def with_cls(self, x_BNC: Tensor) -> Tensor:
        """(B, X + N, C): the class tokens, then (B, N, C)."""
        if self.cls_token is None:
            return x_BNC
        cls_BXC = self.cls_token.to(x_BNC.dtype).expand(x_BNC.shape[0], -1, -1)
        return torch.cat([cls_BXC, x_BNC], dim=1)

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """`block(x)`; its activations are kept, or with `act_checkpoint` computed again in the backward pass."""
        out: Tensor = run_block(block, x, save_memory=self.act_checkpoint and self.training)
        return out

    def classify(self, x_BNC: Tensor) -> Tensor | DistilledLogits:
        """Logits of the last block's tokens, class tokens first.

        Returns:
            (B, K); of a distilled model the mean of both classifiers, and in training the pair.
        """
        # Only class tokens are read, and a LayerNorm treats every token alone.
        cls_BXC = self.norm(x_BNC[:, : self.num_cls])
        logits: Tensor = self.head(cls_BXC[:, 0])
        if self.head_dist is None:
            return logits
        distillation: Tensor = self.head_dist(cls_BXC[:, 1])
        return DistilledLogits(logits, distillation) if self.training else (logits + distillation) / 2

    def as_map(self, x_BNC: Tensor, grid: Grid) -> Tensor:
        """(B, C, T, H, W): the grid of tokens that begin with the class tokens."""
        return torch.unflatten(x_BNC[:, self.num_cls :].transpose(1, 2), 2, grid)


def run_block(block: nn.Module, *arguments: object, save_memory: bool) -> Any:
    """`block(*arguments)`; its activations are kept, or to save memory computed again in the backward pass."""
    if save_memory and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)


def init_linear(layer: nn.Linear) -> None:
    """Truncated normal (0.02) for weights, zero biases, as in DeiT's code."""
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates of `depth` blocks that grow linearly from 0 to `last`, in single precision, as in all published code."""
    # On the CPU also for a model that is built on the meta device.
    rates: list[float] = torch.linspace(0, last, depth, device="cpu").tolist()
    return rates
