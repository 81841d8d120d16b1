"""finding.apply against every scheduler of torch: as if built with the suggested rates, or refused untouched."""

import copy
import dataclasses
import inspect
import logging
import math
from types import SimpleNamespace

import numpy as np
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
PEAKS = {"ChainedScheduler": 0.9**4}  # of the base rate; the others peak at it
KEEP_THEIR_PEAK = {
    "OneCycleLR": lambda o, peak: schedulers.OneCycleLR(o, peak, total_steps=20),
    "CyclicLR": lambda o, peak: schedulers.CyclicLR(o, peak / 10, peak, step_size_up=3, cycle_momentum=False),
}


def swa(optimizer):
    return optim.swa_utils.SWALR(optimizer, 0.05)


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
    assert known - {"LRScheduler"} == MAKE.keys() | KEEP_THEIR_PEAK.keys() | {"ReduceLROnPlateau"}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("taken", [0, 3, 7])
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_a_scheduler_goes_on_as_if_built_with_the_suggested_rate(name, tensor, taken):
    if name == "SequentialLR" and tensor and torch.__version__ < (2, 10):
        pytest.skip("before torch 2.10 the scheduler itself overwrites the rate that it starts from")
    optimizer = optimizer_at([0.4], tensor)
    scheduler = MAKE[name](optimizer)
    advance(optimizer, scheduler, taken)
    FINDING.apply(optimizer, scheduler)

    fresh = optimizer_at([FINDING.lr / PEAKS.get(name, 1.0)], tensor)
    its = MAKE[name](fresh)
    advance(fresh, its, taken)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(float(fresh.param_groups[0]["lr"]), rel=1e-5)
    assert [float(lr) for lr in scheduler.get_last_lr()] == pytest.approx(
        [float(x) for x in its.get_last_lr()], rel=1e-5
    )
    got, expected = advance(optimizer, scheduler, 6), advance(fresh, its, 6)
    assert [rate for (rate,) in got] == pytest.approx([rate for (rate,) in expected], rel=1e-5)


@pytest.mark.parametrize("taken", [0, 3, 7])
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", KEEP_THEIR_PEAK)
def test_a_scheduler_that_keeps_its_peak_goes_on_as_if_built_with_the_suggested_one(name, tensor, taken):
    make = KEEP_THEIR_PEAK[name]
    optimizer, fresh = optimizer_at([0.4], tensor), optimizer_at([0.4], tensor)
    scheduler, its = make(optimizer, 0.2), make(fresh, FINDING.lr)
    advance(optimizer, scheduler, taken)
    advance(fresh, its, taken)
    FINDING.apply(optimizer, scheduler)
    assert list(map(float, scheduler.get_last_lr())) == pytest.approx(list(map(float, its.get_last_lr())), rel=1e-5)
    got, expected = advance(optimizer, scheduler, 12), advance(fresh, its, 12)
    assert np.ravel(got) == pytest.approx(np.ravel(expected), rel=1e-5)
    assert np.max(got) <= FINDING.lr * (1 + 1e-5)


@pytest.mark.parametrize(
    "shape",
    [
        dict(mode="exp_range", gamma=0.999, step_size_up=100),
        dict(mode="exp_range", gamma=0.99994, step_size_up=2000),
        dict(scale_fn=lambda cycle: 0.5 / cycle, step_size_up=50),
        dict(mode="triangular2", step_size_up=2345),
    ],
)
@pytest.mark.parametrize("taken", [0, 3])
def test_a_cycle_that_shrinks_peaks_at_the_suggested_rate(shape, taken):
    optimizer = optimizer_at([0.4, 0.2])
    scheduler = schedulers.CyclicLR(optimizer, [0.01, 0.02], [0.2, 0.1], cycle_momentum=False, **shape)
    advance(optimizer, scheduler, taken)
    finding = dataclasses.replace(FINDING, facts={**FINDING.facts, "ratios": [1.0, 0.5]})
    finding.apply(optimizer, scheduler)
    rates = advance(optimizer, scheduler, 3 * shape["step_size_up"])
    assert np.max(rates, axis=0) == pytest.approx(finding.lrs, rel=1e-5)


def noam(step):
    """Of every Transformer tutorial: it peaks at 0.0044, at step 100."""
    return 512**-0.5 * min((step + 1) ** -0.5, (step + 1) * 100**-1.5)


class Noam(schedulers.LRScheduler):
    """As a tutorial's class, with the base rate as a factor."""

    def get_lr(self):
        return [base * noam(self.last_epoch) for base in self.base_lrs]


class OfItsOwn(schedulers.LRScheduler):
    """Goes by no base rate."""

    def get_lr(self):
        return [noam(self.last_epoch) for _ in self.base_lrs]


