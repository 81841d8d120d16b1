"""Data that is no text, made from seeds or from scikit-learn's digits."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from study.tasks import data
from study.tasks.task import Data


@cache
def utterances(count: int = 6000, symbols: int = 8, frames: int = 36) -> Data:
    """Three to six symbols spoken one after the other, each four to seven frames long; targets end with zeros."""
    rng = np.random.default_rng(101)
    shapes = rng.normal(size=(symbols, 2, 6))
    x = np.zeros((count + 500, frames, 6))
    y = np.zeros((count + 500, 6), dtype=np.int64)
    for i in range(len(x)):
        place = rng.integers(0, 3)
        for k in range(rng.integers(3, 7)):
            length = rng.integers(4, 8)
            symbol = rng.integers(symbols)
            part = np.linspace(0, 1, length)[:, None]
            spoken = shapes[symbol, 0] * (1 - part) + shapes[symbol, 1] * part
            if place + length > frames:
                break
            x[i, place : place + length] = spoken
            y[i, k] = symbol + 1
            place += length
    return data.cut(x + 0.5 * rng.normal(size=x.shape), y, held_out=500)


@cache
def blocks(inside: float = 0.012, nodes: int = 1200, classes: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """A graph of communities: its normalised sparse adjacency, weak features of the nodes, and their communities."""
    rng = np.random.default_rng(103)
    labels = rng.integers(0, classes, nodes)
    chance = np.where(labels[:, None] == labels, inside, 0.0012)
    edges = np.triu(rng.random((nodes, nodes)) < chance, 1)
    edges = edges | edges.T | np.eye(nodes, dtype=bool)
    degree = edges.sum(1)
    rows, columns = np.nonzero(edges)
    weights = 1 / np.sqrt(degree[rows] * degree[columns])
    places = torch.tensor(np.stack([rows, columns]))
    values = torch.tensor(weights, dtype=torch.float32)
    adjacency = torch.sparse_coo_tensor(places, values, (nodes, nodes), check_invariants=False).coalesce()
    features = rng.random((nodes, 60)) < np.where(rng.random((classes, 60)) < 0.2, 0.12, 0.05)[labels]
    return adjacency, torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


@cache
def labelled_nodes(shown: int = 150) -> Data:
    """Few labelled nodes of the graph to learn from, the others held out; an input is a node's number."""
    _adjacency, _features, labels = blocks()
    order = torch.tensor(np.random.default_rng(107).permutation(len(labels)))
    return Data(order[:shown], labels[order[:shown]], order[shown:], labels[order[shown:]])


@cache
def links(count: int = 6000) -> Data:
    """Pairs of nodes that are linked or not, half and half, as the communities of a denser graph would have it."""
    _adjacency, _features, labels = blocks(0.05)
    rng = np.random.default_rng(109)
    pairs = rng.integers(0, len(labels), (40 * count, 2))
    alike = labels.numpy()[pairs[:, 0]] == labels.numpy()[pairs[:, 1]]
    linked = rng.random(len(pairs)) < np.where(alike, 0.5, 0.02)
    half = (count + 1000) // 2
    chosen = np.concatenate([np.nonzero(linked)[0][:half], np.nonzero(~linked)[0][:half]])
    chosen = rng.permutation(chosen)
    return data.cut(pairs[chosen], linked[chosen, None].astype(float), held_out=1000)


@cache
def series(count: int = 8000, seen: int = 32, ahead: int = 8, scale: float = 0.03) -> Data:
    """Windows of seasonal series with a random walk in them, in small units; to tell the next values."""
    rng = np.random.default_rng(113)
    t = np.arange(seen + ahead)
    rows = count + 1000
    daily = rng.normal(size=(rows, 1)) * np.sin(2 * np.pi * (t / 8 + rng.random((rows, 1))))
    weekly = rng.normal(size=(rows, 1)) * np.sin(2 * np.pi * (t / 20 + rng.random((rows, 1))))
    walk = 0.15 * rng.normal(size=(rows, seen + ahead)).cumsum(1)
    values = scale * (daily + weekly + walk + 0.1 * rng.normal(size=walk.shape))
    return data.cut(values[:, :seen], values[:, seen:], held_out=1000)


@cache
def pixels() -> Data:
    """The digits' pixels from 0 to 1, their own targets."""
    plain = data.digits()
    x, held = ((part / 2 + 0.5).clamp(0, 1) for part in (plain.inputs, plain.validation_inputs))
    return Data(x, x, held, held)


@cache
def swirl(count: int = 20_000) -> Data:
    """Points on two rings and a bar in the plane; the targets are not used."""
    rng = np.random.default_rng(127)
    kind = rng.integers(0, 3, count + 1000)
    angle = rng.uniform(0, 2 * np.pi, len(kind))
    radius = np.where(kind == 0, 1.5, 0.6)
    ring = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    bar = np.stack([rng.uniform(-2, 2, len(kind)), np.zeros(len(kind))], 1)
    points = np.where(kind[:, None] == 2, bar, ring) + 0.05 * rng.normal(size=(len(kind), 2))
    return data.cut(points, np.zeros((len(kind), 1)), held_out=1000)


def alone(examples: Data) -> Data:
    """The inputs without their labels: the targets are zeros that no loss reads."""
    zeros = (torch.zeros(len(x), 1) for x in (examples.inputs, examples.validation_inputs))
    return Data(examples.inputs, next(zeros), examples.validation_inputs, next(zeros))


