"""What a script of a user's imports from a file of its own, beside it: each keeps what a step changes."""

import functools

import torch
from torch import nn, optim

mean, spread, log = torch.zeros(2), torch.ones(2), []
critic = nn.Linear(2, 1)
critic_optimizer = optim.Adam(critic.parameters(), lr=0.1)


def replaced(outputs):
    """Lets a name of this file stand for another tensor."""
    global mean  # noqa: PLW0603 - which is what is tested
    mean = mean.lerp(outputs.detach().mean(0), 0.1)
    return (outputs - mean).square().mean()


def average_of(net):
    """Functions that share a closure: one moves an average of the weights, one tells how far it is."""
    weights = [parameter.detach().clone() for parameter in net.parameters()]

    def update():
        torch._foreach_lerp_(weights, [parameter.detach() for parameter in net.parameters()], 0.1)

    def distance():
        return sum((a - b).square().sum() for a, b in zip(weights, net.parameters(), strict=True))

    return update, distance, lambda: weights


def passed_on(function):
    """A decorator that says nothing of what it wraps."""

    def wrapper(*args):
        return function(*args)

    return wrapper


@functools.wraps(nn.functional.mse_loss)
def named_as_torchs(outputs):
    """Has the name and the module of a function of torch's."""
    spread.lerp_(outputs.detach().std(0), 0.1)
    return nn.functional.mse_loss(outputs / spread, torch.zeros_like(outputs))


class Centre:
    """Keeps it in an attribute of the class."""

    centre, updates = torch.zeros(2), 0

    @classmethod
    def loss(cls, outputs):
        cls.centre, cls.updates = cls.centre.lerp(outputs.detach().mean(0), 0.1), cls.updates + 1
        return (outputs - cls.centre).square().mean()


def adversarial(outputs):
    """Trains a critic of this file's."""
    loss = critic(outputs.detach()).square().mean()
    critic_optimizer.zero_grad()
    loss.backward()
    critic_optimizer.step()
    return critic(outputs).mean()


def with_attributes(outputs):
    """Keeps it in attributes of the function."""
    with_attributes.centre = with_attributes.centre.lerp(outputs.detach().mean(0), 0.1)
    with_attributes.moved.mul_(0.9)
    return (outputs - with_attributes.centre * with_attributes.moved).square().mean()


with_attributes.centre, with_attributes.moved = torch.zeros(2), torch.ones(2)


@functools.cache
def teacher():
    """Made at the first call."""
    return nn.Linear(2, 2)


@functools.lru_cache(maxsize=8)
def scales(kind):
    """As many as are asked for."""
    return {"of": torch.ones(2), "kind": kind}


def taught(outputs):
    """Moves what caches hold."""
    with torch.no_grad():
        teacher().weight.mul_(0.9)
        scales("one")["of"].mul_(0.9)
    return (outputs - teacher()(outputs).detach() * scales("one")["of"]).square().mean()


def state():
    """All of it."""
    modules = [critic.state_dict(), critic_optimizer.state_dict(), teacher().state_dict(), scales("one")["of"]]
    kept = {name: value for name, value in vars(Centre).items() if name in ("centre", "updates")}
    return [mean, spread, kept, modules, with_attributes.centre, with_attributes.moved]
