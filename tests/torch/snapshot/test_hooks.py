"""What hooks hold, at a module, a gradient or a step, is put back; what parameters and objects of modules hold, too."""

from collections import deque
from contextlib import closing
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
)
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from findlr import RangeTest, find_lr
from findlr.testing.bits import bits
from findlr.torch.snapshot.hooks import GLOBAL
from tests.agent import Agent

QUICK = dict(num_steps=6, min_lr=1e-3, max_lr=0.1, progress=False)


def running_mean(net, _):
    mean = torch.zeros(8)

    def hook(_, __, outputs):
        mean.lerp_(outputs.detach().mean(dim=0), 0.1)
        return outputs - mean

    net[0].register_forward_hook(hook)
    return lambda: mean


class Centre:
    """A mean that is replaced at each pass, with the passes that it has seen."""

    def __init__(self):
        self.mean, self.passes = torch.zeros(4), 0

    def __call__(self, _, inputs):
        self.passes += 1
        self.mean = self.mean + (inputs[0].mean(dim=0) - self.mean) / self.passes
        return (inputs[0] - self.mean,)


def centre(net, _):
    hook = Centre()
    net[0].register_forward_pre_hook(hook)
    return lambda: vars(hook)


def noise(net, _):
    generator = torch.Generator().manual_seed(1)
    net[0].register_forward_hook(lambda _, __, outputs: outputs + torch.randn(outputs.shape, generator=generator))
    return generator.get_state


def normalised(net, _):
    layer = nn.BatchNorm1d(8)
    net[0].register_forward_hook(lambda _, __, outputs: layer(outputs))
    return lambda: [layer.state_dict(), layer.weight.grad]


def gradient_noise(net, _):
    generator = np.random.default_rng(2)
    net[0].weight.register_hook(lambda gradient: gradient + 0.1 * generator.normal())
    return lambda: generator.bit_generator.state


def mask(net, _):
    kept = torch.ones(8, 4)

    def hook(parameter):
        kept.mul_(0.9)
        parameter.grad.mul_(kept)

    net[0].weight.register_post_accumulate_grad_hook(hook)
    return lambda: kept


def before_steps(_, optimizer):
    scale = torch.ones(1)

    def hook(optimizer, *_):
        scale.mul_(0.9)
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad.mul_(scale)

    optimizer.register_step_pre_hook(hook)
    return lambda: scale


def after_steps(net, optimizer):
    average = nn.Linear(4, 8)
    optimizer.register_step_post_hook(lambda *_: average.weight.data.lerp_(net[0].weight.detach(), 0.1))
    return average.state_dict


def attribute(net, _):
    for parameter in net.parameters():
        parameter.mean = torch.zeros_like(parameter)
        parameter.register_hook(lambda gradient, own=parameter: own.mean.lerp_(gradient, 0.1) + gradient)
    return lambda: [parameter.mean for parameter in net.parameters()]


class Moments:
    """As reinforcement learning has them: arrays that are replaced, and a count."""

    def __init__(self):
        self.mean, self.count = np.zeros(4), 1e-4

    def __call__(self, inputs):
        self.count += len(inputs)
        self.mean = self.mean + (inputs.mean(dim=0).numpy() - self.mean) / self.count
        return inputs - torch.from_numpy(self.mean).float()


