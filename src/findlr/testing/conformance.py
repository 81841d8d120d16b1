"""What every Trainable must hold, as tests: subclass the suite, say how yours is made, and run pytest."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from findlr.analysis.curve import Step
from findlr.errors import ConfigurationError, MissingExtraError
from findlr.finding import Finding
from findlr.search.find import find
from findlr.search.trainable import (
    CanEvaluate,
    CountsPasses,
    HasActingRate,
    HasBaseline,
    HasEpoch,
    HasFacts,
    HasValidation,
    KeepsBatches,
    ReadsLater,
    Remembered,
    Restored,
    RunsTogether,
    SkipsLater,
    Trainable,
)

try:
    import pytest
except ImportError as error:
    raise MissingExtraError.of("pytest", "testing") from error

Run = list[float | None]


class _BrokenOffError(Exception):
    """What the suite breaks a training off with."""


class TrainableConformance:
    """The tests that every Trainable passes; a subclass gives ``trainable``, and ``state`` if it can.

    Two trainings from ``trainable()`` must be alike: seed what they draw. An optional protocol that the training does
    not offer is skipped.

    Example:
        >>> from findlr.testing import Quadratic
        >>> class TestMine(TrainableConformance):
        ...     def trainable(self):
        ...         return Quadratic(noise=0.01)
        ...
        ...     def state(self, trainable):
        ...         return trainable.weight
        >>> TestMine().test_a_restored_run_is_the_same_run()
    """

    min_lr = 1e-5
    """A rate at which the training can take many steps."""

    max_lr = 1e-1
    """A rate at which a few steps change the loss, without making it NaN."""

    steps = 8
    """Steps of each run, at least 3; more than the data has batches is best."""

    def trainable(self) -> Trainable[Any, Any]:
        """A new training, the same one every time."""
        raise NotImplementedError("give the suite a trainable(): a new training, the same one every time")

    def state(self, trainable: Any) -> Any:  # noqa: ARG002 - a subclass uses it
        """Everything that a step can change, as plain values that ``==`` compares; None looks at the losses alone."""
        return None

    # Steps and rates

    def test_a_step_gives_a_loss_that_read_can_read(self) -> None:
        """``read`` gives a float for each loss, in order, as often as it is asked."""
        trainable = self.trainable()
        losses = [loss for loss in (trainable.step(self.min_lr) for _ in range(self.steps)) if loss is not None]
        _must(bool(losses), f"step() gave no loss in {self.steps} steps")
        together, singly = trainable.read(losses), [trainable.read([loss])[0] for loss in losses]
        _must(
            all(isinstance(loss, float) for loss in together),
            f"read() must give floats, got {[type(loss).__name__ for loss in together]}",
        )
        _must(
            _same(together, singly),
            f"read() must give each loss, in order: together they are {together}, one by one {singly}",
        )
        _must(trainable.read([]) == [], "read([]) must give []")

    def test_the_loss_is_the_one_before_the_update(self) -> None:
        """The first loss of a run does not depend on the rate, and the later ones do."""
        trainable = self.trainable()
        with Restored(trainable):
            slow = self._run(trainable, self.min_lr)
        fast = self._run(trainable, self.max_lr)
        _must(_same(slow[:1], fast[:1]), f"the first loss depends on the rate: {slow[0]} and {fast[0]}")
        _must(
            not _same(slow, fast),
            f"{self.min_lr} and {self.max_lr} give the same losses: the rate does not act: {slow}",
        )

    # Going back

    def test_a_restored_run_is_the_same_run(self) -> None:
        """After ``restore`` the same steps see the same batches and give the same losses, bit for bit."""
        trainable = self.trainable()
        self._check_runs(trainable)

    def test_a_restored_run_is_the_same_run_in_the_middle(self) -> None:
        """The same where the snapshot is of a training that has begun."""
        trainable = self.trainable()
        self._run(trainable, self.max_lr, 3)
        self._check_runs(trainable)

    def test_a_snapshot_outlives_others(self) -> None:
        """Each of two snapshots leads back to its own place, in any order, and the one is not closed with the other."""
        trainable = self.trainable()
        with Remembered(trainable) as first:
            from_first = self._run(trainable, self.max_lr)
            with Remembered(trainable) as second:
                from_second = self._run(trainable, self.max_lr)
                for snapshot, expected in ((first, from_first), (second, from_second)):
                    self._check_run(trainable, snapshot, expected)
            self._check_run(trainable, first, from_first)

    def test_the_state_is_put_back(self) -> None:
        """What ``state`` shows is the same after ``restore``."""
        trainable = self.trainable()
        before = self.state(trainable)
        if before is None:
            pytest.skip("state() is not given")
        with Restored(trainable):
            self._run(trainable, self.max_lr)
            _must(not _equal(self.state(trainable), before), "state() does not show what a step changes")
        _must(_equal(self.state(trainable), before), "state() is not the same after restore()")

    def test_global_random_states_are_put_back(self) -> None:
        """Python's and NumPy's global random states are the same after ``restore``."""
        trainable = self.trainable()
        with Restored(trainable):
            states = _random_states()
            self._run(trainable, self.max_lr)
        _must(_random_states() == states, "a step draws from a global random state that restore() does not put back")

    def test_broken_off_at_every_step(self) -> None:
        """A sweep that is broken off at any step, by an error or Ctrl-C, puts everything back and keeps its points."""
        expected, trainable = self._expected(), self.trainable()
        before = self.state(trainable)
        for error in (_BrokenOffError, KeyboardInterrupt):
            for at in range(self.steps):
                self._break_off(trainable, error, at)
                _must(_equal(self.state(trainable), before), f"state() is not the same after an error at step {at}")
        _must(_same(self._run(trainable, self.max_lr), expected), "the run after broken-off ones is another")

    def test_found_twice(self) -> None:
        """A search changes nothing, and gives the same Finding again."""
        expected, trainable = self._expected(), self.trainable()
        before = self.state(trainable)
        first, second = self._find(trainable), self._find(trainable)
        _must(first == second, "two searches give two Findings")
        _must(_same(first.curve.loss.tolist(), second.curve.loss.tolist()), "two searches see different losses")
        _must(_equal(self.state(trainable), before), "state() is not the same after a search")
        _must(_same(self._run(trainable, self.max_lr), expected), "the run after a search is another")

    # What a training may offer besides

    def test_baseline(self) -> None:
        """The losses under the snapshot's weights are those of a run that stands still; asking changes nothing."""
        trainable = self._offers(HasBaseline)
        with Restored(trainable):
            still = self._run(trainable, 0.0)
        with Restored(trainable):
            without = self._run(trainable, self.max_lr)
        with Restored(trainable) as snapshot:
            reason = trainable.prepare_baseline(snapshot)
            if reason is not None:
                pytest.skip(f"no baseline: {reason}")
            run, under_start = [], []
            for _ in range(self.steps):
                run += self._run(trainable, self.max_lr, 1)
                loss = trainable.baseline()
                if loss is None:
                    pytest.skip("baseline() says that its self-check failed")
                under_start += trainable.read([loss])
        _must(_same(run, without), "asking for the baseline changes the run")
        _must(
            all(
                loss is None or math.isclose(loss, b, rel_tol=1e-4) for loss, b in zip(still, under_start, strict=True)
            ),
            f"the baseline is not the loss under the snapshot's weights: {under_start}, not {still}",
        )

    def test_evaluate(self) -> None:
        """The held-out loss goes by the weights, is the same when asked again, and asking changes nothing."""
        trainable = self._offers(CanEvaluate)
        for total_steps in (self.steps, 100 * self.steps):  # a run that stands for itself, and one for a long training
            with Restored(trainable):
                passes = trainable.hold_out(2, self.steps, total_steps)
                _must(
                    isinstance(passes, int) and passes >= 0, f"hold_out() must give a number of passes, got {passes!r}"
                )
                if passes == 0:
                    pytest.skip("hold_out() says that there is no held-out loss")
                with Remembered(trainable) as snapshot:
                    before, start = self.state(trainable), trainable.evaluate()
                    _must(isinstance(start, float), f"evaluate() must give a float, got {type(start).__name__}")
                    _must(start == trainable.evaluate(), "evaluate() gives another loss when asked again")
                    _must(_equal(self.state(trainable), before), "evaluate() changes what state() shows")
                    run = self._run(trainable, self.max_lr)
                    _must(trainable.evaluate() != start, "evaluate() does not depend on the weights")
                    trainable.restore(snapshot)
                    _must(trainable.evaluate() == start, "evaluate() gives another loss after restore()")
                    self._check_run(trainable, snapshot, run)
        _must(_same(self._run(trainable, self.max_lr), self._expected()), "restore() does not undo hold_out()")

    def test_keep_batches(self) -> None:
        """Steps that come after are the same after each restore, and nothing of it is left in the end."""
        trainable = self._offers(KeepsBatches)
        with Restored(trainable):
            trainable.keep_batches(self.steps)
            self._check_runs(trainable)
        _must(_same(self._run(trainable, self.max_lr), self._expected()), "restore() does not undo keep_batches()")

    def test_run_together(self) -> None:
        """Each run ends where it would by itself."""
        trainable = self._offers(RunsTogether)
        rates = [[lr] * self.steps for lr in (self.min_lr, self.max_lr)]
        with Restored(trainable):
            if not trainable.hold_out(2, self.steps, self.steps):
                pytest.skip("hold_out() says that there is no held-out loss")
            if isinstance(trainable, KeepsBatches):
                trainable.keep_batches(self.steps)
            said: str | list[float] | None = trainable.prepare_together(len(rates))
            with Remembered(trainable) as snapshot:
                said = trainable.run_together(snapshot, rates) if said is None else said
                singly = []
                for lrs in rates:
                    trainable.restore(snapshot)
                    self._run(trainable, lrs[0])
                    singly.append(trainable.evaluate())
        _must(_same(self._run(trainable, self.max_lr), self._expected()), "restore() does not undo run_together()")
        if isinstance(said, str):
            pytest.skip(f"no runs together: {said}")
        _must(
            said is not None and np.allclose(said, singly, rtol=1e-3),
            f"runs together end elsewhere than by themselves: {said}, not {singly}",
        )

    def test_validate(self) -> None:
        """The validation loss goes by the weights, is the same when asked again, and asking changes nothing."""
        trainable = self._offers(HasValidation)
        if trainable.validation_every is None:
            pytest.skip("there is nothing to validate on")
        run, losses = [], []
        with Restored(trainable):
            for _ in range(self.steps):
                before = self.state(trainable)
                once, again = (trainable.read([trainable.validate()])[0] for _ in range(2))
                _must(_same([once], [again]), f"validate() gives {once}, and {again} when asked again")
                _must(_equal(self.state(trainable), before), "validate() changes what state() shows")
                losses.append(once)
                run += self._run(trainable, self.max_lr, 1)
        _must(losses[0] != losses[-1], "validate() does not depend on the weights")
        restored_run, expected = self._run(trainable, self.max_lr), self._expected()
        _must(_same(run, expected), "validate() changes the run")
        _must(_same(restored_run, expected), "the run after validate() and restore() is another")

    def test_acting_lr(self) -> None:
        """The rate that acts is at most the one asked for, but for rounding; asking changes nothing."""
        trainable = self._offers(HasActingRate)
        before = self.state(trainable)
        for lr in (self.min_lr, self.max_lr):
            acting = trainable.acting_lr(lr)
            _must(0 < acting <= lr * 1.01, f"acting_lr({lr}) must be above 0 and not above {lr}, got {acting!r}")
        _must(_equal(self.state(trainable), before), "acting_lr() changes what state() shows")
        _must(_same(self._run(trainable, self.max_lr), self._expected()), "acting_lr() changes the run")

    def test_steps_per_epoch(self) -> None:
        """A whole number of at least 1; asking changes nothing."""
        trainable = self._offers(HasEpoch)
        try:
            steps = trainable.steps_per_epoch()
        except ConfigurationError as error:
            pytest.skip(f"no epoch: {error}")
        _must(isinstance(steps, int) and steps >= 1, f"steps_per_epoch() must be at least 1, got {steps!r}")
        _must(_same(self._run(trainable, self.max_lr), self._expected()), "steps_per_epoch() changes the run")

    def test_counts(self) -> None:
        """Passes are counted up, by each step that was taken, and never down."""
        trainable = self._offers(CountsPasses)
        counts = [(trainable.forwards, trainable.backwards)]
        with Restored(trainable):
            for _ in range(self.steps):
                trainable.step(self.min_lr)
                counts.append((trainable.forwards, trainable.backwards))
        counts.append((trainable.forwards, trainable.backwards))
        for then, now in pairwise(counts[:-1]):
            _must(now[0] > then[0] and now[1] > then[1], f"a step does not count its passes: {counts}")
        _must(counts[-1] >= counts[-2], "restore() takes the counts back, and so what was spent is lost")

    def test_facts(self) -> None:
        """Plain values that a saved Finding can hold."""
        trainable = self._offers(HasFacts)
        facts = dict(trainable.facts())
        try:
            again = json.loads(json.dumps(facts))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"facts() must be plain values: {error}") from error
        _must(again == facts, f"facts() do not come through JSON as they are: {facts}, then {again}")

    def test_read_every(self) -> None:
        """A whole number of at least 1."""
        every = self._offers(ReadsLater).read_every
        _must(isinstance(every, int) and every >= 1, f"read_every must be a whole number of at least 1, got {every!r}")

    def test_skipped(self) -> None:
        """A number for each step, which ``read`` can read; or None."""
        trainable = self._offers(SkipsLater)
        for _ in range(self.steps):
            trainable.step(self.max_lr)
            skipped = trainable.skipped()
            if skipped is not None:
                (number,) = trainable.read([skipped])
                _must(number >= 0, f"skipped() must be above 0 for a step that was skipped, else 0; got {number}")

    # How the tests above do it

    def _offers(self, protocol: Any) -> Any:
        trainable = self.trainable()
        if not isinstance(trainable, protocol):
            pytest.skip(f"{type(trainable).__name__} does not offer {protocol.__name__}")
        return trainable

    def _run(self, trainable: Trainable[Any, Any], lr: float, steps: int | None = None) -> Run:
        """The losses of steps at a rate; None where the optimizer did not step."""
        losses = [trainable.step(lr) for _ in range(steps or self.steps)]
        return [None if loss is None else trainable.read([loss])[0] for loss in losses]

    def _expected(self) -> Run:
        return self._run(self.trainable(), self.max_lr)

    def _check_runs(self, trainable: Trainable[Any, Any]) -> None:
        """A snapshot leads back again and again, from runs of any rate and length."""
        with Remembered(trainable) as snapshot:
            expected = self._run(trainable, self.max_lr)
            for lr, steps in ((self.max_lr, self.steps), (self.min_lr, 1), (self.max_lr, 2), (self.min_lr, self.steps)):
                self._run(trainable, lr, steps)
                self._check_run(trainable, snapshot, expected)
                trainable.restore(snapshot)

    def _check_run(self, trainable: Trainable[Any, Any], snapshot: Any, expected: Run) -> None:
        trainable.restore(snapshot)
        run = self._run(trainable, self.max_lr)
        _must(_same(run, expected), f"a restored run is another: {run}, not {expected}")

    def _find(self, trainable: Trainable[Any, Any], **how: Any) -> Finding:
        return find(trainable, min_lr=self.min_lr, max_lr=self.max_lr, num_steps=self.steps, **how)

    def _break_off(self, trainable: Trainable[Any, Any], error: type[BaseException], at: int) -> None:
        """Break a search off at its point ``at``."""

        def on_step(step: Step) -> None:
            if step.index == at:
                raise error

        try:
            self._find(trainable, on_step=on_step)  # its sweep may end sooner
        except (_BrokenOffError, KeyboardInterrupt) as raised:
            found: Finding = raised.finding  # type: ignore[union-attr]
            _must(len(found.curve) == at + 1, f"broken off at point {at}, {len(found.curve)} points are kept")


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _same(one: Sequence[float | None], other: Sequence[float | None]) -> bool:
    """Whether losses are the same bit for bit; NaN is NaN."""
    return repr(list(one)) == repr(list(other))


def _equal(one: Any, other: Any) -> bool:
    return bool(np.all(one == other))


def _random_states() -> str:
    return repr((random.getstate(), np.random.get_state()))  # noqa: NPY002 - users draw from it
