"""The parts of a PSViT: attention that can use the map of another layer, its block, and the pooling between stages.

Layers are those of ViT. A sharing layer has no query and key projections: it applies the map of the layer before it,
head by head, to values of its own.

B images, C channels, N tokens, M heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videovit.models.contract import HasPlainForm
from videovit.models.layers.basic import DropPath, Mlp, add_branch, matmul_dtype
from videovit.models.layers.scaled_dot_product import apply_map, attend, attention_map
from videovit.models.pooling_sharing.plan import BASIC, PoolingSharingShape

Sides = tuple[int, int]
"""(rows, columns) in tokens; one row with 1d pooling."""


class SharingAttention(HasPlainForm):
    """Attention with its own map, with the map of another layer, or with some heads of each.

    Args:
        dim: channels of a token.
        num_heads: M.
        own_heads: heads that compute their own map; None: all (a basic layer).
        qkv_bias: biases of the projections into queries, keys and values.
        dropout: after the output projection.

    Source: PSViT (arXiv 2108.03428), section on attention sharing.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        own_heads: tuple[int, ...] | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.width = num_heads, dim // num_heads
        self.scale = self.width**-0.5
        self.own_heads = own_heads
        num_own = num_heads if own_heads is None else len(own_heads)
        self.qk = nn.Linear(dim, 2 * num_own * self.width, bias=qkv_bias) if num_own else None
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = dropout

    def forward(
        self, x_BNC: Tensor, map_BMNN: Tensor | None = None, keep_map: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x_BNC: tokens, normalized.
            map_BMNN: map of the layer before, after its softmax. A basic layer that is given one uses it for all heads.
                None: this layer's own (basic layers only).
            keep_map: return the map that was used, even if computing without one would be faster.

        Returns:
            (B, N, C), and the map (B, M, N, N) if one was given or is kept, else None.
        """
        x_BNC = x_BNC.to(matmul_dtype(x_BNC))
        v_BNMD = torch.unflatten(self.v(x_BNC), -1, (self.num_heads, self.width))
        if map_BMNN is None and not keep_map and not self.plain:
            q_BNMD, k_BNMD = self._queries_and_keys(x_BNC)
            out_BNMD = attend(q_BNMD, k_BNMD, v_BNMD, self.scale)
        else:
            if map_BMNN is None:
                map_BMNN = self._map(x_BNC)
            elif self.own_heads:
                own = torch.tensor(self.own_heads, device=x_BNC.device)
                map_BMNN = map_BMNN.index_copy(1, own, self._map(x_BNC).to(map_BMNN.dtype))
            out_BNMD = apply_map(map_BMNN, v_BNMD)
        out = self.proj(out_BNMD.flatten(2))
        return nn.functional.dropout(out, self.dropout, self.training and self.dropout > 0), map_BMNN

    def _queries_and_keys(self, x_BNC: Tensor) -> tuple[Tensor, Tensor]:
        if self.qk is None:
            raise ValueError("a sharing layer has no map of its own: pass one")
        q_BNMD, k_BNMD = torch.unflatten(self.qk(x_BNC), -1, (2, -1, self.width)).unbind(2)
        return q_BNMD, k_BNMD

    def _map(self, x_BNC: Tensor) -> Tensor:
        q_BNMD, k_BNMD = self._queries_and_keys(x_BNC)
        return attention_map(q_BNMD, k_BNMD, self.scale)


class SharingBlock(nn.Module):
    """Pre-norm attention and MLP, each with a shortcut.

    Args:
        dim: channels of a token.
        num_heads: attention heads.
        mlp_ratio: hidden over token channels.
        dropout: inside attention and MLP.
        drop_path: probability of dropping a branch.
        own_heads, qkv_bias: as in `SharingAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        own_heads: tuple[int, ...] | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SharingAttention(dim, num_heads, own_heads=own_heads, qkv_bias=qkv_bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim, dropout=dropout)
        self.drop_path = DropPath(drop_path)

    @classmethod
    def of_stage(
        cls, shape: PoolingSharingShape, stage: int, kind: str, *, dropout: float, drop_path: float
    ) -> SharingBlock:
        """A layer of a stage; `kind` is `B` or `S`."""
        return cls(
            shape.dims[stage],
            shape.heads[stage],
            mlp_ratio=shape.mlp_ratio,
            dropout=dropout,
            drop_path=drop_path,
            own_heads=None if kind == BASIC else shape.own_heads(stage),
            qkv_bias=shape.qkv_bias,
        )

    def forward(
        self, x_BNC: Tensor, map_BMNN: Tensor | None = None, keep_map: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, N, C) and the attention map that was used; arguments as in `SharingAttention.forward`."""
        branch, map_BMNN = self.attn(self.norm1(x_BNC), map_BMNN, keep_map)
        x_BNC = add_branch(x_BNC, branch, self.drop_path.draw(x_BNC))
        return add_branch(x_BNC, self.mlp(self.norm2(x_BNC)), self.drop_path.draw(x_BNC)), map_BMNN


class TokenPool(nn.Module):
    """From the tokens of one stage to fewer, wider ones of the next: a convolution of stride 2.

    Args:
        shape: of the model.
        stage: the stage that it leads to, 1 or more.
    """

    def __init__(self, shape: PoolingSharingShape, stage: int) -> None:
        super().__init__()
        before, after, kernel = shape.dims[stage - 1], shape.dims[stage], shape.pool_kernel
        self.flat, self.apart = shape.pooling == "1d", shape.cls == "apart"
        convolution = nn.Conv1d if self.flat else nn.Conv2d
        padding = kernel // 2 if kernel % 2 else 0
        self.conv: nn.Module
        if shape.pool_conv == "dense":
            self.conv = convolution(before, after, kernel, stride=2, padding=padding)
        else:
            depthwise = convolution(before, before, kernel, stride=2, padding=padding, groups=before)
            self.conv = nn.Sequential(depthwise, convolution(before, after, 1))
        self.cls = nn.Linear(before, after) if self.apart else None

    def forward(self, x_BNC: Tensor, sides: Sides) -> tuple[Tensor, Sides]:
        """Pool.

        Args:
            x_BNC: tokens; a class token that is kept apart comes first.
            sides: rows and columns of the others.

        Returns:
            Tokens in the same order, and their rows and columns.
        """
        cls_B1C = None if self.cls is None else self.cls(x_BNC[:, :1])
        x_BCN = (x_BNC[:, 1:] if self.apart else x_BNC).transpose(1, 2)
        if self.flat:
            x_BCN = self.conv(x_BCN)
            sides = (1, x_BCN.shape[-1])
        else:
            x_BCHW = self.conv(torch.unflatten(x_BCN, -1, sides))
            sides = (x_BCHW.shape[-2], x_BCHW.shape[-1])
            x_BCN = x_BCHW.flatten(2)
        x_BNC = x_BCN.transpose(1, 2)
        return (x_BNC if cls_B1C is None else torch.cat([cls_B1C.to(x_BNC.dtype), x_BNC], dim=1)), sides
