"""Hard families: plateaus, heavy tails, rare classes, starts that are trained, sums, one batch; all are fitted on."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from study.tasks import data, text
from study.tasks.models import Transformer, Words, conv1d, conv2d, mlp
from study.tasks.pretrained import pretrained, with_weights
from study.tasks.task import Data, Task, sequence_cross_entropy

_cross_entropy = nn.functional.cross_entropy
_mse = nn.functional.mse_loss
_logistic = nn.functional.binary_cross_entropy_with_logits
_counted = nn.functional.poisson_nll_loss
_summed_squares = partial(nn.functional.mse_loss, reduction="sum")
_summed_cross_entropy = partial(nn.functional.cross_entropy, reduction="sum")


@cache
def _parity() -> Data:
    """Whether three of sixteen signs multiply to 1: no single one of them tells anything."""
    x = np.random.default_rng(211).choice((-1.0, 1.0), (7000, 16))
    return data.cut(x, (x[:, :3].prod(1, keepdims=True) + 1) / 2)


@cache
def _claims() -> Data:
    """Most claims are nothing, the others log-normal."""
    rng = np.random.default_rng(223)
    x = rng.normal(size=(9000, 8))
    claimed = rng.random(len(x)) < 0.25 / (1 + np.exp(-x[:, 0]))
    size = np.exp(0.8 * x[:, 1] - 0.4 * x[:, 2] * x[:, 3] + rng.normal(size=len(x)))
    return data.cut(x, (claimed * size)[:, None])


@cache
def _visits() -> Data:
    """Counts whose spread is far above their mean."""
    rng = np.random.default_rng(227)
    x = rng.normal(size=(9000, 8))
    mean = np.exp(0.7 + 0.5 * x[:, 0] + 0.4 * np.sin(2 * x[:, 1]) - 0.3 * x[:, 2] * x[:, 3])
    return data.cut(x, rng.poisson(mean * rng.gamma(0.5, 2.0, len(x)))[:, None].astype(float))


@cache
def _outliers() -> Data:
    """Friedman's problem, whose training targets have a noise without a variance."""
    plain = data.friedman(0.2)
    rng = np.random.default_rng(229)
    noise = torch.tensor(0.3 * rng.standard_t(1.5, plain.targets.shape), dtype=torch.float32)
    return Data(plain.inputs, plain.targets + noise, plain.validation_inputs, plain.validation_targets)


@cache
def _uneven_shapes() -> Data:
    """Shapes of which each kind is less frequent than the one before, sixtyfold in all; held out, all are alike."""
    plain = data.shapes()
    rng = np.random.default_rng(233)
    keep = torch.tensor(rng.random(len(plain.targets)) < 60 ** (-plain.targets.numpy() / 5))
    return Data(plain.inputs[keep], plain.targets[keep], plain.validation_inputs, plain.validation_targets)


@cache
def _tags() -> Data:
    """Eight tags, of which each example has one in fifty."""
    rng = np.random.default_rng(239)
    x = rng.normal(size=(13_000, 16))
    hidden = np.tanh(x @ rng.normal(size=(16, 12)) / 3)
    scores = hidden @ rng.normal(size=(12, 8)) + 0.3 * rng.normal(size=(len(x), 8))
    return data.cut(x, (scores > np.quantile(scores, 0.98, axis=0)).astype(float), held_out=3000)


@cache
def _small_surface() -> Data:
    """The landscape, in units a thousand times too large."""
    plain = data.surface()
    return Data(plain.inputs, plain.targets / 1000, plain.validation_inputs, plain.validation_targets / 1000)


