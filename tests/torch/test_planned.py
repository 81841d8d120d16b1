"""A schedule read from a scheduler: the shares that it really gives, and nothing of it touched."""

import copy
import math
from contextlib import nullcontext
from functools import partial
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler as schedulers

from findlr import ConfigurationError, Finding, RangeTest, find_lr
from findlr.torch.planned import planned, read_schedule
from tests.torch.training import plan_for


def optimizer_at(*lrs, tensor=False, **how):
    groups = [
        {"params": [nn.Parameter(torch.zeros(2))], "lr": torch.tensor(lr) if tensor else lr} for lr in lrs or [0.4]
    ]
    return optim.SGD(groups, lr=0.1, **how)


def warmup_then_linear(step, *, num_warmup_steps, num_training_steps):
    """As transformers writes it."""
    if step < num_warmup_steps:
        return step / num_warmup_steps
    return max(0.0, (num_training_steps - step) / (num_training_steps - num_warmup_steps))


def closed_over(num_training_steps):
    return lambda step: max(0.0, 1 - step / num_training_steps)


class Noam(schedulers.LRScheduler):
    """A scheduler of somebody's own."""

    def get_lr(self):
        return [base * min((self.last_epoch + 1) ** -0.5, (self.last_epoch + 1) * 20**-1.5) for base in self.base_lrs]


def warmed(o, then, milestone=20):
    return schedulers.SequentialLR(o, [schedulers.LinearLR(o, 0.1, total_iters=milestone), then], [milestone])


KNOW_THEIR_LENGTH = {  # and the length
    "OneCycleLR": (lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=100, cycle_momentum=False), 100),
    "OneCycleLR in epochs": (lambda o: schedulers.OneCycleLR(o, 0.1, epochs=4, steps_per_epoch=25), 100),
    "CosineAnnealingLR": (lambda o: schedulers.CosineAnnealingLR(o, 120), 120),
    "PolynomialLR": (lambda o: schedulers.PolynomialLR(o, 80, 2.0), 80),
    "LinearLR that falls": (lambda o: schedulers.LinearLR(o, 1.0, 0.1, total_iters=90), 90),
    "SequentialLR": (lambda o: warmed(o, schedulers.CosineAnnealingLR(o, 100)), 120),
    "ChainedScheduler": (
        lambda o: schedulers.ChainedScheduler(
            [schedulers.LinearLR(o, 0.1, total_iters=20), schedulers.CosineAnnealingLR(o, 70)]
        ),
        70,
    ),
    "transformers'": (
        lambda o: schedulers.LambdaLR(o, partial(warmup_then_linear, num_warmup_steps=10, num_training_steps=95)),
        95,
    ),
    "a closure": (lambda o: schedulers.LambdaLR(o, closed_over(65)), 65),
}
GO_ON = {
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.97),
    "StepLR": lambda o: schedulers.StepLR(o, 30, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [30, 60], 0.5),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.98),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
    "LinearLR that rises": lambda o: schedulers.LinearLR(o, 0.1, total_iters=30),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 30, 2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.1, 0.4, step_size_up=15, cycle_momentum=False),
    "a warmup and then steps": lambda o: warmed(o, schedulers.StepLR(o, 30, 0.5)),
    "a warmup and then factors": lambda o: warmed(o, schedulers.MultiplicativeLR(o, lambda step: 0.98)),
    "of somebody's own": Noam,
}


def rates(optimizer, scheduler, steps):
    """What the training would get, group by group."""
    found = []
    for _ in range(steps):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(found)


