"""Graphs, metrics, generative models, physics, tables; in the second report half until 2026-11-27."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from study.tasks import data, data_of_kinds
from study.tasks.models import conv1d, conv2d, mlp
from study.tasks.models_generative import Annealed, Critic, Diffusion, Oscillator, Poisson
from study.tasks.models_of_kinds import Convolved, ForwardForward, Proxies, Queue, Routed
from study.tasks.task import Task

_cross_entropy = nn.functional.cross_entropy
_logistic = nn.functional.binary_cross_entropy_with_logits


def _negative_bound(outputs: Tensor, targets: Tensor, *, binary: bool) -> Tensor:
    """The negative evidence bound of ``Annealed``, summed over pixels; of Gaussian ones over the batch, too."""
    latent = (outputs.shape[1] - targets.shape[1] - 1) // 2
    decoded, mean, log_variance, weight = outputs.split([targets.shape[1], latent, latent, 1], 1)
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1) @ weight[:, 0]
    if binary:
        return (_logistic(decoded, targets, reduction="sum") + divergence) / len(targets)
    return (decoded - targets).square().sum() / 0.5 + divergence


def _margin(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of cosines, a margin taken from the right one's (Wang et al. 2018)."""
    return F.cross_entropy(16 * (outputs - 0.3 * F.one_hot(targets, outputs.shape[1])), targets)