NO_PEAK_AT_ONE = {
    "Noam": lambda o: schedulers.LambdaLR(o, noam),
    "a late peak": lambda o: schedulers.LambdaLR(o, lambda step: min(step / 1234, 1234 / max(step, 1)) * 7),
    "an absolute rate": lambda o: schedulers.LambdaLR(o, lambda step: 3e-4 * min(1.0, (step + 1) / 50)),
    "cycles": lambda o: schedulers.LambdaLR(o, lambda step: 2.5 + math.cos(step / 40)),
    "Noam of somebody's own": Noam,
    "in a sequence": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=20), schedulers.LambdaLR(o, lambda step: 3.0 * 0.99**step)], [20]
    ),
    "in a chain": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 10), schedulers.MultiplicativeLR(o, lambda step: 1.02 if step < 50 else 0.99)]
    ),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, 0.5, total_iters=300),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("taken", [0, 150])
@pytest.mark.parametrize("base", [1.0, 0.4])
@pytest.mark.parametrize("name", NO_PEAK_AT_ONE)
def test_the_peak_of_a_scheduler_is_the_suggested_rate(name, base, taken):
    optimizer = optimizer_at([base])
    scheduler = NO_PEAK_AT_ONE[name](optimizer)
    advance(optimizer, scheduler, taken)
    FINDING.apply(optimizer, scheduler)
    fresh = optimizer_at([base])
    unchanged = NO_PEAK_AT_ONE[name](fresh)
    rates = np.array([[fresh.param_groups[0]["lr"]], *advance(fresh, unchanged, 3000)])[:, 0]
    expected = rates / rates.max() * FINDING.lr
    got = [optimizer.param_groups[0]["lr"], *(rate for (rate,) in advance(optimizer, scheduler, 2000))]
    assert got == pytest.approx(expected[taken : taken + 2001], rel=1e-3)


def test_each_group_peaks_at_its_own_suggested_rate():
    finding = dataclasses.replace(FINDING, facts={"ratios": [1.0, 0.1]})
    optimizer = optimizer_at([1.0, 1.0])
    scheduler = schedulers.LambdaLR(optimizer, [noam, lambda step: 0.5])
    finding.apply(optimizer, scheduler)
    rates = np.array(advance(optimizer, scheduler, 300))
    assert rates.max(axis=0) == pytest.approx(finding.lrs, rel=1e-6)


def test_a_frozen_factor_stays_at_zero():
    finding = dataclasses.replace(FINDING, facts={"ratios": [1.0, 1.0]})
    optimizer = optimizer_at([1.0, 1.0])
    scheduler = schedulers.LambdaLR(optimizer, [noam, lambda step: 0.0])
    finding.apply(optimizer, scheduler)
    assert np.array(advance(optimizer, scheduler, 300)).max(axis=0) == pytest.approx([FINDING.lr, 0.0], rel=1e-6)


LONGER = {
    "a warmup": lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 90)),
    "a warmup that waits": lambda o: schedulers.LambdaLR(o, lambda step: max(0.0, step - 10) / 90),
    "a warmup in a sequence": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=70), schedulers.CosineAnnealingLR(o, 10)], [70]
    ),
    "stepped by hand": lambda o: schedulers.MultiplicativeLR(o, lambda step: 1.01),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.4, cycle_momentum=False),  # it climbs for 2,000 steps
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.4, total_steps=200),
}


@pytest.mark.parametrize("make", LONGER.values(), ids=LONGER)
@pytest.mark.parametrize("taken", [0, 3])
def test_a_rise_that_is_longer_than_the_training_peaks_within_it(make, taken):
    finding = dataclasses.replace(FINDING, plan=dataclasses.replace(FINDING.plan, total_steps=50))
    optimizer = optimizer_at([0.4])
    scheduler = make(optimizer)
    advance(optimizer, scheduler, taken)
    finding.apply(optimizer, scheduler)
    assert max(advance(optimizer, scheduler, 49 - taken))[0] == pytest.approx(finding.lr, rel=1e-6)


def test_a_factor_that_grows_again_after_its_end_peaks_before_it():
    optimizer = optimizer_at([0.4])
    scheduler = schedulers.LambdaLR(optimizer, lambda step: min(1.0, step / 10) * (1 - step / 500) ** 2 * 2)
    FINDING.apply(optimizer, scheduler)
    assert max(advance(optimizer, scheduler, 500))[0] == pytest.approx(FINDING.lr, rel=1e-6)


def test_a_factor_that_ends_in_an_error_peaks_before_it():
    optimizer = optimizer_at([0.4])
    table = [0.1, 0.5, 0.25]
    scheduler = schedulers.LambdaLR(optimizer, lambda step: table[step])
    FINDING.apply(optimizer, scheduler)
    assert np.ravel(advance(optimizer, scheduler, 2)) == pytest.approx([FINDING.lr, FINDING.lr / 2])


