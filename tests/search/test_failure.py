"""Exceptions of the training's own: at a rate that is too high they end a sweep, anywhere else they are raised."""

import math
from dataclasses import replace

import numpy as np
import pytest

from findlr import ConfigurationError, Finding, LoaderError, Plan, Stop, Suggestion, find
from findlr.search.failure import is_of_memory, is_the_trainings
from findlr.search.race import Terms, run_race
from findlr.testing import Quadratic

TERMS = Terms(Plan("constant", total_steps=400), 0.3, (1e-6, 10.0), budget=300)


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


class Guarded(Quadratic):
    """It refuses a weight that is far out."""

    def __init__(self, error=ValueError, most=1.3, **settings):
        super().__init__(curvature=100.0, noise=0.05, **settings)
        self.error, self.most = error, most

    def step(self, lr):
        if not abs(self.weight) < self.most:
            raise self.error("the weight is far out")
        return super().step(lr)


class Known(Guarded):
    """The same, and it knows its loss under the starting weights."""

    fails_at_start = False

    def prepare_baseline(self, snapshot):
        self.start = snapshot[0]

    def baseline(self):
        if self.fails_at_start and abs(self.weight) > self.most:
            raise self.error("this batch is broken")
        return self.curvature * self.start**2 / 2 + self.floor


@pytest.mark.parametrize("make", [Guarded, Known])
@pytest.mark.parametrize("error", [ValueError, AssertionError, RuntimeError, FloatingPointError, ZeroDivisionError])
def test_at_a_rate_that_is_too_high_it_ends_the_sweep_and_is_named(make, error, tmp_path):
    training = make(error)
    found = find(training)
    assert found.stop is Stop.FAILED
    assert f"{error.__name__}: the weight is far out" in found.why
    assert 0.001 < found.lr < 0.05
    assert training.weight == 1.0
    found.save(tmp_path / "finding.json")
    assert Finding.load(tmp_path / "finding.json") == found


@pytest.mark.parametrize(("code", "warned"), [(1, True), ("Loss is nan, stopping training", True), (0, False)])
def test_a_training_that_ends_the_process_says_where_what_was_found_is(code, warned, caplog):
    training = Guarded(lambda _: SystemExit(code))
    with pytest.raises(SystemExit) as caught:
        find(training)
    assert len(caught.value.finding.curve) > 20
    assert ("catch SystemExit around the search; everything was put back" in caplog.text) is warned
    assert training.weight == 1.0


@pytest.mark.parametrize("error", [MemoryError, OutOfMemoryError, KeyboardInterrupt, SystemExit, LoaderError])
@pytest.mark.parametrize("make", [Guarded, Known])
def test_others_are_raised_and_carry_what_was_measured(make, error):
    with pytest.raises(error) as caught:
        find(make(error))
    assert caught.value.finding.stop is Stop.INTERRUPTED
    assert len(caught.value.finding.curve) > 50


class Broken(Known):
    """It fails at a step, whatever the rate."""

    def __init__(self, at, **settings):
        super().__init__(**settings)
        self.left = at

    def step(self, lr):
        self.left -= 1
        if self.left < 0:
            raise ValueError("a bug")
        return super().step(lr)

    def baseline(self):
        if self.left < 0:
            raise ValueError("a bug")
        return super().baseline()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("at", [0, 1, 5, 12, 20])
def test_before_a_rate_has_acted_it_is_raised(at, known):
    with pytest.raises(ValueError, match="a bug") as caught:
        find(Broken(at), control_variate=None if known else False)
    assert len(caught.value.finding.curve) == at


@pytest.mark.parametrize("at", [60, 75, 80])
def test_a_batch_that_fails_under_the_starting_weights_too_is_raised(at):
    with pytest.raises(ValueError, match="a bug"):
        find(Broken(at))


def test_what_a_watcher_raises_is_not_the_trainings():
    def watch(step):
        if step.index == 80:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        find(Quadratic(noise=0.05), on_step=watch)


class Scored(Guarded):
    """It has a held-out loss, which it can't tell of a weight that is far out."""

    def hold_out(self, batches, steps, total_steps):
        return batches

    def evaluate(self):
        if not abs(self.weight) < self.most:
            raise self.error("the weight is far out")
        return self.curvature * self.weight**2 / 2 + self.floor


