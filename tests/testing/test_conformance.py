"""The suite that ships: right trainings pass it, and each way to be wrong turns the test red that is about it."""

import inspect
import random
import subprocess
import sys

import numpy as np
import pytest

from findlr import MissingExtraError
from findlr.testing import Quadratic, TrainableConformance


class TestQuadratic(TrainableConformance):
    def trainable(self):
        return Quadratic(noise=0.01)

    def state(self, trainable):
        return trainable.weight, trainable._random.getstate()


class Whole:
    """Momentum descent on five batches, with a draw a step, and everything that a training may offer."""

    read_every, validation_every, trial_steps = 1, 2, 0

    def __init__(self):
        random.seed(0)
        self.weights, self.momentum = [1.0, -2.0], [0.0, 0.0]
        self.batches, self.place, self.random = [0.5, -1.0, 2.0, 0.25, 1.5], 0, random.Random(1)
        self.held_out, self.forwards, self.backwards, self.start, self.last = [], 0, 0, None, None

    def step(self, lr):
        self.last = self.batches[self.place % 5], self.random.random()
        self.place += 1
        loss = self.loss(self.weights, *self.last)
        for i, weight in enumerate(self.weights):
            self.momentum[i] = 0.9 * self.momentum[i] + weight - self.last[0]
            self.weights[i] -= lr * self.momentum[i]
        self.forwards += 1
        self.backwards += 1
        return loss

    def loss(self, weights, batch, noise):
        return sum((weight - batch) ** 2 for weight in weights) / 2 + 0.01 * noise

    def read(self, losses):
        return list(losses)

    def snapshot(self):
        return [*self.weights], [*self.momentum], self.place, self.random.getstate()

    def restore(self, snapshot):
        weights, momentum, self.place, state = snapshot
        self.weights[:], self.momentum[:] = weights, momentum
        self.random.setstate(state)

    def prepare_baseline(self, snapshot):
        self.start = snapshot[0]

    def baseline(self):
        self.forwards += 1
        return self.loss(self.start, *self.last)

    def could_change(self, snapshot):
        return 10.0 * sum(abs(now - then) for now, then in zip(self.weights, snapshot[0], strict=True))

    def hold_out(self, batches, steps, total_steps):
        self.held_out = self.batches[:batches]
        return len(self.held_out)

    def evaluate(self):
        return sum(self.loss(self.weights, batch, 0.0) for batch in self.held_out) / len(self.held_out)

    def keep_batches(self, steps):
        self.kept = steps

    def prepare_together(self, runs):
        return None if self.held_out else "nothing is held out"

    def run_together(self, snapshot, rates):
        ends = []
        for lrs in rates:
            self.restore(snapshot)
            for lr in lrs:
                self.step(lr)
            ends.append(self.evaluate())
        return ends

    def validate(self):
        return sum(self.loss(self.weights, batch, 0.0) for batch in (0.75, -0.5)) / 2

    def skipped(self):
        return 0.0

    def acting_lr(self, lr):
        return min(lr, 1.0)

    def steps_per_epoch(self):
        return 5

    def facts(self):
        return {"batch_size": 1, "ratios": [1.0]}


class TestWhole(TrainableConformance):
    def trainable(self):
        return Whole()

    def state(self, trainable):
        return trainable.snapshot()


def test_the_suite_asks_for_a_training():
    with pytest.raises(NotImplementedError, match="trainable"):
        TrainableConformance().test_a_restored_run_is_the_same_run()


# One thing wrong at a time


class Alias(Whole):
    def snapshot(self):
        return self.weights, *super().snapshot()[1:]


class NoMomentum(Whole):
    def restore(self, snapshot):
        super().restore((snapshot[0], self.momentum, *snapshot[2:]))


class NoPlace(Whole):
    def restore(self, snapshot):
        super().restore((*snapshot[:2], self.place, snapshot[3]))


class NoDraws(Whole):
    def restore(self, snapshot):
        super().restore((*snapshot[:3], self.random.getstate()))


