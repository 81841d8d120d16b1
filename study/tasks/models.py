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
    """A few pre-norm encoder layers over so many kinds of tokens; if below 0, over vectors of ``-tokens`` numbers."""

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
    """An LSTM or GRU over tokens or vectors (see Transformer), answering at each place or at the last one only."""

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


class Residual(nn.Module):
    """A residual network over square images: a stem, blocks with BatchNorm (the second halves the side), a head."""

    def __init__(self, width: int, num_classes: int, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = nn.functional.avg_pool2d(torch.relu(self.norm(self.stem(x))), 2)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


class Tiles(nn.Module):
    """Square images cut into square tiles, for models that read sequences of vectors."""

    def __init__(self, size: int, inner: nn.Module) -> None:
        super().__init__()
        self.size, self.inner = size, inner

    def forward(self, x: Tensor) -> Tensor:
        """The inner model's answer to images (batch, 1, side, side)."""
        return self.inner(nn.functional.unfold(x, self.size, stride=self.size).transpose(1, 2))


class Mixer(nn.Module):
    """An MLP-Mixer over vectors (Tolstikhin et al. 2021): across places, then across channels."""

    def __init__(self, features: int, length: int, outputs: int, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth + 1))
        self.across = nn.ModuleList(mlp((length, 2 * length, length), activation=nn.GELU) for _ in range(depth))
        self.within = nn.ModuleList(mlp((width, 2 * width, width), activation=nn.GELU) for _ in range(depth))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(x)
        for i, (across, within) in enumerate(zip(self.across, self.within, strict=True)):
            x = x + across(self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + within(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x).mean(1))


class PointSet(nn.Module):
    """Deep sets (Zaheer et al. 2017): the same layers for each point, their mean and maximum, then a head."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.each = mlp((2, width, width))
        self.head = mlp((2 * width, width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.each(x)
        return self.head(torch.cat([x.mean(1), x.amax(1)], 1))


class Factors(nn.Module):
    """Matrix factorisation with biases; with ``hidden`` units, a network over the two embeddings instead."""

    def __init__(self, users: int, items: int, rank: int, hidden: int = 0) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, rank), nn.Embedding(items, rank)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)
        self.network = mlp((2 * rank, hidden, 1)) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """Ratings (batch, 1)."""
        left, right = self.users(x[:, 0]), self.items(x[:, 1])
        if self.network is not None:
            return self.network(torch.cat([left, right], 1))
        return (left * right).sum(1, keepdim=True) + self.user_bias(x[:, 0]) + self.item_bias(x[:, 1])


class Sines(nn.Module):
    """A network with sine activations (Sitzmann et al. 2020), for functions of the plane."""

    def __init__(self, width: int, frequency: float = 6.0) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        """Heights (batch, 1)."""
        return self.last(torch.sin(2 * self.second(torch.sin(self.frequency * self.first(x)))))


class Variational(nn.Module):
    """A variational autoencoder; its output is the reconstruction, the mean and the log variance, side by side."""

    def __init__(self, features: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp((features, hidden, 2 * latent)), mlp((latent, hidden, features))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features + 2 latent); the latent is drawn in training, its mean in evaluation."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return torch.cat([self.decoder(z), mean, log_variance], 1)


class Views(nn.Module):
    """One encoder for both views of a pair; unit vectors (batch, 2, width)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """The two embeddings of each pair."""
        return nn.functional.normalize(self.encoder(x.flatten(0, 1)), dim=1).unflatten(0, (-1, 2))


class Segmenter(nn.Module):
    """Two convolutions down, two up, with the input beside: a logit for each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(width, width, 2, stride=2)
        )
        self.last = nn.Conv2d(width + 1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, as large as the images."""
        return self.last(torch.cat([torch.relu(self.decoder(self.encoder(x))), x], 1))


class Graphs(nn.Module):
    """Two rounds of message passing from the nodes' degrees, then a mean over nodes and a head."""

    def __init__(self, width: int, outputs: int = 5) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, width), nn.Linear(2 * width, width)
        self.third, self.head = nn.Linear(2 * width, width), nn.Linear(2 * width, outputs)

    def forward(self, edges: Tensor) -> Tensor:
        """Logits of graphs (batch, nodes, nodes)."""
        degree = edges.sum(2, keepdim=True) / edges.shape[1]
        x = torch.relu(self.first(torch.cat([degree, edges @ degree], 2)))
        for layer in (self.second, self.third):
            x = torch.relu(layer(torch.cat([x, edges @ x / edges.shape[1]], 2)))
        return self.head(torch.cat([x.mean(1), x.amax(1)], 1))


class Pendulum(nn.Module):
    """A GRU over the moments seen, then a head for those ahead."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = Recurrent(nn.GRU, -2, 8, width, last_only=True)

    def forward(self, x: Tensor) -> Tensor:
        """The next states, side by side."""
        return self.inner(x.unflatten(1, (-1, 2)))


class Words(nn.Module):
    """The mean of the words' embeddings, then a layer and a head."""

    def __init__(self, words: int, width: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(words, width)
        self.head = mlp((width, width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.embed(x))


class _Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.both, self.out = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(nn.functional.glu(self.both(self.norm(x))))


def gated(features: int, width: int, outputs: int, depth: int = 2) -> nn.Module:
    """Residual gated layers (Dauphin et al. 2017) with LayerNorm before each."""
    return nn.Sequential(
        nn.Linear(features, width),
        *(_Gate(width) for _ in range(depth)),
        nn.LayerNorm(width),
        nn.Linear(width, outputs),
    )


class Experts(nn.Module):
    """A soft mixture of small networks, one output (Jacobs et al. 1991)."""

    def __init__(self, features: int, width: int, count: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp((features, width, 1)) for _ in range(count))
        self.gate = nn.Linear(features, count)

    def forward(self, x: Tensor) -> Tensor:
        """The mixture's answer (batch, 1)."""
        answers = torch.cat([expert(x) for expert in self.experts], 1)
        return (answers * self.gate(x).softmax(1)).sum(1, keepdim=True)