class Parts:
    """With a layer, an optimizer of its own and generators."""

    def __init__(self):
        self.norm, self.scale = nn.BatchNorm1d(4), nn.Linear(1, 1)
        self.optimizer = optim.SGD(self.scale.parameters(), lr=0.1, momentum=0.9)
        self.noise, self.mask = torch.Generator().manual_seed(1), np.random.default_rng(2)

    def __call__(self, inputs):
        with torch.enable_grad():
            self.scale(torch.ones(1, 1)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.norm(inputs) + self.mask.normal() * torch.randn(inputs.shape, generator=self.noise)

    def state(self):
        optimizer = list(self.optimizer.state.values())
        kept = [self.norm.state_dict(), self.scale.state_dict(), optimizer, self.norm.weight.grad]
        return [*kept, self.noise.get_state(), self.mask.bit_generator.state]


class Uses(nn.Linear):
    """A layer that gives its inputs to an object, which it holds by itself or in a container."""

    def __init__(self, held):
        super().__init__(4, 8)
        self.held = held

    def forward(self, inputs):
        held = self.held
        held = held["one"][0] if isinstance(held, dict) else held
        return super().forward(held(inputs))


def an_object(net, _):
    net[0] = Uses(moments := Moments())
    return lambda: vars(moments)


def an_object_in_a_container(net, _):
    net[0] = Uses({"one": [moments := Moments()]})
    return lambda: vars(moments)


def an_object_with_parts(net, _):
    net[0] = Uses(parts := Parts())
    return parts.state


KINDS = [running_mean, centre, noise, normalised, gradient_noise, mask, before_steps, after_steps, attribute]
KINDS += [an_object, an_object_in_a_container, an_object_with_parts]


class Holder(nn.Module):
    """A model whose passes let the agents of its own learn, and step an optimizer that it has as an attribute."""

    def __init__(self, net, holds):
        super().__init__()
        self.net, self.agents = net, holds
        self.memory = torch.zeros(1, requires_grad=True)
        self.optimizer = optim.SGD([self.memory], lr=0.1, momentum=0.9)

    def forward(self, inputs):
        if self.training and torch.is_grad_enabled():
            for agent in self.agents.values() if isinstance(self.agents, dict) else self.agents:
                agent.learn()
            self.memory.grad = torch.ones(1)
            self.optimizer.step()
        return self.net(inputs)


def made():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    return net, optim.SGD(net.parameters(), lr=0.1)


def search_by(door, net, optimizer):
    inputs = torch.linspace(-1, 2, 128).view(32, 4)
    batches = [(inputs[i : i + 8], inputs[i : i + 8, :2]) for i in range(0, 32, 8)]
    criterion = nn.MSELoss()
    if door == "find_lr":
        return find_lr(net, optimizer, criterion, batches, **QUICK)
    with RangeTest(net, optimizer, **QUICK) as test:
        for batch, targets in test(batches):
            optimizer.zero_grad()
            loss = criterion(net(batch), targets)
            loss.backward()
            optimizer.step()
            test.record(loss)
    return test.finding


@pytest.mark.parametrize("door", ["find_lr", "loop"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_hooks_hold(kind, door):
    net, optimizer = made()
    state = kind(net, optimizer)
    optimizer = optim.SGD(net.parameters(), lr=0.1) if kind.__name__.startswith("an_object") else optimizer
    before = bits([state(), net.state_dict()])
    search_by(door, net, optimizer)
    assert bits([state(), net.state_dict()]) == before


def mean_of_all_modules():
    seen = {"mean": torch.zeros(8)}

    def hook(module, _, outputs):
        if isinstance(module, nn.Tanh):
            seen["mean"] = seen["mean"].lerp(outputs.detach().mean(dim=0), 0.1)

    return register_module_forward_hook(hook), seen


def mean_of_all_steps():
    mean = torch.zeros(8, 4)
    return register_optimizer_step_post_hook(lambda optimizer, *_: mean.lerp_(first_of(optimizer).detach(), 0.1)), mean


def first_of(optimizer):
    return optimizer.param_groups[0]["params"][0]


@pytest.mark.parametrize("door", ["find_lr", "loop"])
@pytest.mark.parametrize("kind", [mean_of_all_modules, mean_of_all_steps])
def test_what_hooks_of_all_modules_and_optimizers_hold(kind, door):
    handle, kept = kind()
    with closing(SimpleNamespace(close=handle.remove)):
        before = bits(kept)
        search_by(door, *made())
        assert bits(kept) == before


REGISTERS = [
    register_module_forward_pre_hook,
    partial(register_module_forward_hook, always_call=True),
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
    register_optimizer_step_pre_hook,
    register_optimizer_step_post_hook,
]


@pytest.mark.parametrize("register", REGISTERS)
def test_a_hook_of_all_modules_or_optimizers_that_a_step_registers_is_taken_away(register):
    net, optimizer = made()
    hooks, handles = [dict(each) for each in GLOBAL], []

    def loss_fn(model, inputs):
        handles.append(register(lambda *_: None))
        return model(inputs.clone().requires_grad_()).square().mean()

    try:
        find_lr(net, optimizer, loader=[torch.ones(2, 4)], loss_fn=loss_fn, **QUICK)
        assert [dict(each) for each in GLOBAL] == hooks
    finally:
        for handle in handles:
            handle.remove()


def test_a_number_that_a_hook_keeps_is_named(caplog):
    net, optimizer = made()
    calls = SimpleNamespace(count=0)
    net[0].register_forward_hook(lambda *_: setattr(calls, "count", calls.count + 1))
    search_by("loop", net, optimizer)
    assert calls.count == 6
    assert "calls.count was 0 and is 6" in caplog.text


@pytest.mark.parametrize("door", ["find_lr", "loop"])
@pytest.mark.parametrize("holds", [list, lambda agents: dict(enumerate(agents)), deque])
def test_what_objects_of_a_module_hold(holds, door):
    net, optimizer = made()
    agents = [Agent(), Agent()]
    model = Holder(net, holds(agents))
    for agent in agents:
        agent.learn()
    model(torch.ones(2, 4))
    before = bits([[agent.state() for agent in agents], model.state_dict(), model.memory, model.optimizer.state_dict()])
    search_by(door, model, optimizer)
    after = bits([[agent.state() for agent in agents], model.state_dict(), model.memory, model.optimizer.state_dict()])
    assert after == before


def test_an_evaluation_leaves_the_modes_of_what_objects_of_a_module_hold():
    net, optimizer = made()
    agent, seen = Agent(), []
    agent.learn = lambda *_: seen.append(agent.net.training)
    model = Holder(net, [agent])
    inputs = torch.linspace(-1, 2, 128).view(32, 4)
    batches = [(inputs[i : i + 8], inputs[i : i + 8, :2]) for i in range(0, 32, 8)]
    find_lr(model, optimizer, nn.MSELoss(), batches, validation_loader=batches, **QUICK)
    assert all(seen)
    assert agent.net.training
