"""Families over sequences that nothing was fitted on: translation, pointers, state spaces, prompts, word vectors."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from study.tasks import data, grammar
from study.tasks.models_generative import draws_of
from study.tasks.models_of_kinds import WordTransformer
from study.tasks.pretrained import pretrained
from study.tasks.task import Data, Task, sequence_cross_entropy


@cache
def _mirrored(count: int = 8000, length: int = 8, symbols: int = 12) -> Data:
    """Symbols to write backwards in another alphabet, with slips; an input is the source and the target before."""
    rng = np.random.default_rng(311)
    source = rng.integers(0, symbols, (count + 400, length))
    target = rng.permutation(symbols)[source[:, ::-1]]
    target = np.where(rng.random(target.shape) < 0.05, rng.integers(0, symbols, target.shape), target)
    before = np.concatenate([np.full((len(source), 1), symbols), target[:, :-1]], 1)
    x, y = torch.tensor(np.concatenate([source, before], 1)), torch.tensor(target)
    return Data(x[:count], y[:count], x[count:], y[count:])


class Translator(nn.Module):
    """A recurrent encoder and a decoder that attends to it (Luong et al. 2015); uniform starts."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embed, self.written = nn.Embedding(symbols, 16), nn.Embedding(symbols + 1, 16)
        self.encoder, self.decoder = nn.GRU(16, width, batch_first=True), nn.GRU(16, width, batch_first=True)
        self.query, self.both = nn.Linear(width, width, bias=False), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, symbols)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.08, 0.08)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each written symbol."""
        source, before = x.chunk(2, 1)
        read, last = self.encoder(self.embed(source))
        states, _ = self.decoder(self.written(before), last)
        weights = (self.query(states) @ read.transpose(1, 2)).softmax(2)
        return self.head(torch.tanh(self.both(torch.cat([weights @ read, states], 2))))


@cache
def _round_trips(count: int = 8000, points: int = 7) -> Data:
    """Points to visit in order of their angle; an input is the points and those visited before."""
    rng = np.random.default_rng(313)
    places = rng.uniform(-1, 1, (count + 400, points, 2))
    order = np.arctan2(places[:, :, 1], places[:, :, 0]).argsort(1)
    visited = np.take_along_axis(places, order[:, :, None], 1)
    before = np.concatenate([np.zeros((len(places), 1, 2)), visited[:, :-1]], 1)
    x, y = torch.tensor(np.concatenate([places, before], 1)).float(), torch.tensor(order)
    return Data(x[:count], y[:count], x[count:], y[count:])


class Pointer(nn.Module):
    """A recurrent encoder, and a decoder that points at one of the places read (Vinyals et al. 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(2, width, batch_first=True), nn.LSTM(2, width, batch_first=True)
        self.read, self.asked = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, steps, places)."""
        places, before = x.chunk(2, 1)
        read, last = self.encoder(places)
        states, _ = self.decoder(before, last)
        return self.score(torch.tanh(self.read(read)[:, None] + self.asked(states)[:, :, None]))[..., 0]


class StateSpace(nn.Module):
    """A diagonal linear state space for each channel, as one long convolution (Gu et al. 2022)."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.full((width, states), 0.5).log())
        self.turn = nn.Parameter((torch.pi * torch.arange(states)).expand(width, states).clone())
        self.out = nn.Parameter(torch.randn(width, states, 2) * 0.5**0.5)
        self.step = nn.Parameter(torch.empty(width, 1).uniform_(-4.6, -1.2))
        self.skip = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        """As it came: (batch, width, length)."""
        length = x.shape[2]
        step = self.step.exp()
        rate = torch.complex(-self.decay.exp(), self.turn)
        weight = torch.view_as_complex(self.out) * ((rate * step).exp() - 1) / rate
        moments = torch.arange(length, dtype=torch.float32)
        kernel = 2 * torch.einsum("ws,wsl->wl", weight, ((rate * step)[..., None] * moments).exp()).real
        seen = torch.fft.irfft(torch.fft.rfft(x, 2 * length) * torch.fft.rfft(kernel, 2 * length), 2 * length)
        return seen[..., :length] + self.skip[:, None] * x


