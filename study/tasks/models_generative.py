"""Models that draw numbers or differentiate within the step: the same draws at each evaluation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from study.tasks.models import mlp
from study.tasks.task import Data


def draws_of(module: nn.Module) -> torch.Generator | None:
    """Torch's global random state in training; a fresh seeded one in evaluation."""
    return None if module.training else torch.Generator().manual_seed(211)


class Annealed(nn.Module):
    """A variational autoencoder whose divergence weighs more from step to step; the weight is its last output."""

    steps: Tensor

    def __init__(self, features: int, hidden: int, latent: int, warmup: int) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp((features, hidden, 2 * latent)), mlp((latent, hidden, features))
        self.warmup = warmup
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features + 2 latent + 1): reconstruction, mean, log variance, weight (1 in evaluation)."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=draws_of(self))
        weight = 1.0
        if self.training:
            weight = min(1.0, float(self.steps) / self.warmup)
            self.steps += 1
        decoded = self.decoder(mean + noise * (0.5 * log_variance).exp())
        return torch.cat([decoded, mean, log_variance, torch.full((len(x), 1), weight)], 1)


class Diffusion(nn.Module):
    """Tells the noise in noisy examples (Ho et al. 2020), by a residual network that knows the time."""

    def __init__(self, features: int, width: int, depth: int) -> None:
        super().__init__()
        self.first, self.time = nn.Linear(features, width), mlp((16, width), activation=nn.SiLU)
        self.layers = nn.ModuleList(mlp((width, width, width), activation=nn.SiLU) for _ in range(depth))
        self.last = nn.Linear(width, features)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2, features): the noise told, and the noise there was."""
        draws = draws_of(self)
        time, noise = torch.rand(len(x), 1, generator=draws), torch.randn(x.shape, generator=draws)
        angle = time * math.pi / 2
        waves = time * torch.arange(1, 9) * math.pi
        known = self.time(torch.cat([waves.sin(), waves.cos()], 1))
        hidden = self.first(angle.cos() * x + angle.sin() * noise)
        for layer in self.layers:
            hidden = hidden + layer(hidden + known)
        return torch.stack([self.last(hidden), noise], 1)


class Critic(nn.Module):
    """A discriminator of examples and what a fixed generator makes, with a penalty on its gradient.

    Args:
        network: gives one score an example.
        examples: the generator draws from their principal components.
        components: how many of them.
        between: the penalty is on points between the two and wants a slope of 1 (Gulrajani et al. 2017); if not,
            it is on the real examples and wants 0 (Mescheder et al. 2018).
    """

    centre: Tensor
    directions: Tensor

    def __init__(self, network: nn.Module, examples: Data, components: int, *, between: bool) -> None:
        super().__init__()
        self.network, self.between = network, between
        flat = examples.inputs[:4000].flatten(1)
        centre = flat.mean(0)
        _left, sizes, directions = torch.linalg.svd(flat - centre, full_matrices=False)
        self.register_buffer("centre", centre)
        self.register_buffer("directions", (sizes[:components, None] / len(flat) ** 0.5) * directions[:components])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3): the score of the real one, of the made one, and the penalty."""
        draws = draws_of(self)
        made = self.centre + torch.randn(len(x), len(self.directions), generator=draws) @ self.directions
        made = made.view_as(x)
        share = torch.rand(len(x), generator=draws).view(-1, *[1] * (x.ndim - 1))
        with torch.enable_grad():  # also where nothing is trained: the penalty is part of the loss
            place = (torch.lerp(x, made, share) if self.between else x).detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.network(place).sum(), place, create_graph=True)
            size = slope.flatten(1).square().sum(1, keepdim=True)
            penalty = ((size + 1e-12).sqrt() - 1).square() if self.between else size
        return torch.cat([self.network(x), self.network(made), penalty], 1)


class Oscillator(nn.Module):
    """A solution of u'' + a u' + b u = 0 with unknown a and b (Raissi et al. 2019): residuals and errors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = mlp((1, width, width, 1), activation=nn.Tanh)
        self.coefficients = nn.Parameter(torch.tensor([1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2): how far the equation is from true, and the observation where there is one."""
        with torch.enable_grad():
            moment = x[:, :1].detach().requires_grad_()
            height = self.network(4 * moment - 2)
            (slope,) = torch.autograd.grad(height.sum(), moment, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), moment, create_graph=True)
            drag, pull = self.coefficients.exp()
            residual = bend / 100 + drag * slope / 10 + pull * height
            return torch.cat([residual, 5 * (height - x[:, 1:2]) * x[:, 2:3]], 1)


class Poisson(nn.Module):
    """A solution of the Poisson equation on the unit square that is zero on the border: residuals in its own units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = mlp((2, width, width, 1), activation=nn.Tanh)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2): the residual inside, and the height on the border ten times."""
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            height = self.network(2 * point - 1)
            (slope,) = torch.autograd.grad(height.sum(), point, create_graph=True)
            bends = [torch.autograd.grad(slope[:, i].sum(), point, create_graph=True)[0][:, i] for i in range(2)]
            source = 8 * math.pi**2 * (2 * math.pi * x).sin().prod(1)
            border = ((x == 0) | (x == 1)).any(1)
            inside = (bends[0] + bends[1] + source) * ~border
            return torch.stack([inside, 10 * height[:, 0] * border], 1)
