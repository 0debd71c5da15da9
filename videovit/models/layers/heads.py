"""The classifier of clips."""

from __future__ import annotations

from torch import Tensor, nn


class ClassifierHead(nn.Module):
    """Dropout, then one linear layer; logits, never probabilities.

    Args:
        dim: channels of the features.
        num_classes: K.
        dropout: probability of the dropout before the layer.
        init_scale: factor on the initial weights of the layer.

    Attributes:
        init_std: of the initial weights.
    """

    init_std: float = 0.02

    def __init__(self, dim: int, num_classes: int, *, dropout: float = 0.0, init_scale: float = 1.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, num_classes)
        self.init_scale = init_scale

    def init_weights(self) -> None:
        """Truncated normal weight times `init_scale`, zero bias."""
        nn.init.trunc_normal_(self.projection.weight, std=self.init_std)
        nn.init.zeros_(self.projection.bias)
        self.projection.weight.data.mul_(self.init_scale)

    def forward(self, x_BC: Tensor) -> Tensor:
        """Logits (B, K) of features (B, C)."""
        logits: Tensor = self.projection(self.dropout(x_BC))
        return logits
