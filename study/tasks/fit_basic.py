"""Families that rules and constants are fitted on: dense layers, BatchNorm, attention, small and shifted data."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from study.tasks import data, starts, text
from study.tasks.models import Patches, Transformer, conv1d, conv2d, mlp
from study.tasks.pretrained import pretrained, with_weights
from study.tasks.task import Data, Task, sequence_cross_entropy

_cross_entropy = nn.functional.cross_entropy
_mse = nn.functional.mse_loss
_letters = len(text.ALPHABET)


def _shifted_digits() -> nn.Module:
    """A network for digits, to be tuned on few pale ones."""
    build = partial(mlp, (64, 128, 64, 10))
    weights = pretrained("digits", build, partial(data.digits, 0.0), _cross_entropy, steps=3000, lr=2e-3)
    return with_weights(build(), weights)


def _pale_digits() -> Data:
    """Few digits, pale, darker and a row lower, a tenth of the labels wrong."""

    def pale(x: Tensor) -> Tensor:
        return 0.5 * x.unflatten(1, (8, 8)).roll(1, 1).flatten(1) - 0.5

    clean = data.digits()
    shifted = Data(pale(clean.inputs), clean.targets, pale(clean.validation_inputs), clean.validation_targets)
    return data.noisy_labels(data.few(shifted, 1000), 0.1, 10)


MLP = (
    Task("mlp-digits", "mlp", partial(data.digits, 0.1), partial(mlp, (64, 32, 10)), _cross_entropy,
         "SGD+momentum", "one_cycle", 700, 64),
    Task("mlp-digits-long", "mlp", partial(data.digits, 0.1), partial(mlp, (64, 32, 10)), _cross_entropy,
         "SGD+momentum", "one_cycle", 7000, 64),
    Task("mlp-spirals", "mlp", data.spirals, partial(mlp, (2, 32, 32, 2)), _cross_entropy,
         "Adam", "constant", 1000, 64),
    Task("mlp-signals", "mlp", partial(data.mnist1d, noise=0.1), partial(mlp, (40, 96, 96, 10), dropout=0.2),
         _cross_entropy, "AdamW", "one_cycle", 1000, 64),
    Task("mlp-teacher", "mlp", data.teacher, partial(mlp, (20, 48, 1), activation=nn.Tanh), _mse,
         "SGD", "constant", 800, 32),
    Task("mlp-signals-rmsprop", "mlp", data.mnist1d, partial(mlp, (40, 64, 64, 10)), _cross_entropy,
         "RMSprop", "constant", 800, 32),
)  # fmt: skip

BATCHNORM = (
    Task("batchnorm-signals", "batchnorm", partial(data.mnist1d, noise=0.1), partial(conv1d, 12, norm=True),
         _cross_entropy, "SGD+momentum", "one_cycle", 600, 64),
    Task("batchnorm-mlp", "batchnorm", partial(data.digits, 0.1), partial(mlp, (64, 64, 64, 10), norm=True),
         _cross_entropy, "Adam", "constant", 800, 64),
    Task("batchnorm-images", "batchnorm", partial(data.digits, 0.1, True), partial(conv2d, 8, norm="batch"),
         _cross_entropy, "SGD", "cosine", 600, 32),
)  # fmt: skip

TRANSFORMER = (
    Task("transformer-text", "transformer", text.library_text, starts.fresh_text, sequence_cross_entropy,
         "AdamW", "one_cycle", 600, 16),
    Task("transformer-sorting", "transformer", text.sorting, partial(Transformer, 10, 10, 8, causal=False),
         sequence_cross_entropy, "Adam", "constant", 600, 32),
    Task("transformer-signals", "transformer", data.mnist1d,
         lambda: Patches(5, Transformer(-5, 10, 8, causal=False, pooled=True)), _cross_entropy,
         "Adagrad", "constant", 700, 32),
)  # fmt: skip

SMALL_DATA = (
    Task("small_data-wine", "small_data", partial(data.bundled, "wine", 78), partial(mlp, (13, 16, 3)), _cross_entropy,
         "SGD", "constant", 500, 10),
    Task("small_data-signals", "small_data", lambda: data.few(data.mnist1d(), 200),
         partial(conv1d, 12, dropout=0.3), _cross_entropy, "AdamW", "one_cycle", 500, 20),
)  # fmt: skip

SHIFTED = (
    Task("shifted-signals", "shifted",
         lambda: data.few(data.mnist1d(roughness=0.4, noise=0.1), 500), starts.signals, _cross_entropy,
         "Adam", "constant", 500, 32),
    Task("shifted-digits", "shifted", _pale_digits, _shifted_digits, _cross_entropy,
         "SGD+momentum", "one_cycle", 500, 32),
    Task("shifted-text", "shifted", partial(text.invented_text, count=400, dialect=1), starts.invented_text,
         sequence_cross_entropy, "AdamW", "one_cycle", 500, 16),
)  # fmt: skip

TASKS = MLP + BATCHNORM + TRANSFORMER + SMALL_DATA + SHIFTED