class Once(Whole):
    """Its snapshot is used up by the first restore: what follows works on the copy itself."""

    def restore(self, snapshot):
        super().restore(snapshot)
        self.weights = snapshot[0]


class OnlyTheLatest(Whole):
    def snapshot(self):
        self.kept = super().snapshot()
        return self.kept

    def restore(self, snapshot):
        super().restore(self.kept)


class OnlyToTheStart(Whole):
    def restore(self, snapshot):
        super().restore(Whole().snapshot())


class NoRate(Whole):
    def step(self, lr):
        return super().step(0.01)


class LossAfterwards(Whole):
    def step(self, lr):
        super().step(lr)
        return self.loss(self.weights, *self.last)


class ReadsOne(Whole):
    def read(self, losses):
        return [loss if i == 0 else losses[0] for i, loss in enumerate(losses)]


class ReadsObjects(Whole):
    def read(self, losses):
        return [np.array([loss]) for loss in losses]


class GlobalDraws(Whole):
    def step(self, lr):
        random.random()
        return super().step(lr)


class Counter(Whole):
    """The state shows something that no restore puts back."""

    taken = 0

    def step(self, lr):
        self.taken += 1
        return super().step(lr)

    def restore(self, snapshot):
        super().restore(snapshot[:4])

    def snapshot(self):
        return *super().snapshot(), self.taken


class OnlyDown(Whole):
    """A rate that never rises again, like that of a scheduler that is not put back."""

    lowest = 1.0

    def step(self, lr):
        self.lowest = min(self.lowest, lr)
        return super().step(self.lowest)


class PresentBaseline(Whole):
    def baseline(self):
        return self.loss(self.weights, *self.last)


class BaselineDraws(Whole):
    def baseline(self):
        self.random.random()
        return super().baseline()


class ChangeTrains(Whole):
    def could_change(self, snapshot):
        self.step(0.01)
        return super().could_change(snapshot) if self.place > 1 else 0.0


class ChangesFromNowhere(Whole):
    def could_change(self, snapshot):
        return 1.0


class ChangesBackwards(Whole):
    def could_change(self, snapshot):
        return -super().could_change(snapshot)


class EvaluateTrains(Whole):
    def evaluate(self):
        loss = super().evaluate()
        self.step(0.01)
        return loss


class EvaluateDraws(Whole):
    def evaluate(self):
        return super().evaluate() + 0 * self.random.random()


class EvaluatesNothing(Whole):
    def evaluate(self):
        return 1.0


class HoldsOutForEver(Whole):
    def hold_out(self, batches, steps, total_steps):
        self.batches = sorted(self.batches)
        return super().hold_out(batches, steps, total_steps)


class KeepsForEver(Whole):
    def keep_batches(self, steps):
        self.batches = sorted(self.batches)


class PackingTrains(Whole):
    def why_not_packed(self, *, forked):
        self.step(0.01)

    def try_packing(self, base):
        pass

    def packed(self, base):
        return b""


class RunsOneFromTheOther(Whole):
    def run_together(self, snapshot, rates):
        return super().run_together(self.snapshot(), rates[:1]) + super().run_together(self.snapshot(), rates[1:])


class ValidateTrains(Whole):
    def validate(self):
        loss = super().validate()
        self.step(0.01)
        return loss


class ValidateDraws(Whole):
    def validate(self):
        return super().validate() + 0 * self.random.random()


class ValidatesNothing(Whole):
    def validate(self):
        return 1.0


class SkipsLessThanNothing(Whole):
    def skipped(self):
        return -1.0


class Closing(list):
    def close(self):
        for one in self.open:
            one[2] += 1


class ClosesTheOthersToo(Whole):
    def __init__(self):
        super().__init__()
        self.open = []

    def snapshot(self):
        made = Closing(super().snapshot())
        made.open = self.open
        self.open.append(made)
        return made


class ActsAbove(Whole):
    def acting_lr(self, lr):
        return 2 * lr


class ActingSteps(Whole):
    def acting_lr(self, lr):
        self.place += 1
        return lr