def state(optimizer, scheduler):
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return copy.deepcopy((groups, {k: v for k, v in scheduler.state_dict().items() if k != "lr_lambdas"}))


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("taken", [0, 7])
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", KNOW_THEIR_LENGTH)
def test_a_scheduler_is_read_with_its_length_and_not_touched(name, tensor, taken):
    if tensor and name == "SequentialLR" and torch.torch_version.TorchVersion(torch.__version__) < (2, 10):
        pytest.skip(
            "torch 2.9's SequentialLR leaves a rate that is a tensor where its warmup's last step but one put it"
        )
    make, length = KNOW_THEIR_LENGTH[name]
    optimizer = optimizer_at(tensor=tensor, momentum=0.9)
    scheduler = make(optimizer)
    rates(optimizer, scheduler, taken)
    before = state(optimizer, scheduler)
    plan = plan_for(optimizer, scheduler, None)
    assert state(optimizer, scheduler) == before
    fresh = optimizer_at(tensor=tensor, momentum=0.9)
    real = rates(fresh, make(fresh), length)[:, 0]
    assert plan.total_steps == length
    np.testing.assert_allclose(plan.shares(length), real / real.max(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("name", GO_ON)
def test_a_scheduler_without_an_end_needs_the_steps(name):
    optimizer = optimizer_at(0.4, 0.1)
    scheduler = GO_ON[name](optimizer)
    before = state(optimizer, scheduler)
    with pytest.raises(ConfigurationError, match="give total_steps"):
        plan_for(optimizer, scheduler, None)
    plan = plan_for(optimizer, scheduler, 100)
    assert state(optimizer, scheduler) == before
    real = rates(optimizer, scheduler, 100)
    np.testing.assert_allclose(plan.shares(100), real[:, 0] / real[:, 0].max(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_a_sequence_in_a_sequence_is_stepped():
    def make(o):
        inner = warmed(o, schedulers.ConstantLR(o, 1.0))
        return schedulers.SequentialLR(o, [inner, schedulers.CosineAnnealingLR(o, 50)], [60])

    optimizer = optimizer_at()
    scheduler = make(optimizer)
    plan = plan_for(optimizer, scheduler, None)
    assert plan.total_steps == 110
    real = rates(optimizer, scheduler, 110)[:, 0]
    np.testing.assert_allclose(plan.shares(110), real / real.max(), atol=1e-6)


def test_a_long_schedule_is_read_at_some_of_its_steps():
    optimizer = optimizer_at()
    plan = plan_for(optimizer, schedulers.CosineAnnealingLR(optimizer, 10_000_000), None)
    np.testing.assert_allclose(plan.shares(101), 0.5 + 0.5 * np.cos(np.linspace(0, math.pi, 101)), atol=0.002)
    cycles = schedulers.CyclicLR(optimizer_at(), 0.2, 1.0, step_size_up=500, cycle_momentum=False)
    assert plan_for(optimizer, cycles, 1_000_000).shares(1001).mean() == pytest.approx(0.6, abs=0.03)


def test_a_scheduler_that_is_shorter_than_the_training_is_stretched_and_a_longer_one_cut():
    optimizer = optimizer_at()
    scheduler = schedulers.CosineAnnealingLR(optimizer, 90)  # epochs
    plan = plan_for(optimizer, scheduler, 90_000)
    assert plan.total_steps == 90_000
    assert plan.share(0.5) == pytest.approx(0.5, abs=0.02)
    few = schedulers.CosineAnnealingLR(optimizer, 3)
    np.testing.assert_allclose(plan_for(optimizer, few, 12).shares(12), np.repeat([1, 0.75, 0.25], 4))
    cut = plan_for(optimizer, scheduler, 45)
    assert cut.total_steps == 45
    assert cut.share(1.0) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedulers.StepLR(o, 30),
        lambda o: schedulers.MultiStepLR(o, [30, 60, 80]),
        lambda o: schedulers.ExponentialLR(o, 0.95),
        lambda o: schedulers.LambdaLR(o, lambda epoch: (1 - epoch / 100) ** 2),
    ],
)
def test_a_scheduler_that_seems_to_be_stepped_once_an_epoch_is_no_plan(make):
    optimizer = optimizer_at()
    with pytest.raises(ConfigurationError, match=r"once an epoch: give a function of the progress"):
        plan_for(optimizer, make(optimizer), 39_000)


def test_a_constant_scheduler_is_constant_and_a_plateau_is_refused():
    optimizer = optimizer_at()
    assert plan_for(optimizer, schedulers.LambdaLR(optimizer, lambda step: 0.25), None).schedule == "constant"
    assert plan_for(optimizer, schedulers.LambdaLR(optimizer, lambda step: 0.25), 100).schedule == "constant"
    with pytest.raises(ConfigurationError, match=r"ReduceLROnPlateau follows a metric.*schedule='constant'"):
        plan_for(optimizer, schedulers.ReduceLROnPlateau(optimizer), 100)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda step: 0.0, "never gives a rate above 0"),
        (lambda step: [1.0, 0.5][step], "raised IndexError.*total_steps"),
        (lambda step: -1.0, "never gives a rate above 0"),
        (
            lambda step: 1 - step / 10,
            "falls below 0 before the end of total_steps=50, as one may that is stepped once an",
        ),
    ],
)
def test_a_lambda_that_is_no_schedule_is_refused(function, words):
    optimizer = optimizer_at()
    scheduler = schedulers.LambdaLR(optimizer, function)
    with pytest.raises(ConfigurationError, match=words):
        plan_for(optimizer, scheduler, 50)


