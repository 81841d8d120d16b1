"""Bad input at a public door: one clear error of findlr's, before anything is touched."""

import math
import sys
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn, optim

from findlr import (
    ConfigurationError,
    Curve,
    Finding,
    MissingExtraError,
    Plan,
    RangeTest,
    Suggestion,
    compare,
    find,
    find_lr,
    rules,
    trackers,
)
from findlr.testing import Quadratic
from findlr.torch import cyclic, one_cycle
from findlr.views import console, notebook, plot
from findlr.views.report import write_report


@pytest.fixture(scope="module")
def finding():
    return find(Quadratic(), num_steps=60, progress=False)


async def later(*given):
    """What never runs unless somebody waits for it."""


def one_by_one(*given):
    yield given


@pytest.mark.parametrize("rule", rules.RULES.values())
@pytest.mark.parametrize("curve", [None, [1, 2], "run.json"])
def test_a_rule_reads_a_curve(rule, curve):
    with pytest.raises(ConfigurationError, match=r"curve must be a Curve, got .*: give finding\.curve"):
        rule(curve)


@pytest.mark.parametrize("plan", ["one_cycle", 1000, {}])
def test_the_default_rule_reads_a_plan(finding, plan):
    with pytest.raises(ConfigurationError, match="plan must be a Plan, got "):
        rules.quick(finding.curve, plan)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (5, "rule must be one of quick, .*, got 5"),
        (int, "rule must be one of quick, .*, got <class 'int'>"),
        (lambda: 0, r"rule is called as rule\(curve, plan\), and this one takes \(\)"),
        (later, "rule is an async function"),
        (one_by_one, "rule is a generator function"),
    ],
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda finding, rule: finding.suggest(rule),
        lambda finding, rule: finding.plot(rules=[rule]),
        lambda _, rule: find(Quadratic(), rule=rule),
    ],
    ids=["suggest", "plot", "find"],
)
def test_what_is_no_rule_is_refused_wherever_one_is_asked(finding, ask, rule, says):
    with pytest.raises(ConfigurationError, match=says):
        ask(finding, rule)


@pytest.mark.parametrize(
    ("on_step", "says"),
    [
        (5, "on_step must be a function"),
        (later, "an async"),
        (one_by_one, "a generator"),
        (console.LiveSweep, "got the class LiveSweep itself"),
    ],
)
def test_what_would_watch_no_step_is_refused(on_step, says):
    with pytest.raises(ConfigurationError, match=says):
        find(Quadratic(), on_step=on_step)


NO_NUMBERS = ["many", None, math.nan, -1, 1j, [3], object(), Decimal("0.5")]


@pytest.mark.parametrize("given", [*NO_NUMBERS[:1], *NO_NUMBERS[2:], math.inf, True])
@pytest.mark.parametrize("name", ["num_steps", "smoothing"])
def test_a_curves_numbers_are_numbers(name, given):
    with pytest.raises(ConfigurationError, match=f"{name} must be "):
        Curve([0.1, 0.2], [1.0, 2.0], **{name: given})


@pytest.mark.parametrize("given", NO_NUMBERS)
def test_points_to_leave_out_are_a_number(finding, given):
    for name in ("skip_start", "skip_end"):
        with pytest.raises(ConfigurationError, match=f"{name} must be a whole number of points"):
            finding.curve.clipped(**{name: given})


@pytest.mark.parametrize("given", [{"loss": None}, {"lr": [0.1, 10**400]}, {"diverged": "no"}])
def test_a_curves_points_are_numbers(given):
    with pytest.raises(ConfigurationError):
        Curve(**{"lr": [0.1, 0.2], "loss": [1.0, 2.0], **given})


@pytest.mark.parametrize(
    "given",
    [
        ("0.1", "mine", "Because."),
        (None, "mine", "Because."),
        (True, "mine", "Because."),
        (0.1, None, "Because."),
        (0.1, "mine", 5),
        (0.1, "mine", "Because.", 3),
        (0.1, "mine", "Because.", (1,)),
        (0.1, "mine", "Because.", ("a", "b")),
    ],
)
def test_a_suggestion_that_no_view_could_show_is_refused_where_it_is_made(given):
    with pytest.raises(ConfigurationError, match="a Suggestion"):
        Suggestion(*given)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.array])
def test_a_finding_by_a_rule_that_reckons_with_numpy_can_be_saved(number, tmp_path):
    suggestion = Suggestion(number(0.25), "mine", "Because.", [number(0.125), number(0.5)])
    found = find(Quadratic(), rule=lambda curve, plan: suggestion, progress=False)
    found.save(tmp_path / "run.json")
    assert Finding.load(tmp_path / "run.json") == found
    assert (found.lr, found.interval) == (0.25, (0.125, 0.5))


def with_a_file(file, **how):
    net = nn.Linear(1, 1)
    find_lr(net, optim.SGD(net.parameters(), 0.1), nn.MSELoss(), [(torch.ones(1, 1),) * 2], progress=file, **how)


def with_a_file_around_a_loop(file):
    net = nn.Linear(1, 1)
    with RangeTest(net, optim.SGD(net.parameters(), 0.1), progress=file):
        pass


