"""Families over tables that nothing was fitted on: survival, clicks, ranking, kernels, mixtures, learned weights."""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from study.tasks import data
from study.tasks.models import mlp
from study.tasks.task import Data, Task

_logistic = nn.functional.binary_cross_entropy_with_logits


@cache
def _patients(count: int = 12_000) -> Data:
    """How long patients were seen, and whether until their death; most were not."""
    rng = np.random.default_rng(331)
    x = rng.normal(size=(count + 1000, 12))
    risk = 0.8 * x[:, 0] + 0.7 * np.sin(2 * x[:, 1]) - 0.6 * x[:, 2] * x[:, 3] + 0.4 * np.abs(x[:, 4])
    death = rng.exponential(np.exp(-risk))
    seen = rng.exponential(0.5, len(x))
    return data.cut(x, np.stack([np.minimum(death, seen), death < seen], 1))


def _partial_likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cox's negative log likelihood of who died first among those still there, a mean over the deaths."""
    order = targets[:, 0].argsort(descending=True)
    risk, died = outputs[order, 0], targets[order, 1]
    return ((risk.logcumsumexp(0) - risk) * died).sum() / died.sum().clamp(min=1)


_FIELDS = (300, 200, 120, 60, 40, 20, 12, 7)


@cache
def _clicks(count: int = 130_000) -> Data:
    """Eight categories an impression, by Zipf's law, and whether there was a click: one in fifteen."""
    rng = np.random.default_rng(337)
    columns, vectors, logit = [], [], np.full(count + 4000, -4.5)
    for size in _FIELDS:
        chances = 1 / np.arange(1, size + 1) ** 1.1
        column = rng.choice(size, len(logit), p=chances / chances.sum())
        logit += 0.6 * rng.normal(size=size)[column]
        vectors.append(rng.normal(size=(size, 3))[column])
        columns.append(column)
    for first, second in ((0, 1), (0, 3), (2, 4), (5, 6)):
        logit += 0.6 * (vectors[first] * vectors[second]).sum(1)
    starts = np.cumsum((0, *_FIELDS[:-1]))
    clicked = rng.random(len(logit)) < 1 / (1 + np.exp(-logit))
    return data.cut(np.stack(columns, 1) + starts, clicked[:, None], held_out=4000)


class FactorMachine(nn.Module):
    """A weight for each category and products of their vectors (Rendle 2010); with a network beside them, DeepFM."""

    def __init__(self, rank: int, hidden: int = 0) -> None:
        super().__init__()
        self.weights, self.vectors = nn.Embedding(sum(_FIELDS), 1), nn.Embedding(sum(_FIELDS), rank)
        nn.init.zeros_(self.weights.weight)
        nn.init.normal_(self.vectors.weight, std=0.01)
        self.bias = nn.Parameter(torch.full((1,), -2.5))  # about as rare as clicks are
        self.deep = mlp((len(_FIELDS) * rank, hidden, hidden, 1)) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 1)."""
        vectors = self.vectors(x)
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True)
        logits = self.bias + self.weights(x).sum(1) + pairs
        return logits + self.deep(vectors.flatten(1)) if self.deep is not None else logits


@cache
def _queries(count: int = 4000, documents: int = 10) -> Data:
    """Documents of each query, and their grades from 0 to 4: most are of no use."""
    rng = np.random.default_rng(347)
    x = rng.normal(size=(count + 500, documents, 12)) + 0.5 * rng.normal(size=(count + 500, 1, 12))
    worth = (
        x[..., 0] + np.tanh(2 * x[..., 1] * x[..., 2]) + 0.7 * np.abs(x[..., 3]) + 0.5 * rng.normal(size=x.shape[:2])
    )
    grades = np.searchsorted([1.0, 1.7, 2.4, 3.1], worth).astype(float)
    return data.cut(x, grades, held_out=500)


class Scored(nn.Module):
    """The network's one answer for each of a query's documents."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(batch, documents)."""
        return self.network(x)[..., 0]


def _lambda_rank(outputs: Tensor, targets: Tensor) -> Tensor:
    """The logistic loss of each ordered pair, by what a swap would change of the gain (Burges et al. 2006)."""
    place = outputs.detach().argsort(1, descending=True).argsort(1)
    discount, gain = 1 / (place + 2.0).log2(), 2**targets - 1
    ideal = gain.sort(1, descending=True).values / torch.arange(2.0, gain.shape[1] + 2).log2()
    changed = (gain[:, :, None] - gain[:, None]) * (discount[:, :, None] - discount[:, None]).abs()
    weights = changed.clamp(min=0) / ideal.sum(1).clamp(min=1)[:, None, None]
    return (weights * F.softplus(outputs[:, None] - outputs[:, :, None])).sum((1, 2)).mean()


@cache
def _bent(count: int = 4000) -> Data:
    """A smooth function of a few directions among ten columns, with little noise."""
    rng = np.random.default_rng(349)
    x = rng.uniform(-1, 1, (count + 300, 10))
    y = np.sin(3 * x[:, 0] + x[:, 1]) + np.cos(2 * x[:, 2] * x[:, 3]) + x[:, 4] ** 2
    return data.cut(x, ((y - y.mean()) / y.std() + 0.1 * rng.normal(size=len(x)))[:, None], held_out=300)


