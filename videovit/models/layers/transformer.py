"""Blocks of a plain vision transformer, and what every classifier by class token has in common.

B clips, N tokens, C channels, M heads, D head width, X class tokens (one, or two with distillation), K classes.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videovit.models.cpu.derived import forget_derived, forget_passing
from videovit.models.layers.attend import attend
from videovit.models.layers.basic import DropPath, Linear, Mlp, SizeError, add_branch
from videovit.models.layers.heads import ClassifierHead


class DistilledLogits(NamedTuple):
    """What a distilled model answers in training: two classifiers, (B, K) each.

    Attributes:
        logits: of the class token, for the labels.
        distillation: of the distillation token, for the teacher.

    Source: DeiT (arXiv 2012.12877), section 4.
    """

    logits: Tensor
    distillation: Tensor


class Attention(nn.Module):
    """Multi-head self-attention over all tokens.

    Args:
        dim: C.
        num_heads: M.
        qkv_bias: biases of the projections into queries, keys and values.
        dropout: after the output projection.

    Raises:
        SizeError: `num_heads` does not divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise SizeError(f"{dim} channels cannot be divided among {num_heads} heads equally")
        self.num_heads, self.width = num_heads, dim // num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) of (B, N, C)."""
        q_BNMD, k_BNMD, v_BNMD = self.qkv(x_BNC).unflatten(-1, (3, self.num_heads, self.width)).unbind(2)
        out_BNMD = attend(q_BNMD, k_BNMD, v_BNMD, self.width**-0.5)
        out_BNC: Tensor = self.dropout(self.proj(out_BNMD.flatten(2)))
        return out_BNC


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a shortcut.

    Args:
        dim: C.
        num_heads: M.
        mlp_ratio: hidden channels of the MLP over C.
        qkv_bias: as in `Attention`.
        dropout: behind the attention, and inside the MLP.
        drop_path: probability of leaving a branch out.
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


class ClassTokenModel(nn.Module):
    """A model that classifies by its class token, and learns from a teacher by a second one where it is distilled.

    Args:
        dim: channels of the first tokens.
        dim_out: channels of the last tokens.
        num_classes: K.
        cls_token: whether there is a class token at all; a model without one has to say what it classifies by.
        distilled: whether there is a distillation token with a classifier of its own.
        head_dropout: in front of the classifiers.
        eps: of the last norm.
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.
    """

    # Beginnings of the classifiers' names in the state dict.
    head_prefix: ClassVar[tuple[str, ...]] = ("head.", "head_dist.")

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

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation; also forgets what was derived from the weights."""
        forget_derived(self)
        return super().train(mode)

    def with_cls(self, x_BNC: Tensor) -> Tensor:
        """(B, X + N, C): the class tokens in front of (B, N, C)."""
        if self.cls_token is None:
            return x_BNC
        cls_BXC = self.cls_token.to(x_BNC.dtype).expand(x_BNC.shape[0], -1, -1)
        return torch.cat([cls_BXC, x_BNC], dim=1)

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """`block(x)`, its activations kept or computed again as `act_checkpoint` says."""
        if self.act_checkpoint and self.training and torch.is_grad_enabled():
            out: Tensor = checkpoint(block, x, use_reentrant=False)
            return out
        out = block(x)
        forget_passing(block)
        return out

    def classify(self, x_BNC: Tensor) -> Tensor | DistilledLogits:
        """Logits of the last block's tokens, class tokens first.

        Returns:
            (B, K); of a distilled model the mean of both classifiers, and in training the pair.
        """
        cls_BXC = self.norm(x_BNC[:, : self.num_cls])
        logits: Tensor = self.head(cls_BXC[:, 0])
        if self.head_dist is None:
            return logits
        distillation = self.head_dist(cls_BXC[:, 1])
        return DistilledLogits(logits, distillation) if self.training else (logits + distillation) / 2


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates of `depth` blocks that grow linearly from 0 to `last`."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]
