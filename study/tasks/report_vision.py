"""Families over images and signals that nothing was fitted on: boxes, upscaling, codes, signs, twins, mixed labels."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from study.tasks import data, data_of_kinds
from study.tasks.models import conv1d, conv2d, mlp
from study.tasks.task import Data, Task


@cache
def _boxed(count: int = 8000, side: int = 16) -> Data:
    """One ellipse, rectangle or diamond in noise; a target is (class, centre, half sizes), in pixels about 0."""
    rng = np.random.default_rng(301)
    rows = count + 500
    labels = rng.integers(0, 3, rows)
    centre, half = rng.uniform(4, side - 5, (rows, 2)), rng.uniform(1.5, 4, (rows, 2))
    place = np.arange(side)
    across = np.abs(place[None, None, :] - centre[:, 0, None, None]) / half[:, 0, None, None]
    down = np.abs(place[None, :, None] - centre[:, 1, None, None]) / half[:, 1, None, None]
    figures = np.stack([np.hypot(across, down), np.maximum(across, down), across + down])
    inside = figures[labels, np.arange(rows)] < 1
    images = inside * rng.uniform(0.6, 1.4, (rows, 1, 1)) + 0.3 * rng.normal(size=inside.shape)
    x = torch.tensor(images[:, None], dtype=torch.float32)
    y = torch.tensor(np.concatenate([labels[:, None], centre - side / 2, half - 2.5], 1), dtype=torch.float32)
    return Data(x[:count], y[:count], x[count:], y[count:])


@cache
def _small_images() -> Data:
    """The shapes at half their size with a little noise, and as they are without any."""
    clear = data.shapes(8000, 0.0)
    generator = torch.Generator().manual_seed(303)

    def small(x: Tensor) -> Tensor:
        halved = F.avg_pool2d(x, 2)
        return halved + 0.05 * torch.randn(halved.shape, generator=generator)

    held = clear.validation_inputs
    return Data(small(clear.inputs), clear.inputs, small(held), held)


class Upscaler(nn.Module):
    """Convolutions on the small image, then its pixels shuffled into a large one (Shi et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images of twice the side."""
        return self.layers(x)


class Quantised(nn.Module):
    """An autoencoder whose middle is the nearest of a few trained codes (van den Oord et al. 2017)."""

    def __init__(self, features: int, hidden: int, parts: int, size: int, codes: int) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp((features, hidden, parts * size)), mlp((parts * size, hidden, features))
        self.codes = nn.Parameter(torch.empty(codes, size).uniform_(-1 / codes, 1 / codes))
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features + 2): the reconstruction, how far the codes are, and how far the encoder is."""
        told = self.encoder(x).unflatten(1, (self.parts, -1))
        nearest = torch.cdist(told.detach(), self.codes.detach()).argmin(2)
        code = self.codes[nearest]
        moved = (code - told.detach()).square().mean((1, 2))
        kept = (told - code.detach()).square().mean((1, 2))
        decoded = self.decoder((told + (code - told).detach()).flatten(1))
        return torch.cat([decoded, moved[:, None], kept[:, None]], 1)


def _sign(x: Tensor) -> Tensor:
    """The sign, with the gradient of a clamp."""
    straight = x.clamp(-1, 1)
    return straight + (x.sign() - straight).detach()


class Signs(nn.Module):
    """A network whose hidden weights and activations are signs (Courbariaux et al. 2016)."""

    def __init__(self, features: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = _sign(self.norms[0](F.linear(x, _sign(self.first.weight), self.first.bias)))
        return self.head(_sign(self.norms[1](F.linear(x, _sign(self.second.weight)))))


class Twins(nn.Module):
    """One encoder for both views of a pair, as its answers are."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """The two embeddings of each pair (batch, 2, width)."""
        return self.encoder(x.flatten(0, 1)).unflatten(0, (-1, 2))


class Mixed(nn.Module):
    """In training, each example is blended with another of the batch (Zhang et al. 2018)."""

    def __init__(self, network: nn.Module, strength: float) -> None:
        super().__init__()
        self.network, self.strength = network, torch.tensor(strength)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, classes + 2): logits, the other's place in the batch, and the own share."""
        other, share = torch.arange(len(x)), torch.ones(())
        if self.training:
            other = torch.randperm(len(x))
            share = torch.distributions.Beta(self.strength, self.strength).sample()
        logits = self.network(share * x + (1 - share) * x[other])
        return torch.cat([logits, other[:, None].to(x), share.expand(len(x), 1)], 1)


def _class_and_box(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of the class and the smooth L1 loss of the box, summed over its numbers."""
    return F.cross_entropy(outputs[:, :3], targets[:, 0].long()) + 4 * F.smooth_l1_loss(outputs[:, 3:], targets[:, 1:])


def _coded(outputs: Tensor, targets: Tensor) -> Tensor:
    """The squared error, the codes' distance, and a quarter of the encoder's."""
    return F.mse_loss(outputs[:, :-2], targets) + outputs[:, -2].mean() + 0.25 * outputs[:, -1].mean()


def _covariance(x: Tensor) -> Tensor:
    """The covariance of columns."""
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


def _vicreg(outputs: Tensor, _targets: Tensor) -> Tensor:
    """Variance, invariance and covariance, weighted as in the paper (Bardes et al. 2022)."""
    loss = 25 * F.mse_loss(outputs[:, 0], outputs[:, 1])
    for side in outputs.unbind(1):
        matrix = _covariance(side)
        spread = (matrix.diagonal() + 1e-4).sqrt()
        loss = loss + 12.5 * F.relu(1 - spread).mean()
        loss = loss + (matrix.square().sum() - matrix.diagonal().square().sum()) / len(matrix)
    return loss


def _barlow(outputs: Tensor, _targets: Tensor) -> Tensor:
    """How far the views' correlations are from the identity, summed (Zbontar et al. 2021)."""
    first, second = ((side - side.mean(0)) / (side.std(0) + 1e-5) for side in outputs.unbind(1))
    apart = (first.T @ second / len(first) - torch.eye(first.shape[1])).square()
    return apart.diagonal().sum() + 0.02 * (apart.sum() - apart.diagonal().sum())


def _of_both(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy with the own label and with the other's, by their shares."""
    logits, other, share = outputs[:, :-2], outputs[:, -2].long(), outputs[0, -1]
    return share * F.cross_entropy(logits, targets) + (1 - share) * F.cross_entropy(logits, targets[other])


BOXES = (
    Task("boxes-figures", "boxes", _boxed, partial(conv2d, 8, 7, side=16), _class_and_box,
         "SGD+momentum", "cosine", 800, 32),
)  # fmt: skip

UPSCALED = (
    Task("upscaled-shapes", "upscaled", _small_images, partial(Upscaler, 12), nn.functional.l1_loss,
         "Adam", "constant", 1200, 16),
)  # fmt: skip

QUANTISED = (
    Task("quantised-digits", "quantised", lambda: data.to_reconstruct(data.digits(), 0.0),
         partial(Quantised, 64, 64, 6, 8, 32), _coded, "Adam", "one_cycle", 1500, 64),
)  # fmt: skip

SIGNS = (
    Task("signs-signals", "signs", data.mnist1d, partial(Signs, 40, 128, 10), nn.functional.cross_entropy,
         "Adam", "linear", 1500, 64),
)  # fmt: skip

TWINS = (
    Task("twins-digits", "twins", data_of_kinds.digit_pairs, lambda: Twins(mlp((64, 96, 24), norm=True)), _vicreg,
         "SGD+momentum", "cosine", 1500, 128),
    Task("twins-signals", "twins", data.two_views, lambda: Twins(conv1d(12, 24)), _barlow,
         "AdamW", "linear", 900, 64),
)  # fmt: skip

MIXED = (
    Task("mixed-digits", "mixed", lambda: data.few(data.digits(0.2, True), 600), lambda: Mixed(conv2d(8), 0.4),
         _of_both, "SGD+momentum", "constant", 1500, 32),
)  # fmt: skip

TASKS = BOXES + UPSCALED + QUANTISED + SIGNS + TWINS + MIXED
