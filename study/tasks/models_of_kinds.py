"""Models over words, sequences, graphs and tables."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from study.tasks import data_of_kinds
from study.tasks.grammar import WORDS
from study.tasks.models import mlp
from study.tasks.optimizers import not_for_muon


class WordRecurrent(nn.Module):
    """An LSTM over words, with the uniform start of the PyTorch example."""

    def __init__(self, width: int, embedded: int = 48) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, embedded), nn.Linear(width, WORDS)
        self.cell = nn.LSTM(embedded, width, batch_first=True)
        self.drop = nn.Dropout(0.1)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at each place."""
        states, _ = self.cell(self.drop(self.embed(x)))
        return self.head(self.drop(states))


class Block(nn.Module):
    """Attention and a dense part, each with a LayerNorm before it, or after it as BERT has it."""

    def __init__(self, width: int, heads: int, *, causal: bool, norm_first: bool) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads, self.causal, self.norm_first = heads, causal, norm_first

    def attend(self, x: Tensor) -> Tensor:
        """What each place takes from the others."""
        query, key, value = self.both(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(seen.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """As many vectors as came in."""
        if self.norm_first:
            x = x + self.attend(self.first(x))
            return x + self.down(F.gelu(self.up(self.second(x))))
        x = self.first(x + self.attend(x))
        return self.second(x + self.down(F.gelu(self.up(x))))


class WordTransformer(nn.Module):
    """A transformer over words with weights from N(0, .02); its head is the embedding, or one for classes."""

    def __init__(
        self, width: int = 48, depth: int = 2, length: int = 16, *, causal: bool = True, classes: int = 0
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(WORDS, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, 4, causal=causal, norm_first=causal) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes) if classes else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for table in (self.embed, self.place):
            not_for_muon(table.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the word at each place, or of the whole's class."""
        states = self.norm(self.blocks(self.embed(x) + self.place.weight))
        return self.head(states.mean(1)) if self.head is not None else states @ self.embed.weight.T


class LowRank(nn.Module):
    """A frozen layer with a trained product of two thin matrices beside it (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer, self.scale = layer.requires_grad_(False), 2.0
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / rank)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's answer and the low-rank one's."""
        return self.layer(x) + self.scale * (x @ self.down.T @ self.up.T)


def low_rank(model: nn.Module, rank: int) -> nn.Module:
    """The model frozen, each linear layer with a low-rank one beside it."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and not isinstance(module, LowRank):
                setattr(module, name, LowRank(child, rank))
    return model


class Listener(nn.Module):
    """Log probabilities of symbols and blank for each second frame, by a GRU or by convolutions."""

    def __init__(self, width: int, symbols: int, *, recurrent: bool) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, width, 5, stride=2, padding=2)
        self.cell = nn.GRU(width, width, batch_first=True, bidirectional=True) if recurrent else None
        self.second = nn.Conv1d(width, 2 * width, 5, padding=2)
        self.head = nn.Linear(2 * width, symbols + 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames / 2, symbols + 1)."""
        x = torch.relu(self.first(x.transpose(1, 2)))
        x = self.cell(x.transpose(1, 2))[0] if self.cell is not None else torch.relu(self.second(x)).transpose(1, 2)
        return self.head(x).log_softmax(2)


class Convolved(nn.Module):
    """Graph convolutions over the whole sparse graph (Kipf and Welling 2017); answers for the nodes asked."""

    adjacency: Tensor
    features: Tensor

    def __init__(self, width: int, outputs: int, dropout: float, inside: float = 0.012) -> None:
        super().__init__()
        adjacency, features, _labels = data_of_kinds.blocks(inside)
        self.register_buffer("adjacency", adjacency, persistent=False)
        self.register_buffer("features", features, persistent=False)
        self.first, self.second = nn.Linear(features.shape[1], width), nn.Linear(width, outputs)
        self.drop = nn.Dropout(dropout)

    def forward(self, nodes: Tensor) -> Tensor:
        """Logits of each node (batch,), or of each pair (batch, 2) the product of its two vectors."""
        x = torch.relu(torch.sparse.mm(self.adjacency, self.first(self.drop(self.features))))
        x = torch.sparse.mm(self.adjacency, self.second(self.drop(x)))[nodes]
        return x if nodes.ndim == 1 else x.prod(1).sum(1, keepdim=True)


class Forecaster(nn.Module):
    """Dilated causal convolutions over a window, then a linear head at its end."""

    def __init__(self, width: int, ahead: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(1 if i == 0 else width, width, 3, dilation=2**i) for i in range(4))
        self.head = nn.Linear(width, ahead)

    def forward(self, x: Tensor) -> Tensor:
        """The next values."""
        x = x[:, None]
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(F.pad(x, (2 * 2**i, 0))))
        return self.head(x[:, :, -1])


class Routed(nn.Module):
    """Each example goes to its best experts only; the last output is the balancing loss (Fedus et al. 2021)."""

    def __init__(self, features: int, width: int, outputs: int, experts: int, top: int) -> None:
        super().__init__()
        self.first, self.gate = nn.Linear(features, width), nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(mlp((width, width, width)) for _ in range(experts))
        self.head, self.top = nn.Linear(width, outputs), top
        not_for_muon(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, and the balance."""
        x = torch.relu(self.first(x))
        shares = self.gate(x).softmax(1)
        weights, chosen = shares.topk(self.top, dim=1)
        mixed = torch.zeros_like(x)
        used = []
        for number, expert in enumerate(self.experts):
            rows, slots = (chosen == number).nonzero(as_tuple=True)
            mixed = mixed.index_add(0, rows, weights[rows, slots, None] * expert(x[rows]))
            used.append(len(rows) / chosen.numel())
        balance = len(used) * (shares.mean(0) * torch.tensor(used)).sum()
        return torch.cat([self.head(x + mixed), balance.expand(len(x), 1)], 1)


class Proxies(nn.Module):
    """Cosines between an embedding and a trained proxy of each class: the loss's own weights are part of the model."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.proxies = encoder, nn.Parameter(torch.randn(classes, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, classes)."""
        return F.normalize(self.encoder(x), dim=1) @ F.normalize(self.proxies, dim=1).T


class Queue(nn.Module):
    """Momentum contrast (He et al. 2020): keys by a slow copy of the encoder, and a queue of earlier keys."""

    queue: Tensor

    def __init__(self, encoder: nn.Module, width: int, size: int, slowness: float = 0.99) -> None:
        super().__init__()
        self.encoder, self.slow = encoder, deepcopy(encoder).requires_grad_(False)
        self.slowness = slowness
        self.register_buffer("queue", F.normalize(torch.randn(size, width), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of pairs (batch, 2, features): the own key, then the queue's, or in evaluation other pairs' keys."""
        queries = F.normalize(self.encoder(x[:, 0]), dim=1)
        with torch.no_grad():
            if self.training:
                for slow, fast in zip(self.slow.parameters(), self.encoder.parameters(), strict=True):
                    slow.lerp_(fast, 1 - self.slowness)
            keys = F.normalize(self.slow(x[:, 1]), dim=1)
        if not self.training:  # keys of one and the same network, so that no rate makes it easier
            return torch.stack([(queries * keys.roll(place, 0)).sum(1) for place in range(32)], 1) / 0.2
        own = (queries * keys).sum(1, keepdim=True)
        logits = torch.cat([own, queries @ self.queue.clone().T], 1) / 0.2
        self.queue.copy_(torch.cat([keys, self.queue])[: len(self.queue)])
        return logits


class ForwardForward(nn.Module):
    """Layers that learn alone, each to be active for what is right (Hinton 2022, arXiv:2212.13345)."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """How active each layer is beyond its threshold (batch, layers); no gradient goes from one to the next."""
        active = []
        for layer in self.layers:
            x = torch.relu(layer(F.normalize(x.detach(), dim=1) * x.shape[1] ** 0.5))
            active.append(x.square().mean(1) - 1)
        return torch.stack(active, 1)
