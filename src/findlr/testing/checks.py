"""What the suites share: how they run a training, and how they compare results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from findlr.analysis.curve import Step
from findlr.errors import FindlrError
from findlr.search.restoring import Remembered
from findlr.search.trainable import ChecksVerify, Trainable

Losses = list[float | None]


class Suite:
    """The training that a suite looks at, and its runs."""

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
        """Everything that a step can change, as plain values that ``==`` compares; None compares only losses."""
        return None

    def _offers(self, protocol: Any) -> Any:
        trainable = self.trainable()
        if not isinstance(trainable, protocol):
            pytest.skip(f"{type(trainable).__name__} does not offer {protocol.__name__}")
        return trainable

    def _raced(self, protocol: Any) -> Any:
        trainable = self._offers(protocol)
        if isinstance(trainable, ChecksVerify):
            try:
                trainable.check_verify()
            except FindlrError as refusal:
                pytest.skip(f"it is never raced: {refusal}")
        return trainable

    def _run(self, trainable: Trainable[Any, Any], lr: float, steps: int | None = None) -> Losses:
        """The losses of steps at a rate; None where the optimizer did not step."""
        losses = [trainable.step(lr) for _ in range(steps or self.steps)]
        return [None if loss is None else trainable.read([loss])[0] for loss in losses]

    def _expected(self) -> Losses:
        return self._run(self.trainable(), self.max_lr)

    def _check_runs(self, trainable: Trainable[Any, Any]) -> None:
        """A snapshot leads back again and again, from runs of any rate and length."""
        with Remembered(trainable) as snapshot:
            expected = self._run(trainable, self.max_lr)
            for lr, steps in ((self.max_lr, self.steps), (self.min_lr, 1), (self.max_lr, 2), (self.min_lr, self.steps)):
                self._run(trainable, lr, steps)
                self._check_run(trainable, snapshot, expected)
                trainable.restore(snapshot)

    def _check_run(self, trainable: Trainable[Any, Any], snapshot: Any, expected: Losses) -> None:
        trainable.restore(snapshot)
        run = self._run(trainable, self.max_lr)
        must(same(run, expected), f"a restored run differs: {run}, not {expected}")


def breaks_off(error: type[BaseException], at: int) -> Callable[[Step], None]:
    """What raises an error at a search's point ``at``, for ``on_step``."""

    def on_step(step: Step) -> None:
        if step.index == at:
            raise error

    return on_step


def must(holds: bool, otherwise: str) -> None:
    """Fail a test with this message if something does not hold."""
    if not holds:
        raise AssertionError(otherwise)


def same(one: Sequence[float | None], other: Sequence[float | None]) -> bool:
    """Whether losses are the same, bit for bit; NaN equals NaN."""
    return repr(list(one)) == repr(list(other))


def equal(one: Any, other: Any) -> bool:
    """Whether two states are the same."""
    return bool(np.all(one == other))
