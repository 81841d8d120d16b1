"""finding.apply against every scheduler of torch: as if built with the suggested rates, or refused untouched."""

import inspect
import logging

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler as schedulers

from findlr import NoSuggestionError, OptimizerError, find
from findlr.testing import Quadratic

FINDING = find(Quadratic())

MAKE = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: min(1.0, (epoch + 1) / 5)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 5], 0.5),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.25, 4),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, total_iters=6),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 12, 2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 12),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 5),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=4), schedulers.CosineAnnealingLR(o, 10)], [4]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.1, total_iters=4), schedulers.ExponentialLR(o, 0.9)]
    ),
}
REFUSED = {
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=20),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
    "SWALR": lambda o: optim.swa_utils.SWALR(o, 0.05),
}


def optimizer_at(lrs, tensor=False):
    groups = [{"params": [nn.Parameter(torch.zeros(2))], "lr": torch.tensor(lr) if tensor else lr} for lr in lrs]
    return optim.SGD(groups, lr=0.1)


def advance(optimizer, scheduler, steps):
    """The rates of each step."""
    rates = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
    return rates


def test_every_scheduler_is_handled():
    known = {
        name
        for name, value in vars(schedulers).items()
        if inspect.isclass(value) and issubclass(value, schedulers.LRScheduler) and not name.startswith("_")
    }
    assert known - {"LRScheduler"} == (MAKE.keys() | REFUSED.keys() | {"ReduceLROnPlateau"}) - {"SWALR"}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("taken", [0, 3, 7])
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_a_scheduler_goes_on_as_if_built_with_the_suggested_rate(name, tensor, taken):
    optimizer = optimizer_at([0.4], tensor)
    scheduler = MAKE[name](optimizer)
    advance(optimizer, scheduler, taken)
    FINDING.apply(optimizer, scheduler)

    fresh = optimizer_at([FINDING.lr], tensor)
    its = MAKE[name](fresh)
    advance(fresh, its, taken)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(float(fresh.param_groups[0]["lr"]), rel=1e-5)
    assert [float(lr) for lr in scheduler.get_last_lr()] == pytest.approx(
        [float(x) for x in its.get_last_lr()], rel=1e-5
    )
    got, expected = advance(optimizer, scheduler, 6), advance(fresh, its, 6)
    assert [rate for (rate,) in got] == pytest.approx([rate for (rate,) in expected], rel=1e-5)


def test_a_plateau_scheduler_has_no_base_so_it_goes_on_from_the_suggested_rate():
    optimizer = optimizer_at([0.4])
    scheduler = schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.1
    FINDING.apply(optimizer, scheduler)
    assert scheduler.get_last_lr() == [FINDING.lr]
    scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == FINDING.lr / 2


@pytest.mark.parametrize("name", REFUSED)
def test_a_scheduler_with_rates_of_its_own_is_refused_and_nothing_is_written(name):
    optimizer = optimizer_at([0.4])
    scheduler = REFUSED[name](optimizer)
    before = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    with pytest.raises(OptimizerError, match="build it anew"):
        FINDING.apply(optimizer, scheduler)
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == before


def test_a_scheduler_on_its_way_to_a_fixed_floor_is_refused_but_not_at_its_start():
    optimizer = optimizer_at([0.4])
    scheduler = schedulers.CosineAnnealingLR(optimizer, 10, eta_min=0.01)
    FINDING.apply(optimizer, scheduler)
    assert scheduler.base_lrs == [FINDING.lr]
    advance(optimizer, scheduler, 3)
    with pytest.raises(OptimizerError, match=r"eta_min=0\.01"):
        FINDING.apply(optimizer, scheduler)


def test_a_scheduler_of_another_optimizer_is_refused():
    with pytest.raises(OptimizerError, match="another optimizer"):
        FINDING.apply(optimizer_at([0.4]), schedulers.StepLR(optimizer_at([0.4]), 3))


def test_without_a_scheduler_the_rate_is_written_and_nothing_added():
    optimizer = optimizer_at([0.4], tensor=True)
    rate = optimizer.param_groups[0]["lr"]
    FINDING.apply(optimizer)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(FINDING.lr)
    assert "initial_lr" not in optimizer.param_groups[0]


def test_a_scheduler_that_was_not_given_is_warned_of(caplog):
    optimizer = optimizer_at([0.4])
    schedulers.StepLR(optimizer, 3)
    with caplog.at_level(logging.WARNING, "findlr"):
        FINDING.apply(optimizer)
    assert "give it to apply()" in caplog.text
    assert optimizer.param_groups[0]["initial_lr"] == optimizer.param_groups[0]["lr"] == FINDING.lr


def test_another_number_of_groups_is_refused():
    with pytest.raises(OptimizerError, match=r"2 param groups.*had 1"):
        FINDING.apply(optimizer_at([0.4, 0.1]))


def test_no_suggestion_writes_nothing():
    optimizer = optimizer_at([0.4])
    with pytest.raises(NoSuggestionError):
        find(Quadratic(curvature=1e-6)).apply(optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.4