@pytest.mark.parametrize("search", [with_a_file, with_a_file_around_a_loop])
def test_a_file_shows_no_progress_and_stays_open(search, tmp_path):
    with (tmp_path / "log.txt").open("w") as file:
        with pytest.raises(ConfigurationError, match="progress must be True, False, None"):
            search(file)
        assert not file.closed


@pytest.mark.parametrize("search", [with_a_file, with_a_file_around_a_loop])
def test_a_display_that_gives_no_function_is_refused_before_the_first_step(search):
    with pytest.raises(ConfigurationError, match=r"progress must be .* gives a function.* this one gave list"):
        search(nullcontext([]))


@pytest.mark.parametrize("name", ["smoothed", "raw", "race"])
def test_what_a_plot_shows_is_true_or_false(finding, name):
    with pytest.raises(ConfigurationError, match=f"{name} must be True or False, got 'no'"):
        finding.plot(**{name: "no"})


@pytest.mark.parametrize("given", [None, "0.5", math.nan, -0.1, 1.1, [0.5], 10**400])
@pytest.mark.parametrize("plan", [Plan(), Plan("one_cycle", 100), Plan(lambda progress: 1 - progress)])
def test_a_share_is_that_of_a_place_in_the_training(plan, given):
    with pytest.raises(ConfigurationError, match="progress must be a number from 0 to 1"):
        plan.share(given)


@pytest.mark.parametrize("given", [None, "100", 0, -1, 0.5, math.nan, [3]])
def test_shares_are_those_of_a_whole_number_of_steps(given):
    with pytest.raises(ConfigurationError, match="num_steps must be a whole number of at least 1"):
        Plan().shares(given)


NO_FINDINGS = [None, 5, "run.json", {}, Finding]
NOT_THERE = object()


def views():
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    return {
        "draw": plot.draw,
        "compare": lambda given: compare([given]),
        "write_report": lambda given: write_report([given], "never.html"),
        "html": notebook.html,
        "show": console.show,
        "show_all": lambda given: console.show_all([given], ["a"]),
        "summary": console.summary,
        "Sketch": console.Sketch,
        "tensorboard": lambda given: trackers.tensorboard(given, NOT_THERE),
        "wandb": lambda given: trackers.wandb(given, NOT_THERE),
        "mlflow": lambda given: trackers.mlflow(given, "a run"),
        "one_cycle": lambda given: one_cycle(given, optimizer, 10),
        "cyclic": lambda given: cyclic(given, optimizer, 10),
    }


@pytest.mark.parametrize("given", NO_FINDINGS)
@pytest.mark.parametrize("view", views().values(), ids=views())
def test_what_shows_a_finding_takes_nothing_else(view, given):
    with pytest.raises(ConfigurationError, match="Finding"):
        view(given)


@pytest.mark.parametrize("given", [None, 5, "runs", Finding])
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_tracker_needs_its_run(finding, tracker, given):
    with pytest.raises(ConfigurationError, match=r"(writer|run) must be .*, got .*: the Finding comes first"):
        getattr(trackers, tracker)(finding, given)


@pytest.mark.parametrize("arguments", [(None,), (5,), (["a"],), ("a run", 5)])
def test_mlflow_needs_a_run_and_a_client(finding, arguments):
    with pytest.raises(ConfigurationError, match=r"(run|client) must be "):
        trackers.mlflow(finding, *arguments)


def test_a_text_for_a_stream_without_mlflow_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(MissingExtraError, match="mlflow is not installed"):
        trackers.stream("runs/1")


@pytest.mark.parametrize("show", ["show", "show_all", "LiveSweep"])
def test_a_console_is_richs(finding, show):
    arguments = {"show": (finding,), "show_all": ([finding], ["a"]), "LiveSweep": ()}[show]
    with pytest.raises(ConfigurationError, match=r"console must be a Console, got .*: give a console of rich's"):
        getattr(console, show)(*arguments, sys.stderr)


def test_a_reports_names_may_come_one_by_one_and_its_source_be_a_path(finding, tmp_path):
    write_report([finding], tmp_path / "run.html", labels=iter(["only"]), source=Path("train.py"))
    assert "train.py" in (tmp_path / "run.html").read_text()


@pytest.mark.parametrize("make", [one_cycle, cyclic])
@pytest.mark.parametrize("steps", [None, 0, -1, 0.5, math.nan, "5 epochs", True, [3]])
def test_a_schedulers_length_is_a_whole_number(finding, make, steps):
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    with pytest.raises(ConfigurationError, match="must be a whole number of at least 1"):
        make(finding, optimizer, steps)
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("make", [one_cycle, cyclic])
def test_a_scheduler_needs_an_optimizer_and_takes_a_number_of_numpys(finding, make):
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    for given in (None, nn.Linear(1, 1), [optimizer]):
        with pytest.raises(ConfigurationError, match="optimizer must be an Optimizer, got "):
            make(finding, given, 10)
    make(finding, optimizer, np.int64(10))


def test_a_file_needs_a_name(finding):
    for use in (finding.save, finding.report, finding.to_csv, Finding.load):
        with pytest.raises(ConfigurationError, match="'' is no name that a file can have"):
            use("")
