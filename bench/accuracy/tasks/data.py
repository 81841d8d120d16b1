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

from bench.accuracy.tasks.task import Data

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
