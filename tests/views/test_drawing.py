"""What is drawn, as plain data."""

import math
from dataclasses import replace

import numpy as np
import pytest

from findlr import ConfigurationError, Curve, Plan, Stop, Suggestion, find, rules
from findlr.analysis.dip import read_dip
from findlr.analysis.race import Race, Run
from findlr.testing import Quadratic
from findlr.views.drawing import describe, flat_facts, labels_of


@pytest.fixture(scope="module")
def finding():
    """A real search, with a baseline and validation losses as a training with a validation loader gives them."""
    found = find(Quadratic(noise=0.1), num_steps=100)
    curve = found.curve
    validation = np.full(len(curve), np.nan)
    validation[::7] = curve.loss[::7] + 5
    return replace(found, curve=replace(curve, baseline=np.linspace(4, 6, len(curve)), validation=validation))


def test_losses_without_batch_noise_keep_their_mean_level(finding):
    part, drawing = finding.curve.usable(), describe(finding)
    assert np.array_equal(drawing.corrected.loss, part.loss - part.baseline + part.baseline.mean())
    assert np.array_equal(drawing.corrected.lr, part.lr)
    assert describe(replace(finding, curve=replace(finding.curve, baseline=None))).corrected is None
    assert describe(finding, raw=False).corrected is None
    assert describe(finding, smoothed=False).corrected is None


def test_validation_losses_are_those_measured(finding):
    validation, usable = describe(finding).validation, finding.curve.usable()
    assert validation.lr.tolist() == usable.lr[::7].tolist()
    assert validation.loss.tolist() == (usable.loss[::7] + 5).tolist()
    never = replace(finding, curve=replace(finding.curve, validation=np.full(len(finding.curve), np.nan)))
    assert describe(never).validation is None


def test_the_limits_take_in_the_validation_losses(finding):
    low, high = describe(finding).limits
    level = describe(finding).validation.loss[:5].mean()
    assert low < level < high
    without = replace(finding, curve=replace(finding.curve, validation=None))
    assert describe(without).limits[1] < level


@pytest.mark.parametrize("stop", Stop)
def test_an_early_end_is_marked_and_says_why(finding, stop):
    marked = describe(replace(finding, stop=stop)).stop
    if stop is Stop.FINISHED:
        assert marked is None
    else:
        assert (marked.lr, marked.loss) == (finding.curve.lr[-1], finding.curve.loss[-1])
        assert marked.why == f"stopped: {stop.name.lower().replace('_', ' ')}"


class TestWhatTheRuleReads:
    def test_its_dip_is_lowest_and_carries_the_suggestion(self, finding):
        drawing = describe(finding)
        line, dip = drawing.read.line, drawing.read.dip
        assert drawing.main is line
        assert dip.loss.min() == line.loss.min()
        assert set(dip.lr) < set(line.lr)
        assert dip.loss.max() < line.loss.max()
        assert drawing.suggestion.loss == pytest.approx(
            np.interp(np.log10(finding.lr), line.log10_lr, line.loss), rel=1e-12
        )
        middle = 10 ** np.average(dip.log10_lr, weights=dip.loss.max() - dip.loss)
        assert middle == pytest.approx(10 ** read_dip(finding.curve).place, rel=0.05)

    def test_the_signs_are_what_the_answer_is_made_of(self, finding):
        belief = finding.belief
        assert [sign.lr for sign in describe(finding).signs] == [belief.dip]  # nothing is usual for no optimizer
        planned = replace(finding, plan=Plan(optimizer="SGD"))
        assert [sign.lr for sign in describe(planned).signs] == [planned.belief.dip, planned.belief.usual]
        assert describe(planned).signs[1].label == f"usual for such a training: {planned.belief.usual:.2g}"

    def test_a_race_is_made_of_its_runs(self, finding):
        raced = replace(finding, race=Race(RUNS, 3.0, 0.05, True), suggestion=Suggestion(0.04, "race", "why"))
        assert [(sign.lr, sign.label) for sign in describe(raced).signs] == [(0.05, "where short runs end best: 0.05")]
        assert describe(raced).read is not None

    @pytest.mark.parametrize(
        "change",
        [
            {"suggestion": Suggestion(0.1, "article", "why")},
            {"suggestion": None},
            {"plan": Plan(optimizer="Prodigy")},
            {"plan": Plan(optimizer="LBFGS")},
        ],
        ids=["another rule", "none", "rate-free", "quasi-Newton"],
    )
    def test_others_read_no_dip(self, finding, change):
        drawing = describe(replace(finding, **change))
        assert drawing.read is None
        assert drawing.signs == ()
        assert drawing.main is drawing.line

    def test_it_can_be_left_out(self, finding):
        for how in ({"read": False}, {"smoothed": False}):
            drawing = describe(finding, **how)
            assert drawing.read is None
            assert drawing.suggestion.loss == pytest.approx(
                np.interp(np.log10(finding.lr), drawing.line.log10_lr, drawing.line.loss), rel=1e-12
            )


