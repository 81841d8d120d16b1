"""What is usual: every optimizer's rate, and each term that moves it."""

import math
from dataclasses import replace

import pytest

from findlr import Plan
from findlr.analysis.usual import delay, overfits, planned, usual

PLAN = Plan("constant", total_steps=1000, optimizer="SGD", momentum=0.0, epochs=10, pretrained=False)


def half_of_linear(progress):
    return 0.5 * (1 - progress)


def short_peak(progress):
    return float(progress < 0.1)


@pytest.mark.parametrize(
    ("change", "decades"),
    [
        ({}, 0),
        ({"total_steps": None}, 0),
        ({"total_steps": 10_000}, -0.2),
        ({"total_steps": 100}, 0.2),
        ({"total_steps": 10}, 0.2),
        ({"total_steps": 100_000}, -0.4),
        ({"total_steps": 10_000_000}, -0.4),
        ({"schedule": "linear"}, 1.3 * math.log10(2)),
        ({"schedule": half_of_linear}, 1.3 * math.log10(2) + math.log10(2)),
        ({"schedule": short_peak}, 1.3 * math.log10(4)),
        ({"schedule": "linear", "total_steps": 10_000}, 1.3 * math.log10(2) - 0.2),
        ({"optimizer": "Adagrad"}, 0.5),
        ({"optimizer": "Adagrad", "total_steps": 10_000}, 1.0 - 0.2),
        ({"optimizer": "Adagrad", "total_steps": 10}, 0.2),
    ],
)
def test_what_the_schedule_and_the_length_ask_for(change, decades):
    assert planned(replace(PLAN, **change)) == pytest.approx(decades)


@pytest.mark.parametrize(
    ("optimizer", "momentum", "decades"),
    [
        *((name, None, 0) for name in ("SGD", "ASGD", "Adagrad", "Adadelta", "RMSprop", "Rprop")),
        *((name, None, -1) for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Lion", "")),
        ("SGD", 0.9, -1),
        ("Adam", 0.0, 0),
        ("SGD", 0.99, -2),
        ("SGD", 0.9999, -2),
    ],
)
def test_how_late_a_momentum_shows_that_a_rate_is_too_high(optimizer, momentum, decades):
    assert delay(Plan(optimizer=optimizer, momentum=momentum)) == pytest.approx(decades)


@pytest.mark.parametrize(
    ("change", "decades"),
    [
        *(({"optimizer": name}, -2.36) for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")),
        ({"optimizer": "RMSprop"}, -2.75),
        ({"optimizer": "Adagrad"}, -2.04 + 0.5),
        ({"optimizer": "Adam", "parameters": 1_000_000}, -2.36 - 0.5),
        ({"optimizer": "RMSprop", "parameters": 1_000_000}, -2.75 - 0.5),
        ({"optimizer": "Adagrad", "parameters": 1_000_000}, -2.04 + 0.5 - 0.5),
        ({"optimizer": "Adam", "parameters": 1000}, -2.36 + 0.25),
        ({"optimizer": "Adam", "parameters": 10}, -2.36 + 0.25),
        ({"optimizer": "Adam", "total_steps": 10_000}, -2.36 - 0.2),
        ({"optimizer": "Adam", "epochs": 100}, -2.36 - 0.4),
        ({"optimizer": "Adam", "epochs": 1}, -2.36 + 0.4),
        ({"optimizer": "Adam", "epochs": 0.8}, -2.36 + 0.4 * math.log10(12.5)),
        ({"optimizer": "Adam", "epochs": 0.01}, -2.36 + 0.4 * math.log10(12.5)),  # below a pass no example comes again
        ({"optimizer": "Adam", "epochs": 1e6}, -2.36 - 0.8),
        ({"optimizer": "Adam", "pretrained": True}, -2.36 - 0.5),
        ({"optimizer": "Adam", "pretrained": 0.01}, -2.36 - 0.5),
        ({"optimizer": "Adam", "pretrained": True, "parameters": 1000}, -2.36 - 0.5 + 0.25),
        ({"optimizer": "Adam", "pretrained": 0.6, "parameters": 1_000_000}, -2.36 - 0.5 - 0.5 - 0.6),
        ({"optimizer": "Adam", "pretrained": 0.01, "parameters": 1_000_000}, -2.36 - 0.5 - 0.5),
        ({"optimizer": "Adam", "momentum": 0.0}, -2.36),
        ({"optimizer": "SGD"}, -0.68),
        ({"optimizer": "ASGD"}, -0.68),
        ({"optimizer": "SGD", "momentum": 0.9}, -0.68 - 0.6),
        ({"optimizer": "SGD", "parameters": 1_000_000}, -0.68),
        ({"optimizer": "Lion"}, -3.08),
        ({"optimizer": "Muon", "parameters": 1_000_000}, -2.04),
        ({"optimizer": "Prodigy", "parameters": 1_000_000, "schedule": "linear", "pretrained": True}, 0),
    ],
)
def test_the_usual_rate(change, decades):
    plan = replace(PLAN, momentum=None, parameters=10_000)
    assert usual(replace(plan, **change), start=1.0) == pytest.approx(decades)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Adagrad", "Lion"])
def test_what_is_planned_moves_it(optimizer):
    plan = replace(PLAN, optimizer=optimizer)
    there = usual(replace(plan, schedule="linear"), 1.0)
    assert there - usual(plan, 1.0) == pytest.approx(1.3 * math.log10(2))


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Adagrad", "Lion"])
def test_what_a_plan_leaves_open_counts_as_the_usual(optimizer):
    told = Plan(optimizer=optimizer, total_steps=1000, parameters=10_000, epochs=10, pretrained=False)
    assert usual(Plan(optimizer=optimizer), 1.0) == pytest.approx(usual(told, 1.0))


@pytest.mark.parametrize("scale", [1e-3, 10, 1e4])
def test_a_loss_that_is_scaled_scales_the_rate_of_an_sgd_and_of_no_other(scale):
    assert usual(PLAN, 2.3 * scale) == pytest.approx(usual(PLAN, 2.3) - math.log10(scale))
    adam = replace(PLAN, optimizer="Adam")
    assert usual(adam, 2.3 * scale) == usual(adam, 2.3)


@pytest.mark.parametrize("start", [0.0, -2.3, math.nan, math.inf, 5e-324, 1e150])
def test_a_start_without_a_scale_leaves_an_sgd_without_a_usual_rate(start):
    assert usual(PLAN, start) is None
    assert usual(replace(PLAN, optimizer="Adam"), start) == pytest.approx(-2.36)


@pytest.mark.parametrize("optimizer", ["Adadelta", "Rprop", "LBFGS", "Own", ""])
def test_of_no_other_optimizer_a_usual_rate_is_known(optimizer):
    assert usual(Plan(optimizer=optimizer), 1.0) is None


@pytest.mark.parametrize(
    ("epochs", "steps", "decades"),
    [
        (100, 1000, 1.0),  # 10 steps in an epoch: the epochs tell
        (100, 5000, math.log10(2)),  # 50: the data are not so few
        (200, 78_000, 0.0),  # 390: many data, as CIFAR-10 in batches of 128
        (3000, 3000, 2.0),  # one batch
        (10, 100, 0.0),
        (1, 10, 0.0),
        (None, 1000, 0.0),
        (100, None, 0.0),
    ],
)
def test_few_data_that_are_seen_often_are_overfitted(epochs, steps, decades):
    assert overfits(Plan(total_steps=steps, epochs=epochs)) == pytest.approx(decades)