class ByGradient(schedulers.LRScheduler):
    """Asks the parameters, as transformers' AdafactorSchedule does."""

    def get_lr(self):
        return [
            group["lr"] * (0.9 if group["params"][0].grad is None else 1.0) for group in self.optimizer.param_groups
        ]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda o: schedulers.LambdaLR(o, lambda step: 1.01**step), r"rise without an end.*LambdaLR\(optimizer"),
        (lambda o: schedulers.LambdaLR(o, lambda step: step / 1000), "rise without an end"),
        (ByGradient, r"ByGradient can't be read .*anew after it, ByGradient\(optimizer"),
        (lambda o: schedulers.LambdaLR(o, lambda step: 0.0), "whatever its base rate"),
        (OfItsOwn, r"whatever its base rate.*finding\.apply\(optimizer\).*LambdaLR\(optimizer"),
        (
            lambda o: schedulers.SequentialLR(
                o, [schedulers.LinearLR(o, 0.1, total_iters=4), schedulers.OneCycleLR(o, 0.1, total_steps=20)], [4]
            ),
            "whatever its base rate",
        ),
        (lambda o: schedulers.CosineAnnealingLR(o, 10, eta_min=3.0), "whatever its base rate"),
        (lambda o: Stateless(o, 0.4), r"finding\.apply\(optimizer\).*Stateless\(optimizer, \.\.\.\)"),
    ],
)
def test_a_peak_that_cannot_be_written_is_refused_with_the_line_to_write(make, words):
    optimizer = optimizer_at([0.4])
    scheduler = make(optimizer)
    before = copy.deepcopy([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])
    apart = ("optimizer", "lr_lambdas", "_schedulers")
    held = copy.deepcopy({k: v for k, v in vars(scheduler).items() if k not in apart})
    with pytest.raises(OptimizerError, match=words):
        FINDING.apply(optimizer, scheduler)
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == before
    assert {k: v for k, v in vars(scheduler).items() if k not in apart} == held


class Stateless:
    """As timm's schedulers are: told the step, and without base_lrs."""

    def __init__(self, optimizer, value):
        self.optimizer, self.base_values = optimizer, [value]

    def _get_lr(self, t):
        return self.base_values

    def step(self, epoch):
        raise AssertionError


def test_wrappers_of_accelerate_s_kind_are_seen_through():
    class Wrapped:
        def __init__(self, optimizer):
            self.optimizer, self.param_groups = optimizer, optimizer.param_groups

    class Stepper:
        def __init__(self, scheduler):
            self.scheduler = scheduler

    optimizer = optimizer_at([0.4])
    scheduler = schedulers.CosineAnnealingLR(optimizer, 10)
    FINDING.apply(Wrapped(optimizer), Stepper(scheduler))
    assert scheduler.base_lrs == [FINDING.lr]


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


def test_a_scheduler_with_rates_of_its_own_is_refused_and_nothing_is_written():
    optimizer = optimizer_at([0.4])
    scheduler = swa(optimizer)
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


@pytest.mark.parametrize("taken", [0, 3])
def test_a_fixed_floor_behind_a_warmup_is_none_yet(taken):
    def built(rate):
        optimizer = optimizer_at([rate])
        parts = [schedulers.LinearLR(optimizer, 0.1, 1, 10), schedulers.CosineAnnealingLR(optimizer, 30, eta_min=1e-5)]
        scheduler = schedulers.SequentialLR(optimizer, parts, [10])
        advance(optimizer, scheduler, taken)
        return optimizer, scheduler

    ours, theirs = built(0.4), built(FINDING.lr)
    FINDING.apply(*ours)
    for _ in range(40):
        assert ours[0].param_groups[0]["lr"] == pytest.approx(theirs[0].param_groups[0]["lr"], rel=1e-9)
        advance(*ours, 1)
        advance(*theirs, 1)
    with pytest.raises(OptimizerError, match="eta_min=1e-05"):
        FINDING.apply(*ours)


@pytest.mark.parametrize("lrs", [(0.1, 0.01), (3e-4, 1e-4)])
def test_a_start_is_a_start_though_its_rates_are_rounded(lrs):
    optimizer = optimizer_at(lrs)
    scheduler = schedulers.CosineAnnealingWarmRestarts(optimizer, 10, eta_min=1e-5)
    finding = dataclasses.replace(FINDING, facts={"ratios": [1.0, lrs[1] / lrs[0]]})
    finding.apply(optimizer, scheduler)
    assert scheduler.base_lrs == pytest.approx(finding.lrs)


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


@pytest.mark.parametrize("groups", [None, 5, [5], [{}], [{"params": []}], {"all": {"lr": 0.1}}])
def test_what_only_looks_like_an_optimizer_is_told_what_to_write_instead(groups):
    with pytest.raises(OptimizerError, match=r"SimpleNamespace has no param_groups to write the rate into; write this"):
        FINDING.apply(SimpleNamespace(param_groups=groups))
