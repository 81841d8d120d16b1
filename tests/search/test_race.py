"""The race: on a parabola whose best rates are known, and its arithmetic against the obvious one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from findlr import ConfigurationError, Curve, Plan, Stop, Suggestion, Verdict, find, rules
from findlr.analysis.race import Race, Run
from findlr.analysis.runs import decide, end_alike, first_lr, learned, narrow, next_candidate, parabola, steps_of_a_run
from findlr.finding import Cost
from findlr.search.conclusion import conclude
from findlr.search.race import Terms, run_race
from findlr.search.recording import Recording
from findlr.search.stopping import StopRule
from findlr.testing import Quadratic

LIMITS = (1e-6, 10.0)


def runs_of(function, lrs, steps=10):
    return [Run(lr, steps, function(math.log(lr))) for lr in lrs]


@given(st.floats(-5, 0), st.floats(0.1, 10), st.lists(st.floats(-6, 1), min_size=3, max_size=8, unique=True))
def test_a_parabola_is_found_exactly_where_its_neighbours_hold_it(centre, curvature, places):
    def loss(x):
        return 1.0 + curvature * (x - centre) ** 2

    places = [round(x, 1) for x in places]
    done = runs_of(loss, [math.exp(x) for x in dict.fromkeys(places)])
    lr, bracketed = parabola(done)
    ordered = sorted(run.lr for run in done)
    at = ordered.index(min(sorted(done, key=lambda run: run.lr), key=lambda run: run.loss).lr)
    assert bracketed == (0 < at < len(ordered) - 1)
    if bracketed:
        low, high = (ordered[at - 1] * ordered[at]) ** 0.5, (ordered[at] * ordered[at + 1]) ** 0.5
        assert lr == pytest.approx(min(max(math.exp(centre), low), high), rel=1e-6)
    else:
        assert lr == ordered[at]


def test_a_parabola_beside_a_run_that_diverged_is_the_best_run():
    done = [Run(0.1, 5, 1.0), Run(0.2, 5, 0.5), Run(0.4, 5, math.inf)]
    assert parabola(done) == (0.2, True)


@pytest.mark.parametrize("start", [1e-3, 0.05, 1.0])
def test_candidates_walk_to_the_best_rate_and_close_in(start):
    def loss(x):
        return (x - math.log(0.05)) ** 2

    done, candidate = [], start
    while candidate is not None and len(done) < 20:
        done += runs_of(loss, [candidate])
        candidate = next_candidate(done, math.inf, LIMITS)
    lr, bracketed = parabola(done)
    assert bracketed
    assert lr == pytest.approx(0.05, rel=0.01)
    octaves = np.diff(np.log2(sorted(run.lr for run in done)))
    assert octaves.min() >= 0.35
    assert candidate is None  # it stops by itself where two runs would tell no more than one


def test_a_race_begins_a_little_below_the_sweeps_answer_the_higher_the_shorter_its_runs():
    rates = [first_lr(0.1, Plan(total_steps=400), steps) for steps in (400, 100)]
    assert rates == pytest.approx([0.07, 0.07 * 4**0.1])


def test_no_candidate_is_outside_the_limits():
    done, candidate = [], 0.02
    while candidate is not None and len(done) < 20:
        assert 0.01 <= candidate <= 0.1
        done += runs_of(lambda x: -x, [candidate])  # ever better
        candidate = next_candidate(done, math.inf, (0.01, 0.1))
    assert max(run.lr for run in done) > 0.07  # the limit, or so near that a run there would tell no more


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([], False),
        ([(0.02, 0.5)], False),
        ([(0.02, 0.5), (0.06, 0.4)], False),
        ([(0.06, 0.6), (0.02, 0.5), (0.0067, 0.6)], True),
        ([(0.02, 0.5), (0.06, 0.4), (0.54, 0.7)], False),  # ninefold above
        ([(0.02, 0.5), (0.06, 0.4), (0.06 * 4.1, 0.7)], False),
        ([(0.02, 0.5), (0.06, 0.4), (0.06 * 3.9, 0.7)], True),
        ([(0.02, 0.5), (0.06, 0.4), (0.54, 0.7), (0.18, 0.6)], True),
        ([(0.06, math.inf), (0.02, 0.5), (0.0067, 0.6)], False),  # no parabola goes through it
        ([(0.02, math.inf), (0.06, math.inf), (0.0067, math.inf)], False),
        ([(0.02, 0.5), (0.06, 0.4), (0.18, 0.3)], False),
        ([(0.02, 0.3), (0.06, 0.4), (0.18, 0.5)], False),
    ],
)
def test_a_race_is_told_enough_by_two_near_neighbours(runs, told):
    assert narrow([Run(lr, 10, loss) for lr, loss in runs]) is told


@pytest.mark.parametrize(
    ("start", "end", "told"), [(1, 0.985, True), (1, 0.995, False), (-2, -2.03, True), (-2, -2.01, False)]
)
def test_a_race_has_learned_something_if_a_run_gains_a_hundredth_of_the_start(start, end, told):
    assert learned(Race((Run(0.1, 10, 3.0), Run(0.2, 10, end)), start, 0.2, bracketed=False)) is told


@pytest.mark.parametrize(("other", "told"), [(0.504, True), (0.506, False)])
def test_runs_end_alike_within_a_hundredth_of_what_the_best_gains(other, told):
    assert end_alike(Race((Run(0.1, 10, other), Run(0.2, 10, 0.5)), 1.0, 0.2, bracketed=False)) is told


def test_after_a_sweep_no_rate_is_tried_beyond_its_usable_points():
    plan, lrs = Plan(total_steps=100), [1e-3, 1e-2, 1e-1]
    assert Terms.after(Curve(lrs, [1.0, 1.0, 9.0], diverged=True), plan, 0.01, 50) == Terms(
        plan, 0.01, (1e-3, 1e-2), 50, rates_act=False
    )
    acts = Curve(np.geomspace(1e-3, 1e-1, 30), [2.0] * 20 + [1.0] * 10)
    assert Terms.after(acts, plan, 0.01, 50) == Terms(plan, 0.01, (acts.lr[0], acts.lr[-1]), 50)


@pytest.mark.parametrize(("first", "most"), [(0.12, 3), (0.003, 5)])
def test_a_rich_race_ends_once_it_is_told_enough(first, most):
    training = Quadratic(floor=0.0)
    race = run_race(training, Terms(Plan("linear", total_steps=20), first, LIMITS, budget=60))
    assert len(race.runs) == most
    assert not any(narrow(race.runs[:count]) for count in range(most))
    assert race.bracketed
    assert narrow(race.runs) is (most == 3)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_race_finds_the_rate_that_a_grid_search_of_the_same_length_finds(noise):
    plan = Plan("linear", total_steps=400)

    def final(lr):
        training = Quadratic(noise=noise, floor=0.0)
        losses = [training.step(lr * share) for share in plan.shares(20)]
        return np.mean(losses[-2:])

    grid = np.geomspace(0.01, 0.19, 200)
    best = grid[np.argmin([final(lr) for lr in grid])]
    training = Quadratic(noise=noise, floor=0.0)
    race = run_race(training, Terms(plan, 0.02, (1e-6, 0.3), budget=300))
    assert all(run.steps == 100 for run in race.runs)
    assert len(race.runs) == 3
    assert final(race.best_lr) <= final(best) + 0.05
    assert race.best_lr > 0.02


def test_every_run_starts_from_the_same_weights_and_sees_the_same_noise():
    firsts = []

    class Watched(Quadratic):
        fresh = True

        def step(self, lr):
            loss = super().step(lr)
            if self.fresh:
                firsts.append(loss)
                self.fresh = False
            return loss

        def restore(self, snapshot):
            super().restore(snapshot)
            self.fresh = True

    training = Watched(noise=0.5)
    race = run_race(training, Terms(Plan(total_steps=100), 0.02, LIMITS, budget=200))
    assert len(firsts) == len(race.runs) > 2
    assert len(set(firsts)) == 1


def test_a_run_that_diverges_is_infinitely_bad_and_ends_there():
    training = Quadratic(curvature=1e200)
    race = run_race(training, Terms(Plan(total_steps=1000), 1.0, (0.1, 10.0), budget=500))
    assert all(run.loss == math.inf for run in race.runs)


class Explodes(Quadratic):
    """At a high rate its first losses are huge, and then it ends above those of a lower one."""

    taken = 0

    def restore(self, snapshot):
        super().restore(snapshot)
        self.taken = 0

    def step(self, lr):
        self.taken += 1
        loss = super().step(min(lr, 0.1))
        return loss if lr < 1 else loss + (500.0 if self.taken < 5 else 1.0)


def test_a_run_that_explodes_first_does_not_raise_the_level_at_the_start():
    training = Explodes(floor=0.1)
    start = training.step(0.0)
    race = run_race(training, Terms(Plan(total_steps=1000), 0.6, (0.01, 10.0), budget=500))
    assert [run.lr > 1 for run in race.runs].count(True) == 1
    assert race.start <= start
    assert not end_alike(race)


def test_a_budget_has_no_upper_end():
    assert steps_of_a_run(math.inf, 3, 1.0, 1000) == 1000


@given(st.integers(100, 2000), st.integers(10, 500))
def test_the_budget_is_never_exceeded(budget, total_steps):
    taken = 0

    class Counted(Quadratic):
        def step(self, lr):
            nonlocal taken
            taken += 1
            return super().step(lr)

    finding = find(Counted(), Plan(total_steps=total_steps), verify=True, budget=budget, control_variate=False)
    assert taken <= finding.cost.steps <= budget


class Evaluated(Quadratic):
    """Its batches are noisy, its held-out loss is not."""

    def hold_out(self, batches, steps, total_steps):
        return batches

    def evaluate(self):
        return self.curvature * self.weight**2 / 2 + self.floor


class Several(Evaluated):
    """Takes runs together, or after a trial does not."""

    trial_steps, wants, forwards, backwards, asked = 4, True, 0, 0, 0

    def step(self, lr):
        self.forwards += 1
        self.backwards += 1
        return super().step(lr)

    def evaluate(self):
        self.forwards += 8
        return self.curvature * (self.weight * self.weight)

    def prepare_together(self, runs):
        self.asked += 1

    def run_together(self, snapshot, rates):
        ends = []
        for lrs in rates if self.wants else rates[:1]:
            self.restore(snapshot)
            for lr in lrs if self.wants else lrs[:4]:
                self.step(lr)
            ends.append(self.evaluate())
        return ends if self.wants else "it does not pay"


@given(st.integers(600, 3000), st.integers(20, 500), st.booleans())
def test_a_race_in_one_pass_keeps_the_budget_too_and_so_does_one_that_was_only_tried(budget, total_steps, wants):
    training = Several(curvature=2.0)
    training.wants = wants
    how = dict(verify=True, budget=budget, control_variate=False, one_pass=True)
    finding = find(training, Plan(total_steps=total_steps), **how)
    assert training.asked == 1
    assert finding.cost.steps <= budget
    assert finding.race.path == ("one pass" if wants else "sequential")
    assert len({run.steps for run in finding.race.runs}) == 1
    assert len(finding.race.runs) >= 3


def test_no_pass_is_tried_unless_it_was_asked_for():
    training = Several(curvature=2.0)
    finding = find(training, Plan(total_steps=1000), verify=True, budget=3000, control_variate=False)
    assert training.asked == 0
    assert finding.race.path == "sequential"


@pytest.mark.parametrize("worse", [[], [Run(0.3, 10, 3.0)]])
def test_where_it_was_better_not_to_train_the_next_rate_is_far_below(worse):
    assert next_candidate([Run(0.1, 10, 2.0), *worse], 1.0, LIMITS) == pytest.approx(0.1 / 9)


def test_shares_and_defaults_of_the_budget():
    plan = Plan("cosine", total_steps=2000)
    assert find(Quadratic(), plan, verify=True, budget=0.25).cost.steps <= 500
    assert 500 < find(Quadratic(), plan, verify=True).cost.steps <= 1000
    assert 300 < find(Quadratic(), Plan(total_steps=600), verify=True).cost.steps <= 350


@pytest.mark.parametrize(
    ("plan", "budget", "words"),
    [
        (Plan(), None, "total_steps"),
        (Plan(total_steps=1000), 50, "the sweep alone"),
        (Plan(total_steps=1000), 0.05, "the sweep alone"),
        (Plan(total_steps=1000), 133, "the sweep alone"),
        (Plan(total_steps=1000), 0, "above 0"),
        (Plan(total_steps=1000), -1.0, "above 0"),
        (Plan(total_steps=1000), True, "budget"),
        (Plan(total_steps=1000), math.nan, "budget"),
        (Plan(total_steps=1000), "all", "budget"),
    ],
)
def test_a_search_that_cannot_be_verified_is_refused(plan, budget, words):
    with pytest.raises(ConfigurationError, match=words):
        find(Quadratic(), plan, verify=True, budget=budget)


@pytest.mark.parametrize("given", [{"budget": 0.5}, {"budget": 500}, {"one_pass": True}])
def test_what_only_a_race_takes_is_not_ignored_without_one(given):
    with pytest.raises(ConfigurationError, match="of a race: give verify=True, too, or leave it out"):
        find(Quadratic(), Plan(total_steps=1000), **given)


def test_a_budget_too_small_for_three_runs_leaves_the_sweeps_answer():
    finding = find(Quadratic(), Plan(total_steps=1000), verify=True, budget=110, control_variate=False)
    assert finding.race is None
    assert finding.suggestion == find(Quadratic(), Plan(total_steps=1000)).suggestion
    assert finding.cost.steps <= 110


def test_where_the_budget_leaves_out_the_race_nobody_is_told_to_verify(caplog):
    plan = Plan(total_steps=150, pretrained=1.0)
    swept = find(Quadratic(), plan)
    assert (swept.verdict, "use verify=True" in swept.why) == (Verdict.PRETRAINED, True)
    assert not caplog.text
    finding = find(Quadratic(), plan, verify=True, budget=110, control_variate=False)
    assert (finding.verdict, finding.race) == (Verdict.PRETRAINED, None)
    assert "verify=True" not in finding.why
    assert "there is no race: the budget leaves too few steps for 3 runs" in caplog.text


def test_where_nothing_falls_there_is_nothing_to_race():
    finding = find(Quadratic(curvature=1e-9), Plan(total_steps=1000), verify=True)
    assert finding.race is None
    assert finding.suggestion is None


def test_a_race_can_find_what_the_curve_alone_does_not_bear():
    quiet, noisy = Quadratic(curvature=10.0), Evaluated(curvature=10.0, noise=3.0)
    assert find(noisy).verdict is Verdict.FLAT
    finding = find(noisy, Plan(total_steps=400), verify=True, budget=180)
    assert finding.verdict in (Verdict.RACED, Verdict.BROAD)
    assert finding.why.startswith(find(noisy).why.partition(":")[0])
    assert 0.1 < finding.lr / find(quiet, Plan(total_steps=400)).lr < 10
    assert finding.suggest(rules.steep).rule == "steep"


def test_a_race_is_not_advised_to_be_made():
    swept = find(Quadratic(), max_lr=0.15)
    assert swept.verdict is Verdict.NO_EDGE
    assert "verify=True" in swept.why
    finding = find(Quadratic(), Plan(total_steps=400), max_lr=0.15, verify=True)
    assert finding.race is not None
    assert "verify=True" not in finding.why
    assert finding.why.startswith(swept.why.partition(": ")[0])


@pytest.mark.parametrize(
    ("losses", "bracketed", "verdict"),
    [
        ((0.30, 0.10, 0.30), True, Verdict.CLEAR),
        ((0.105, 0.10, 0.105), True, Verdict.BROAD),
        ((0.10, 0.105, 0.101), False, Verdict.BROAD),
        ((0.10, 0.2, 0.3), False, Verdict.HORIZON_LIMITED),
        ((0.10, 0.2, math.inf), False, Verdict.HORIZON_LIMITED),
    ],
)
def test_the_runs_say_whether_the_best_rate_is_told(losses, bracketed, verdict):
    curve = find(Quadratic()).curve
    race = Race(tuple(Run(lr, 50, x) for lr, x in zip((0.02, 0.06, 0.18), losses, strict=True)), 1.0, 0.02, bracketed)
    recording = Recording(list, 100, StopRule())
    for lr, loss in zip(curve.lr, curve.loss, strict=True):
        recording.add(lr, loss)
    recording.end(Stop.FINISHED)
    finding = conclude(recording, 0.98, Plan(total_steps=500), None, Cost(250.0, 250, 250, 1.0), {}, race)
    assert finding.verdict is verdict
    assert finding.suggestion.rule == "race"
    assert ("equally well at all rates from 0.02 to 0.18" in finding.why) == (verdict is Verdict.BROAD)
    assert ("raise the budget" in finding.why) == (verdict is Verdict.HORIZON_LIMITED)


@pytest.mark.parametrize("budget", [250, None, 2000])
def test_runs_that_learn_nothing_change_no_verdict(budget):
    judged = [
        find(Quadratic(curvature=1e-6, noise=0.1, seed=seed), Plan(total_steps=1000), verify=True, budget=budget)
        for seed in range(40)
    ]
    assert sum(not finding.verdict.refuses for finding in judged) <= 1  # three standard errors, of few losses


@pytest.mark.parametrize("octaves", [-7, 6])
def test_a_sweep_that_is_far_off_is_left_in_growing_steps(octaves):
    def loss(x):
        return abs(x - math.log(0.05))

    done, candidate = [], 0.05 * 2.0**-octaves
    while candidate is not None and not (len(done) > 2 and parabola(done)[1]):
        done += runs_of(loss, [candidate])
        candidate = next_candidate(done, math.inf, LIMITS)
    assert len(done) <= 7


def test_a_verified_finding_round_trips_and_comes_twice():
    finding = find(Quadratic(noise=0.01), Plan("one_cycle", total_steps=500), verify=True)
    assert finding.race is not None
    assert finding == type(finding).from_dict(finding.to_dict())
    assert finding == find(Quadratic(noise=0.01), Plan("one_cycle", total_steps=500), verify=True)


def test_everything_is_back_after_a_race():
    training = Quadratic(noise=0.1)
    before = training.snapshot()
    find(training, Plan(total_steps=500), verify=True)
    assert training.snapshot() == before


def test_the_decision_leans_to_lower_rates_for_longer_plans():
    race = Race((Run(0.05, 50, 0.6), Run(0.1, 50, 0.5), Run(0.2, 50, 0.6)), 1.0, 0.1, bracketed=True)
    sweep = Suggestion(0.05, "quick", "")
    rates = [decide(race, sweep, Plan(total_steps=steps)).lr for steps in (50, 500, 5000)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(0.1)  # as long as the plan: the sweep says nothing more


def test_the_decision_is_weighed_by_how_long_the_runs_are():
    runs = [Run(lr, 100, loss) for lr, loss in ((0.01, 0.9), (0.02, 0.6), (0.04, 0.7))]
    x = np.log2([run.lr for run in runs])
    a, b, _ = np.polyfit(x, [run.loss for run in runs], 2)
    raced = -b / (2 * a)
    race, sweep = Race(tuple(runs), 2.0, 2**raced, bracketed=True), Suggestion(0.08, "quick", "")
    assert parabola(runs) == (pytest.approx(2**raced), True)
    share = 0.25**0.65  # of the answer that runs of a quarter of the plan have
    expected = share * (raced - 0.1 * math.log2(400 / 100)) + (1 - share) * math.log2(0.08)
    assert math.log2(decide(race, sweep, Plan(total_steps=400)).lr) == pytest.approx(expected)


def test_runs_that_end_alike_leave_the_sweeps_answer():
    runs = tuple(Run(lr, 100, 0.5 + noise) for lr, noise in ((0.01, 1e-4), (0.02, 0.0), (0.04, 1e-4), (0.08, 2e-4)))
    race = Race(runs, 2.0, 0.02, bracketed=True)
    decided = decide(race, Suggestion(0.05, "quick", ""), Plan(total_steps=100))
    assert (decided.lr, decided.why) == (0.05, "4 short runs of 100 steps end alike, so the sweep's 0.05 stands.")


@pytest.mark.parametrize(("epochs", "power"), [(None, 0.1), (10, 0.1), (40, 0.1 + 0.6 * math.log10(4)), (400, 1.0)])
def test_the_best_rate_of_few_data_seen_often_falls_faster_with_the_length(epochs, power):
    race = Race(QUARTER, 2.0, 0.2, bracketed=True)
    sweep = Suggestion(0.2 * 0.25**power, "quick", "")  # where the race's answer is, too
    assert decide(race, sweep, Plan(total_steps=400, epochs=epochs)).lr == pytest.approx(sweep.lr)


def decided_between(race, interval=None, **plan):
    """The place of the decision between the sweep, at 0, and the race, at 1; runs of a quarter of the plan."""
    sweep, plan = Suggestion(0.01, "quick", "", interval), Plan(total_steps=400, **plan)
    low, high = math.log(sweep.lr), math.log(race.best_lr * 0.25**0.1)
    return (math.log(decide(race, sweep, plan).lr) - low) / (high - low)


QUARTER = tuple(Run(lr, 100, loss) for lr, loss in ((0.1, 0.9), (0.2, 0.6), (0.4, 0.9)))


@pytest.mark.parametrize(
    ("decades", "odds"), [(0.9, 1.0), (1.35, 1.5), (1.8, 2.0), (9.0, 2.0), (0.45, 0.5), (0.0, 0.5), (None, 1.0)]
)
def test_the_wider_the_sweeps_interval_the_more_the_race_counts(decades, odds):
    part = 0.25**0.65
    interval = None if decades is None else (0.01, 0.01 * 10**decades)
    share = decided_between(Race(QUARTER, 2.0, 0.2, bracketed=True), interval)
    assert share / (1 - share) == pytest.approx(odds * part / (1 - part))


@pytest.mark.parametrize(("epochs", "by"), [(None, 1), (0.5, 1), (1, 1), (10, 2), (100, 3)])
def test_runs_that_were_scored_on_what_they_trained_on_count_less_the_more_often_it_comes(epochs, by):
    race = Race(QUARTER, 2.0, 0.2, bracketed=True)
    seen = replace(race, held_out=False)
    assert decided_between(seen, epochs=epochs) == pytest.approx(decided_between(race, epochs=epochs) / by)
    whys = [decide(each, Suggestion(0.01, "quick", ""), Plan(total_steps=400)).why for each in (race, seen)]
    assert ["held-out data tell more" in why for why in whys] == [False, True]


@pytest.mark.parametrize(("diverged", "most"), [(0.4, 0.4), (0.3, 0.3), (0.05, math.inf)])
def test_no_decision_is_near_a_higher_rate_at_which_a_run_diverged(diverged, most):
    runs = (*QUARTER[:2], Run(diverged, 100, math.inf), Run(2.0, 100, math.inf))
    race = Race(runs, 2.0, 0.2, bracketed=True)
    sweep, plan = Suggestion(0.3, "quick", ""), Plan(total_steps=100)
    assert decide(race, sweep, plan).lr == pytest.approx(min(0.2, most / 10**0.4))


def test_a_race_without_a_bracket_has_a_wider_interval():
    race = Race((Run(0.1, 50, 0.5),), 1.0, 0.1, bracketed=True)
    sweep, plan = Suggestion(0.1, "quick", ""), Plan(total_steps=50)
    low, high = decide(race, sweep, plan).interval
    wider_low, wider_high = decide(Race(race.runs, 1.0, 0.1, bracketed=False), sweep, plan).interval
    assert wider_low < low < 0.1 < high < wider_high