class EpochReads(Whole):
    def steps_per_epoch(self):
        self.place += 1
        return 5


class HalfAnEpoch(Whole):
    def steps_per_epoch(self):
        return 2.5


class CountsBack(Whole):
    def snapshot(self):
        return *super().snapshot(), self.forwards

    def restore(self, snapshot):
        super().restore(snapshot[:4])
        self.forwards = snapshot[4]


class CountsNothing(Whole):
    def step(self, lr):
        loss = super().step(lr)
        self.backwards = 0
        return loss


class FactsOfArrays(Whole):
    def facts(self):
        return {"ratios": np.ones(2)}


class ReadsNever(Whole):
    read_every = 0


BROKEN = {
    Alias: "a_restored_run_is_the_same_run",
    NoMomentum: "a_restored_run_is_the_same_run_in_the_middle",
    NoPlace: "a_restored_run_is_the_same_run",
    NoDraws: "a_restored_run_is_the_same_run",
    Once: "a_restored_run_is_the_same_run",
    OnlyTheLatest: "a_snapshot_outlives_others",
    OnlyToTheStart: "a_restored_run_is_the_same_run_in_the_middle",
    NoRate: "the_loss_is_the_one_before_the_update",
    LossAfterwards: "the_loss_is_the_one_before_the_update",
    ReadsOne: "a_step_gives_a_loss_that_read_can_read",
    ReadsObjects: "a_step_gives_a_loss_that_read_can_read",
    GlobalDraws: "global_random_states_are_put_back",
    Counter: "the_state_is_put_back",
    OnlyDown: "broken_off_at_every_step",
    PresentBaseline: "baseline",
    BaselineDraws: "baseline",
    ChangeTrains: "could_change",
    ChangesFromNowhere: "could_change",
    ChangesBackwards: "could_change",
    EvaluateTrains: "evaluate",
    EvaluateDraws: "evaluate",
    EvaluatesNothing: "evaluate",
    HoldsOutForEver: "evaluate",
    KeepsForEver: "keep_batches",
    PackingTrains: "packing",
    RunsOneFromTheOther: "run_together",
    ValidateTrains: "validate",
    ValidateDraws: "validate",
    ValidatesNothing: "validate",
    SkipsLessThanNothing: "skipped",
    ClosesTheOthersToo: "a_snapshot_outlives_others",
    ActsAbove: "acting_lr",
    ActingSteps: "acting_lr",
    EpochReads: "steps_per_epoch",
    HalfAnEpoch: "steps_per_epoch",
    CountsBack: "counts",
    CountsNothing: "counts",
    FactsOfArrays: "facts",
    ReadsNever: "read_every",
}


def suite_of(kind):
    class Suite(TestWhole):
        def trainable(self):
            return kind()

    return Suite()


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_training_turns_its_test_red(kind):
    with pytest.raises(AssertionError):
        getattr(suite_of(kind), f"test_{BROKEN[kind]}")()


class Forgetful(Whole):
    """It forgets what was lost after each search."""

    searches = 0

    def facts(self):
        self.searches += 1
        return {"searches": self.searches}


def test_a_search_that_finds_something_else_the_second_time_is_noticed():
    with pytest.raises(AssertionError, match="two different Findings"):
        suite_of(Forgetful).test_found_twice()


def test_every_test_of_the_suite_is_turned_red_by_a_break():
    suite = {name.removeprefix("test_") for name, _ in inspect.getmembers(TrainableConformance) if "test_" in name}
    assert suite == {*BROKEN.values(), "found_twice"}


@pytest.mark.parametrize("hidden", ["findlr.testing", "findlr.testing.TrainableConformance"])
def test_without_pytest(hidden):
    code = f"import sys; sys.modules['pytest'] = None; import findlr.testing; findlr.testing.Quadratic(); {hidden}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if hidden == "findlr.testing":
        assert done.returncode == 0, done.stderr
    else:
        assert MissingExtraError.__name__ in done.stderr
        assert "pip install 'findlr[testing]'" in done.stderr
