"""Classifiers of transformers as models of this project: VideoMAE, ViViT, V-JEPA 2; TimeSformer has its own file.

transformers builds the modules, so that names, initial weights and equations of the layers are its own, and published
files load by name. The way from a clip to logits is here: other clip sizes than those of the position tables, features,
attention maps, activation checkpoints.

transformers (`pip install -e ".[hf]"`) is imported when such a model is built.

B clips, C channels, T H W grid in tokens (in x_BCTHW: pixels), N tokens, X class tokens, M heads, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.errors import UserError
from videovit.messages import Plain
from videovit.models.contract import AttentionModel, AttentionTokens, BoxHead, Features, Grid, centers
from videovit.models.layers.maps import attention_maps
from videovit.models.layers.position import resize_pos_embed
from videovit.models.layers.scaled_dot_product import apply_map, attention_map
from videovit.models.layers.transformer import run_block

_FUSED, _BY_MAP = "sdpa", "videovit_map"
"""Names of attention functions in transformers: PyTorch's kernel, and ours, which holds the map."""

_MOST_IN_TABLE = 1 << 26
"""Numbers in a table of positions: 64 frames of 448 x 448 pixels with ViT-H's patches and width have 42 million."""


def import_transformers() -> ModuleType:
    """The package transformers.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "models named hf_... need transformers", where="MODEL.MODEL_NAME", hint='pip install -e ".[hf]"'
        ) from error
    package: ModuleType = transformers
    package.AttentionInterface.register(_BY_MAP, _attend_by_map)
    return package


@contextmanager
def refusals(where: str) -> Iterator[None]:
    """Turn objections of transformers to settings into errors of this project.

    Raises:
        UserError: it refused the settings of a config in the block.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except UserError:
        raise
    except KeyError as error:  # transformers looks up names of functions
        raise UserError("transformers: unknown name", where=where, found=error.args[0]) from error
    except (StrictDataclassError, TypeError, ValueError, LookupError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(f"transformers: {' '.join(str(error).split())}", where=where) from error


def _attend_by_map(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,
    scaling: float,
    dropout: float = 0.0,
    **options: object,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, heads before tokens, by a map that can be observed."""
    q_BNMD, k_BLMD, v_BLMD = (x.transpose(1, 2) for x in (query, key, value))
    return apply_map(F.dropout(attention_map(q_BNMD, k_BLMD, scaling), dropout), v_BLMD), None


class HfNetwork(AttentionModel):
    """Base of the classifiers of transformers.

    A subclass names what it finds where, and implements `_embed`.

    Args:
        config: transformers' config of the model.
        head_dropout: before the classifier.
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Attributes:
        num_cls: class tokens, which come first.
    """

    head_names: ClassVar[tuple[str, ...]] = ("classifier",)

    model_type: ClassVar[str]
    """In transformers' config.json."""
    config_class: ClassVar[str]
    network_class: ClassVar[str]
    body: ClassVar[str]
    """Name of the child that is everything but the classifier."""
    blocks_in_body: ClassVar[str] = "encoder.layer"
    patches_in_body: ClassVar[str] = "embeddings.patch_embeddings.projection"
    attention_in_block: tuple[str, ...] = ("attention",)
    size_settings: ClassVar[tuple[str, str, str]] = ("num_frames", "image_size", "num_channels")
    """What transformers calls frames, side of the frames, channels."""
    num_cls: ClassVar[int] = 1

    def __init__(self, config: Any, *, head_dropout: float = 0.0, act_checkpoint: bool = False) -> None:
        super().__init__()
        transformers = import_transformers()
        network = getattr(transformers, self.network_class)(config)
        for name, child in network.named_children():
            self.add_module(name, child)
        frames, side, channels = (getattr(config, name) for name in self.size_settings)
        self.config = network.config
        self.in_channels: int = channels
        self.grid = None  # tables keep the size of the published ones, and are stretched for each clip
        self.act_checkpoint = act_checkpoint
        self.head_dropout = nn.Dropout(head_dropout)
        self.patches = _Patches(self._part(self.patches_in_body))
        self.table_grid = self.patches.grid((frames, *_pair(side)))
        self._change_parts()
        self.plain_(False)

    def _change_parts(self) -> None:
        """What a subclass replaces or removes."""

    def _part(self, name: str) -> nn.Module:
        return self.get_submodule(f"{self.body}.{name}")

    # ------------------------------------------------------------------------------------------------- the contract

    @property
    def head(self) -> nn.Module:  # type: ignore[override]  # its name in published files is not `head`
        """The linear layer."""
        return self.get_submodule("classifier")

    def reset_head(self, head: nn.Module) -> None:
        """Replace the linear layer by another one, (B, C) to (B, K).

        Raises:
            UserError: a `BoxHead`.
        """
        if isinstance(head, BoxHead):
            raise UserError("networks of transformers cannot have a detection head; MViT can")
        self.classifier = head

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        """One layer per block."""
        return [[block] for block in self._blocks()]

    def head_modules(self) -> Sequence[nn.Module]:
        """The last norm, what pools tokens, and the classifier."""
        return [*self._norm_and_pooling(), self.head_dropout, self.head]

    def _norm_and_pooling(self) -> list[nn.Module]:
        return [self._part("layernorm")]

    def no_weight_decay(self) -> frozenset[str]:
        """Class tokens and position tables."""
        tables = ("cls_token", "position_embeddings", "time_embeddings", "query_tokens")
        return frozenset(name for name, _ in self.named_parameters() if name.rpartition(".")[2] in tables)

    def units_to_shard(self) -> Iterator[nn.Module]:
        """All blocks but the last."""
        yield from self._blocks()[:-1]

    def plain_(self, enabled: bool = True) -> Self:
        """See `LayeredModel.plain_`."""
        super().plain_(enabled)
        import_transformers()  # a model that was unpickled may be the first one in its process
        # All layers share this object.
        self.config._attn_implementation = _BY_MAP if enabled else _FUSED
        return self

    def attention_layers(self) -> list[nn.Module]:
        """See `AttentionModel.attention_layers`."""
        return [block.get_submodule(name) for block in self._blocks() for name in self.attention_in_block]

    def attention_tokens(self, x: Tensor) -> list[AttentionTokens]:
        """All layers have the tokens of the patches; see `AttentionModel.attention_tokens`."""
        patches = centers(self.patches.grid(self.as_clips(x).shape[2:]))
        return [AttentionTokens(self.num_cls, patches, patches)] * len(self.attention_layers())

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """One map per attention layer; see `AttentionModel.attention_maps`."""
        return attention_maps(self, x)

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.head_dropout(self._pool(self._encode(x_BCTHW)[0])))
        return logits

    def _features(self, x_BCTHW: Tensor) -> Features:
        x_BNC, grid = self._encode(x_BCTHW)
        x_BNC = self.head_modules()[0](x_BNC)
        return Features(x_BNC[:, self.num_cls :], grid, x_BNC[:, : self.num_cls] if self.num_cls else None)

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        x_BNC, grid = self._encode(x_BCTHW)
        return [torch.unflatten(x_BNC[:, self.num_cls :].transpose(1, 2), 2, grid)]

    # ---------------------------------------------------------------------------------------------- from clip to logits

    def _blocks(self) -> list[nn.Module]:
        return list(self._part(self.blocks_in_body).children())

    def _encode(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        """Tokens (B, X + N, C) of the last block, before the last norm, and the grid of the others."""
        x_BNC, grid = self._embed(x_BCTHW)
        arguments = self._block_arguments(grid, x_BNC)
        save_memory = self.act_checkpoint and self.training
        for block in self._blocks():
            out = run_block(block, x_BNC, *arguments, save_memory=save_memory)
            x_BNC = out[0] if isinstance(out, tuple) else out
        return x_BNC, grid

    def _block_arguments(self, grid: Grid, x_BNC: Tensor) -> tuple[object, ...]:
        """What a block gets beside its tokens."""
        return ()

    def _pool(self, x_BNC: Tensor) -> Tensor:
        """What the classifier reads, (B, C). A LayerNorm treats every token alone, and only the first is read."""
        pooled: Tensor = self.head_modules()[0](x_BNC[:, 0])
        return pooled

    @abstractmethod
    def _embed(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        """The first tokens (B, X + N, C), positions added, and their grid."""


class _Patches:
    """The convolution of the patches, by reference: as a child it would have a second name.

    Args:
        conv: over (T, H, W), or over (H, W) of single frames.
    """

    def __init__(self, conv: nn.Module) -> None:
        assert isinstance(conv, nn.Conv2d | nn.Conv3d)
        t, h, w = (*[1] * (3 - len(conv.kernel_size)), *conv.kernel_size)
        self.size = (t, h, w)

    def grid(self, clip_size: Sequence[int]) -> Grid:
        """(T, H, W) in tokens of a clip of (T, H, W) pixels.

        Raises:
            UserError: the clip is smaller than a patch.
        """
        T, H, W = (pixels // side for pixels, side in zip(clip_size, self.size, strict=True))
        if not T * H * W:
            raise UserError(
                "clip smaller than a patch",
                found=Plain(" x ".join(map(str, clip_size))),
                expected=f"frames x rows x columns of {' x '.join(map(str, self.size))} or more",
            )
        return T, H, W


def _pair(side: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(side, int):
        return side, side
    height, width = side
    return height, width


class VideoMae(HfNetwork):
    """A plain transformer over tubelets with a fixed table of sines; classifies the mean of all tokens.

    Source: VideoMAE (arXiv 2203.12602).
    """

    model_type = "videomae"
    config_class = "VideoMAEConfig"
    network_class = "VideoMAEForVideoClassification"
    body = "videomae"
    attention_in_block = ("attention.attention",)
    num_cls = 0

    def __init__(self, config: Any, **options: Any) -> None:
        rows, columns = (a // b for a, b in zip(_pair(config.image_size), _pair(config.patch_size), strict=True))
        positions = config.num_frames // config.tubelet_size * rows * columns
        # transformers makes the table of Python's numbers, before any parameter, and no file of weights holds it.
        if positions * config.hidden_size > _MOST_IN_TABLE:
            found = Plain(f"{positions:,} of {config.hidden_size:,} channels")
            raise UserError("too many positions", found=found, expected=f"at most {_MOST_IN_TABLE:,} numbers")
        super().__init__(config, **options)

    def _change_parts(self) -> None:
        # A plain attribute there, which does not follow the model to another device.
        embeddings: Any = self._part("embeddings")
        table_1NC = embeddings.position_embeddings.detach()
        del embeddings.position_embeddings
        embeddings.register_buffer("position_embeddings", table_1NC, persistent=False)

    def _norm_and_pooling(self) -> list[nn.Module]:
        return [self.get_submodule("fc_norm")] if self.config.use_mean_pooling else super()._norm_and_pooling()

    def _pool(self, x_BNC: Tensor) -> Tensor:
        if not self.config.use_mean_pooling:
            return super()._pool(x_BNC)
        pooled: Tensor = self.head_modules()[0](x_BNC.mean(dim=1))
        return pooled

    def _embed(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        grid = self.patches.grid(x_BCTHW.shape[2:])
        x_BNC = self._part(self.patches_in_body)(x_BCTHW).flatten(2).transpose(1, 2)
        table_1NC = self._part("embeddings").get_buffer("position_embeddings")
        return x_BNC + resize_pos_embed(table_1NC, self.table_grid, grid).to(x_BNC.dtype), grid


class Vivit(HfNetwork):
    """A plain transformer over tubelets with a class token and a joint table of learned positions.

    Source: ViViT (arXiv 2103.15691), model 1.
    """

    model_type = "vivit"
    config_class = "VivitConfig"
    network_class = "VivitForVideoClassification"
    body = "vivit"
    blocks_in_body = "layers"

    def _block_arguments(self, grid: Grid, x_BNC: Tensor) -> tuple[object, ...]:
        return (None,)  # nothing is masked

    def _embed(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        grid, embeddings = self.patches.grid(x_BCTHW.shape[2:]), self._part("embeddings")
        x_BNC = self._part(self.patches_in_body)(x_BCTHW).flatten(2).transpose(1, 2)
        table = embeddings.get_parameter("position_embeddings")
        positions = torch.cat([table[:, :1], resize_pos_embed(table[:, 1:], self.table_grid, grid)], dim=1)
        cls_B1C = embeddings.get_parameter("cls_token").to(x_BNC.dtype).expand(x_BNC.shape[0], -1, -1)
        x_BNC = embeddings.get_submodule("dropout")(torch.cat([cls_B1C, x_BNC], dim=1) + positions)
        return x_BNC, grid


class VJepa2(HfNetwork):
    """A plain transformer over tubelets with rotated queries and keys; a classifier that attends to all tokens.

    Its predictor serves pre-training alone, and is left out.

    Source: V-JEPA 2 (arXiv 2506.09985).
    """

    model_type = "vjepa2"
    config_class = "VJEPA2Config"
    network_class = "VJEPA2ForVideoClassification"
    body = "vjepa2"
    blocks_in_body = "encoder.layer"
    patches_in_body = "encoder.embeddings.patch_embeddings.proj"
    size_settings = ("frames_per_clip", "crop_size", "in_chans")
    num_cls = 0

    def _change_parts(self) -> None:
        del self.get_submodule("vjepa2").predictor

    def _norm_and_pooling(self) -> list[nn.Module]:
        return [self._part("encoder.layernorm"), self.get_submodule("pooler")]

    def attention_tokens(self, x: Tensor) -> list[AttentionTokens]:
        """Those of the blocks, not of the layers that pool; see `AttentionModel.attention_tokens`."""
        return super().attention_tokens(self._lengthened(self.as_clips(x)))

    def _pool(self, x_BNC: Tensor) -> Tensor:
        norm, pooler = self._norm_and_pooling()
        pooled: Tensor = pooler(norm(x_BNC))
        return pooled

    def _lengthened(self, x_BCTHW: Tensor) -> Tensor:
        """A clip shorter than a tubelet is repeated, as transformers does."""
        tubelet = self.patches.size[0]
        return x_BCTHW if x_BCTHW.shape[2] >= tubelet else x_BCTHW.repeat(1, 1, tubelet, 1, 1)

    def _embed(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        x_BCTHW = self._lengthened(x_BCTHW)
        grid = self.patches.grid(x_BCTHW.shape[2:])
        return self._part(self.patches_in_body)(x_BCTHW).flatten(2).transpose(1, 2), grid

    def _block_arguments(self, grid: Grid, x_BNC: Tensor) -> tuple[object, ...]:
        """The numbers of the tokens in a grid of `crop_size`, from which transformers takes their positions."""
        (H, W), (rows, columns) = grid[1:], self.table_grid[1:]
        if (rows, columns) == (H, W):
            return (None,)
        if rows < H or columns < W:
            raise UserError(
                "frames larger than V-JEPA 2 numbers its tokens for",
                found=Plain(f"{H} x {W} tokens"),
                expected=f"at most {rows} x {columns}",
                hint="HF.CONFIG [[crop_size, PIXELS]] sets it, and changes nothing for smaller frames",
            )
        t, h, w = (torch.arange(n, device=x_BNC.device) for n in grid)
        numbers_THW = (t[:, None, None] * rows + h[:, None]) * columns + w
        return (numbers_THW.flatten().expand(x_BNC.shape[0], -1),)
