"""TimeSformer: every block attends over time, then over space; weights and config are those of transformers.

transformers' blocks have a fixed number of frames, no fused attention and no map that can be observed, so they are
replaced by blocks with the same children.

B clips, C channels, T H W grid in tokens (in x_BCTHW: pixels), N tokens, S = H * W, M heads, D head width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.errors import UserError
from videovit.models.contract import Grid, HasPlainForm
from videovit.models.external.hf_network import HfNetwork
from videovit.models.layers.maps import record
from videovit.models.layers.position import resize_pos_embed
from videovit.models.layers.scaled_dot_product import attend, attention_map

Reach = Literal["time", "space", "all"]


class ReachingAttention(HasPlainForm):
    """Attention between tokens that share their place (time), their frame (space), or between all tokens.

    Args:
        layer: the attention layer of transformers whose projection it takes.
        reach: which tokens attend to each other. Over space, a copy of the class token is in every frame; over time,
            there is none.
    """

    def __init__(self, layer: Any, reach: Reach) -> None:
        super().__init__()
        self.qkv, self.num_heads, self.scale = layer.qkv, layer.num_heads, layer.scale
        self.dropout, self.reach = layer.attn_drop.p, reach

    def forward(self, x_BNC: Tensor, grid: Grid) -> Tensor:
        """Tokens in the groups that attend to each other: (B * S, T, C), (B * T, 1 + S, C), or (B, 1 + N, C).

        Args:
            x_BNC: the class token, and the tokens of the grid row by row; over time without the class token.
            grid: (T, H, W).
        """
        qkv = torch.unflatten(self.qkv(x_BNC), -1, (3, self.num_heads, -1))
        q, k, v = (self._grouped(part, grid) for part in qkv.unbind(2))
        if self.plain or (self.training and self.dropout):
            map_GMNL = attention_map(q, k, self.scale)
            self._record(map_GMNL, grid)
            out = (F.dropout(map_GMNL, self.dropout, self.training) @ v.transpose(1, 2)).transpose(1, 2)
        else:
            out = attend(q, k, v, self.scale)
        return out.flatten(2)

    def _grouped(self, x_BNMD: Tensor, grid: Grid) -> Tensor:
        if self.reach == "time":
            return by_place(x_BNMD, grid)
        return by_frame(x_BNMD, grid) if self.reach == "space" else x_BNMD

    def _record(self, map_GMNL: Tensor, grid: Grid) -> None:
        """Show the map between all tokens of a clip, class token first, frame by frame of the queries."""
        T, S = grid[0], grid[1] * grid[2]
        if self.reach == "all":
            record(map_GMNL)
        elif self.reach == "time":
            map_BSMTT = torch.unflatten(map_GMNL, 0, (-1, S))
            cls_B = map_BSMTT.new_zeros(map_BSMTT.shape[0], self.num_heads, 1, 1 + T * S)
            cls_B[..., 0] = 1  # the layer passes it on unchanged
            record(cls_B)
            for t in range(T):
                keys_BMTSS = torch.diag_embed(map_BSMTT[:, :, :, t].permute(0, 2, 3, 1))
                record(F.pad(keys_BMTSS.transpose(2, 3).flatten(3), (1, 0)))
        else:
            map_BTMSS = torch.unflatten(map_GMNL, 0, (-1, T))
            # The copies of the class token are averaged after the layer.
            cls = map_BTMSS[:, :, :, :1] / T
            grid_part = cls[..., 1:].permute(0, 2, 3, 1, 4).flatten(3)
            record(torch.cat([cls[..., :1].sum(dim=1), grid_part], dim=-1))
            for t in range(T):
                rows_BMSS = map_BTMSS[:, t, :, 1:]
                inside = F.pad(rows_BMSS[..., 1:], (t * S, (T - 1 - t) * S))
                record(torch.cat([rows_BMSS[..., :1], inside], dim=-1))


def by_place(x_BN: Tensor, grid: Grid) -> Tensor:
    """(B * S, T, ...) of (B, T * S, ...)."""
    return torch.unflatten(x_BN, 1, (grid[0], -1)).transpose(1, 2).flatten(0, 1)


def by_frame(x_BN: Tensor, grid: Grid) -> Tensor:
    """(B * T, 1 + S, ...) of (B, 1 + T * S, ...), with a copy of the first token in every frame."""
    frames = torch.unflatten(x_BN[:, 1:], 1, (grid[0], -1))
    cls = x_BN[:, None, :1].expand(-1, grid[0], *[-1] * (x_BN.dim() - 1))
    return torch.cat([cls, frames], dim=2).flatten(0, 1)


class SpaceTimeBlock(nn.Module):
    """Attention over time, attention over space, MLP; or joint attention, MLP.

    Args:
        layer: the block of transformers whose children it takes.

    Source: TimeSformer (arXiv 2102.05095), section 3.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)
        self.is_divided = "temporal_attention" in dict(layer.named_children())
        self._take("attention", "space" if self.is_divided else "all")
        if self.is_divided:
            self._take("temporal_attention", "time")

    def _take(self, name: str, reach: Reach) -> None:
        outer = self.get_submodule(name)
        outer.attention = ReachingAttention(outer.attention, reach)

    def forward(self, x_BNC: Tensor, grid: Grid) -> Tensor:
        """(B, 1 + N, C) of (B, 1 + N, C), class token first."""
        drop_path = self.get_submodule("drop_path")
        if self.is_divided:
            x_BNC = self._over_time(x_BNC, grid, drop_path)
        out = drop_path(self._attend("attention", self.get_submodule("layernorm_before")(x_BNC), grid))
        if self.is_divided:
            frames_BTSC = torch.unflatten(out, 0, (-1, grid[0]))
            out = torch.cat([frames_BTSC[:, :, 0].mean(dim=1, keepdim=True), frames_BTSC[:, :, 1:].flatten(1, 2)], 1)
        x_BNC = x_BNC + out
        out = x_BNC
        for name in ("layernorm_after", "intermediate", "output"):
            out = self.get_submodule(name)(out)
        dropped: Tensor = drop_path(out)
        return x_BNC + dropped

    def _over_time(self, x_BNC: Tensor, grid: Grid, drop_path: nn.Module) -> Tensor:
        cls_B1C, rest_BNC = x_BNC[:, :1], x_BNC[:, 1:]
        normed_BNC = self.get_submodule("temporal_layernorm")(rest_BNC)
        out = drop_path(self._attend("temporal_attention", normed_BNC, grid))
        out_BNC = torch.unflatten(out, 0, (x_BNC.shape[0], -1)).transpose(1, 2).flatten(1, 2)
        return torch.cat([cls_B1C, rest_BNC + self.get_submodule("temporal_dense")(out_BNC)], dim=1)

    def _attend(self, name: str, x_BNC: Tensor, grid: Grid) -> Tensor:
        outer = self.get_submodule(name)
        dense = outer.get_submodule("output")
        out: Tensor = dense(outer.get_submodule("attention")(x_BNC, grid))
        return out


