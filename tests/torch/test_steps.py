"""Accumulation, clipping and autocast: each step is the step of a bare loop, and everything is back."""

import itertools
from functools import partial
from types import MethodType

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import ConfigurationError, TorchTrainable, find_lr
from findlr.search.restoring import restored
from findlr.torch.step import LossStep
from findlr.torch.training import Training

RANGE = dict(min_lr=1e-3, max_lr=0.5, num_steps=25)


def parts():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    inputs = torch.randn(160, 8)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(dim=1)), 16, shuffle=True)
    return net, optim.SGD(net.parameters(), lr=0.05, momentum=0.9), nn.CrossEntropyLoss(), loader


def bare_loop(lrs, accumulation_steps=1, clip=None, autocast=None):
    net, optimizer, criterion, loader = parts()
    stream = itertools.chain.from_iterable(itertools.repeat(loader))
    losses = []
    for lr in lrs:
        optimizer.param_groups[0]["lr"] = float(lr)
        optimizer.zero_grad()
        seen = []
        for _ in range(accumulation_steps):
            inputs, targets = next(stream)
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                loss = criterion(net(inputs), targets)
            (loss / accumulation_steps).backward()
            seen.append(loss.item())
        if clip:
            clip(net.parameters())
        optimizer.step()
        losses.append(np.mean(seen))
    return losses


@pytest.mark.parametrize("control_variate", [True, False])
@pytest.mark.parametrize(
    ("settings", "bare"),
    [
        (dict(accumulation_steps=4), dict(accumulation_steps=4)),
        (dict(clip_grad_norm=0.1), dict(clip=lambda p: nn.utils.clip_grad_norm_(p, 0.1))),
        (dict(clip_grad_value=0.01), dict(clip=lambda p: nn.utils.clip_grad_value_(p, 0.01))),
        (dict(autocast=torch.bfloat16), dict(autocast=torch.bfloat16)),
        (
            dict(accumulation_steps=3, clip_grad_norm=0.1, autocast=torch.bfloat16),
            dict(accumulation_steps=3, clip=lambda p: nn.utils.clip_grad_norm_(p, 0.1), autocast=torch.bfloat16),
        ),
    ],
)
def test_a_step_is_the_bare_loops_step(settings, bare, control_variate):
    net, optimizer, criterion, loader = parts()
    before = [p.detach().clone() for p in net.parameters()]
    rng = torch.get_rng_state()
    finding = find_lr(net, optimizer, criterion, loader, **RANGE, **settings, control_variate=control_variate)
    assert all(map(torch.equal, before, net.parameters()))
    assert torch.equal(rng, torch.get_rng_state())
    assert len(finding.curve) == 25
    np.testing.assert_allclose(finding.curve.loss, bare_loop(finding.curve.lr, **bare), rtol=1e-12)
    assert finding.facts["accumulation_steps"] == settings.get("accumulation_steps", 1)
    assert finding.cost.backwards == 25
    if control_variate:
        assert finding.curve.baseline[0] == pytest.approx(finding.curve.loss[0], rel=1e-6)


def test_an_epoch_counts_optimizer_steps():
    net, optimizer, criterion, loader = parts()
    finding = find_lr(net, optimizer, criterion, loader, num_steps="epoch", accumulation_steps=3)
    assert finding.curve.num_steps == 10 // 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(accumulation_steps=0), "accumulation_steps"),
        (dict(accumulation_steps=1.5), "accumulation_steps"),
        (dict(clip_grad_norm=0.0), "clip_grad_norm"),
        (dict(clip_grad_value=-1.0), "clip_grad_value"),
        (dict(autocast=True), "autocast"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        find_lr(*parts(), **settings)


cleared = []  # not an attribute of the optimizer: that would be put back


class Counting(optim.SGD):
    def zero_grad(self, set_to_none=True):
        cleared.append(True)
        optim.Optimizer.zero_grad(self, set_to_none)


@pytest.mark.parametrize("where", ["the class", "the object", "torch's class"])
def test_a_zero_grad_of_the_users_own_is_called(where, monkeypatch):
    cleared.clear()
    net, plain, criterion, loader = parts()
    optimizer = (Counting if where == "the class" else optim.SGD)(net.parameters(), lr=0.05, momentum=0.9)
    if where == "the object":
        optimizer.zero_grad = MethodType(Counting.zero_grad, optimizer)
    with monkeypatch.context() as patched:
        if where == "torch's class":
            torchs = optim.Optimizer.zero_grad
            patched.setattr(optim.Optimizer, "zero_grad", lambda self: (cleared.append(self), torchs(self)))
        curve = find_lr(net, optimizer, criterion, loader, **RANGE).curve
    assert len(cleared) == len(curve)
    assert find_lr(net, plain, criterion, loader, **RANGE).curve == curve


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_a_room_says_how_a_steps_loss_is_made_of_its_batches(combine):
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    data = [(x, x[:, :1]) for x in torch.randn(60, 4).split(5)]
    training = Training(net, optimizer)
    taker = LossStep(training, nn.MSELoss(), None, accumulation_steps=3, combine=combine)
    trainable = TorchTrainable.of(training, taker, data)
    with restored(trainable) as snapshot:
        assert trainable.prepare_baseline(snapshot) is None
        for step in range(3):
            trainable.step(0.01)
            with torch.no_grad():
                weights = [kept.clone() for kept in snapshot.copies_of(net.parameters())]
                losses = [
                    nn.functional.mse_loss(
                        torch.func.functional_call(net, dict(zip(["weight", "bias"], weights, strict=True)), x), y
                    )
                    for x, y in data[3 * step : 3 * step + 3]
                ]
            expected = sum(losses) / (3 if combine == "mean" else 1)
            assert trainable.baseline() == pytest.approx(expected.item(), rel=1e-5)


class DrawsFirst(LossStep):
    """Draws all batches of a step before the first goes forward, as Hugging Face's Trainer does; and counts."""

    draws_first = True
    taken = 0

    def take(self, draw):
        self.taken += 1
        batches = iter([draw() for _ in range(self.accumulation_steps)])
        return super().take(lambda: next(batches))

    def remembered(self):
        return [self]

    def remember(self, memory):
        memory.add(partial(setattr, self, "taken", self.taken))


@pytest.mark.parametrize("kind", [DrawsFirst, LossStep])
def test_the_control_variate_makes_the_random_draws_of_the_step_whenever_that_draws_its_batches(kind):
    net, optimizer, criterion, loader = parts()
    training = Training(net, optimizer)
    trainable = TorchTrainable.of(training, kind(training, criterion, None, accumulation_steps=3), loader)
    with restored(trainable) as snapshot:
        assert trainable.prepare_baseline(snapshot) is None
        for step in range(3):
            loss = trainable.step(1e-12)  # the weights stay where they were, but for rounding
            assert trainable.baseline() == pytest.approx(loss, rel=1e-5), step


def test_a_step_may_remember_more_than_a_state_dict_tells():
    net, optimizer, criterion, loader = parts()
    training = Training(net, optimizer)
    taker = DrawsFirst(training, criterion, None)
    trainable = TorchTrainable.of(training, taker, loader)
    with restored(trainable):
        trainable.step(0.1)
        assert taker.taken == 1
    assert taker.taken == 0
