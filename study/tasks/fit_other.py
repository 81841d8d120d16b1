"""Further families that rules and constants are fitted on: other architectures, other losses, plenty of data."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from study.tasks import data, starts, text
from study.tasks.models import (
    Factors,
    Mixer,
    PointSet,
    Recurrent,
    Residual,
    Sines,
    Tiles,
    Transformer,
    Variational,
    Views,
    conv1d,
    conv2d,
    mlp,
)
from study.tasks.pretrained import pretrained, with_weights
from study.tasks.task import Data, Task, sequence_cross_entropy

_cross_entropy = nn.functional.cross_entropy
_mse = nn.functional.mse_loss
_letters = len(text.ALPHABET)


def _elbo(outputs: Tensor, targets: Tensor) -> Tensor:
    """The negative evidence bound of ``Variational``'s outputs, a feature."""
    latent = (outputs.shape[1] - targets.shape[1]) // 2
    reconstruction, mean, log_variance = outputs.split([targets.shape[1], latent, latent], 1)
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return _mse(reconstruction, targets) + 0.05 * divergence / targets.shape[1]


def _info_nce(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which second view belongs to which first one, among 32 (van den Oord et al. 2018)."""
    groups = outputs[: len(outputs) // 32 * 32].unflatten(0, (-1, 32))
    logits = groups[:, :, 0] @ groups[:, :, 1].transpose(1, 2) / 0.2
    return _cross_entropy(logits.flatten(0, 1), torch.arange(32).repeat(len(groups)))


def _plain_digits() -> Data:
    """The digits' own pixels as targets."""
    return data.to_reconstruct(data.digits(), 0.0)


def _tuned_shapes() -> nn.Module:
    """A network for faint shapes, pretrained on clear ones."""
    build = partial(conv2d, 8, 6, norm="batch", side=12)
    weights = pretrained("shapes", build, partial(data.shapes, noise=0.3), _cross_entropy, steps=2000, lr=3e-3)
    return with_weights(build(), weights)


RESIDUAL = (
    Task("residual-shapes", "residual", data.shapes, partial(Residual, 12, 6), _cross_entropy,
         "SGD+momentum", "one_cycle", 600, 32),
    Task("residual-shapes-rmsprop", "residual", data.shapes, partial(Residual, 8, 6), _cross_entropy,
         "RMSprop", "constant", 600, 32),
)  # fmt: skip

TILES = (
    Task("tiles-transformer", "tiles", data.shapes,
         lambda: Tiles(4, Transformer(-16, 6, 9, causal=False, pooled=True)), _cross_entropy,
         "AdamW", "one_cycle", 700, 32),
    Task("tiles-mixer", "tiles", data.shapes, lambda: Tiles(3, Mixer(9, 16, 6)), _cross_entropy,
         "Adam", "constant", 600, 32),
)  # fmt: skip

SETS = (
    Task("sets-figures", "sets", data.point_sets, partial(PointSet, 48, 6), _cross_entropy,
         "SGD+momentum", "constant", 800, 32),
    Task("sets-figures-adagrad", "sets", data.point_sets, partial(PointSet, 32, 6), _cross_entropy,
         "Adagrad", "one_cycle", 800, 32),
)  # fmt: skip

RATINGS = (
    Task("ratings-factors", "ratings", data.ratings, partial(Factors, 300, 200, 6), _mse,
         "SGD", "constant", 1000, 64),
    Task("ratings-network", "ratings", data.ratings, partial(Factors, 300, 200, 8, 32), _mse,
         "Adam", "cosine", 1000, 64),
)  # fmt: skip

SURFACE = (
    Task("surface-sines", "surface", data.surface, partial(Sines, 48), _mse, "Adam", "one_cycle", 800, 64),
    Task("surface-tanh", "surface", data.surface, partial(mlp, (2, 64, 64, 1), activation=nn.Tanh), _mse,
         "SGD+momentum", "cosine", 1000, 64),
)  # fmt: skip

VARIATIONAL = (
    Task("variational-digits", "variational", _plain_digits, partial(Variational, 64, 64, 8), _elbo,
         "AdamW", "constant", 800, 64),
    Task("variational-signals", "variational", lambda: data.to_reconstruct(data.mnist1d(20_000), 0.0),
         partial(Variational, 40, 64, 8), _elbo, "SGD+momentum", "one_cycle", 800, 64),
)  # fmt: skip

CONTRASTIVE = (
    Task("contrastive-signals", "contrastive", data.two_views, lambda: Views(mlp((40, 96, 32))), _info_nce,
         "Adam", "cosine", 600, 64),
    Task("contrastive-signals-sgd", "contrastive", data.two_views, lambda: Views(conv1d(12, 24)), _info_nce,
         "SGD+momentum", "constant", 600, 64),
)  # fmt: skip

CONVEX = (
    Task("convex-digits", "convex", partial(data.digits, 0.1), partial(mlp, (64, 10)), _cross_entropy,
         "SGD", "constant", 600, 32),
    Task("convex-clusters", "convex", data.clusters, partial(mlp, (24, 5)), _cross_entropy,
         "SGD+momentum", "one_cycle", 600, 32),
)  # fmt: skip

DEEP_TEXT = (
    Task("deep_text-transformer", "deep_text", text.library_text,
         partial(Transformer, _letters, _letters, 24, width=48, depth=2, dropout=0.1), sequence_cross_entropy,
         "AdamW", "one_cycle", 500, 16),
    Task("deep_text-recurrent", "deep_text", text.invented_text,
         partial(Recurrent, nn.LSTM, _letters, _letters, 48), sequence_cross_entropy,
         "RMSprop", "constant", 500, 16),
)  # fmt: skip

TUNED = (
    Task("tuned-signals", "tuned", partial(data.mnist1d, 20_000, 0.0, 0.5), starts.signals, _cross_entropy,
         "SGD+momentum", "one_cycle", 600, 32),
    Task("tuned-text", "tuned", text.library_text, starts.invented_text, sequence_cross_entropy,
         "AdamW", "one_cycle", 500, 16),
    Task("tuned-shapes", "tuned", partial(data.shapes, 20_000, 0.8), _tuned_shapes, _cross_entropy,
         "Adam", "constant", 600, 32),
)  # fmt: skip

TASKS = RESIDUAL + TILES + SETS + RATINGS + SURFACE + VARIATIONAL + CONTRASTIVE + CONVEX + DEEP_TEXT + TUNED