@cache
def digit_pairs() -> Data:
    """Pairs of views of one digit: each shifted, scaled and blurred by noise of its own."""
    clean = data.digits(images=True)
    generator = torch.Generator().manual_seed(131)

    def view(x: Tensor) -> Tensor:
        contrast = 0.6 + 0.8 * torch.rand(len(x), 1, generator=generator)
        moved = torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.roll(1, 3), x)
        return contrast * moved.flatten(1) + 0.4 * torch.randn(len(x), 64, generator=generator)

    def views(x: Tensor) -> Tensor:
        return torch.stack([view(x), view(x)], 1)

    return Data(views(clean.inputs), clean.targets, views(clean.validation_inputs), clean.validation_targets)


@cache
def right_and_wrong() -> Data:
    """Digits with a label written beside them, half of the time a wrong one; the target is 1 where it is right."""
    plain = data.digits(0.05)
    rng = np.random.default_rng(137)

    def written(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        right = torch.tensor(rng.random(len(x)) < 0.5)
        others = (labels + torch.tensor(rng.integers(1, 10, len(x)))) % 10
        shown = torch.nn.functional.one_hot(torch.where(right, labels, others), 10).float()
        return torch.cat([2 * shown, x], 1), right.float()

    x, y = written(plain.inputs, plain.targets)
    return Data(x, y, *written(plain.validation_inputs, plain.validation_targets))


@cache
def oscillation(count: int = 2000, observed: int = 40) -> Data:
    """Moments of a damped oscillation, some with a noisy observation: (moment, observation, whether there is one)."""
    rng = np.random.default_rng(139)
    moments = rng.uniform(0, 1, count + 500)
    truth = np.exp(-2 * moments) * np.cos(14 * moments)
    shown = np.arange(len(moments)) % (count // observed) == 0
    x = np.stack([moments, (truth + 0.05 * rng.normal(size=len(moments))) * shown, shown], 1)
    return data.cut(x, np.zeros((len(x), 1)), held_out=500)


@cache
def square(count: int = 4000) -> Data:
    """Points of the unit square, a quarter of them on its border."""
    rng = np.random.default_rng(149)
    points = rng.random((count + 1000, 2))
    border = rng.random(len(points)) < 0.25
    side = rng.integers(0, 2, len(points))
    points[border, side[border]] = rng.integers(0, 2, border.sum())
    return data.cut(points, np.zeros((len(points), 1)), held_out=1000)


@cache
def regimes(count: int = 8000, features: int = 16, outputs: int = 6) -> Data:
    """Classes by one of eight random rules; which rule holds depends on the nearest of eight centres."""
    rng = np.random.default_rng(151)
    x = rng.normal(size=(count + 1000, features))
    centres = rng.normal(size=(8, 4))
    which = np.square(x[:, None, :4] - centres).sum(2).argmin(1)
    rules = rng.normal(size=(8, features, outputs))
    y = np.einsum("nf,nfo->no", x, rules[which]) + 0.5 * rng.normal(size=(len(x), outputs))
    return data.cut(x, y.argmax(1), held_out=1000)


@cache
def prices(count: int = 8000) -> Data:
    """Prices around a hundred, in their own units: a log-normal law whose noise has heavy tails."""
    rng = np.random.default_rng(157)
    x = rng.normal(size=(count + 1000, 12))
    level = 4.3 + 0.5 * np.tanh(x[:, 0] + x[:, 1] * x[:, 2]) + 0.3 * x[:, 3] - 0.2 * np.abs(x[:, 4])
    noise = np.clip(0.08 * rng.standard_t(2.0, len(x)), -1.5, 1.5)
    return data.cut(x, np.exp(level + noise)[:, None], held_out=1000)


@cache
def counts(count: int = 8000) -> Data:
    """Counts from zero to hundreds: Poisson around rates that are themselves spread over decades."""
    rng = np.random.default_rng(163)
    x = rng.standard_t(5, (count + 1000, 10))
    rates = np.exp(np.clip(0.9 * np.sin(x[:, 0]) + 0.5 * x[:, 1] - 0.4 * np.abs(x[:, 2]) + 0.8, -3, 5))
    return data.cut(x, rng.poisson(rates * rng.gamma(1.5, 1 / 1.5, len(x)))[:, None].astype(float), held_out=1000)


@cache
def frauds(count: int = 16_000, share: float = 0.02) -> Data:
    """Transactions of which one in fifty is wrong, by what two pairs of columns say together."""
    rng = np.random.default_rng(167)
    x = rng.normal(size=(count + 4000, 20))
    score = 1.2 * x[:, 0] * x[:, 1] + np.abs(x[:, 2]) * x[:, 3] + 0.7 * x[:, 4] + 0.7 * rng.normal(size=len(x))
    return data.cut(x, (score > np.quantile(score, 1 - share))[:, None].astype(float), held_out=4000)


@cache
def long_tail() -> Data:
    """Signals of ten classes, each rarer than the one before, a hundredfold in all; held out, all are as frequent."""
    plenty = data.mnist1d(20_000)
    rng = np.random.default_rng(173)
    keep = torch.tensor(rng.random(len(plenty.targets)) < 100 ** (-plenty.targets.numpy() / 9))
    return Data(plenty.inputs[keep], plenty.targets[keep], plenty.validation_inputs, plenty.validation_targets)


@cache
def turned_digits(count: int = 600) -> Data:
    """Few digits, mirrored along their diagonal and pale."""
    plain = data.digits()

    def turned(x: Tensor) -> Tensor:
        return 0.7 * x.unflatten(1, (8, 8)).transpose(1, 2).flatten(1) - 0.3

    return Data(
        turned(plain.inputs[:count]), plain.targets[:count], turned(plain.validation_inputs), plain.validation_targets
    )