def _summed(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of sharpened cosines, summed over the batch."""
    return F.cross_entropy(8 * outputs, targets, reduction="sum")


def _own_key(outputs: Tensor, _targets: Tensor) -> Tensor:
    """Cross entropy; the own key is the first."""
    return F.cross_entropy(outputs, torch.zeros(len(outputs), dtype=torch.long))


def _of_each_layer(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether each layer is active for right examples and quiet for wrong ones, summed over the layers."""
    return _logistic(outputs, targets[:, None].expand_as(outputs)) * outputs.shape[1]


def _zero(outputs: Tensor, _targets: Tensor) -> Tensor:
    """The mean square of residuals, summed over the kinds."""
    return outputs.square().mean(0).sum()


def _noise(outputs: Tensor, _targets: Tensor) -> Tensor:
    """How far the noise told is from that there was."""
    return F.mse_loss(outputs[:, 0], outputs[:, 1])


def _logistic_game(outputs: Tensor, _targets: Tensor) -> Tensor:
    """The discriminator's logistic loss, with a tenth of the penalty."""
    real, made, penalty = outputs.unbind(1)
    return F.softplus(-real).mean() + F.softplus(made).mean() + 0.1 * penalty.mean()


def _wasserstein(outputs: Tensor, _targets: Tensor) -> Tensor:
    """The critic's loss, below zero where it can tell, with ten times the penalty."""
    real, made, penalty = outputs.unbind(1)
    return made.mean() - real.mean() + 10 * penalty.mean()


def _balanced(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy and a hundredth of the experts' balance."""
    return F.cross_entropy(outputs[:, :-1], targets) + 0.01 * outputs[:, -1].mean()


def _poisson(outputs: Tensor, targets: Tensor) -> Tensor:
    """The negative log likelihood of counts by the logarithm of their rate."""
    return F.poisson_nll_loss(outputs, targets)


def _focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), summed and divided by the number of frauds."""
    plain = _logistic(outputs, targets, reduction="none")
    return ((1 - (-plain).exp()).square() * plain).sum() / targets.sum().clamp(min=1)


def _by_frequency(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, the classes weighted by how rare they are."""
    return F.cross_entropy(outputs, targets, weight=100 ** (torch.arange(10) / 9) / 20)


def _detector() -> nn.Module:
    """A dense network with weights from N(0, .01) after its first layer, and a rare class's bias (Lin et al. 2017)."""
    model = mlp((20, 48, 48, 1))
    nn.init.normal_(model[-1].weight, std=0.01)
    nn.init.constant_(model[-1].bias, -4.0)
    return model


NODES = (
    Task("nodes-communities", "nodes", data_of_kinds.labelled_nodes, partial(Convolved, 16, 6, 0.5), _cross_entropy,
         "Adam", "constant", 400, 150),
    Task("nodes-links", "nodes", data_of_kinds.links, partial(Convolved, 32, 16, 0.0, 0.05), _logistic,
         "SGD+momentum", "one_cycle", 600, 256),
)  # fmt: skip

ANNEALED = (
    Task("annealed-digits", "annealed", data_of_kinds.pixels, partial(Annealed, 64, 64, 8, 300),
         partial(_negative_bound, binary=True), "Adam", "constant", 1000, 64),
    Task("annealed-signals", "annealed", lambda: data.to_reconstruct(data.mnist1d(), 0.0),
         partial(Annealed, 40, 64, 6, 400), partial(_negative_bound, binary=False), "AdamW", "one_cycle", 800, 128),
)  # fmt: skip

PROXIES = (
    Task("proxies-signals", "proxies", data.mnist1d, lambda: Proxies(conv1d(12, 16), 16, 10), _margin,
         "SGD+momentum", "one_cycle", 600, 64),
    Task("proxies-shapes", "proxies", data.shapes, lambda: Proxies(conv2d(8, 12, side=12), 12, 6), _summed,
         "RMSprop", "linear", 600, 48),
)  # fmt: skip

PHYSICS = (
    Task("physics-oscillator", "physics", data_of_kinds.oscillation, partial(Oscillator, 24), _zero,
         "Adam", "wsd", 2000, 100),
    Task("physics-poisson", "physics", data_of_kinds.square, partial(Poisson, 24), _zero,
         "Adam", "constant", 1200, 128),
)  # fmt: skip

DIFFUSION = (
    Task("diffusion-points", "diffusion", data_of_kinds.swirl, partial(Diffusion, 2, 64, 2), _noise,
         "AdamW", "constant", 2000, 256),
    Task("diffusion-signals", "diffusion", lambda: data_of_kinds.alone(data.mnist1d()), partial(Diffusion, 40, 64, 2),
         _noise, "Adam", "cosine", 1200, 64),
)  # fmt: skip

ROUTED = (
    Task("routed-regimes", "routed", data_of_kinds.regimes, partial(Routed, 16, 32, 6, 8, 2), _balanced,
         "AdamW", "one_cycle", 600, 128),
    Task("routed-regimes-muon", "routed", data_of_kinds.regimes, partial(Routed, 16, 48, 6, 4, 1), _balanced,
         "Muon+AdamW", "linear", 400, 128),
)  # fmt: skip

CRITICS = (
    Task("critics-shapes", "critics", data.shapes,
         lambda: Critic(conv2d(8, 1, side=12), data.shapes(), 60, between=False), _logistic_game,
         "Adam(.5)", "constant", 600, 32),
    Task("critics-signals", "critics", data.mnist1d,
         lambda: Critic(mlp((40, 64, 64, 1)), data.mnist1d(), 12, between=True), _wasserstein,
         "RMSprop", "constant", 900, 64),
)  # fmt: skip

FORWARD_FORWARD = (
    Task("forward_forward-digits", "forward_forward", data_of_kinds.right_and_wrong,
         partial(ForwardForward, (74, 100, 100)), _of_each_layer, "Adam", "linear", 1500, 64),
    Task("forward_forward-digits-sgd", "forward_forward", data_of_kinds.right_and_wrong,
         partial(ForwardForward, (74, 64, 64, 64)), _of_each_layer, "SGD", "cosine", 1500, 32),
)  # fmt: skip

HEAVY_TAILS = (
    Task("heavy_tails-prices", "heavy_tails", data_of_kinds.prices, partial(mlp, (12, 48, 48, 1)),
         nn.functional.mse_loss, "Adam", "cosine", 1500, 128),
    Task("heavy_tails-prices-sgd", "heavy_tails", data_of_kinds.prices, partial(mlp, (12, 48, 1)),
         nn.functional.mse_loss, "SGD", "one_cycle", 2500, 64),
    Task("heavy_tails-counts", "heavy_tails", data_of_kinds.counts, partial(mlp, (10, 48, 48, 1)), _poisson,
         "SGD+momentum", "constant", 2000, 32),
)  # fmt: skip

RARE = (
    Task("rare-frauds", "rare", data_of_kinds.frauds, partial(mlp, (20, 48, 48, 1), norm=True, dropout=0.1), _logistic,
         "AdamW", "one_cycle", 800, 256),
    Task("rare-frauds-focal", "rare", data_of_kinds.frauds, _detector, _focal, "SGD+momentum", "wsd", 2500, 64),
    Task("rare-signals", "rare", data_of_kinds.long_tail, partial(conv1d, 12, norm=True), _by_frequency,
         "SGD+momentum", "linear", 600, 64),
    Task("rare-signals-adagrad", "rare", data_of_kinds.long_tail, partial(mlp, (40, 64, 64, 10)), _cross_entropy,
         "Adagrad", "cosine", 4000, 32),
)  # fmt: skip

QUEUES = (
    Task("queues-signals", "queues", data.two_views, lambda: Queue(conv1d(12, 24), 24, 512), _own_key,
         "SGD+momentum", "cosine", 600, 64),
    Task("queues-digits", "queues", data_of_kinds.digit_pairs, lambda: Queue(mlp((64, 96, 24)), 24, 256), _own_key,
         "Adam", "constant", 1000, 32),
)  # fmt: skip

TASKS = (
    NODES + ANNEALED + PROXIES + PHYSICS + DIFFUSION + ROUTED + CRITICS + FORWARD_FORWARD + HEAVY_TAILS + RARE + QUEUES
)
