"""Tasks on real data, there when the environment's FINDLR_DATA names the folder that holds it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from torch import nn

from bench.accuracy.tasks import data, text
from bench.accuracy.tasks.models import Recurrent, Transformer, conv2d, mlp
from bench.accuracy.tasks.task import Task, sequence_cross_entropy

_cross_entropy = nn.functional.cross_entropy
_letters = len(text.ALPHABET)

_ALL = (
    Task("mlp-mnist", "mlp", partial(data.idx_images, "mnist"),
         lambda: nn.Sequential(nn.Flatten(), mlp((784, 64, 10), dropout=0.2)), _cross_entropy,
         "SGD+momentum", "one_cycle", 1000, 64, needs="mnist"),
    Task("cnn-mnist", "cnn", partial(data.idx_images, "mnist"), partial(conv2d, 8, side=28), _cross_entropy,
         "Adam", "constant", 600, 32, needs="mnist"),
    Task("cnn-fashion", "cnn", partial(data.idx_images, "fashion-mnist"), partial(conv2d, 8, side=28), _cross_entropy,
         "SGD+momentum", "cosine", 600, 32, needs="fashion-mnist"),
    Task("transformer-shakespeare", "transformer", text.shakespeare,
         partial(Transformer, _letters, _letters, 32, dropout=0.1), sequence_cross_entropy,
         "AdamW", "one_cycle", 800, 16, needs="tinyshakespeare.txt"),
    Task("recurrent-shakespeare", "recurrent", text.shakespeare,
         partial(Recurrent, nn.GRU, _letters, _letters, 48), sequence_cross_entropy,
         "Adam", "constant", 600, 16, needs="tinyshakespeare.txt"),
)  # fmt: skip


def available() -> tuple[Task, ...]:
    """The tasks whose data is there."""
    folder = os.environ.get("FINDLR_DATA")
    return tuple(task for task in _ALL if folder and (Path(folder) / task.needs).exists())
