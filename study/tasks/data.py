"""Data that every machine has: scikit-learn's bundled sets and procedural ones, the same at each call."""

from __future__ import annotations

import gzip
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor

from study.tasks.task import Data

# One template a digit, from MNIST-1D (Greydanus and Kobak 2020, arXiv:2011.14439).
_TEMPLATES = np.array(
    [
        [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
        [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
        [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
        [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
        [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
        [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
        [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
        [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
    ]
)


def _split(inputs: np.ndarray, targets: np.ndarray, held_out: int, seed: int = 0) -> Data:
    order = np.random.default_rng(seed).permutation(len(inputs))
    x = torch.tensor(inputs[order], dtype=torch.float32)
    y = torch.tensor(targets[order], dtype=torch.long if targets.dtype.kind in "iu" else torch.float32)
    return Data(x[held_out:], y[held_out:], x[:held_out], y[:held_out])


def cut(inputs: np.ndarray, targets: np.ndarray, held_out: int = 1000) -> Data:
    """The last ``held_out`` examples are held out; what is no whole number is a float32."""
    x, y = (
        torch.tensor(each, dtype=torch.long if each.dtype.kind in "iu" else torch.float32) for each in (inputs, targets)
    )
    return Data(x[:-held_out], y[:-held_out], x[-held_out:], y[-held_out:])


def noisy_labels(data: Data, share: float, num_classes: int) -> Data:
    """A share of the training labels drawn anew; the held-out ones stay as they are."""
    generator = torch.Generator().manual_seed(7)
    wrong = torch.rand(len(data.targets), generator=generator) < share
    drawn = torch.randint(num_classes, data.targets.shape, generator=generator)
    return Data(data.inputs, torch.where(wrong, drawn, data.targets), data.validation_inputs, data.validation_targets)


def few(data: Data, count: int) -> Data:
    """The first ``count`` training examples."""
    return Data(data.inputs[:count], data.targets[:count], data.validation_inputs, data.validation_targets)


def only_classes(data: Data, first: int, last: int) -> Data:
    """The examples of the classes ``first`` to ``last``, counted from 0."""
    keep = (data.targets >= first) & (data.targets <= last)
    held = (data.validation_targets >= first) & (data.validation_targets <= last)
    return Data(
        data.inputs[keep],
        data.targets[keep] - first,
        data.validation_inputs[held],
        data.validation_targets[held] - first,
    )


@cache
def digits(noise: float = 0.0, images: bool = False) -> Data:
    """scikit-learn's 8 x 8 digits; the training images are also shifted by a pixel and blurred by noise (12,970)."""
    bunch = datasets.load_digits()
    clean = _split(bunch.images / 8.0 - 1.0, bunch.target.astype(np.int64), held_out=500)
    rng = np.random.default_rng(1)
    x = np.concatenate([clean.inputs.numpy()] * 10)
    moves = rng.integers(-1, 2, (len(x), 2))
    x = np.stack([np.roll(image, move, (0, 1)) for image, move in zip(x, moves, strict=True)])
    noisy = torch.tensor(x + rng.normal(0, 0.4, x.shape), dtype=torch.float32)
    shape = (-1, 1, 8, 8) if images else (-1, 64)
    held = clean.validation_inputs.reshape(shape)
    data = Data(noisy.reshape(shape), clean.targets.repeat(10), held, clean.validation_targets)
    return noisy_labels(data, noise, 10)


@cache
def mnist1d(count: int = 8000, noise: float = 0.0, roughness: float = 0.25) -> Data:
    """Signals of length 40 in ten classes: templates padded, stretched, shifted, sheared and blurred."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, count + 1000)
    signals = np.empty((len(labels), 40))
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    for row, label in enumerate(labels):
        width = rng.integers(26, 37)
        shape = np.interp(np.linspace(0, 11, width), np.arange(12), _TEMPLATES[label] / 2.5 - 2.0)
        start = rng.integers(0, 40 - width + 1)
        signal = np.zeros(40)
        signal[start : start + width] = shape * (1 + 0.2 * rng.normal())
        signal += 0.3 * rng.normal() * np.linspace(-1, 1, 40)
        rough = np.convolve(rng.normal(size=52), kernel / np.linalg.norm(kernel), "valid")
        signals[row] = signal + roughness * rough + 0.1 * rng.normal(size=40)
    return noisy_labels(_split(signals, labels, held_out=1000), noise, 10)


@cache
def spirals(noise: float = 0.15) -> Data:
    """Two spirals in the plane, two turns each."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 5000)
    radius = np.sqrt(rng.uniform(0.02, 1, 5000))
    angle = 2.0 * 2 * np.pi * radius + np.pi * labels
    points = 2 * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return _split(points + noise * rng.normal(size=points.shape), labels, held_out=1000)


@cache
def teacher(width: int = 20, noise: float = 0.3) -> Data:
    """Regression on a random network's output, standardised, with noise on the targets."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(9000, width))
    hidden = np.tanh(x @ rng.normal(size=(width, 12)) * 1.2 / np.sqrt(width) + 0.3 * rng.normal(size=12))
    y = hidden @ rng.normal(size=(12, 1))
    y = (y - y.mean()) / y.std() + noise * rng.normal(size=y.shape)
    return _split(x, y, held_out=1000)


@cache
def friedman(noise: float = 1.0) -> Data:
    """Friedman's first regression problem: five useful columns of ten."""
    x, y = datasets.make_friedman1(6000, n_features=10, noise=noise, random_state=0)
    return _split((x - 0.5) * 3.46, ((y - y.mean()) / y.std())[:, None], held_out=1000)


@cache
def clusters() -> Data:
    """Classes made of several Gaussian clusters each, some labels flipped, columns at unequal scales."""
    x, y = datasets.make_classification(
        6000, 24, n_informative=10, n_redundant=4, n_classes=5, n_clusters_per_class=3, flip_y=0.05, random_state=0
    )
    scales = np.geomspace(0.2, 2.0, 24)
    return _split(x / x.std(0) * scales, y.astype(np.int64), held_out=1000)


@cache
def bundled(name: str, held_out: int) -> Data:
    """One of scikit-learn's small tables ("wine", "breast_cancer", "diabetes"), standardised."""
    bunch = getattr(datasets, f"load_{name}")()
    x = (bunch.data - bunch.data.mean(0)) / bunch.data.std(0)
    if bunch.target.dtype.kind == "f":
        return _split(x, ((bunch.target - bunch.target.mean()) / bunch.target.std())[:, None], held_out)
    return _split(x, bunch.target.astype(np.int64), held_out)


def to_reconstruct(data: Data, corruption: float) -> Data:
    """The inputs as targets, with noise on the inputs."""
    generator = torch.Generator().manual_seed(13)

    def corrupted(x: Tensor) -> Tensor:
        return x + corruption * torch.randn(x.shape, generator=generator)

    x, held = data.inputs, data.validation_inputs
    return Data(corrupted(x), x, corrupted(held), held)


@cache
def idx_images(folder: str, count: int = 20_000, held_out: int = 2000) -> Data:
    """MNIST's or Fashion-MNIST's idx files in ``FINDLR_DATA/folder``, as 1 x 28 x 28 images."""
    place = Path(os.environ["FINDLR_DATA"]) / folder

    def read(stem: str, header: int) -> np.ndarray:
        with gzip.open(place / f"{stem}.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    def part(name: str, rows: int) -> tuple[Tensor, Tensor]:
        images = read(f"{name}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)[:rows]
        labels = read(f"{name}-labels-idx1-ubyte", 8)[:rows]
        return torch.tensor(images / 127.5 - 1.0, dtype=torch.float32), torch.tensor(labels.astype(np.int64))

    return Data(*part("train", count), *part("t10k", held_out))


@cache
def shapes(count: int = 20_000, noise: float = 0.6, side: int = 12) -> Data:
    """Images of six outlines (disc, ring, square, frame, cross, bar), of any place, size and contrast, in noise."""
    rng = np.random.default_rng(37)
    labels = rng.integers(0, 6, count + 1000)
    rows = np.arange(side)
    images = np.empty((len(labels), 1, side, side))
    for image, label in zip(images, labels, strict=True):
        x, y = np.meshgrid(rows - rng.uniform(4, side - 5), rows - rng.uniform(4, side - 5))
        size = rng.uniform(2, 4)
        round_, square, thin = np.hypot(x, y), np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
        inside = (
            round_ < size,
            abs(round_ - size) < 0.8,
            square < size,
            abs(square - size) < 0.8,
            (thin < 0.8) & (square < size + 1),
            (abs(x) < 0.8) & (abs(y) < size + 1),
        )[label]
        image[0] = inside * rng.uniform(0.7, 1.5) * rng.choice((-1, 1))
    return _split(images + noise * rng.normal(size=images.shape), labels, held_out=1000)


@cache
def point_sets(count: int = 16_000, points: int = 16) -> Data:
    """Sets of points in the plane, drawn from one of six figures, turned and stretched."""
    rng = np.random.default_rng(41)
    labels = rng.integers(0, 6, count + 1000)
    t = rng.uniform(0, 1, (len(labels), points))
    angle = 2 * np.pi * t
    other = rng.uniform(-1, 1, t.shape)
    figures = (
        (np.cos(angle), np.sin(angle)),
        (np.cos(angle), np.sin(2 * angle)),
        (2 * t - 1, other),
        (2 * t - 1, np.sign(other) * (2 * t - 1)),
        (t * np.cos(2 * angle), t * np.sin(2 * angle)),
        (np.cos(angle / 2), np.sin(angle / 2)),
    )
    each = np.stack([np.stack(figure, 2) for figure in figures])[labels, np.arange(len(labels))]
    turn = rng.uniform(0, 2 * np.pi, len(labels))
    turned = np.stack([np.stack([np.cos(turn), -np.sin(turn)]), np.stack([np.sin(turn), np.cos(turn)])])
    moved = np.einsum("npi,ijn->npj", each * rng.uniform(0.7, 1.3, (len(labels), 1, 2)), turned)
    return _split(moved + 0.12 * rng.normal(size=moved.shape), labels, held_out=1000)


@cache
def ratings(users: int = 300, items: int = 200, rank: int = 4, count: int = 40_000) -> Data:
    """Ratings of items by users: a low-rank table with a bias for each and noise."""
    rng = np.random.default_rng(43)
    who, what = rng.integers(0, users, count + 2000), rng.integers(0, items, count + 2000)
    left, right = rng.normal(size=(users, rank)), rng.normal(size=(items, rank))
    table = left @ right.T / rank**0.5 + 0.7 * rng.normal(size=(users, 1)) + 0.7 * rng.normal(size=items)
    y = table[who, what] / table.std() + 0.4 * rng.normal(size=len(who))
    pairs = _split(np.stack([who, what], 1), y[:, None], held_out=2000)
    return Data(pairs.inputs.long(), pairs.targets, pairs.validation_inputs.long(), pairs.validation_targets)


@cache
def surface(count: int = 20_000) -> Data:
    """The height of a fixed landscape of twelve waves at points of the plane, with a little noise."""
    rng = np.random.default_rng(47)
    x = rng.uniform(-1, 1, (count + 2000, 2))
    waves = np.sin(x @ rng.normal(0, 5, (2, 12)) + rng.uniform(0, 6.3, 12))
    y = waves @ rng.normal(size=12)
    return _split(x, (y / y.std() + 0.05 * rng.normal(size=y.shape))[:, None], held_out=2000)


@cache
def two_views(count: int = 16_000) -> Data:
    """Pairs of a signal and a rougher, shifted copy of it; what belongs together is by place in the batch."""
    clean = mnist1d(count)
    generator = torch.Generator().manual_seed(53)

    def views(x: Tensor) -> Tensor:
        second = x.roll(2, 1) * (1 + 0.3 * torch.randn(len(x), 1, generator=generator))
        return torch.stack([x, second], 1) + 0.3 * torch.randn(len(x), 2, x.shape[1], generator=generator)

    return Data(views(clean.inputs), clean.targets, views(clean.validation_inputs), clean.validation_targets)


@cache
def masks(count: int = 16_000) -> Data:
    """The shapes' images, and where the shape is: 1 inside, 0 outside, as seen without noise."""
    clear, noisy = shapes(count, 0.0), shapes(count)

    def mask(x: Tensor) -> Tensor:
        return (x.abs() > 0.1).float()

    return Data(noisy.inputs, mask(clear.inputs), noisy.validation_inputs, mask(clear.validation_inputs))


@cache
def graphs(count: int = 12_000, nodes: int = 12) -> Data:
    """Random graphs of 1, 2 or 3 communities or rings, as adjacency matrices with some edges flipped."""
    rng = np.random.default_rng(59)
    labels = rng.integers(0, 5, count + 1000)
    place = np.arange(nodes)
    away = np.abs(place[:, None] - place)
    ring = np.minimum(away, nodes - away)
    chances = np.stack(
        [
            np.full((nodes, nodes), 0.3),
            np.where((place[:, None] * 2 // nodes) == (place * 2 // nodes), 0.55, 0.05),
            np.where((place[:, None] * 3 // nodes) == (place * 3 // nodes), 0.8, 0.1),
            np.where(ring <= 1, 0.9, 0.12),
            np.where(ring <= 2, 0.65, 0.05),
        ]
    )
    edges = np.triu(rng.random((len(labels), nodes, nodes)) < chances[labels], 1)
    edges = edges | edges.transpose(0, 2, 1)
    shuffled = np.argsort(rng.random((len(labels), nodes)), axis=1)
    rows = np.arange(len(labels))[:, None, None]
    return _split(edges[rows, shuffled[:, :, None], shuffled[:, None, :]].astype(float), labels, held_out=1000)


@cache
def motion(count: int = 16_000, seen: int = 8, ahead: int = 4) -> Data:
    """A pendulum's angle and speed at a few moments; to tell those of the next ones."""
    rng = np.random.default_rng(61)
    rows = count + 1000
    angle, speed = rng.uniform(-2.5, 2.5, rows), rng.uniform(-2, 2, rows)
    pull, drag = rng.uniform(1.0, 4.0, rows), rng.uniform(0.0, 0.4, rows)
    states = []
    for i in range(20 * (seen + ahead)):
        if i % 20 == 0:
            states.append(np.stack([angle, speed], 1))
        speed = speed - 0.01 * (pull * np.sin(angle) + drag * speed)
        angle = angle + 0.01 * speed
    path = np.concatenate(states, 1)
    return _split(path[:, : 2 * seen] + 0.02 * rng.normal(size=(rows, 2 * seen)), path[:, 2 * seen :], held_out=1000)


@cache
def soft_digits() -> Data:
    """The digits with a linear teacher's probabilities, softened, in place of labels."""
    plain = digits()
    labels = torch.nn.functional.one_hot(plain.targets, 10).float()
    ridge = plain.inputs.T @ plain.inputs + 100 * torch.eye(64)
    weights = torch.linalg.solve(ridge, plain.inputs.T @ (labels - 0.1))

    def softened(x: Tensor) -> Tensor:
        return (6 * (x @ weights + 0.1)).softmax(1)

    return Data(plain.inputs, softened(plain.inputs), plain.validation_inputs, softened(plain.validation_inputs))
