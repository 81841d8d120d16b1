"""Sequences: program text, an invented language, sorting, and the adding problem."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.tasks.task import Data

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
_MODULES = ("heapq", "textwrap", "shlex", "cmd", "bisect", "difflib")  # old modules that hardly change


def _windows(text: str, length: int, count: int, held_out: int) -> Data:
    """Windows at random places; the held-out ones from the last tenth of the text."""
    codes = np.array([ALPHABET.find(c) for c in text])
    codes = codes[codes >= 0]
    rng = np.random.default_rng(17)
    border = len(codes) * 9 // 10
    train = rng.integers(0, border - length - 1, count)
    held = rng.integers(border, len(codes) - length - 1, held_out)
    x, y = (torch.tensor(codes[s[:, None] + np.arange(length + 1)], dtype=torch.long) for s in (train, held))
    return Data(x[:, :-1], x[:, 1:], y[:, :-1], y[:, 1:])


@cache
def library_text(length: int = 24, count: int = 8000) -> Data:
    """The source of a few modules of the standard library, to predict character by character."""
    sources = []
    for name in _MODULES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        sources.append(Path(spec.origin).read_text(encoding="utf-8"))
    rng = np.random.default_rng(19)
    blocks = "\n".join(sources).split("\n\n")
    rng.shuffle(blocks)
    return _windows("\n\n".join(blocks), length, count, 300)


@cache
def invented_text(length: int = 24, count: int = 8000, dialect: int = 0) -> Data:
    """Sentences of an invented language: 60 words, each of which allows a few successors; a dialect changes a third."""
    rng = np.random.default_rng(23)
    onsets, vowels = list("bdfgklmnprstvz"), list("aeiou")
    words = ["".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.integers(1, 4))) for _ in range(60)]
    successors = rng.integers(0, 60, (60, 4))
    if dialect:
        successors[:20] = np.random.default_rng(dialect).integers(0, 60, (20, 4))
    word, pieces = 0, []
    for _ in range(20_000):
        pieces.append(words[word] + (". " if rng.random() < 0.1 else " "))
        word = int(successors[word, rng.integers(4)])
    return _windows("".join(pieces), length, count, 300)


@cache
def shakespeare(length: int = 32, count: int = 20_000) -> Data:
    """``FINDLR_DATA/tinyshakespeare.txt``, character by character."""
    path = Path(os.environ["FINDLR_DATA"]) / "tinyshakespeare.txt"
    return _windows(path.read_text(encoding="utf-8"), length, count, 300)


def _cut(x: Tensor, y: Tensor) -> Data:
    return Data(x[:8000], y[:8000], x[8000:], y[8000:])


@cache
def sorting(length: int = 8, symbols: int = 10, noise: float = 0.02) -> Data:
    """Write the given symbols in order; some training targets are wrong."""
    rng = np.random.default_rng(29)
    x = rng.integers(0, symbols, (8400, length))
    y = np.sort(x, axis=1)
    wrong = rng.random(y.shape) < noise
    wrong[8000:] = False
    y = np.where(wrong, rng.integers(0, symbols, y.shape), y)
    return _cut(torch.tensor(x), torch.tensor(y))


@cache
def adding(length: int = 16, noise: float = 0.05) -> Data:
    """The adding problem: the sum of the two marked numbers of a sequence (Hochreiter and Schmidhuber 1997)."""
    rng = np.random.default_rng(31)
    values = rng.uniform(-1, 1, (8400, length))
    marks = np.zeros_like(values)
    rows = np.arange(len(values))
    half = length // 2
    first, second = rng.integers(0, half, len(values)), rng.integers(half, length, len(values))
    marks[rows, first] = marks[rows, second] = 1
    y = values[rows, first] + values[rows, second] + noise * rng.normal(size=len(values))
    return _cut(torch.tensor(np.stack([values, marks], 2)).float(), torch.tensor(y[:, None]).float())


@cache
def topics(length: int = 20, words: int = 400) -> Data:
    """Bags of words of six topics that share most of their words; a few words are of no topic."""
    rng = np.random.default_rng(67)
    usual = rng.dirichlet(np.full(words, 0.3))
    own = rng.dirichlet(np.full(words, 0.1), 6)
    labels = rng.integers(0, 6, 12_400)
    chances = 0.75 * usual + 0.25 * own
    x = np.stack([np.searchsorted(chances[label].cumsum(), rng.random(length)) for label in labels]).clip(0, words - 1)
    inputs, targets = torch.tensor(x), torch.tensor(labels)
    return Data(inputs[:11_400], targets[:11_400], inputs[11_400:], targets[11_400:])