class StateSpaces(nn.Module):
    """Residual blocks of a state space, GELU and a gated layer, then a mean and a head."""

    def __init__(self, width: int, depth: int, outputs: int, states: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(1, width)
        self.spaces = nn.ModuleList(StateSpace(width, states) for _ in range(depth))
        self.mixes = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of signals (batch, length)."""
        x = self.first(x[..., None])
        for space, mix, norm in zip(self.spaces, self.mixes, self.norms, strict=True):
            seen = F.gelu(space(norm(x).transpose(1, 2))).transpose(1, 2)
            x = x + F.glu(mix(seen))
        return self.head(x.mean(1))


class Prompted(nn.Module):
    """A frozen transformer over words, with trained vectors before the first (Lester et al. 2021)."""

    def __init__(self, inner: WordTransformer, count: int) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.prompt = nn.Parameter(inner.embed.weight[torch.randint(5, 300, (count,))].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the word at each place."""
        words = self.inner.embed(x) + self.inner.place.weight
        whole = torch.cat([self.prompt.expand(len(x), -1, -1), words], 1)
        states = self.inner.norm(self.inner.blocks(whole))[:, len(self.prompt) :]
        return states @ self.inner.embed.weight.T


def _prompted() -> nn.Module:
    """A transformer that knows one dialect, and a prompt for another."""
    weights = pretrained("grammar-transformer", WordTransformer, grammar.next_words, sequence_cross_entropy,
                         steps=2500, lr=3e-3)  # fmt: skip
    model = WordTransformer()
    model.load_state_dict(weights)
    return Prompted(model, 8)


@cache
def _near_words(count: int = 120_000, window: int = 3) -> Data:
    """Words and one of those near each."""
    words, _topics = grammar.text()
    rng = np.random.default_rng(317)
    centre = rng.integers(window, len(words) - window, count + 2000)
    away = rng.integers(1, window + 1, len(centre)) * rng.choice((-1, 1), len(centre))
    pairs = torch.tensor(np.stack([words[centre], words[centre + away]], 1))
    none = torch.zeros(len(pairs), 1)
    return Data(pairs[:count], none[:count], pairs[count:], none[count:])


class SkipGram(nn.Module):
    """Vectors of words whose products tell neighbours from words drawn by frequency (Mikolov et al. 2013)."""

    chances: Tensor

    def __init__(self, width: int, negatives: int) -> None:
        super().__init__()
        self.centre, self.near = nn.Embedding(grammar.WORDS, width), nn.Embedding(grammar.WORDS, width)
        nn.init.uniform_(self.centre.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.near.weight)
        counts = np.bincount(grammar.text()[0], minlength=grammar.WORDS) ** 0.75
        self.register_buffer("chances", torch.tensor(counts / counts.sum(), dtype=torch.float32), persistent=False)
        self.negatives = negatives

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 1 + negatives): the neighbour's first."""
        drawn = torch.multinomial(self.chances, len(x) * self.negatives, replacement=True, generator=draws_of(self))
        others = torch.cat([x[:, 1:], drawn.view(len(x), -1)], 1)
        return (self.near(others) @ self.centre(x[:, 0])[:, :, None])[..., 0]


def _neighbour_first(outputs: Tensor, _targets: Tensor) -> Tensor:
    """The logistic loss of each pair, summed over the batch as the updates of single pairs are."""
    return F.softplus(-outputs[:, 0]).sum() + F.softplus(outputs[:, 1:]).sum()


TRANSLATED = (
    Task("translated-mirrored", "translated", _mirrored, partial(Translator, 12, 32), sequence_cross_entropy,
         "Adam", "constant", 700, 32),
)  # fmt: skip

POINTERS = (
    Task("pointers-angles", "pointers", _round_trips, partial(Pointer, 32), sequence_cross_entropy,
         "AdamW", "one_cycle", 700, 32),
)  # fmt: skip

STATE_SPACES = (
    Task("state_spaces-signals", "state_spaces", data.mnist1d, partial(StateSpaces, 24, 2, 10),
         nn.functional.cross_entropy, "AdamW", "cosine", 500, 32),
)  # fmt: skip

PROMPTS = (
    Task("prompts-words", "prompts", partial(grammar.next_words, count=1500, seed=182, dialect=1), _prompted,
         sequence_cross_entropy, "Adafactor", "constant", 400, 16),
)  # fmt: skip

SKIP_GRAM = (
    Task("skip_gram-words", "skip_gram", _near_words, partial(SkipGram, 24, 5), _neighbour_first,
         "SGD", "linear", 3000, 32),
)  # fmt: skip

TASKS = TRANSLATED + POINTERS + STATE_SPACES + PROMPTS + SKIP_GRAM