def test_a_scheduler_that_cannot_be_copied_is_refused():
    optimizer = optimizer_at()
    scheduler = schedulers.StepLR(optimizer, 30)
    scheduler.log = (line for line in ())
    with pytest.raises(ConfigurationError, match="cannot be copied"):
        plan_for(optimizer, scheduler, 50)


@pytest.mark.parametrize("kind", [Mock, MagicMock])
def test_what_stands_in_for_anything_is_no_scheduler(kind):
    assert read_schedule(kind(), 50)[1] == 50
    with pytest.raises(ConfigurationError, match="share of the peak") if kind is Mock else nullcontext():
        plan_for(optimizer_at(), kind(), 50)


def test_a_function_that_holds_the_model_copies_no_parameter(monkeypatch):
    def copied(self, memo):
        raise AssertionError

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", copied)

    class Trust:
        def __init__(self, model):
            self.model, self.calls = model, 0

        def __call__(self, step):
            self.calls += 1
            return 0.99**step

    model = nn.Linear(2, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    trust = Trust(model)
    scheduler = schedulers.LambdaLR(optimizer, trust)
    calls, weight = trust.calls, model.weight
    plan_for(optimizer, scheduler, 100)
    assert (trust.calls, model.weight is weight) == (calls, True)


class InTimm:
    """As timm's are: stateless, without base_lrs, and told the step."""

    def __init__(self, optimizer, t_initial, t_in_epochs):
        self.optimizer, self.t_initial, self.t_in_epochs = optimizer, t_initial, t_in_epochs
        self.base_values = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]

    def get_cycle_length(self):
        return self.t_initial

    def _get_lr(self, t):
        return [value * (1 - t / self.t_initial) for value in self.base_values]

    def step(self, epoch, metric=None):
        raise AssertionError


@pytest.mark.parametrize(("in_epochs", "total"), [(False, 50), (True, None)])
def test_a_scheduler_of_timms_is_read(in_epochs, total):
    optimizer = optimizer_at()
    scheduler = InTimm(optimizer, 50, in_epochs)
    assert plan_for(optimizer, scheduler, None).total_steps == total
    plan = plan_for(optimizer, scheduler, 5000)
    assert plan.total_steps == 5000
    assert plan.share(0.5) == pytest.approx(0.5, abs=0.03)  # each rate lasts for an epoch


class Told:
    """A scheduler of one's own, without attributes of timm's, that is told where it is."""

    def __init__(self, optimizer):
        self.optimizer, self.base = optimizer, optimizer.param_groups[0]["lr"]

    def move(self, place):
        self.optimizer.param_groups[0]["lr"] = self.base * (1 - place / 50)


