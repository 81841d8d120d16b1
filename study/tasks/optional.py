"""Tasks on real data, there when the environment's FINDLR_DATA names the folder that holds it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from torch import nn

from study.tasks import data, text
from study.tasks.models import Recurrent, Transformer, conv2d, mlp
from study.tasks.pretrained import pretrained, with_weights
from study.tasks.task import Data, Task, sequence_cross_entropy

_cross_entropy = nn.functional.cross_entropy
_mse = nn.functional.mse_loss
_letters = len(text.ALPHABET)
_mnist = partial(data.idx_images, "mnist", 60_000)
_fashion = partial(data.idx_images, "fashion-mnist", 60_000)


def _to_reconstruct() -> Data:
    flat = _mnist()
    return data.to_reconstruct(
        Data(flat.inputs.flatten(1), flat.targets, flat.validation_inputs.flatten(1), flat.validation_targets), 0.3
    )


def _inverted() -> Data:
    """MNIST in negative, dark on light."""
    plain = _mnist()
    return Data(-plain.inputs, plain.targets, -plain.validation_inputs, plain.validation_targets)


def _small_cnn() -> nn.Module:
    return conv2d(8, side=28)


def _trained_on_digits(*, new_head: bool) -> nn.Module:
    """A network for digits, all of it to be tuned: on their negatives, or with a fresh head on clothes."""
    weights = pretrained("mnist", _small_cnn, _mnist, _cross_entropy, steps=1500, lr=3e-3)
    return with_weights(_small_cnn(), weights, new_head=new_head)


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
    Task("mlp-mnist-sgd", "mlp", _mnist, lambda: nn.Sequential(nn.Flatten(), mlp((784, 100, 10))), _cross_entropy,
         "SGD", "constant", 800, 64, needs="mnist"),
    Task("mlp-fashion-rmsprop", "mlp", _fashion, lambda: nn.Sequential(nn.Flatten(), mlp((784, 64, 10))),
         _cross_entropy, "RMSprop", "one_cycle", 800, 64, needs="fashion-mnist"),
    Task("mlp-mnist-adagrad", "mlp", _mnist, lambda: nn.Sequential(nn.Flatten(), mlp((784, 64, 10))), _cross_entropy,
         "Adagrad", "constant", 800, 64, needs="mnist"),
    Task("batchnorm-fashion", "batchnorm", _fashion,
         lambda: nn.Sequential(nn.Flatten(), mlp((784, 64, 64, 10), norm=True)), _cross_entropy,
         "SGD+momentum", "one_cycle", 800, 64, needs="fashion-mnist"),
    Task("batchnorm-mnist", "batchnorm", _mnist, partial(conv2d, 8, norm="batch", side=28), _cross_entropy,
         "Adam", "constant", 600, 64, needs="mnist"),
    Task("autoencoder-mnist", "autoencoder", _to_reconstruct, partial(mlp, (784, 64, 16, 64, 784)), _mse,
         "Adam", "one_cycle", 800, 64, needs="mnist"),
    Task("shifted-fashion", "shifted", _fashion, partial(_trained_on_digits, new_head=True), _cross_entropy,
         "AdamW", "one_cycle", 600, 32, needs="fashion-mnist"),
    Task("shifted-mnist", "shifted", _inverted, partial(_trained_on_digits, new_head=False), _cross_entropy,
         "SGD+momentum", "constant", 600, 32, needs="mnist"),
)  # fmt: skip


def available() -> tuple[Task, ...]:
    """The tasks whose data is there."""
    folder = os.environ.get("FINDLR_DATA")
    return tuple(task for task in _ALL if folder and (Path(folder) / task.needs).exists())
