"""ViT and DeiT: a plain vision transformer for images and clips.

Every clip is cut into boxes of patch_size pixels; all of them attend to each other in every block (joint space-time
attention), so an image is a clip with T = 1 and nothing else. Weights by PySlowFast's names: this is an MViT that pools
nothing.

B clips, C channels, T H W grid in tokens (in x_BCTHW: pixels), N tokens, X class tokens, K classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from videovit.models.cpu.derived import Derived
from videovit.models.layers.basic import PatchEmbed, Triple
from videovit.models.layers.position import resize_pos_embed
from videovit.models.layers.transformer import Block, ClassTokenModel, DistilledLogits, drop_path_rates

VIT_PRESETS: dict[str, dict[str, Any]] = {
    "deit_ti": {"dim": 192, "num_heads": 3},
    "deit_s": {"dim": 384, "num_heads": 6},
    "deit_b": {"dim": 768, "num_heads": 12},
    # What PS-ViT-B is compared with at equal depth and width (arXiv 2108.01684, Table 7).
    "vit_as_ps_vit_b": {"dim": 384, "num_heads": 6, "depth": 14, "mlp_ratio": 3.0, "qkv_bias": False},
    # MViT's baseline on Kinetics (arXiv 2104.11227, Table 4).
    "vit_b_8x8": {"dim": 768, "num_heads": 12, "clip_size": (8, 224, 224), "num_classes": 400},
}
"""Arguments of `ViT` for published models."""


class ViT(ClassTokenModel):
    """Plain vision transformer with a joint position table.

    Args:
        dim: channels of a token.
        depth: blocks.
        num_heads: of each.
        num_classes: K.
        clip_size: (T, H, W) in pixels that the position table is made for; other sizes stretch it.
        patch_size: frames, rows and columns of a patch, without overlap.
        in_channels: of the clip.
        mlp_ratio: hidden channels of the MLPs over `dim`.
        qkv_bias: biases of the projections into queries, keys and values.
        distilled: a distillation token with a classifier of its own.
        dropout: of the first tokens, and inside attention and MLP.
        drop_path: rate of the last block; grows linearly from 0.
        head_dropout: in front of the classifier.
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        SizeError: a clip smaller than a patch, or heads that do not divide `dim`.

    Source: ViT (arXiv 2010.11929); DeiT (arXiv 2012.12877); for clips MViT's baseline (arXiv 2104.11227, Table 4).
    """

    def __init__(
        self,
        *,
        dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        num_classes: int = 1000,
        clip_size: Triple = (1, 224, 224),
        patch_size: Triple = (1, 16, 16),
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        distilled: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__(
            dim=dim,
            dim_out=dim,
            num_classes=num_classes,
            distilled=distilled,
            head_dropout=head_dropout,
            act_checkpoint=act_checkpoint,
        )
        self.patch_embed = PatchEmbed(in_channels, dim, patch_size, patch_size, (0, 0, 0))
        self.grid = self.patch_embed.grid(clip_size)
        T, H, W = self.grid
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_cls + T * H * W, dim))
        self.pos_dropout = nn.Dropout(dropout)
        sizes = {"mlp_ratio": mlp_ratio, "qkv_bias": qkv_bias, "dropout": dropout}
        rates = drop_path_rates(drop_path, depth)
        self.blocks = nn.ModuleList(Block(dim, num_heads, drop_path=rate, **sizes) for rate in rates)
        self._derived = Derived()
        self._init_weights()

    def _init_weights(self) -> None:
        """Truncated normal (0.02) for linear layers, tokens and positions, zero biases; the convolution as PyTorch."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x_BCTHW: Tensor) -> Tensor | DistilledLogits:
        """Logits of a batch of clips.

        Args:
            x_BCTHW: (B, C, T, H, W), normalised; images with T = 1.

        Returns:
            (B, K); the pair of both classifiers while a distilled model trains.
        """
        return self.classify(self._encode(x_BCTHW)[0])

    def forward_features(self, x_BCTHW: Tensor) -> tuple[Tensor, Triple]:
        """Tokens of the last block, normalised.

        Args:
            x_BCTHW: (B, C, T, H, W), normalised.

        Returns:
            tokens: (B, X + N, C), class tokens first, then the grid row by row.
            grid: (T, H, W), N = T * H * W.
        """
        x_BNC, grid = self._encode(x_BCTHW)
        return self.norm(x_BNC), grid

    def _encode(self, x_BCTHW: Tensor) -> tuple[Tensor, Triple]:
        x_BTHWC = self.patch_embed(x_BCTHW)
        T, H, W = x_BTHWC.shape[1:4]
        grid = (T, H, W)
        x_BNC = self.with_cls(x_BTHWC.flatten(1, 3))
        positions = self._derived("positions", (self.pos_embed,), lambda: self._positions(grid), size=grid)
        x_BNC = self.pos_dropout(x_BNC + positions)
        for block in self.blocks:
            x_BNC = self.run_block(block, x_BNC)
        return x_BNC, grid

    def _positions(self, grid: Triple) -> Tensor:
        """The position table, stretched where `grid` is not the one that it was made for."""
        if grid == self.grid:
            return self.pos_embed
        table = resize_pos_embed(self.pos_embed[:, self.num_cls :], self.grid, grid)
        return torch.cat([self.pos_embed[:, : self.num_cls], table], dim=1)


def vit_from_config(cfg: Any) -> ViT:
    """`ViT` from the sections DATA, VIT and MODEL of a config.

    Args:
        cfg: `videovit.config.Config`.

    Returns:
        The model, initialised.

    Raises:
        SizeError: sizes that do not fit together.
    """
    v = cfg.VIT
    crop = cfg.DATA.TRAIN_CROP_SIZE
    return ViT(
        dim=v.EMBED_DIM,
        depth=v.DEPTH,
        num_heads=v.NUM_HEADS,
        num_classes=cfg.MODEL.NUM_CLASSES,
        clip_size=(cfg.DATA.NUM_FRAMES, crop, crop),
        patch_size=tuple(v.PATCH_SIZE),
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        mlp_ratio=v.MLP_RATIO,
        qkv_bias=v.QKV_BIAS,
        distilled=v.DISTILLED,
        dropout=v.DROPOUT_RATE,
        drop_path=v.DROPPATH_RATE,
        head_dropout=cfg.MODEL.DROPOUT_RATE,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
    )