TOLD = {
    "an epoch": lambda self, epoch, metric=None: self.move(epoch),
    "updates": lambda self, num_updates: self.move(num_updates),
    "a step": lambda self, step: self.move(step),
}


@pytest.mark.parametrize("step", TOLD.values(), ids=TOLD)
def test_a_scheduler_whose_step_is_told_its_place_is_read(step):
    optimizer = optimizer_at()
    scheduler = type("Own", (Told,), {"step": step})(optimizer)
    rate = optimizer.param_groups[0]["lr"]
    shape, steps = read_schedule(scheduler, 50)
    assert (steps, optimizer.param_groups[0]["lr"]) == (50, rate)
    assert [shape(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.02], abs=0.02)


def test_a_scheduler_whose_step_is_told_anything_else_is_refused():
    scheduler = type("Own", (Told,), {"step": lambda self, loss: self.move(loss)})(optimizer_at())
    with pytest.raises(ConfigurationError, match=r"raised TypeError.*its shape as schedule="):
        read_schedule(scheduler, 50)


@pytest.mark.parametrize("length", [50, 1001, 5000])  # a share is read for each step, or for some
def test_the_rates_of_a_scheduler_that_is_shorter_last_to_the_end_of_the_training(length):
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer_at(), T_max=length)
    shape, steps = read_schedule(scheduler, 100_000)
    assert steps == 100_000
    for progress in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9):
        assert shape(progress) == pytest.approx((1 + math.cos(math.pi * progress)) / 2, abs=0.04)


def test_a_one_cycle_that_a_framework_steps_beyond_its_end_is_planned_to_stay_there():
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer_at(), max_lr=0.1, total_steps=60)
    shape, steps = read_schedule(scheduler, 100, unit=1)
    assert steps == 100
    assert shape(0.18) == pytest.approx(1.0, abs=0.02)
    assert shape(0.6) == shape(1.0) < 0.001


