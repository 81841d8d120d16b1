"""Schedulers made from a Finding: PyTorch's own, with momentum held."""

import numpy as np
import pytest
import torch
from torch import nn, optim

from findlr import NoSuggestionError, OptimizerError, Plan, find
from findlr.testing import Quadratic
from findlr.torch import cyclic, one_cycle

FINDING = find(Quadratic())


def optimizer_with(**settings):
    return optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, **settings)


def rates(optimizer, scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(found)


def test_one_cycle_has_the_shape_that_is_planned():
    optimizer = optimizer_with()
    got = rates(optimizer, one_cycle(FINDING, optimizer, 1001), 1000)
    np.testing.assert_allclose(got / FINDING.lr, Plan("one_cycle").shares(1001)[:1000], atol=0.01)
    assert got.max() == pytest.approx(FINDING.lr, rel=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("make", [one_cycle, cyclic])
def test_momentum_is_held(make, momentum):
    optimizer = optimizer_with(momentum=momentum)
    scheduler = make(FINDING, optimizer, 20)
    for _ in range(15):
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["momentum"] == momentum


def test_cyclic_goes_from_a_quarter_of_the_rate_to_the_rate_and_back():
    optimizer = optimizer_with()
    got = rates(optimizer, cyclic(FINDING, optimizer, 10), 41) / FINDING.lr
    np.testing.assert_allclose(got[[0, 10, 20, 30, 40]], [0.25, 1, 0.25, 1, 0.25], rtol=1e-9)


@pytest.mark.parametrize("make", [one_cycle, cyclic])
def test_what_cannot_be_made_is_refused(make):
    optimizer = optimizer_with()
    with pytest.raises(NoSuggestionError):
        make(find(Quadratic(curvature=1e-6)), optimizer, 10)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(OptimizerError, match="2 param groups"):
        make(FINDING, optimizer, 10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
