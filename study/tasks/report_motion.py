"""Families of flows, actions, relations and maps that nothing was fitted on."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from study.tasks import data, data_of_kinds
from study.tasks.models import mlp
from study.tasks.models_generative import draws_of
from study.tasks.task import Data, Task


class Flow(nn.Module):
    """Couplings that map points of the plane to a normal law, each by one coordinate (Dinh et al. 2017)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(mlp((1, width, width, 2)) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """The log density of each point (batch,)."""
        still, moved = x.split(1, 1)
        volume = torch.zeros(len(x))
        for coupling in self.couplings:
            stretch, shift = coupling(still).split(1, 1)
            stretch = 2 * torch.tanh(stretch / 2)
            still, moved = moved * stretch.exp() + shift, still
            volume = volume + stretch[:, 0]
        return volume - 0.5 * (still.square() + moved.square())[:, 0] - math.log(2 * math.pi)


def _minus(outputs: Tensor, _targets: Tensor) -> Tensor:
    """The mean, to be raised."""
    return -outputs.mean()


@cache
def _paths(count: int = 4000, moments: int = 10) -> Data:
    """A damped oscillator's start and where it is at later moments."""
    rng = np.random.default_rng(367)
    place, speed = rng.uniform(-2, 2, (2, count + 500))
    start = np.stack([place, speed], 1)
    states = []
    for i in range(1, 20 * moments + 1):
        speed = speed + 0.0125 * (-3 * np.sin(1.5 * place) - 0.3 * speed)
        place = place + 0.0125 * speed
        if i % 20 == 0:
            states.append(np.stack([place, speed], 1))
    path = np.stack(states, 1)
    return data.cut(start, path + 0.05 * rng.normal(size=path.shape), held_out=500)


class Differential(nn.Module):
    """A network that tells the slope, followed in Euler steps (Chen et al. 2018)."""

    def __init__(self, width: int, moments: int) -> None:
        super().__init__()
        self.slope, self.moments = mlp((2, width, 2), activation=nn.Tanh), moments

    def forward(self, x: Tensor) -> Tensor:
        """The states (batch, moments, 2)."""
        states = []
        for _ in range(self.moments):
            x = x + 0.25 * self.slope(x)
            states.append(x)
        return torch.stack(states, 1)


@cache
def _offers(count: int = 12_000, arms: int = 6) -> Data:
    """Contexts, and beside each what the arms give on average there."""
    rng = np.random.default_rng(373)
    x = rng.normal(size=(count + 1000, 8))
    hidden = np.tanh(x @ rng.normal(size=(8, 10)) / 1.5)
    gives = 1 / (1 + np.exp(2 - hidden @ rng.normal(size=(10, arms))))
    return data.cut(np.concatenate([x, gives], 1), np.zeros((len(x), 1)))


class Player(nn.Module):
    """Draws an arm and its reward, and raises the chance of what gave more than usual (Williams 1992)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Rewards (batch,) whose gradient is the policy's; in evaluation, the expected ones."""
        chances = self.network(x[:, :8]).log_softmax(1)
        if not self.training:
            return (chances.exp() * x[:, 8:]).sum(1)
        arm = torch.multinomial(chances.detach().exp(), 1)
        reward = torch.bernoulli(x[:, 8:].gather(1, arm))[:, 0]
        chosen = chances.gather(1, arm)[:, 0]
        return reward + (reward - reward.mean()) * (chosen - chosen.detach())


@cache
def _moves(count: int = 8000, side: int = 8, discount: float = 0.9) -> Data:
    """Random moves on a slippery board with a goal and a pit: state, move, reward, next state, and the true value."""
    rng = np.random.default_rng(379)
    places = np.arange(side * side)
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    then = np.stack(
        [np.clip(places // side + a, 0, side - 1) * side + np.clip(places % side + b, 0, side - 1) for a, b in steps], 1
    )
    pays = np.zeros(side * side)
    pays[[side * side - 1, 27, 36]] = 5, -3, -3
    goes_on = pays == 0
    reached = pays[then] + 0.0
    values = np.zeros(then.shape)
    for _ in range(200):
        each = reached + discount * (goes_on * values.max(1))[then]
        values = 0.8 * each + 0.2 * each.mean(1, keepdims=True)
    state = rng.choice(places[goes_on], count + 1000)
    move = rng.integers(0, 4, len(state))
    made = np.where(rng.random(len(state)) < 0.2, rng.integers(0, 4, len(state)), move)
    following = then[state, made]
    written = np.concatenate([np.eye(side)[places // side], np.eye(side)[places % side]], 1)
    told = (move, reached[state, made], discount * goes_on[following], values[state, move])
    x = np.concatenate([written[state], written[following], np.stack(told, 1)], 1)
    return data.cut(x, np.zeros((len(x), 1)))


class Values(nn.Module):
    """What a move is worth by its reward and the next state's best move, as a slow copy has it (Mnih et al. 2015)."""

    def __init__(self, network: nn.Module, slowness: float = 0.98) -> None:
        super().__init__()
        self.network, self.slow, self.slowness = network, deepcopy(network).requires_grad_(False), slowness

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2): the value told, and the one wanted; in evaluation, the true one."""
        state, following, rest = x.split([16, 16, 4], 1)
        value = self.network(state).gather(1, rest[:, :1].long())
        if not self.training:
            return torch.cat([value, rest[:, 3:]], 1)
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.slowness)
            wanted = rest[:, 1:2] + rest[:, 2:3] * self.slow(following).amax(1, keepdim=True)
        return torch.cat([value, wanted], 1)


def _huber(outputs: Tensor, _targets: Tensor) -> Tensor:
    """The Huber loss of what is told against what is wanted."""
    return F.smooth_l1_loss(outputs[:, 0], outputs[:, 1])


@cache
def _facts(count: int = 16_000, things: int = 400, relations: int = 6) -> Data:
    """Triples (thing, relation, thing) where the relation is a step in a hidden space."""
    rng = np.random.default_rng(383)
    places, steps = rng.normal(size=(things, 5)), rng.normal(size=(relations, 5))
    first, relation = rng.integers(0, things, count + 1000), rng.integers(0, relations, count + 1000)
    apart = np.square(places[first, None] + steps[relation, None] - places).sum(2)
    second = (apart + rng.gumbel(0, 0.3, apart.shape)).argmin(1)
    return data.cut(np.stack([first, relation, second], 1), np.zeros((len(first), 1)))


class Steps(nn.Module):
    """Vectors of things and steps between them (Bordes et al. 2013); one of the things is replaced by a drawn one."""

    def __init__(self, width: int, things: int = 400, relations: int = 6) -> None:
        super().__init__()
        self.things, self.steps = nn.Embedding(things, width), nn.Embedding(relations, width)
        for table in (self.things, self.steps):
            nn.init.uniform_(table.weight, -6 / width**0.5, 6 / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2): how far the right one is, and how far the drawn one."""
        drawn = torch.randint(len(self.things.weight), (len(x), 1), generator=draws_of(self))
        told = F.normalize(self.things(x[:, 0]), dim=1) + self.steps(x[:, 1])
        ends = F.normalize(self.things(torch.cat([x[:, 2:], drawn], 1)), dim=2)
        return (told[:, None] - ends).norm(dim=2)


def _apart(outputs: Tensor, _targets: Tensor) -> Tensor:
    """How much of the margin between right and wrong is missing."""
    return F.relu(1 + outputs[:, 0] - outputs[:, 1]).mean()


def _neighbours(outputs: Tensor, targets: Tensor) -> Tensor:
    """The divergence of the map's neighbours from the examples' own (van der Maaten 2009), in a batch."""
    itself = torch.eye(len(outputs), dtype=torch.bool)
    apart = torch.cdist(targets, targets).square()
    own = (-12 * apart / apart.mean()).masked_fill(itself, -math.inf).softmax(1)
    own = ((own + own.T) / (2 * len(own))).clamp(min=1e-12)
    mapped = 1 / (1 + (outputs[:, None] - outputs).square().sum(2))
    mapped = mapped.masked_fill(itself, 0)
    return (own * (own / (mapped / mapped.sum()).clamp(min=1e-12)).log()).sum()


FLOWS = (
    Task("flows-swirl", "flows", data_of_kinds.swirl, partial(Flow, 24, 6), _minus, "Adam", "wsd", 1000, 128),
)  # fmt: skip

DIFFERENTIAL = (
    Task("differential-paths", "differential", _paths, partial(Differential, 32, 10), nn.functional.mse_loss,
         "AdamW", "one_cycle", 800, 32),
)  # fmt: skip

BANDITS = (
    Task("bandits-offers", "bandits", _offers, lambda: Player(mlp((8, 48, 6))), _minus, "SGD", "constant", 2500, 32),
)  # fmt: skip

VALUES = (
    Task("values-moves", "values", _moves, lambda: Values(mlp((16, 64, 64, 4))), _huber,
         "RMSprop", "constant", 1500, 64),
)  # fmt: skip

RELATIONS = (
    Task("relations-facts", "relations", _facts, partial(Steps, 16), _apart, "Adagrad", "constant", 2000, 64),
)  # fmt: skip

MAPS = (
    Task("maps-digits", "maps", lambda: data.to_reconstruct(data.digits(), 0.0), partial(mlp, (64, 64, 64, 2)),
         _neighbours, "SGD+momentum", "constant", 1000, 64),
)  # fmt: skip

TASKS = FLOWS + DIFFERENTIAL + BANDITS + VALUES + RELATIONS + MAPS