@pytest.mark.parametrize(("given", "total"), [(None, 50 * 4 // 2), (300, 300), ("90 epochs", 90 * 4 // 2)])
def test_a_scheduler_that_counts_epochs_tells_the_length_where_none_is_given(given, total):
    torch.manual_seed(0)
    model, data = nn.Linear(4, 1), [(torch.randn(8, 4), torch.randn(8, 1))] * 4
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    length = {"schedule": InTimm(optimizer, 50, t_in_epochs=True), "total_steps": given}
    found = find_lr(model, optimizer, nn.MSELoss(), data, accumulation_steps=2, num_steps=20, **length)
    with RangeTest(model, optimizer, num_steps=20, **length) as test:
        for at, (inputs, targets) in enumerate(test(data)):
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            test.record(loss)
            if at % 2:
                optimizer.step()
                optimizer.zero_grad()
    for plan in (found.plan, test.finding.plan):
        assert (plan.total_steps, plan.epochs) == (total, total / 2)
        assert plan.share(0.5) == pytest.approx(0.5, abs=0.02)


def test_a_wrapped_scheduler_is_seen_through():
    class Accelerated:
        def __init__(self, scheduler):
            self.scheduler = scheduler

        def step(self):
            raise AssertionError

    optimizer = optimizer_at()
    plan = plan_for(optimizer, Accelerated(schedulers.CosineAnnealingLR(optimizer, 120)), None)
    assert plan.total_steps == 120


def test_a_warmup_goes_with_a_name():
    optimizer = optimizer_at()
    assert plan_for(optimizer, "linear", 1000, 100).warmup == 0.1
    with pytest.raises(ConfigurationError, match="has its own"):
        plan_for(optimizer, schedulers.CosineAnnealingLR(optimizer, 120), None, 0.1)


# In a search


def test_a_search_takes_the_training_s_own_scheduler(tmp_path):
    def search(schedule, total_steps=None, optimizer=None, **how):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = optim.AdamW(model.parameters(), lr=0.1)
        scheduler = schedule(optimizer) if callable(schedule) else schedule
        x = torch.randn(64, 4)
        data = [(x, x.sum(1, keepdim=True))] * 4
        finding = find_lr(model, optimizer, nn.MSELoss(), data, schedule=scheduler, total_steps=total_steps, **how)
        return finding, optimizer

    found, optimizer = search(
        lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=400, cycle_momentum=False), verify=True
    )
    assert found.plan.total_steps == 400
    assert found.race is not None
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 25)
    named, _ = search("OneCycleLR", 400, verify=True)
    assert named.plan.schedule == "one_cycle"
    assert found.lr == pytest.approx(named.lr, rel=0.1)
    found.save(tmp_path / "one.json")
    assert Finding.load(tmp_path / "one.json") == found


def test_a_range_test_takes_one_too():
    optimizer = optimizer_at()
    scheduler = schedulers.CosineAnnealingLR(optimizer, 120)
    test = RangeTest(nn.Linear(1, 1), optimizer, schedule=scheduler)
    assert test._plan.over(0, 0).total_steps == 120


@pytest.mark.parametrize("door", ["find_lr", "loop"])
@pytest.mark.parametrize(
    ("length", "given", "warned"), [(5, None, True), (5, "5 epochs", False), (5, 5, False), (8, None, False)]
)
def test_a_scheduler_that_ends_before_an_epoch_does_may_count_epochs(length, given, warned, door, caplog):
    model = nn.Linear(4, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    loader = [(torch.randn(4, 4), torch.randn(4, 1)) for _ in range(8)]
    how = dict(schedule=schedulers.CosineAnnealingLR(optimizer, length), total_steps=given, num_steps=10)
    if door == "find_lr":
        finding = find_lr(model, optimizer, nn.MSELoss(), loader, **how)
    else:
        with RangeTest(model, optimizer, **how) as test:
            for inputs, targets in test(loader):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(inputs), targets)
                loss.backward()
                optimizer.step()
                test.record(loss)
        finding = test.finding
    assert finding.plan.total_steps == (40 if given == "5 epochs" else length)
    told = [each.getMessage() for each in caplog.records if "once an epoch" in each.getMessage()]
    assert len(told) == warned
    if warned:
        assert told[0].startswith("this CosineAnnealingLR ends after 5 steps, and one epoch has 8: ")
        assert "total_steps='5 epochs'" in told[0]


def falls(epochs, *turns, warmup=0):
    """A share for each epoch: a tenth from each turn on, after a warmup."""
    return [
        (0.1 + 0.9 * epoch / warmup if epoch < warmup else 0.1 ** sum(epoch >= turn for turn in turns))
        for epoch in range(epochs)
    ]


STEPPED_ONCE_AN_EPOCH = {
    "StepLR": (lambda o: schedulers.StepLR(o, 30), falls(90, 30, 60)),
    "MultiStepLR": (lambda o: schedulers.MultiStepLR(o, [16, 22]), falls(26, 16, 22)),
    "after a warmup": (lambda o: warmed(o, schedulers.StepLR(o, 30), 5), falls(90, 35, 65, warmup=5)),
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", STEPPED_ONCE_AN_EPOCH)
def test_a_step_scheduler_that_fits_into_the_epochs_counts_them(name):
    make, shares = STEPPED_ONCE_AN_EPOCH[name]
    optimizer = optimizer_at()
    epochs = len(shares)
    plan = planned(make(optimizer), f"{epochs} epochs", None, lambda: 6)
    assert plan.total_steps == 6 * epochs
    np.testing.assert_allclose(plan.shares(epochs), shares, atol=1e-6)


@pytest.mark.parametrize("given", ["90 epochs", 540])
def test_a_step_scheduler_that_does_not_counts_steps(given):
    optimizer = optimizer_at()
    turns = [200, 400] if given == "90 epochs" else [30, 60]
    plan = planned(schedulers.MultiStepLR(optimizer, turns), given, None, lambda: 6)
    np.testing.assert_allclose(plan.shares(540), falls(540, *turns), atol=1e-6)