class TimeSformer(HfNetwork):
    """A transformer over patches of frames that divides attention into time and space, with a class token.

    Source: TimeSformer (arXiv 2102.05095).
    """

    model_type = "timesformer"
    config_class = "TimesformerConfig"
    network_class = "TimesformerForVideoClassification"
    body = "timesformer"

    def _change_parts(self) -> None:
        kind = self.config.attention_type
        if kind == "space_only":
            what = "TimeSformer without attention over time averages frames, which transformers does not implement"
            raise UserError(what, where="HF.CONFIG", found=kind, expected="divided_space_time or joint_space_time")
        encoder = self._part("encoder")
        encoder.layer = nn.ModuleList(SpaceTimeBlock(block) for block in encoder.get_submodule("layer").children())
        divided = ("temporal_attention.attention", "attention.attention")
        self.attention_in_block = divided if kind == "divided_space_time" else divided[1:]

    def _block_arguments(self, grid: Grid, x_BNC: Tensor) -> tuple[object, ...]:
        return (grid,)

    def _embed(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        grid, embeddings = self.patches.grid(x_BCTHW.shape[2:]), self._part("embeddings")
        (T, H, W), (frames, rows, columns) = grid, self.table_grid
        map_GCHW = self._part(self.patches_in_body)(x_BCTHW.transpose(1, 2).flatten(0, 1))
        x_BTSC = torch.unflatten(map_GCHW.flatten(2).transpose(1, 2), 0, (-1, T))
        space, time = embeddings.get_parameter("position_embeddings"), embeddings.get_parameter("time_embeddings")
        cls_11C = embeddings.get_parameter("cls_token") + space[:, :1]
        cls_B1C = cls_11C.to(x_BTSC.dtype).expand(x_BTSC.shape[0], -1, -1)
        x_BTSC = x_BTSC + resize_pos_embed(space[:, 1:], (1, rows, columns), (1, H, W))
        x_BNC = embeddings.get_submodule("pos_drop")(torch.cat([cls_B1C, x_BTSC.flatten(1, 2)], dim=1))
        time_1TC = resize_pos_embed(time, (frames, 1, 1), (T, 1, 1))
        rest_BNC = x_BNC[:, 1:] + time_1TC.repeat_interleave(H * W, dim=1)
        return torch.cat([x_BNC[:, :1], embeddings.get_submodule("time_drop")(rest_BNC)], dim=1), grid
