"""Small models, freshly initialised from torch's global random state."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(
    widths: Sequence[int], dropout: float = 0.0, norm: bool = False, activation: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """Linear layers with an activation between them, with BatchNorm or dropout if asked."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(fan_in, fan_out))
        if i < len(widths) - 2:
            layers += [nn.BatchNorm1d(fan_out)] if norm else []
            layers += [activation()]
            layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


def conv1d(width: int, num_classes: int = 10, norm: bool = False, dropout: float = 0.0) -> nn.Module:
    """Three strided convolutions over a signal of length 40, then a linear head (the last module)."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 40))]
    for fan_in in (1, width, width):
        layers += [nn.Conv1d(fan_in, width, 5, stride=2, padding=2)]
        layers += [nn.BatchNorm1d(width)] if norm else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(width * 5, num_classes))


def conv2d(width: int, num_classes: int = 10, norm: str = "", dropout: float = 0.0, side: int = 8) -> nn.Module:
    """Two strided convolutions over square images, then a linear head (the last module)."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((1, width), (width, 2 * width)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1)]
        layers += {"": [], "batch": [nn.BatchNorm2d(fan_out)], "group": [nn.GroupNorm(4, fan_out)]}[norm]
        layers += [nn.ReLU()]
    features = 2 * width * (side // 4) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(features, num_classes))


class Transformer(nn.Module):
    """A few pre-norm encoder layers over tokens or over vectors."""

    def __init__(
        self,
        tokens: int,
        outputs: int,
        length: int,
        width: int = 32,
        depth: int = 1,
        dropout: float = 0.0,
        causal: bool = True,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Linear(-tokens, width) if tokens < 0 else nn.Embedding(tokens, width)
        self.place = nn.Parameter(0.1 * torch.randn(length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        self.pooled = pooled
        mask = nn.Transformer.generate_square_subsequent_mask(length) if causal else None
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Logits for each place, or for the whole sequence if pooled."""
        x = self.embed(x) + self.place
        for layer in self.layers:
            x = layer(x, src_mask=self.mask, is_causal=self.mask is not None)
        x = self.norm(x)
        return self.head(x.mean(1) if self.pooled else x)


class Patches(nn.Module):
    """A signal cut into patches, for models that read sequences of vectors."""

    def __init__(self, size: int, inner: nn.Module) -> None:
        super().__init__()
        self.size, self.inner = size, inner

    def forward(self, x: Tensor) -> Tensor:
        """The inner model's answer to a signal (batch, length)."""
        return self.inner(x.unflatten(1, (-1, self.size)))


class Recurrent(nn.Module):
    """An LSTM or GRU over tokens or vectors, answering at each place or at the last one only."""

    def __init__(
        self, cell: type[nn.RNNBase], tokens: int, outputs: int, width: int = 32, last_only: bool = False
    ) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Embedding(tokens, 16) if tokens > 0 else nn.Identity()
        self.cell = cell(16 if tokens > 0 else -tokens, width, batch_first=True)
        self.head = nn.Linear(width, outputs)
        self.last_only = last_only

    def forward(self, x: Tensor) -> Tensor:
        """Logits or values for each place, or for the whole sequence."""
        states, _ = self.cell(self.embed(x))
        return self.head(states[:, -1] if self.last_only else states)
