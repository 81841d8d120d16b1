"""More families that rules and constants are fitted on: tables, autoencoders, convolutions, sequences, tuning."""

from __future__ import annotations

from functools import partial

from torch import nn

from study.tasks import data, text
from study.tasks.models import Patches, Recurrent, conv1d, conv2d, mlp
from study.tasks.pretrained import pretrained, with_weights
from study.tasks.task import Data, Task, sequence_cross_entropy

_cross_entropy = nn.functional.cross_entropy
_mse = nn.functional.mse_loss
_letters = len(text.ALPHABET)


def _signals_first_half() -> Data:
    return data.only_classes(data.mnist1d(20_000), 0, 4)


def _new_head_signals() -> nn.Module:
    """A network that knows the signals of five classes, with a fresh head for the other five."""
    build = partial(conv1d, 16, 5)
    weights = pretrained("signals-first-half", build, _signals_first_half, _cross_entropy, steps=3000, lr=3e-3)
    return with_weights(build(), weights, new_head=True)


def _digits_first_half() -> Data:
    return data.only_classes(data.digits(0.0, True), 0, 4)


def _new_head_images() -> nn.Module:
    """A network that knows five of the digits, with a fresh head for the other five."""
    build = partial(conv2d, 8, 5)
    weights = pretrained("digits-first-half", build, _digits_first_half, _cross_entropy, steps=3000, lr=2e-3)
    return with_weights(build(), weights, new_head=True)


def _signals_to_reconstruct() -> Data:
    return data.to_reconstruct(data.mnist1d(), 0.3)


def _new_head_encoder() -> nn.Module:
    """The encoder of a denoising autoencoder, with a fresh head."""
    build = partial(mlp, (40, 96, 48, 40))
    weights = pretrained("encoder", build, _signals_to_reconstruct, _mse, steps=3000, lr=2e-3)
    return with_weights(mlp((40, 96, 48, 10)), weights, new_head=True)


def _converged_signals() -> nn.Module:
    """A network whose training stopped in the noise of its own rate."""
    build = partial(mlp, (40, 64, 64, 10))
    weights = pretrained("converged-signals", build, partial(data.mnist1d, noise=0.1), _cross_entropy,
                         steps=4000, lr=0.05, optimizer="SGD+momentum", decay=False)  # fmt: skip
    return with_weights(build(), weights)


def _text_model() -> nn.Module:
    return Recurrent(nn.GRU, _letters, _letters, 48)


def _converged_text() -> nn.Module:
    """A recurrent model of the same text, trained at a high rate."""
    weights = pretrained("converged-text", _text_model, text.invented_text, sequence_cross_entropy,
                         steps=1200, lr=3e-2, decay=False)  # fmt: skip
    return with_weights(_text_model(), weights)


TABULAR = (
    Task("tabular-breast_cancer", "tabular", partial(data.bundled, "breast_cancer", 169),
         partial(mlp, (30, 16, 2), dropout=0.2), _cross_entropy, "Adam", "constant", 500, 32),
    Task("tabular-friedman", "tabular", data.friedman, partial(mlp, (10, 48, 48, 1)), _mse,
         "SGD+momentum", "one_cycle", 800, 64),
    Task("tabular-friedman-long", "tabular", partial(data.friedman, 2.0), partial(mlp, (10, 24, 1)), _mse,
         "Adam", "one_cycle", 7000, 64),
    Task("tabular-clusters", "tabular", data.clusters, partial(mlp, (24, 64, 64, 5), dropout=0.1), _cross_entropy,
         "Adagrad", "constant", 800, 64),
    Task("tabular-diabetes", "tabular", partial(data.bundled, "diabetes", 142), partial(mlp, (10, 16, 1)), _mse,
         "RMSprop", "constant", 500, 16),
)  # fmt: skip

AUTOENCODER = (
    Task("autoencoder-digits", "autoencoder", lambda: data.to_reconstruct(data.digits(), 0.2),
         partial(mlp, (64, 48, 12, 48, 64)), _mse, "Adam", "one_cycle", 800, 64),
    Task("autoencoder-signals", "autoencoder", _signals_to_reconstruct,
         partial(mlp, (40, 64, 10, 64, 40), activation=nn.Tanh), _mse, "SGD+momentum", "constant", 1000, 32),
)  # fmt: skip

CNN = (
    Task("cnn-digits", "cnn", partial(data.digits, 0.1, True), partial(conv2d, 8, dropout=0.2), _cross_entropy,
         "Adam", "one_cycle", 600, 32),
    Task("cnn-signals", "cnn", data.mnist1d, partial(conv1d, 16), _cross_entropy,
         "SGD+momentum", "constant", 800, 32),
    Task("cnn-groupnorm", "cnn", partial(data.digits, 0.1, True), partial(conv2d, 8, norm="group"), _cross_entropy,
         "SGD", "cosine", 600, 32),
)  # fmt: skip

RECURRENT = (
    Task("recurrent-text", "recurrent", text.library_text, partial(Recurrent, nn.LSTM, _letters, _letters, 64),
         sequence_cross_entropy, "AdamW", "one_cycle", 500, 16),
    Task("recurrent-signals", "recurrent", data.mnist1d,
         lambda: Patches(4, Recurrent(nn.GRU, -4, 10, 32, last_only=True)), _cross_entropy,
         "Adam", "constant", 600, 32),
    Task("recurrent-adding", "recurrent", text.adding, partial(Recurrent, nn.LSTM, -2, 1, 24, last_only=True), _mse,
         "SGD+momentum", "cosine", 800, 32),
)  # fmt: skip

NEW_HEAD = (
    Task("new_head-signals", "new_head", lambda: data.few(data.only_classes(data.mnist1d(noise=0.1), 5, 9), 300),
         _new_head_signals, _cross_entropy, "Adam", "constant", 500, 16),
    Task("new_head-images", "new_head", lambda: data.only_classes(data.digits(0.1, True), 5, 9), _new_head_images,
         _cross_entropy, "SGD+momentum", "one_cycle", 500, 32),
    Task("new_head-encoder", "new_head", lambda: data.few(data.mnist1d(), 1000), _new_head_encoder, _cross_entropy,
         "AdamW", "one_cycle", 600, 32),
)  # fmt: skip

CONVERGED = (
    Task("converged-signals", "converged", partial(data.mnist1d, noise=0.1), _converged_signals, _cross_entropy,
         "SGD+momentum", "constant", 600, 64),
    Task("converged-text", "converged", text.invented_text, _converged_text, sequence_cross_entropy,
         "Adam", "cosine", 500, 16),
)  # fmt: skip

TASKS = TABULAR + AUTOENCODER + CNN + RECURRENT + NEW_HEAD + CONVERGED
