"""The families that were the first report half."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from study.tasks import data, text
from study.tasks.models import (
    Experts,
    Graphs,
    Pendulum,
    Segmenter,
    Words,
    conv1d,
    conv2d,
    gated,
    mlp,
)
from study.tasks.pretrained import pretrained, with_weights
from study.tasks.task import Task

_cross_entropy = nn.functional.cross_entropy
_mse = nn.functional.mse_loss


def _pinball(outputs: Tensor, targets: Tensor) -> Tensor:
    """The quantiles .1, .5 and .9 of one target (Koenker and Bassett 1978)."""
    shares = torch.tensor([0.1, 0.5, 0.9])
    apart = targets - outputs
    return torch.maximum(shares * apart, (shares - 1) * apart).mean()


def _triplet(outputs: Tensor, targets: Tensor) -> Tensor:
    """A margin between each embedding's mates and strangers in its half batch of 32 (Schroff et al. 2015)."""
    groups = len(outputs) // 32 * 32
    apart = torch.cdist(outputs[:groups].unflatten(0, (-1, 32)), outputs[:groups].unflatten(0, (-1, 32)))
    labels = targets[:groups].unflatten(0, (-1, 32))
    mates = (labels[:, :, None] == labels[:, None, :]) & ~torch.eye(32, dtype=torch.bool)
    strangers = labels[:, :, None] != labels[:, None, :]
    near = (apart * mates).sum(2) / mates.sum(2).clamp(min=1)
    far = (apart * strangers).sum(2) / strangers.sum(2).clamp(min=1)
    return torch.relu(1 + near - far).mean()


def _soft_targets(outputs: Tensor, targets: Tensor) -> Tensor:
    """How far the outputs' distribution is from the targets' (Hinton et al. 2015)."""
    return nn.functional.kl_div(outputs.log_softmax(1), targets, reduction="batchmean")


