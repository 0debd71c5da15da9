"""What every model of this project offers, whatever its family.

    LayeredModel            layers, from which layer decay, weight-decay groups, freezing and sharding follow
      VideoModel            clips or images -> logits; what a new model subclasses
        AttentionModel      with attention maps to look at
        MaskableModel     of patches, some of which can be hidden from it: what masked pre-training trains
      Detector              images -> objects in them, from the maps of a VideoModel (`detection/detector.py`)

A new model implements the hooks at the end of `VideoModel`, and gets the rest: images taken as clips of one frame,
named errors for wrong inputs, and a replaceable head.

B clips, C channels, T H W frames, rows and columns (in x_BCTHW: pixels; elsewhere: tokens), N grid tokens, X class
tokens, R boxes, K classes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Set
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from videovit.errors import UserError

Grid = tuple[int, int, int]
"""(T, H, W) in tokens."""


class Features(NamedTuple):
    """Tokens of the last layer, normalized.

    Attributes:
        tokens_BNC: tokens of the grid, row by row; N = T * H * W.
        grid: (T, H, W).
        cls_BXC: class tokens, and with distillation the distillation token; None if the model has none.
    """

    tokens_BNC: Tensor
    grid: Grid
    cls_BXC: Tensor | None


class AttentionTokens(NamedTuple):
    """What the rows and columns of an attention map stand for.

    Positions are (t, y, x) as fractions of the clip: token i of n along an axis is at (i + 0.5) / n. A pooled token is
    at the center of its cell in the pooled grid.

    Attributes:
        num_cls: class tokens, which come first among the queries and among the keys.
        queries_BN3: positions of the other queries; B = 1 if they are those of every clip.
        keys_BL3: positions of the other keys, in the same way.
    """

    num_cls: int
    queries_BN3: Tensor
    keys_BL3: Tensor


def centers(grid: Grid) -> Tensor:
    """Positions (1, N, 3) of the tokens of a grid, row by row; see `AttentionTokens`."""
    axes = [(torch.arange(n) + 0.5) / n for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)[None]


class DistilledLogits(NamedTuple):
    """Output of a distilled model in training: one set of logits (B, K) per classifier.

    Attributes:
        logits: of the class token, trained on labels.
        distillation: of the distillation token, trained on the teacher's decisions.

    Source: DeiT (arXiv 2012.12877), section 4.
    """

    logits: Tensor
    distillation: Tensor


class BoxHead(nn.Module, ABC):
    """A head that classifies boxes instead of whole clips: what makes a detector of a model, see `reset_head`."""

    @abstractmethod
    def forward(self, features: Features, boxes_R5: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (R, K).

        Args:
            features: of the clips.
            boxes_R5: index of the clip in the batch, then x1, y1, x2, y2 in pixels; R may be 0.
            size: (H, W) of the frames in pixels.
        """


class HasPlainForm(nn.Module):
    """Base of modules that can leave out work which does not change their result.

    Attributes:
        plain: compute everything as the paper writes it; set through `VideoModel.plain_`.
    """

    plain: bool = False


