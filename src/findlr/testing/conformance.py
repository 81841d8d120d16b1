"""What every Trainable must hold to, as tests: subclass the suite, say how yours is made, and run pytest."""

from __future__ import annotations

from typing import Any

import pytest

from findlr.finding import Finding
from findlr.search.find import find
from findlr.search.restoring import Remembered, restored
from findlr.search.trainable import Trainable
from findlr.testing.bits import bits, draws
from findlr.testing.checks import breaks_off, equal, must, same
from findlr.testing.optional import OptionalConformance


class BrokenOffError(Exception):
    """What the suites break a search off with."""


class TrainableConformance(OptionalConformance):
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

    def test_a_step_gives_a_loss_that_read_can_read(self) -> None:
        """``read`` gives a float for each loss, in order, as often as it is asked."""
        trainable = self.trainable()
        losses = [loss for loss in (trainable.step(self.min_lr) for _ in range(self.steps)) if loss is not None]
        must(bool(losses), f"step() gave no loss in {self.steps} steps")
        together, singly = trainable.read(losses), [trainable.read([loss])[0] for loss in losses]
        must(
            all(isinstance(loss, float) for loss in together),
            f"read() must give floats, got {[type(loss).__name__ for loss in together]}",
        )
        must(
            same(together, singly),
            f"read() must give each loss, in order: together they are {together}, one by one {singly}",
        )
        must(trainable.read([]) == [], "read([]) must give []")

    def test_the_loss_is_the_one_before_the_update(self) -> None:
        """The first loss of a run does not depend on the rate, and the later ones do."""
        trainable = self.trainable()
        with restored(trainable):
            slow = self._run(trainable, self.min_lr)
        fast = self._run(trainable, self.max_lr)
        must(same(slow[:1], fast[:1]), f"the first loss depends on the rate: {slow[0]} and {fast[0]}")
        must(
            not same(slow, fast),
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
        """Two snapshots lead back each to its own place, in any order, and closing one does not close the other."""
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
        with restored(trainable):
            self._run(trainable, self.max_lr)
            must(not equal(self.state(trainable), before), "state() does not show what a step changes")
        must(equal(self.state(trainable), before), "state() is not the same after restore()")

    def test_global_random_states_are_put_back(self) -> None:
        """The global random states of Python, NumPy and torch are the same after ``restore``."""
        trainable = self.trainable()
        with restored(trainable):
            states = bits(draws())
            self._run(trainable, self.max_lr)
        must(bits(draws()) == states, "a step draws from a global random state that restore() does not put back")

    def test_broken_off_at_every_step(self) -> None:
        """A sweep that is broken off at any step, by an error or Ctrl-C, puts everything back and keeps its points."""
        expected, trainable = self._expected(), self.trainable()
        before = self.state(trainable)
        for error in (BrokenOffError, KeyboardInterrupt):
            for at in range(self.steps):
                self._break_off(trainable, error, at)
                must(equal(self.state(trainable), before), f"state() is not the same after an error at step {at}")
        must(same(self._run(trainable, self.max_lr), expected), "the run after searches that were broken off differs")

    def test_found_twice(self) -> None:
        """A search changes nothing, and gives the same Finding again."""
        expected, trainable = self._expected(), self.trainable()
        before = self.state(trainable)
        first, second = self._find(trainable), self._find(trainable)
        must(first == second, "two searches give two different Findings")
        must(same(first.curve.loss.tolist(), second.curve.loss.tolist()), "two searches see different losses")
        must(equal(self.state(trainable), before), "state() is not the same after a search")
        must(same(self._run(trainable, self.max_lr), expected), "the run after a search differs")

    def _find(self, trainable: Trainable[Any, Any], **how: Any) -> Finding:
        return find(trainable, min_lr=self.min_lr, max_lr=self.max_lr, num_steps=self.steps, **how)

    def _break_off(self, trainable: Trainable[Any, Any], error: type[BaseException], at: int) -> None:
        """Break a search off at its point ``at``."""
        try:
            self._find(trainable, on_step=breaks_off(error, at))  # its sweep may end sooner
        except (BrokenOffError, KeyboardInterrupt) as raised:
            found: Finding = raised.finding  # type: ignore[union-attr]
            must(len(found.curve) == at + 1, f"broken off at point {at}, {len(found.curve)} points are kept")