RUNS = (Run(0.1, 50, 2.0), Run(0.025, 50, 1.0), Run(0.4, 50, math.inf))


def test_a_race_is_ordered_by_rate_on_limits_of_its_own(finding):
    raced = replace(finding, race=Race(RUNS, 3.0, 0.05, True))
    race = describe(raced).race
    assert [run.lr for run in race.runs] == [0.025, 0.1, 0.4]
    assert race.limits == pytest.approx((0.85, 2.15))
    assert race.label == "held-out loss after 50 steps"
    seen = replace(finding, race=Race(RUNS, 3.0, 0.05, True, held_out=False))
    assert describe(seen).race.label == "loss after 50 steps"
    assert [run.lr for run in race.inside] == [0.025, 0.1]
    assert race.told_above == "above: diverged at 0.4"
    assert describe(raced, race=False).race is None
    assert describe(finding).race is None


def test_a_run_that_explodes_does_not_hide_the_others(finding):
    exploded = Race((*RUNS, Run(0.8, 50, 1e45)), 3.0, 0.05, True)
    low, high = describe(replace(finding, race=exploded)).race.limits
    assert low < 1.0
    assert 3.0 < high < 6.0
    assert describe(replace(finding, race=exploded)).race.told_above == "above: diverged at 0.4, loss 1e+45 at 0.8"


def test_a_race_in_which_all_diverged_has_no_limits(finding):
    race = describe(replace(finding, race=Race(RUNS[2:], 3.0, 0.4, False))).race
    assert race.limits is None
    assert race.above == RUNS[2:]


def test_a_flat_curves_raw_losses_are_seen():
    random = np.random.default_rng(0)
    curve = Curve(np.geomspace(1e-8, 1, 200), 2.3 + 0.1 * random.standard_normal(200))
    low, high = describe(replace(find(Quadratic()), curve=curve, suggestion=None)).limits
    assert ((low < curve.loss) & (curve.loss < high)).mean() > 0.95


class TestLabels:
    def test_given_ones_are_kept(self, finding):
        assert labels_of([finding, finding], ["a", "a"]) == ("a", "a")

    @pytest.mark.parametrize("labels", [["a"], ["a", "b", "c"], "ab", 2, np.array(2), abs])
    def test_one_for_each(self, finding, labels):
        with pytest.raises(ConfigurationError, match="labels must be a list with one for each of 2 runs"):
            labels_of([finding, finding], labels)

    def test_nothing_to_show(self):
        with pytest.raises(ConfigurationError, match="give at least one Finding"):
            labels_of([])

    def test_what_differs_names_the_runs(self, finding):
        def run(batch_size, name="SGD", decay=None, plan=None, python="3.11"):
            optimizer = {"name": name, "module": "m", "arguments": {} if decay is None else {"weight_decay": decay}}
            facts = {"batch_size": batch_size, "optimizer": optimizer, "versions": {"python": python}}
            return replace(finding, facts=facts, plan=plan or Plan())

        assert labels_of([run(16), run(32, python="3.12")]) == ("batch_size=16", "batch_size=32")
        assert labels_of([run(16), run(16, decay=0.1)]) == ("weight_decay=default", "weight_decay=0.1")
        assert labels_of([run(16), run(16, "AdamW")]) == ("optimizer=SGD", "optimizer=AdamW")
        four = [run(16, decay=0.1), run(32, decay=0.1), run(16, decay=0.2), run(32, decay=0.2)]
        assert labels_of(four)[3] == "weight_decay=0.2, batch_size=32"
        assert labels_of([run(16), run(16)]) == ("run 1", "run 2")
        assert labels_of([run(16)]) == ("run 1",)


def test_facts_are_flat_facts():
    facts = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}], "f": [], 3: "x"}
    assert list(flat_facts(facts)) == [("a.b", "1"), ("a.c", "1, 2"), ("d.0.e", "None"), ("f", ""), ("3", "x")]


def test_every_rule_is_in_the_mapping():
    assert {name for name, rule in rules.RULES.items() if rule is getattr(rules, name)} == set(rules.RULES)


def test_one_rule_is_asked_as_a_list_of_it_is():
    finding = find(Quadratic())
    one, named, listed = (describe(finding, rules=each).others for each in (rules.steep, "steep", [rules.steep]))
    assert one == named == listed
    assert len(listed) == 1
    with pytest.raises(ConfigurationError, match=r"rule must be one of .*, or a function, got \[\]"):
        finding.suggest([])
