"""What every detector offers: images in, losses or objects out.

H W pixels, N objects, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from videovit.errors import UserError
from videovit.models.contract import LayeredModel, VideoModel, modules_without

Target = Mapping[str, Tensor]
"""The objects of an image: `boxes` (N, 4), x1, y1, x2, y2 in pixels of the image that the detector gets, `labels` (N,)
in 1..K, and for a detector of masks `masks` (N, H, W), uint8. Further entries are not read."""

Detections = dict[str, Tensor]
"""What a detector finds in an image: `boxes` (N, 4) and `labels` (N,) as in `Target`, `scores` (N,) in 0..1, best
first, and from a detector of masks `masks` (N, 1, H, W) in 0..1."""


class Detector(LayeredModel):
    """Finds objects in images; torchvision's contract of detectors.

    Its layers are those of the backbone; all the rest is its head.

    Attributes:
        num_classes: K; labels are 1..K.
        finds_masks: whether it also says which pixels belong to an object.
        is_capturable: whether `torch.export` can describe it, which needs a fixed number of proposals.
    """

    num_classes: int
    finds_masks: bool = False
    is_capturable: ClassVar[bool] = False

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """In training the losses, in evaluation the objects.

        Args:
            images: RGB (3, H, W) each, in 0..1. They are normalized and padded here, and never resized.
            targets: of each image; read in training alone.

        Returns:
            In training named scalars, the sum of which is minimized; in evaluation one `Detections` per image.

        Raises:
            UserError: not a list of images, or training without targets.
        """
        self._check(images, targets)
        if self.training:
            assert targets is not None  # checked above
            return self._losses(images, targets)
        return self._detections(images)

    def _check(self, images: Sequence[Tensor], targets: Sequence[Target] | None) -> None:
        channels = self.body.in_channels
        for image in images:
            if image.dim() != 3 or image.shape[0] != channels or not image.is_floating_point():
                found = f"the shape {tuple(image.shape)} of {image.dtype}"
                expected = f"a list of float tensors ({channels}, H, W), one per image"
                raise UserError("images of a detector", found=found, expected=expected)
        if self.training and (targets is None or len(targets) != len(images)):
            found = "none" if targets is None else str(len(targets))
            raise UserError("targets of a detector in training", found=found, expected=f"one per image, {len(images)}")

    def run_for_cost(self, x: Tensor) -> None:
        """All for an image, as far as its cost does not depend on what is found; else for a fixed number of boxes."""
        self._run_for_cost(x if x.dim() == 4 else x[:, :, 0])

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        """Those of the backbone."""
        return self.body.layers()

    def head_modules(self) -> Sequence[nn.Module]:
        """All modules beside the backbone."""
        kept = {id(module) for module in self.body.modules()}
        return [module for child in self.children() for module in modules_without(child, kept)]

    def layers_of_parameters(self) -> dict[str, int]:
        """Those of the backbone as it has them; all others are the head's."""
        parameters, layers = dict(self.body.named_parameters()), self.body.layers_of_parameters()
        number = {id(parameters[name]): layer for name, layer in layers.items()}
        return {name: number.get(id(p), self.num_layers + 1) for name, p in self.named_parameters()}

    def no_weight_decay(self) -> frozenset[str]:
        """The tables of the backbone."""
        prefix = next(name for name, module in self.named_modules() if module is self.body)
        return frozenset(f"{prefix}.{name}" for name in self.body.no_weight_decay())

    def freeze(self, num: int) -> None:
        """As `LayeredModel.freeze`; the backbone knows what of it is frozen."""
        super().freeze(num)
        self.body.freeze(num)

    def units_to_shard(self) -> Iterator[nn.Module]:
        """Those of the backbone."""
        yield from self.body.units_to_shard()

    @property
    @abstractmethod
    def body(self) -> VideoModel:
        """The model whose maps the detector reads, without its head."""

    @abstractmethod
    def _run_for_cost(self, x_BCHW: Tensor) -> None: ...

    @abstractmethod
    def _losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]: ...

    @abstractmethod
    def _detections(self, images: Sequence[Tensor]) -> list[Detections]: ...