class WithLogarithms(nn.Module):
    """A network's answers, and trained logarithms beside them, the same for each example."""

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.network, self.logarithms = network, nn.Parameter(torch.zeros(count))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width + count): the answers, then the logarithms."""
        return torch.cat([self.network(x), self.logarithms.expand(len(x), -1)], 1)


def _marginal(outputs: Tensor, targets: Tensor) -> Tensor:
    """A Gaussian process's negative log likelihood of the batch, by example; below zero where the noise is small.

    An output is a place, which a Gaussian kernel compares with the others (Wilson et al. 2016), and the logarithms of
    the kernel's size and of the noise.
    """
    places, (size, noise) = outputs[:, :-2], outputs[0, -2:]
    apart = (places[:, None] - places).square().sum(2)
    kernel = size.exp() * (-0.5 * apart).exp() + (noise.exp() + 1e-4) * torch.eye(len(places))
    root, info = torch.linalg.cholesky_ex(kernel)
    solved = torch.linalg.solve_triangular(root, targets, upper=False)
    loss = 0.5 * solved.square().sum() + root.diagonal().log().sum() + 0.5 * len(places) * math.log(2 * math.pi)
    return loss / len(places) if info == 0 else loss * math.nan


@cache
def _folded(count: int = 8000) -> Data:
    """A function turned on its side, so that there are several answers (Bishop 1994), in two noises."""
    rng = np.random.default_rng(353)
    y = rng.uniform(0, 1, count + 1000)
    noise = np.where(rng.random(len(y)) < 0.5, 0.01, 0.06)
    return data.cut((2 * (y + 0.3 * np.sin(2 * np.pi * y)) - 1 + noise * rng.normal(size=len(y)))[:, None], y[:, None])


def _mixture(outputs: Tensor, targets: Tensor) -> Tensor:
    """The negative log density of a mixture of normals."""
    weight, mean, log_size = outputs.chunk(3, 1)
    density = -0.5 * ((targets - mean) / log_size.exp()).square() - log_size - 0.5 * math.log(2 * math.pi)
    return -(weight.log_softmax(1) + density).logsumexp(1).mean()


@cache
def _three_questions(count: int = 8000) -> Data:
    """A class of four, a number, and a rare event."""
    rng = np.random.default_rng(359)
    x = rng.normal(size=(count + 1000, 16))
    hidden = np.tanh(x @ rng.normal(size=(16, 12)) / 3)
    label = (hidden @ rng.normal(size=(12, 4)) + 0.5 * rng.normal(size=(len(x), 4))).argmax(1)
    number = 2 + 6 * (hidden @ rng.normal(size=12)) / 3 + rng.normal(size=len(x))
    event = rng.random(len(x)) < 1 / (1 + np.exp(3.5 - hidden @ rng.normal(size=12)))
    return data.cut(x, np.stack([label, number, event], 1))


def _by_variance(outputs: Tensor, targets: Tensor) -> Tensor:
    """Three losses, each over its trained variance, and the variances' logarithms (Kendall et al. 2018)."""
    losses = torch.stack(
        [
            F.cross_entropy(outputs[:, :4], targets[:, 0].long()),
            0.5 * F.mse_loss(outputs[:, 4], targets[:, 1]),
            _logistic(outputs[:, 5], targets[:, 2]),
        ]
    )
    return (losses * (-outputs[0, 6:]).exp() + 0.5 * outputs[0, 6:]).sum()


SURVIVAL = (
    Task("survival-patients", "survival", _patients, partial(mlp, (12, 48, 48, 1)), _partial_likelihood,
         "Adam", "constant", 1000, 128),
    Task("survival-few", "survival", lambda: data.few(_patients(), 600), partial(mlp, (12, 24, 1), dropout=0.1),
         _partial_likelihood, "SGD+momentum", "constant", 400, 600),
)  # fmt: skip

CLICKS = (
    Task("clicks-deep", "clicks", _clicks, partial(FactorMachine, 8, 48), _logistic,
         "Adam", "constant", 1000, 128),
    Task("clicks-factors", "clicks", _clicks, partial(FactorMachine, 4), _logistic,
         "SGD", "one_cycle", 2500, 64),
)  # fmt: skip

RANKED = (
    Task("ranked-queries", "ranked", _queries, lambda: Scored(mlp((12, 48, 48, 1))), _lambda_rank,
         "SGD+momentum", "wsd", 1500, 32),
)  # fmt: skip

KERNELS = (
    Task("kernels-bent", "kernels", _bent, lambda: WithLogarithms(mlp((10, 48, 48, 2), activation=nn.Tanh), 2),
         _marginal, "Adam", "constant", 1000, 64),
)  # fmt: skip

MIXTURES = (
    Task("mixtures-folded", "mixtures", _folded, partial(mlp, (1, 48, 48, 15), activation=nn.Tanh), _mixture,
         "RMSprop", "cosine", 1500, 64),
)  # fmt: skip

WEIGHED = (
    Task("weighed-questions", "weighed", _three_questions, lambda: WithLogarithms(mlp((16, 64, 64, 6)), 3),
         _by_variance, "SGD", "cosine", 1500, 64),
)  # fmt: skip

TASKS = SURVIVAL + CLICKS + RANKED + KERNELS + MIXTURES + WEIGHED
