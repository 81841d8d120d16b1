"""What must hold for a training with a search in it, as tests: it goes on as if there had been no search."""

from __future__ import annotations

from typing import Any

import pytest

from findlr.analysis.curve import Stop
from findlr.finding import Finding
from findlr.testing.bits import differing, draws
from findlr.testing.checks import breaks_off, must
from findlr.testing.conformance import BrokenOffError


class TrainingConformance:
    """Two trainings of your own, one with a search in it, compared bit for bit.

    ``TrainableConformance`` looks at a Trainable from inside; this one looks at a whole training from outside, and sees
    what the first can't: hooks, workers, loggers, a half-full accumulation. A subclass gives ``training``, ``train``,
    ``search`` and ``state``. Two trainings from ``training()`` must be alike: seed what they draw.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> class TestMine(TrainingConformance):
        ...     def training(self):
        ...         return Quadratic(noise=0.01)
        ...
        ...     def train(self, training, steps):
        ...         for _ in range(steps):
        ...             training.step(0.01)
        ...
        ...     def search(self, training, **how):
        ...         return find(training, **how)
        ...
        ...     def state(self, training):
        ...         return training.weight
        >>> TestMine().test_a_search_that_finishes()
    """

    before = 3
    """Steps before the search, of a training that has begun."""

    after = 5
    """Steps after it."""

    max_lr = 1e-1
    """A rate at which a few steps change the loss, without making it NaN."""

    too_high = 1e6
    """A rate at which the training diverges."""

    num_steps = 8
    """Steps of the search, at least 3."""

    def training(self) -> Any:
        """A new training, the same one every time."""
        raise NotImplementedError("give the suite a training(): a new training, the same one every time")

    def train(self, training: Any, steps: int) -> None:
        """Train for so many steps, as you do without a search; a second call goes on where the first one ended."""
        raise NotImplementedError("give the suite a train(training, steps)")

    def search(self, training: Any, **how: Any) -> Finding:
        """Search in the middle of a training, with ``how`` handed on: min_lr, max_lr, num_steps, on_step, progress."""
        raise NotImplementedError("give the suite a search(training, **how)")

    def state(self, training: Any) -> Any:
        """All that must be the same: weights, optimizer state, batches seen, logs; as containers, arrays, tensors."""
        raise NotImplementedError("give the suite a state(training)")

    def test_a_search_that_finishes(self) -> None:
        """The training goes on as if there had been none, fresh and in the middle; two searches find the same."""
        for before in (0, self.before):
            training = self._begun(before)
            first = self._search(training)
            second = self._search(training)
            must(first == second, "two searches give two different Findings")
            self._check(training, before)

    def test_a_search_that_diverges(self) -> None:
        """The same after a rate at which the loss explodes."""
        for before in (0, self.before):
            training = self._begun(before)
            found = self._search(training, max_lr=self.too_high, min_lr=self.too_high / 100)
            must(found.stop in (Stop.DIVERGED, Stop.NOT_FINITE), f"meant to diverge, it ended with {found.stop}")
            self._check(training, before)

    @pytest.mark.parametrize("error", [BrokenOffError, KeyboardInterrupt])
    def test_a_search_that_is_broken_off(self, error: type[BaseException]) -> None:
        """The same after an exception or Ctrl-C, at the first point, at the second, at the last."""
        for before in (0, self.before):
            for at in (0, 1, self.num_steps - 1):
                training = self._begun(before)
                with pytest.raises(error) as raised:
                    self._search(training, on_step=breaks_off(error, at))
                found = getattr(raised.value, "finding", None)
                must(found is not None, "the exception carries no .finding")
                self._check(training, before)

    def _begun(self, steps: int) -> Any:
        training = self.training()
        if steps:
            self.train(training, steps)
        return training

    def _search(self, training: Any, **how: Any) -> Finding:
        settings = {"min_lr": self.max_lr / 1e4, "max_lr": self.max_lr, "num_steps": self.num_steps, "progress": False}
        return self.search(training, **settings | how)

    def _check(self, training: Any, before: int) -> None:
        """Train on, and compare with a training without a search."""
        self.train(training, self.after)
        seen = self.state(training), draws()
        never = self._begun(before)
        self.train(never, self.after)
        expected = self.state(never), draws()
        others = list(differing(seen, expected))
        must(not others, f"after a search the training is another one; these differ: {', '.join(others[:5])}")