def _weighted_tags(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy, a tag that is there weighted as its rareness asks."""
    return _logistic(outputs, targets, pos_weight=torch.full((8,), 49.0))


def _trained_shapes() -> nn.Module:
    """A network in the middle of its training."""
    build = partial(conv2d, 8, 6, side=12)
    return with_weights(build(), pretrained("half-shapes", build, data.shapes, _cross_entropy, steps=1500, lr=2e-3))


def _trained_topics() -> nn.Module:
    """A model of topics that stopped in its noise, at a rate that was low."""
    build = partial(Words, 400, 32, 6)
    weights = pretrained("topics", build, text.topics, _cross_entropy, steps=700, lr=1e-3, decay=False)
    return with_weights(build(), weights)


def _trained_letters() -> nn.Module:
    """A small transformer that stopped early."""
    build = partial(Transformer, len(text.ALPHABET), len(text.ALPHABET), 24)
    weights = pretrained(
        "letters", build, text.invented_text, sequence_cross_entropy, steps=500, lr=1e-3, optimizer="AdamW", decay=False
    )
    return with_weights(build(), weights)


def _drawn(model: nn.Module, spread: float) -> nn.Module:
    """The model with normal weights of that spread, and no biases."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=spread)
        else:
            nn.init.zeros_(parameter)
    return model


def _normal_sorter() -> nn.Module:
    """A transformer whose matrices begin as GPT-2's (Radford et al. 2019)."""
    model = Transformer(10, 10, 8, causal=False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    return model


class _Layerwise(nn.Module):
    """Layers that pass no gradient on, each with a head of its own (Belilovsky et al. 2019)."""

    def __init__(self, features: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width if i else features, width) for i in range(depth))
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of each head (batch, depth, classes)."""
        found = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = F.relu(layer(x.detach()))
            found.append(head(x))
        return torch.stack(found, 1)


def _of_each_head(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, summed over the heads."""
    return F.cross_entropy(outputs.transpose(1, 2), targets[:, None].expand(outputs.shape[:2])) * outputs.shape[1]


def _all_of(name: str, held_out: int) -> Data:
    return data.bundled(name, held_out)


PLATEAUS = (
    Task("plateaus-parity", "plateaus", _parity, partial(mlp, (16, 64, 1)), _logistic, "Adam", "constant", 1200, 64),
    Task("plateaus-parity-sgd", "plateaus", _parity, partial(mlp, (16, 64, 1)), _logistic,
         "SGD+momentum", "one_cycle", 1500, 64),
    Task("plateaus-sigmoids", "plateaus", data.digits,
         partial(mlp, (64, 40, 40, 40, 10), activation=nn.Sigmoid), _cross_entropy, "SGD+momentum", "cosine", 1500, 64),
    Task("plateaus-saddle", "plateaus", lambda: data.to_reconstruct(data.mnist1d(), 0.0),
         lambda: _drawn(mlp((40, 24, 24, 40), activation=nn.Tanh), 0.05), _mse, "SGD", "linear", 1200, 64),
)  # fmt: skip

TAILS = (
    Task("tails-claims-sgd", "tails", _claims, partial(mlp, (8, 48, 1)), _mse, "SGD", "constant", 1200, 32),
    Task("tails-visits", "tails", _visits, partial(mlp, (8, 48, 48, 1)), _counted, "SGD+momentum", "cosine", 1000, 32),
    Task("tails-outliers", "tails", _outliers, partial(mlp, (10, 48, 48, 1)), _mse, "AdamW", "linear", 1000, 64),
)  # fmt: skip

UNEVEN = (
    Task("uneven-shapes", "uneven", _uneven_shapes, partial(conv2d, 8, 6, side=12), _cross_entropy,
         "SGD+momentum", "cosine", 700, 64),
    Task("uneven-shapes-adam", "uneven", _uneven_shapes, partial(conv2d, 8, 6, "batch", side=12), _cross_entropy,
         "AdamW", "one_cycle", 700, 64),
    Task("uneven-tags", "uneven", _tags, partial(mlp, (16, 48, 48, 8)), _weighted_tags, "Adam", "constant", 800, 64),
)  # fmt: skip

CONTINUED = (
    Task("continued-shapes", "continued", data.shapes, _trained_shapes, _cross_entropy, "AdamW", "linear", 500, 32),
    Task("continued-topics", "continued", text.topics, _trained_topics, _cross_entropy, "Adam", "cosine", 400, 32),
    Task("continued-letters", "continued", text.invented_text, _trained_letters, sequence_cross_entropy,
         "AdamW", "one_cycle", 400, 32),
)  # fmt: skip

LAYERWISE = (
    Task("layerwise-signals", "layerwise", data.mnist1d, partial(_Layerwise, 40, 64, 3, 10), _of_each_head,
         "SGD+momentum", "linear", 1000, 64),
    Task("layerwise-digits", "layerwise", partial(data.digits, 0.1), partial(_Layerwise, 64, 48, 4, 10), _of_each_head,
         "SGD", "cosine", 1000, 32),
)  # fmt: skip

SUMMED = (
    Task("summed-friedman", "summed", data.friedman, partial(mlp, (10, 48, 48, 1)), _summed_squares,
         "SGD", "one_cycle", 800, 64),
    Task("summed-signals", "summed", data.mnist1d, partial(conv1d, 12), _summed_cross_entropy,
         "SGD+momentum", "cosine", 600, 64),
    Task("summed-surface", "summed", _small_surface, partial(mlp, (2, 64, 64, 1), activation=nn.Tanh), _mse,
         "SGD+momentum", "one_cycle", 1000, 64),
)  # fmt: skip

WHOLE = (
    Task("whole-diabetes", "whole", partial(_all_of, "diabetes", 150), partial(mlp, (10, 32, 1)), _mse,
         "SGD+momentum", "constant", 400, 292),
    Task("whole-cancer", "whole", partial(_all_of, "breast_cancer", 200), partial(mlp, (30, 32, 2)), _cross_entropy,
         "Adam", "cosine", 300, 369),
)  # fmt: skip

UNCOMMON = (
    Task("uncommon-digits", "uncommon", partial(data.digits, 0.05), partial(mlp, (64, 64, 10)), _cross_entropy,
         "SignSGD", "linear", 800, 64),
    Task("uncommon-signals", "uncommon", data.mnist1d, partial(conv1d, 12), _cross_entropy,
         "Adadelta", "constant", 700, 64),
)  # fmt: skip

NORMAL = (
    Task("normal-sorting", "normal", text.sorting, _normal_sorter, sequence_cross_entropy,
         "AdamW", "one_cycle", 600, 32),
)  # fmt: skip

TASKS = PLATEAUS + TAILS + UNEVEN + CONTINUED + LAYERWISE + SUMMED + WHOLE + UNCOMMON + NORMAL
