"""What modules hold beside tensors: objects and functions of the user's own; their classes, and what these name."""

from array import array
from collections import deque
from enum import Enum
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn, optim

from findlr import RangeTest, find_lr
from findlr.testing.bits import bits

QUICK = dict(num_steps=6, min_lr=1e-3, max_lr=0.1, progress=False)
SHARED = {"mean": torch.zeros(4)}
MEAN = torch.zeros(4)


class Codes:
    """A codebook that follows the outputs, with how often each code was used, as in a VQ-VAE."""

    def __init__(self):
        self.codes, self.uses, self.passes, self.recent = torch.ones(3, 4), [0, 0, 0], 0, deque(maxlen=4)

    def __call__(self, inputs):
        i = self.passes % 3
        self.codes = self.codes.clone()
        self.codes[i] = self.codes[i].lerp(inputs.mean(0), 0.1)
        self.uses[i] += 1
        self.recent.append(self.uses[i])
        self.passes += 1
        return inputs - self.codes.mean(0) / self.uses[i] + sum(self.recent)


class Scale:
    """Numbers alone, in slots, and in an object of its own."""

    __slots__ = ("inner", "times")

    class Inner:
        heat = 1.0

    def __init__(self):
        self.times, self.inner = 0, Scale.Inner()

    def __call__(self, inputs):
        self.times += 1
        self.inner.heat *= 0.9
        return inputs * self.inner.heat / self.times


class Phase(Enum):
    FIRST, SECOND, THIRD, FOURTH = 0, 1, 2, 3


class Phases:
    """A member of an enumeration, and a slice, by turns."""

    def __init__(self):
        self.phase, self.part = Phase.FIRST, slice(0, 2)

    def __call__(self, inputs):
        self.part = slice(self.phase.value, 4)
        self.phase = Phase((self.phase.value + 1) % 4)
        return torch.cat([inputs[:, : self.part.start], inputs[:, self.part] * self.phase.value], dim=1)


class Noise:
    """A mean in an array, and a generator."""

    def __init__(self):
        self.mean, self.generator = np.zeros(4, np.float32), np.random.default_rng(0)

    def __call__(self, inputs):
        self.mean = self.mean * np.float32(0.9) + inputs.numpy().mean(0)
        return inputs - torch.from_numpy(self.mean) + self.generator.normal()


def follower():
    mean, seen = torch.zeros(4), []

    def follow(inputs):
        nonlocal mean
        mean = mean.lerp(inputs.mean(0), 0.1)
        seen.append(mean)
        return inputs - mean + len(seen)

    return follow


class Holds(nn.Linear):
    """Holds what is given, by itself, in a list, in a dict or inside a partial."""

    def __init__(self, held, where):
        super().__init__(4, 2)
        self.held = {"alone": held, "list": [held], "dict": {"a": held}, "partial": partial(held)}[where]
        self.where = where

    def forward(self, inputs):
        held = {"list": lambda: self.held[0], "dict": lambda: self.held["a"]}.get(self.where, lambda: self.held)()
        return super().forward(held(inputs))


class Counts(nn.Linear):
    """Counts in Python's own arrays."""

    def __init__(self):
        super().__init__(4, 2)
        self.sums, self.seen = array("d", [0.0] * 4), bytearray(4)

    def forward(self, inputs):
        self.sums.append(inputs.sum().item())
        self.seen[len(self.sums) % 4] += 1
        return super().forward(inputs) + sum(self.sums) + sum(self.seen)


class OfClass(nn.Linear):
    """What its class keeps, and a function with a gradient of its own whose class keeps something."""

    passes, mean, seen = 0, torch.zeros(4), []

    class Scaled(torch.autograd.Function):
        scale = torch.ones(())

        @staticmethod
        def forward(_, inputs):
            OfClass.Scaled.scale = OfClass.Scaled.scale * 0.9
            return inputs * OfClass.Scaled.scale

        @staticmethod
        def backward(_, gradients):
            return gradients * OfClass.Scaled.scale

    def forward(self, inputs):
        kind = type(self)
        kind.passes += 1
        kind.mean = kind.mean.lerp(inputs.mean(0), 0.1)
        kind.seen.append(kind.passes)
        return OfClass.Scaled.apply(super().forward(inputs - kind.mean)) * (1 + kind.passes / 10)


class OfGlobals(nn.Linear):
    def forward(self, inputs):
        global MEAN  # noqa: PLW0603 - as scripts do
        MEAN = MEAN.lerp(inputs.mean(0), 0.1)
        SHARED["mean"] = SHARED["mean"] + MEAN
        return super().forward(inputs - MEAN - SHARED["mean"])