@pytest.mark.parametrize("make", [Guarded, Scored])
def test_in_a_race_it_is_a_run_that_diverged(make):
    race = run_race(make(), TERMS)
    assert math.inf in [run.loss for run in race.runs]
    assert race.best_lr < 0.2
    assert min(run.loss for run in race.runs) < 0.5


@pytest.mark.parametrize("error", [MemoryError, OutOfMemoryError, KeyboardInterrupt])
def test_in_a_race_others_are_raised(error):
    with pytest.raises(error):
        run_race(Guarded(error), TERMS)


def test_in_a_race_it_is_raised_before_a_step_and_where_no_rate_acts():
    with pytest.raises(ValueError, match="far out"):
        run_race(Guarded(most=0.5), TERMS)
    with pytest.raises(ValueError, match="far out"):
        run_race(Guarded(), replace(TERMS, rates_act=False))


def test_a_pass_of_several_runs_that_fails_is_made_one_after_another():
    class Together(Scored):
        trial_steps, forwards, backwards = 4, 0, 0

        def prepare_together(self, runs):
            return None

        def run_together(self, snapshot, rates):
            raise ValueError("one of them is far out")

    race = run_race(Together(), replace(TERMS, first=0.1), one_pass=True)
    assert race.path == "sequential"
    assert len(race.runs) >= 3


def test_a_validation_that_fails_at_a_rate_that_is_too_high_ends_the_sweep():
    class Validated(Guarded):
        validation_every = 1

        def validate(self):
            if not abs(self.weight) < 1.3:
                raise ValueError("far out in validation")
            return 1.0

    found = find(Validated())
    assert found.stop is Stop.FAILED
    assert "far out in validation" in found.why


@pytest.mark.parametrize(
    "words", ["CUDA out of memory.", "DefaultCPUAllocator: can't allocate memory", "RESOURCE_EXHAUSTED: x"]
)
def test_memory_is_told_by_its_words_too(words):
    assert not is_the_trainings(RuntimeError(words))
    assert is_of_memory(RuntimeError(words))


class Copies(tuple):
    """A snapshot whose copies take memory that the training needs."""

    __slots__ = ()
    relief = "keep the copies elsewhere"


@pytest.mark.parametrize(("error", "told"), [(OutOfMemoryError, True), (MemoryError, True), (KeyboardInterrupt, False)])
def test_where_memory_was_short_because_of_the_copies_it_says_what_spares_some(error, told):
    class Copying(Guarded):
        def snapshot(self):
            return Copies(super().snapshot())

    with pytest.raises(error) as caught:
        find(Copying(error))
    assert ("findlr: keep the copies elsewhere" in caught.value.__notes__) is told
    assert any("everything was put back" in note for note in caught.value.__notes__)


def test_a_curve_that_fails_is_not_marked_as_diverged():
    found = find(Guarded())
    assert np.isfinite(found.curve.loss).all()
    assert not found.curve.diverged


@pytest.mark.parametrize("given", [5, None, Quadratic, "model"])
def test_what_is_no_trainable_is_refused(given):
    with pytest.raises(ConfigurationError, match="find takes a Trainable"):
        find(given)


@pytest.mark.parametrize("plan", [5, "one_cycle", Plan])
def test_what_is_no_plan_is_refused(plan):
    with pytest.raises(ConfigurationError, match="plan must be a findlr"):
        find(Quadratic(), plan)


@pytest.mark.parametrize("lr", ["0.1", math.nan, math.inf, 0.0, -1.0, None])
def test_a_rule_that_suggests_no_rate_is_refused_and_carries_what_was_measured(lr):
    with pytest.raises(ConfigurationError, match=r"finite rate above 0; mine gave|a Suggestion is a rate") as caught:
        find(Quadratic(), rule=lambda curve, plan: Suggestion(lr, "mine", ""))
    assert len(caught.value.finding.curve) == 100


class Asleep(Quadratic):
    """A training whose optimizer refuses each step, and that has a control variate."""

    asked = 0

    def step(self, lr):
        raise RuntimeError("the optimizer is in eval mode")

    def prepare_baseline(self, snapshot):
        return None

    def baseline(self):
        self.asked += 1


def test_a_first_step_that_fails_says_nothing_of_a_control_variate():
    training = Asleep()
    with pytest.raises(RuntimeError, match="in eval mode"):
        find(training, progress=False)
    assert training.asked == 0