class LayeredModel(HasPlainForm, ABC):
    """Base of everything that is trained.

    Parameters are sorted into `num_layers + 2` layers: 0 is the embedding (patches, positions, class tokens), then
    come the layers that `layers()` lists, and the last one is the head with the norm in front of it.

    Attributes:
        head_names: modules that depend on the number of classes; weights for other classes load without them.
        is_deterministic_on_gpu: whether all operations of a training step have a deterministic version on GPUs.
        num_frozen: layers that `freeze` stopped from training.
        only_classifier: `freeze_all_but_classifier` stopped everything else from training.
    """

    head_names: ClassVar[tuple[str, ...]] = ("head",)
    is_deterministic_on_gpu: ClassVar[bool] = True

    num_frozen: int = 0
    only_classifier: bool = False

    @property
    def num_layers(self) -> int:
        """Layers between embedding and head."""
        return len(self.layers())

    def layer_of(self, name: str) -> int:
        """Layer of a parameter, from 0 (embedding) to `num_layers + 1` (head).

        Args:
            name: as in `named_parameters()`.

        Raises:
            KeyError: no parameter of this name.
        """
        return self.layers_of_parameters()[name]

    def layers_of_parameters(self) -> dict[str, int]:
        """Name of every parameter -> its layer, see `layer_of`."""
        number: dict[int, int] = {}
        for layer, modules in enumerate([*self.layers(), self.head_modules()], 1):
            for module in modules:
                number.update((id(parameter), layer) for parameter in module.parameters())
        return {name: number.get(id(parameter), 0) for name, parameter in self.named_parameters()}

    def no_weight_decay(self) -> frozenset[str]:
        """Names of position tables and tokens: parameters that are not weights of a layer, and are not decayed."""
        return frozenset()

    def freeze(self, num: int) -> None:
        """Stop training the first `num` of the `num_layers + 2` layers; 1 freezes the embedding alone, 0 nothing.

        Frozen layers stay in evaluation mode, also after `train()`: they compute what they do in a test. The statistics
        of their batch norms are as much a part of the weights as the factors, and they drop nothing.

        Raises:
            UserError: `num` is outside 0 .. num_layers + 1.
        """
        if not 0 <= num <= self.num_layers + 1:
            raise UserError("layers to freeze", found=num, expected=f"0 to {self.num_layers + 1}", where="TRAIN.FREEZE")
        layers = self.layers_of_parameters()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(layers[name] >= num)
        self.num_frozen = num
        self.train(self.training)

    def freeze_all_but_classifier(self) -> None:
        """Train the last linear layers alone, as a linear probe does; the rest stays in evaluation mode, see `freeze`.

        The norm before the classifier, and what else belongs to a head, are frozen too.
        """
        trained = {id(p) for module in self._classifiers() for p in module.parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.only_classifier = True
        self.train(self.training)

    def _classifiers(self) -> list[nn.Module]:
        """The modules of `head_names` that this model has."""
        modules = dict(self.named_modules())
        return [modules[name] for name in self.head_names if name in modules]

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; frozen layers stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    @property
    def embedding_trains(self) -> bool:
        """Whether the embedding is in training mode; it may be frozen in a model that is not."""
        return self.training and not (self.num_frozen or self.only_classifier)

    def _frozen_modules(self) -> Iterator[nn.Module]:
        if self.only_classifier:
            trained: list[Sequence[nn.Module]] = [self._classifiers()]
        elif self.num_frozen:
            # What belongs to no later layer is the embedding, so its state follows from the layers that still train.
            trained = [*self.layers(), self.head_modules()][self.num_frozen - 1 :]
        else:
            return
        kept = {id(inner) for modules in trained for module in modules for inner in module.modules()}
        for module in self.children():
            yield from modules_without(module, kept)

    def units_to_shard(self) -> Iterator[nn.Module]:
        """Modules whose parameters are gathered and released together when a model is sharded; what is left over stays
        with the model as a whole."""
        for modules in self.layers():
            yield from modules

    def plain_(self, enabled: bool = True) -> Self:
        """Switch to the form that the paper writes down, or back to the default, which skips unused work; in place.

        Results are equal to rounding. `count_macs` uses it, so that costs are those that papers publish, and
        `attention_maps`, since only the plain form holds a map.
        """
        for module in self.modules():
            if isinstance(module, HasPlainForm):
                module.plain = enabled
        return self

    def twin(self) -> Self:
        """A copy with module objects of its own that shares all parameters and buffers with this model."""
        shared = [*self.parameters(), *self.buffers()]
        return copy.deepcopy(self, {id(tensor): tensor for tensor in shared})

    @abstractmethod
    def run_for_cost(self, x: Tensor) -> None:
        """Run what `count_macs` counts.

        Args:
            x: images or clips as in `VideoModel.forward`; may be on `meta`.
        """

    @abstractmethod
    def layers(self) -> Sequence[Sequence[nn.Module]]:
        """The layers between embedding and head in order; each a list of the modules at that depth."""

    @abstractmethod
    def head_modules(self) -> Sequence[nn.Module]:
        """The last norm and the classifiers; of a detector everything that is not its backbone."""


def modules_without(module: nn.Module, kept: Set[int]) -> Iterator[nn.Module]:
    """The largest modules in `module` that hold none of the ids `kept`."""
    if kept.isdisjoint(map(id, module.modules())):
        yield module
    elif id(module) not in kept:
        for child in module.children():
            yield from modules_without(child, kept)


class VideoModel(LayeredModel):
    """Base of all models of clips and images.

    Attributes:
        in_channels: channels of the clip.
        grid: (T, H, W) in tokens that position tables are made for; None for a model without such tables.
        head: what turns features into logits; replaced by `reset_head`.
        dropped: modules that `drop_head` removed.
    """

    in_channels: int
    grid: Grid | None
    head: nn.Module
    dropped: tuple[str, ...] = ()

    # ------------------------------------------------------------------------------------------------ forward passes

    def forward(self, x: Tensor, boxes_R5: Tensor | None = None) -> Tensor | DistilledLogits:
        """Logits of clips, or of boxes if the head is a `BoxHead`.

        Args:
            x: normalized clips (B, C, T, H, W), or images (B, C, H, W), which are clips with T = 1.
            boxes_R5: for a detector, see `BoxHead.forward`; None otherwise.

        Returns:
            (B, K), or (R, K) for boxes; never an activation. A distilled model in training returns `DistilledLogits`.

        Raises:
            UserError: `x` is not a tensor, or has the wrong number of dimensions or channels; boxes are missing, or
                given to a model that classifies clips.
        """
        x_BCTHW = self.as_clips(x)
        if isinstance(self.head, BoxHead):
            if boxes_R5 is None:
                raise UserError("this model classifies boxes; call it with (clips, boxes)")
            logits: Tensor = self.head(self._features(x_BCTHW), boxes_R5, tuple(x_BCTHW.shape[-2:]))
            return logits
        if boxes_R5 is not None:
            raise UserError("this model classifies whole clips; it takes no boxes")
        return self._logits(x_BCTHW)

    def forward_features(self, x: Tensor) -> Features:
        """Tokens of the last layer, normalized; `x` as in `forward`."""
        return self._features(self.as_clips(x))

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The map (B, C, T, H, W) at the end of each stage, finest first; `x` as in `forward`.

        A model that keeps one resolution has one stage. Maps are not normalized.
        """
        return self._stages(self.as_clips(x))

    def as_clips(self, x: Tensor) -> Tensor:
        """`x` as (B, C, T, H, W): images get a time axis of one frame.

        Raises:
            UserError: not a tensor, or not 4 or 5 dimensions, or not `in_channels` channels.
        """
        if not isinstance(x, Tensor):
            raise UserError(
                f"the input is a {type(x).__module__}.{type(x).__name__}, expected a torch.Tensor",
                hint="torch.from_numpy turns an array into one",
            )
        if x.dim() not in (4, 5):
            raise UserError(
                f"the input has shape {tuple(x.shape)}, expected clips (B, C, T, H, W) or images (B, C, H, W)"
            )
        x_BCTHW = x if x.dim() == 5 else x.unsqueeze(2)
        if x_BCTHW.shape[1] != self.in_channels:
            raise UserError(
                f"the input has shape {tuple(x.shape)}: {x.shape[1]} channels in dimension 1, "
                f"expected {self.in_channels}"
            )
        return x_BCTHW

    # ------------------------------------------------------------------------------------------------------- the head

    @property
    def takes_boxes(self) -> bool:
        """Whether `forward` needs boxes."""
        return isinstance(self.head, BoxHead)

    def reset_head(self, head: nn.Module) -> None:
        """Replace the head: another classifier (features (B, C) -> (B, K)), or a `BoxHead`.

        Raises:
            UserError: this model cannot take such a head.
        """
        self.head = head

    def drop_head(self) -> None:
        """Remove the last norm and the classifiers: what is left serves `forward_stages` alone.

        Weights of a whole model still load; those of the head are skipped.
        """
        removed = {id(module) for module in self.head_modules()}
        self.dropped = tuple(name for name, module in self.named_children() if id(module) in removed)
        for name in self.dropped:
            self.add_module(name, nn.Identity())

    # ------------------------------------------------------------------------------------------------ counting, saving

    def run_for_cost(self, x: Tensor) -> None:
        """`forward`; with a `BoxHead` for one box, RoIAlign of which is two products."""
        self(x, x.new_empty(1, 5)) if self.takes_boxes else self(x)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Add the grid of the position tables, which does not follow from their number of rows."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.grid is not None and hasattr(destination, "_metadata"):  # a caller's own dict has none
            destination._metadata[prefix[:-1]]["grid"] = self.grid

    # ------------------------------------------------------------------------------------------------ hooks of a model

    @abstractmethod
    def _logits(self, x_BCTHW: Tensor) -> Tensor | DistilledLogits: ...

    @abstractmethod
    def _features(self, x_BCTHW: Tensor) -> Features: ...

    @abstractmethod
    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]: ...


class AttentionModel(VideoModel):
    """A model that can return its attention maps."""

    @abstractmethod
    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """Maps of all attention layers in the order in which they run.

        Args:
            x: as in `forward`.

        Returns:
            One (B, M, N, L) per layer: M heads, N queries, L keys; every row sums to 1. Class tokens come first among
            queries and keys. All of them are in memory at once; `observe_attention` holds one at a time.
        """

    @abstractmethod
    def attention_tokens(self, x: Tensor) -> list[AttentionTokens]:
        """The tokens of every attention layer, in the order in which the layers run; `x` as in `forward`."""

    def attention_layers(self) -> list[nn.Module]:
        """The modules that compute the maps; their first argument are the tokens of the queries."""
        return [module for name, module in self.named_modules() if name.rpartition(".")[2] == "attn"]


class MaskableModel(AttentionModel):
    """A model whose first tokens are patches, some of which can be hidden from it."""

    @property
    @abstractmethod
    def patch_stride(self) -> Grid:
        """(T, H, W) in pixels from one of the first tokens to the next."""

    @property
    @abstractmethod
    def output_stride(self) -> Grid:
        """(T, H, W) in pixels from one token of the last block to the next."""

    @abstractmethod
    def encode_visible(self, x_BCTHW: Tensor, visible_BL: Tensor) -> Tensor:
        """Tokens of the visible patches alone: the others are left out from the first block on.

        Args:
            x_BCTHW: clips.
            visible_BL: numbers of the visible patches, row by row.

        Returns:
            (B, X + L, C): the tokens of the last block, normalized, class tokens first.

        Raises:
            UserError: blocks need the whole grid, such as those that pool.
        """

    @abstractmethod
    def encode_replaced(self, x_BCTHW: Tensor, hidden_BTHW: Tensor, token_11C: Tensor) -> Tensor:
        """Tokens of all patches, where hidden ones are replaced by a token, to which positions are added.

        Args:
            x_BCTHW: clips.
            hidden_BTHW: true for hidden patches.
            token_11C: in the place of every hidden patch.

        Returns:
            (B, T', H', W', C): the grid of the last block, not normalized.
        """
