"""Tests how far the weights have come, and that a loss that rises before any rate has acted ends no sweep."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from findlr import find_lr
from findlr.torch import RangeTest
from findlr.torch.motion import most_change
from findlr.torch.training import Training


def parts(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
    return net, torch.optim.Adam(net.parameters()), DataLoader(torch.randn(1280, 8), 32, shuffle=True)


class Queue:
    """A contrastive loss whose queue is empty at first: it begins at 0, and rises with the queue's length."""

    def __init__(self):
        self.bank = []

    def __call__(self, net, batch):
        anchor, positive = (functional.normalize(net(x), dim=1) for x in (batch, batch + 0.1 * torch.randn_like(batch)))
        others = torch.cat(self.bank) if self.bank else torch.zeros(0, 16)
        self.bank.append(positive.detach())
        del self.bank[:-20]
        logits = torch.cat([(anchor * positive).sum(1, keepdim=True), anchor @ others.T], 1) / 0.1
        return functional.cross_entropy(logits, torch.zeros(len(batch), dtype=torch.long))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("door", ["find_lr", "RangeTest"])
def test_a_loss_that_rises_before_any_rate_has_acted_does_not_end_the_sweep(door, seed):
    net, optimizer, loader = parts(seed)
    loss_fn = Queue()
    if door == "find_lr":
        finding = find_lr(net, optimizer, loader=loader, loss_fn=loss_fn, progress=False)
    else:
        with RangeTest(net, optimizer, progress=False) as test:
            for batch in test(loader):
                optimizer.zero_grad()
                loss = loss_fn(net, batch)
                loss.backward()
                optimizer.step()
                test.record(loss)
        finding = test.finding
    assert finding.curve.baseline is None
    assert finding.curve.loss[:15].max() > 4 * finding.curve.loss[0]
    assert finding.curve.lr[-1] > 0.1
    assert finding.lr > 1e-4


def test_nor_does_a_part_of_the_loss_that_is_faded_in():
    net, optimizer, loader = parts()
    steps = iter(range(1000))

    def loss_fn(net, batch):
        return (0.02 + min(1.0, next(steps) / 30)) * (net(batch) - 1).square().mean()

    finding = find_lr(net, optimizer, loader=loader, loss_fn=loss_fn, control_variate=False, progress=False)
    assert finding.curve.lr[-1] > 0.1
    assert "faded in" in finding.why


@pytest.mark.parametrize("scale", [1.0, 300.0])  # at the second the inputs make the loss so steep that it needs no way
def test_a_loss_that_a_rate_has_raised_ends_it_at_once(scale):
    torch.manual_seed(0)
    inputs = scale * torch.randn(640, 8)
    loader = DataLoader([(x, x.sum(0, keepdim=True)) for x in inputs], 32, shuffle=True)
    net = nn.Linear(8, 1)
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    curve = find_lr(net, optimizer, criterion, loader, control_variate=False, progress=False).curve
    assert curve.diverged
    before = curve.loss[:10].mean()
    assert (curve.loss[:-8] < 4 * before).all()


def test_what_the_way_can_have_changed_is_each_tensors_way_times_its_gradient():
    net, optimizer, loader = parts()
    training = Training(net, optimizer)
    snapshot = training.snapshot()
    try:
        starts = [parameter.detach().clone() for parameter in net.parameters()]
        (net(next(iter(loader))) - 1).square().mean().backward()
        assert most_change(training, snapshot) == 0.0
        with torch.no_grad():
            net[0].weight[0, 0] += 1e-4
            net[2].bias -= 2e-4
        expected = math.fsum(
            torch.dist(now, then).item() * now.grad.norm().item()
            for now, then in zip(net.parameters(), starts, strict=True)
        )
        assert most_change(training, snapshot) == pytest.approx(expected, rel=1e-5)
        gradient = net[2].bias.grad
        for dropped in (None, torch.zeros_like(gradient)):  # it has moved, and its gradient is gone
            net[2].bias.grad = dropped
            assert most_change(training, snapshot) is None
        net[2].bias.grad = gradient
        with torch.no_grad():
            net[0].weight += 0.01
        assert most_change(training, snapshot) is None  # too far
    finally:
        snapshot.close()


@pytest.mark.parametrize("bad", [math.nan, math.inf, "sparse"])
def test_a_gradient_that_has_no_finite_norm_tells_nothing(bad):
    net, optimizer, _ = parts()
    training = Training(net, optimizer)
    snapshot = training.snapshot()
    try:
        net[0].weight.grad = torch.eye(32, 8).to_sparse() if bad == "sparse" else torch.full((32, 8), bad)
        with torch.no_grad():
            net[0].weight[0, 0] += 1e-4
        assert most_change(training, snapshot) is None
    finally:
        snapshot.close()
