"""What a Trainable may offer besides, as tests; the protocols that it does not offer are skipped."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from findlr.errors import ConfigurationError
from findlr.search.parcel import pickler
from findlr.search.restoring import Remembered, restored
from findlr.search.trainable import (
    CanEvaluate,
    CountsPasses,
    HasActingRate,
    HasBaseline,
    HasEpoch,
    HasFacts,
    HasValidation,
    KeepsBatches,
    Packs,
    ReadsLater,
    RunsTogether,
    SkipsLater,
    TellsChange,
)
from findlr.testing.checks import Suite, equal, must, same


class OptionalConformance(Suite):
    """The tests of the optional protocols."""

    def test_baseline(self) -> None:
        """The losses under the snapshot's weights are those of a run at rate 0; asking for them changes nothing."""
        trainable = self._offers(HasBaseline)
        with restored(trainable):
            still = self._run(trainable, 0.0)
        with restored(trainable):
            without = self._run(trainable, self.max_lr)
        with restored(trainable) as snapshot:
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
        must(same(run, without), "asking for the baseline changes the run")
        must(
            all(
                loss is None or math.isclose(loss, b, rel_tol=1e-4) for loss, b in zip(still, under_start, strict=True)
            ),
            f"the baseline is not the loss under the snapshot's weights: {under_start}, not {still}",
        )

    def test_could_change(self) -> None:
        """What its way can have changed the loss by is 0 at the start, and nowhere below; asking changes nothing."""
        trainable = self._offers(TellsChange)
        with restored(trainable):
            without = self._run(trainable, self.max_lr)
        with restored(trainable) as snapshot:
            told = [trainable.could_change(snapshot)]
            run = []
            for _ in range(self.steps):
                run += self._run(trainable, self.max_lr, 1)
                told.append(trainable.could_change(snapshot))
        must(same(run, without), "asking what the loss can have changed by changes the run")
        must(not told[0], f"the weights are at the snapshot, and could_change() gives {told[0]}, not 0 or None")
        must(
            all(most is None or most >= 0 for most in told),
            f"could_change() must give None or a number of at least 0, got {told}",
        )

    def test_evaluate(self) -> None:
        """The held-out loss depends on the weights, is the same when asked again, and asking changes nothing."""
        trainable = self._raced(CanEvaluate)
        for total_steps in (self.steps, 100 * self.steps):  # a run that stands for itself, and one for a long training
            with restored(trainable):
                passes = trainable.hold_out(2, self.steps, total_steps)
                must(
                    isinstance(passes, int) and passes >= 0, f"hold_out() must give a number of passes, got {passes!r}"
                )
                if passes == 0:
                    pytest.skip("hold_out() says that there is no held-out loss")
                with Remembered(trainable) as snapshot:
                    before, start = self.state(trainable), trainable.evaluate()
                    must(isinstance(start, float), f"evaluate() must give a float, got {type(start).__name__}")
                    must(start == trainable.evaluate(), "evaluate() gives another loss when asked again")
                    must(equal(self.state(trainable), before), "evaluate() changes what state() shows")
                    run = self._run(trainable, self.max_lr)
                    must(trainable.evaluate() != start, "evaluate() does not depend on the weights")
                    trainable.restore(snapshot)
                    must(trainable.evaluate() == start, "evaluate() gives another loss after restore()")
                    self._check_run(trainable, snapshot, run)
        must(same(self._run(trainable, self.max_lr), self._expected()), "restore() does not undo hold_out()")

    def test_keep_batches(self) -> None:
        """Steps on kept batches are the same after each restore, and nothing of them is left in the end."""
        trainable = self._offers(KeepsBatches)
        with restored(trainable):
            trainable.keep_batches(self.steps)
            self._check_runs(trainable)
        must(same(self._run(trainable, self.max_lr), self._expected()), "restore() does not undo keep_batches()")

    def test_run_together(self) -> None:
        """Each run ends where it would by itself."""
        trainable = self._raced(RunsTogether)
        rates = [[lr] * self.steps for lr in (self.min_lr, self.max_lr)]
        with restored(trainable):
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
        must(same(self._run(trainable, self.max_lr), self._expected()), "restore() does not undo run_together()")
        if isinstance(said, str):
            pytest.skip(f"no runs together: {said}")
        must(
            said is not None and np.allclose(said, singly, rtol=1e-3),
            f"runs together end elsewhere than by themselves: {said}, not {singly}",
        )

    def test_packing(self) -> None:
        """What is sent to another process is made without a change at home; or there is a reason why it can't be."""
        trainable = self._offers(Packs)
        with restored(trainable):
            if isinstance(trainable, KeepsBatches):
                trainable.keep_batches(self.steps)
            with Remembered(trainable) as snapshot:
                expected = self._run(trainable, self.max_lr)
                trainable.restore(snapshot)
                said = trainable.why_not_packed(forked=False)
                try:
                    if said is None:
                        trainable.try_packing(pickler())
                        said = trainable.packed(pickler())
                except ConfigurationError as error:
                    said = str(error)
                must(same(self._run(trainable, self.max_lr), expected), "packing changes the run that follows")
        if isinstance(said, str):
            pytest.skip(f"not to be sent: {said}")

    def test_validate(self) -> None:
        """The validation loss depends on the weights, is the same when asked again, and asking changes nothing."""
        trainable = self._offers(HasValidation)
        if trainable.validation_every is None:
            pytest.skip("there is nothing to validate on")
        run, losses = [], []
        with restored(trainable):
            for _ in range(self.steps):
                before = self.state(trainable)
                once, again = (trainable.read([trainable.validate()])[0] for _ in range(2))
                must(same([once], [again]), f"validate() gives {once}, and {again} when asked again")
                must(equal(self.state(trainable), before), "validate() changes what state() shows")
                losses.append(once)
                run += self._run(trainable, self.max_lr, 1)
        must(losses[0] != losses[-1], "validate() does not depend on the weights")
        restored_run, expected = self._run(trainable, self.max_lr), self._expected()
        must(same(run, expected), "validate() changes the run")
        must(same(restored_run, expected), "the run after validate() and restore() differs")

    def test_acting_lr(self) -> None:
        """The rate that acts is at most the one asked for, except for rounding; asking changes nothing."""
        trainable = self._offers(HasActingRate)
        before = self.state(trainable)
        for lr in (self.min_lr, self.max_lr):
            acting = trainable.acting_lr(lr)
            must(0 < acting <= lr * 1.01, f"acting_lr({lr}) must be above 0 and not above {lr}, got {acting!r}")
        must(equal(self.state(trainable), before), "acting_lr() changes what state() shows")
        must(same(self._run(trainable, self.max_lr), self._expected()), "acting_lr() changes the run")

    def test_steps_per_epoch(self) -> None:
        """A whole number of at least 1; asking changes nothing."""
        trainable = self._offers(HasEpoch)
        try:
            steps = trainable.steps_per_epoch()
        except ConfigurationError as error:
            pytest.skip(f"no epoch: {error}")
        must(isinstance(steps, int) and steps >= 1, f"steps_per_epoch() must be at least 1, got {steps!r}")
        must(same(self._run(trainable, self.max_lr), self._expected()), "steps_per_epoch() changes the run")

    def test_counts(self) -> None:
        """Each step that was taken counts its passes, and no count ever goes down."""
        trainable = self._offers(CountsPasses)
        counts = [(trainable.forwards, trainable.backwards)]
        with restored(trainable):
            for _ in range(self.steps):
                trainable.step(self.min_lr)
                counts.append((trainable.forwards, trainable.backwards))
        counts.append((trainable.forwards, trainable.backwards))
        for then, now in pairwise(counts[:-1]):
            must(now[0] > then[0] and now[1] > then[1], f"a step does not count its passes: {counts}")
        must(counts[-1] >= counts[-2], "restore() takes the counts back, so that what was spent is forgotten")

    def test_facts(self) -> None:
        """Plain values that a saved Finding can hold."""
        trainable = self._offers(HasFacts)
        facts = dict(trainable.facts())
        try:
            again = json.loads(json.dumps(facts))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"facts() must be plain values: {error}") from error
        must(again == facts, f"facts() must be the same after a trip through JSON: {facts}, then {again}")

    def test_read_every(self) -> None:
        """A whole number of at least 1."""
        every = self._offers(ReadsLater).read_every
        must(isinstance(every, int) and every >= 1, f"read_every must be a whole number of at least 1, got {every!r}")

    def test_skipped(self) -> None:
        """A number for each step, which ``read`` can read; or None."""
        trainable = self._offers(SkipsLater)
        for _ in range(self.steps):
            trainable.step(self.max_lr)
            skipped = trainable.skipped()
            if skipped is not None:
                (number,) = trainable.read([skipped])
                must(number >= 0, f"skipped() must be above 0 for a step that was skipped, else 0; got {number}")
