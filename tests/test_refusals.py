"""Bad input at a public door: one clear error of findlr's, before anything is touched."""

import pytest

from findlr import ConfigurationError, find, rules
from findlr.testing import Quadratic


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
    ("on_step", "says"), [(5, "on_step must be a function"), (later, "an async"), (one_by_one, "a generator")]
)
def test_what_would_watch_no_step_is_refused(on_step, says):
    with pytest.raises(ConfigurationError, match=says):
        find(Quadratic(), on_step=on_step)
