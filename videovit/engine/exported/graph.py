"""From a model to a graph of plain operations.

B clips, C channels, T H W frames, S side of a crop, R boxes, K classes, N tokens, X class tokens.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from videovit.errors import UserError
from videovit.models.contract import Features, Grid, VideoModel
from videovit.models.cpu.cache import constants_in_graphs

MOST_CLIPS, MOST_BOXES = 4096, 100_000  # of one call; a graph needs some limit
NUM_BOXES = 3  # of the example

Preparation = Callable[[Tensor], Tensor]
"""uint8 (B, T, H, W, 3) -> float (B, C, T, H, W)."""


class Exportable(nn.Module):
    """The logits of frames, or of clips that are prepared already.

    Args:
        model: in evaluation mode. If its head classifies boxes, these are the second input.
        preparation: what turns frames into clips; None if the input is clips.
        dtype: of autocast; None for full precision.
    """

    def __init__(
        self, model: VideoModel, preparation: Preparation | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.model, self.preparation, self.dtype = model, preparation, dtype

    def forward(self, frames: Tensor, boxes: Tensor | None = None) -> Tensor:
        """(B, K), or (R, K) of boxes (R, 5); see `VideoModel.forward`."""
        x_BCTHW = frames if self.preparation is None else self.preparation(frames)
        # Entered here, autocast becomes a part of the graph.
        with contextlib.nullcontext() if self.dtype is None else torch.autocast("cpu", self.dtype):
            logits: Tensor = self.model(x_BCTHW, boxes)
        return logits.float()


class ExportableFeatures(nn.Module):
    """Normalized tokens of the last layer of clips, and class tokens if there are any: `VideoModel.forward_features`.

    Attributes:
        grid: (T, H, W) of the tokens, once it has run.
    """

    grid: Grid

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCTHW: Tensor) -> tuple[Tensor, ...]:
        """(B, N, C), and (B, X, C)."""
        features: Features = self.model.forward_features(x_BCTHW)
        self.grid = features.grid
        cls_BXC = features.cls_BXC
        return (features.tokens_BNC.float(), *(() if cls_BXC is None else (cls_BXC.float(),)))


def example_boxes(num: int, num_clips: int, side: int) -> Tensor:
    """Boxes (R, 5) of different sizes, spread over the clips: index of the clip, x1, y1, x2, y2 in pixels."""
    share = torch.arange(num) / max(1, num)
    low, high = share * side / 2, side * (1 - share / 3)
    return torch.stack([torch.arange(num) % num_clips, low, low, high, high], dim=1).float()


def capture(network: nn.Module, inputs: Sequence[Tensor], *, dynamic: bool = True) -> ExportedProgram:
    """The graph of a network.

    What `optimize_for_inference` keeps between forward passes (position tables, filters of all heads) becomes constants
    of the graph, which then has a third fewer operations.

    Args:
        network: in evaluation mode, on the CPU.
        inputs: an example: frames or clips of at least two clips if `dynamic`, and boxes for a detector.
        dynamic: the graph takes any number of clips; otherwise the number in the example. Boxes are always any number.

    Raises:
        UserError: the network has parts that depend on more than the shapes of its inputs.
    """
    sizes: list[dict[int, Any] | None] = [{0: Dim("clips", min=1, max=MOST_CLIPS)} if dynamic else None]
    if len(inputs) > 1:
        sizes.append({0: Dim("boxes", min=0, max=MOST_BOXES)})
    # Whoever calls may be in inference mode, whose tensors a graph cannot hold, or in autocast.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False), quiet():
        first, *boxes = (x.clone() for x in inputs)
        one = first[:1] if dynamic else first
        network(one, *(boxes_R5[boxes_R5[:, 0] < len(one)] for boxes_R5 in boxes))  # computes what is kept
        try:
            with constants_in_graphs():
                program = torch.export.export(network, (first, *boxes), dynamic_shapes=tuple(sizes), strict=False)
        except (RuntimeError, ValueError) as error:  # bases of the exporter's errors
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{type(network).__name__} cannot be captured as a graph: {reason}") from error
    _drop_idle(program)
    return program


def _drop_idle(program: ExportedProgram) -> None:
    """Remove conversions to the type that a tensor has, and assertions about types: every later step costs time per
    operation, and these are an eighth of them."""
    aten, outputs = torch.ops.aten, program.graph_signature.user_outputs
    for node in list(program.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
        elif node.target is aten.to.dtype and node.name not in outputs:
            (source, *_) = node.args
            if source.meta["val"].dtype == node.meta["val"].dtype:
                node.replace_all_uses_with(source)
                program.graph.erase_node(node)
    program.graph_module.recompile()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and remarks of the exporters."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "torch._export", "onnxscript")]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)