def _of_each_pixel(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of a mask."""
    return nn.functional.binary_cross_entropy_with_logits(outputs, targets)


def _encoder() -> nn.Module:
    """A network for shapes, to begin a mask from."""
    model = Segmenter(8)
    classifier = partial(conv2d, 8, 6, side=12)
    weights = pretrained(
        "clear-shapes", classifier, partial(data.shapes, noise=0.3), _cross_entropy, steps=2000, lr=3e-3
    )
    model.encoder.load_state_dict({key: weights[key] for key in ("0.weight", "0.bias", "2.weight", "2.bias")})
    return model


def _student() -> nn.Module:
    """A regression network that knows the landscape, to be tuned on its upside-down, shifted copy."""
    build = partial(mlp, (2, 64, 64, 1))
    weights = pretrained("surface", build, data.surface, _mse, steps=3000, lr=3e-3)
    return with_weights(build(), weights)


def _moved_surface() -> data.Data:
    plain = data.surface()
    return data.Data(
        plain.inputs, 0.5 - 0.8 * plain.targets, plain.validation_inputs, 0.5 - 0.8 * plain.validation_targets
    )


def _sharp_signals() -> nn.Module:
    """A trained network whose training goes on with new data of the same kind."""
    build = partial(conv1d, 16, norm=True)
    weights = pretrained("sharp", build, data.mnist1d, _cross_entropy, steps=400, lr=1e-3)
    return with_weights(build(), weights)


MASKS = (
    Task("masks-shapes", "masks", data.masks, partial(Segmenter, 8), _of_each_pixel, "Adam", "one_cycle", 600, 32),
    Task("masks-tuned", "masks", data.masks, _encoder, _of_each_pixel, "SGD+momentum", "constant", 600, 32),
)  # fmt: skip

GRAPHS = (
    Task("graphs-communities", "graphs", data.graphs, partial(Graphs, 24), _cross_entropy,
         "AdamW", "cosine", 600, 32),
    Task("graphs-communities-sgd", "graphs", data.graphs, partial(Graphs, 24), _cross_entropy,
         "SGD", "one_cycle", 800, 32),
)  # fmt: skip

MOTION = (
    Task("motion-mlp", "motion", data.motion, partial(mlp, (16, 64, 64, 8), activation=nn.SiLU), _mse,
         "SGD+momentum", "one_cycle", 1000, 64),
    Task("motion-recurrent", "motion", data.motion, partial(Pendulum, 32), _mse, "RMSprop", "cosine", 600, 32),
)  # fmt: skip

QUANTILES = (
    Task("quantiles-friedman", "quantiles", partial(data.friedman, 2.0), partial(mlp, (10, 48, 3)), _pinball,
         "Adam", "constant", 800, 64),
    Task("quantiles-teacher", "quantiles", data.teacher, partial(mlp, (20, 48, 3), activation=nn.Tanh), _pinball,
         "SGD+momentum", "cosine", 800, 64),
)  # fmt: skip

METRIC = (
    Task("metric-signals", "metric", data.mnist1d, partial(conv1d, 12, 16), _triplet,
         "AdamW", "one_cycle", 600, 64),
    Task("metric-shapes", "metric", data.shapes, partial(conv2d, 8, 8, side=12), _triplet,
         "Adagrad", "constant", 600, 64),
)  # fmt: skip

DISTILLED = (
    Task("distilled-digits", "distilled", data.soft_digits, partial(mlp, (64, 32, 10)), _soft_targets,
         "SGD", "one_cycle", 800, 64),
    Task("distilled-digits-adam", "distilled", data.soft_digits, partial(mlp, (64, 48, 48, 10), norm=True),
         _soft_targets, "Adam", "linear", 700, 64),
)  # fmt: skip

WORDS = (
    Task("words-topics", "words", text.topics, partial(Words, 400, 32, 6), _cross_entropy,
         "Adam", "constant", 700, 32),
    Task("words-topics-rmsprop", "words", text.topics, partial(Words, 400, 32, 6), _cross_entropy,
         "RMSprop", "one_cycle", 700, 32),
)  # fmt: skip

GATED = (
    Task("gated-clusters", "gated", data.clusters, partial(gated, 24, 48, 5), _cross_entropy,
         "AdamW", "constant", 800, 64),
    Task("gated-experts", "gated", data.teacher, partial(Experts, 20, 24, 4), _mse,
         "SGD+momentum", "one_cycle", 800, 64),
)  # fmt: skip

DEEP = (
    Task("deep-digits", "deep", partial(data.digits, 0.1), partial(mlp, (64, 48, 48, 48, 48, 48, 10)), _cross_entropy,
         "SGD+momentum", "linear", 800, 64),
    Task("deep-spirals-long", "deep", data.spirals, partial(mlp, (2, 24, 24, 24, 2), activation=nn.Tanh),
         _cross_entropy, "Adam", "cosine", 7000, 64),
)  # fmt: skip

RESUMED = (
    Task("resumed-surface", "resumed", _moved_surface, _student, _mse, "Adam", "one_cycle", 600, 64),
    Task("resumed-signals", "resumed", partial(data.mnist1d, 20_000), _sharp_signals, _cross_entropy,
         "SGD+momentum", "cosine", 600, 64),
)  # fmt: skip

SCARCE = (
    Task("scarce-digits", "scarce", lambda: data.few(data.digits(0.2), 300), partial(mlp, (64, 64, 10)), _cross_entropy,
         "Adam", "one_cycle", 500, 20),
    Task("scarce-friedman", "scarce", lambda: data.few(data.friedman(2.0), 250), partial(mlp, (10, 48, 1)), _mse,
         "SGD+momentum", "constant", 500, 16),
)  # fmt: skip

TASKS = (
    MASKS + GRAPHS + MOTION + QUANTILES + METRIC + DISTILLED + WORDS + GATED + DEEP + RESUMED + SCARCE
)  # fmt: skip