class Counting(optim.SGD):
    """An optimizer whose class keeps a mean of the gradients."""

    mean = torch.zeros(2)

    def step(self, closure=None):
        Counting.mean = Counting.mean.lerp(self.param_groups[0]["params"][1].grad, 0.1)
        self.param_groups[0]["params"][1].grad += Counting.mean
        return super().step(closure)


KINDS = {
    "codes": lambda: Holds(Codes(), "alone"),
    "codes in a list": lambda: Holds(Codes(), "list"),
    "numbers": lambda: Holds(Scale(), "alone"),
    "numbers in a dict": lambda: Holds(Scale(), "dict"),
    "Python's arrays": Counts,
    "phases": lambda: Holds(Phases(), "alone"),
    "an array": lambda: Holds(Noise(), "alone"),
    "a function": lambda: Holds(follower(), "alone"),
    "a function in a list": lambda: Holds(follower(), "list"),
    "a partial": lambda: Holds(follower(), "partial"),
    "a method": lambda: Holds(Codes().__call__, "alone"),
    "the class": lambda: OfClass(4, 2),
    "globals": lambda: OfGlobals(4, 2),
}


def fresh(monkeypatch):
    monkeypatch.setitem(globals(), "MEAN", torch.zeros(4))
    monkeypatch.setitem(SHARED, "mean", torch.zeros(4))
    for name, value in (("passes", 0), ("mean", torch.zeros(4)), ("seen", [])):
        monkeypatch.setattr(OfClass, name, value)
    monkeypatch.setattr(OfClass.Scaled, "scale", torch.ones(()))
    monkeypatch.setattr(Counting, "mean", torch.zeros(2))


def searched(door, net, optimizer, batches):
    criterion = nn.MSELoss()
    if door == "criterion":
        find_lr(net, optimizer, criterion, batches, **QUICK)
    elif door == "verify":
        find_lr(net, optimizer, criterion, batches, verify=True, total_steps=20, budget=60, **QUICK)
    else:
        with RangeTest(net, optimizer, **QUICK) as test:
            for batch in test(batches):
                test.record(passed(net, optimizer, *batch))


def passed(net, optimizer, inputs, targets):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(net(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss


def trained(make, monkeypatch, door=None, kind=optim.SGD):
    """The losses of eight steps, and the end, with a search after the third."""
    fresh(monkeypatch)
    torch.manual_seed(0)
    net = make()
    optimizer, losses = kind(net.parameters(), lr=0.01), []
    batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(8)]
    for i, batch in enumerate(batches):
        if i == 3 and door is not None:
            searched(door, net, optimizer, batches)
        losses.append(passed(net, optimizer, *batch).item())
    return bits([losses, net.state_dict(), optimizer.state_dict(), OfClass.passes, OfClass.seen])


@pytest.mark.parametrize("door", ["criterion", "verify", "loop"])
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_what_a_module_holds_and_its_class(make, door, monkeypatch):
    assert trained(make, monkeypatch, door) == trained(make, monkeypatch)


@pytest.mark.parametrize("door", ["criterion", "verify", "loop"])
def test_what_the_class_of_an_optimizer_keeps(door, monkeypatch):
    def net():
        return nn.Linear(4, 2)

    assert trained(net, monkeypatch, door, Counting) == trained(net, monkeypatch, kind=Counting)


def test_a_codebook_is_moved_once_a_step_and_a_number_of_a_function_is_named(monkeypatch, caplog):
    """The control variate's pass of the same batch moves nothing."""
    fresh(monkeypatch)
    torch.manual_seed(0)
    calls, passes = {"all": 0}, []

    def counted(inputs):
        calls["all"] += 1
        return inputs

    net = nn.Sequential(Holds(Codes(), "alone"), Holds(counted, "alone"))
    net[1].weight = nn.Parameter(torch.ones(2, 2))
    batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(8)]
    watch = dict(QUICK, on_step=lambda _: passes.append(net[0].held.passes))
    find_lr(net, optim.SGD(net.parameters(), lr=0.01), nn.MSELoss(), batches, **watch)
    assert passes == sorted(passes)
    assert passes[-1] <= 6
    assert net[0].held.passes == 0
    assert "calls['all'] was 0 and is" in caplog.text


@pytest.mark.parametrize("door", ["criterion", "loop"])
def test_a_function_of_cython_has_no_module_that_is_a_text(door):
    net, function = nn.Linear(4, 2), np.random.normal

    def hook(_, inputs):
        return (inputs[0] + function(),)

    net.register_forward_pre_hook(hook)
    held = nn.Sequential(net, Holds(function, "alone"))
    held[1].forward = lambda inputs: inputs
    batches = [(torch.ones(3, 4), torch.zeros(3, 2))] * 4
    searched(door, held, optim.SGD(net.parameters(), lr=0.01), batches)
