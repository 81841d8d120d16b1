"""A search that runs, as each live view tells it: a line, and a curve that grows."""

from __future__ import annotations

import math
import time
from array import array
from typing import NamedTuple

import numpy as np

from findlr.analysis.curve import Step
from findlr.analysis.race import Run
from findlr.analysis.smoothing import Array
from findlr.analysis.text import duration, rate_text
from findlr.views.parts import outcome
from findlr.views.thinning import extremes


class Place(NamedTuple):
    """How far a sweep or a race is: steps that are done, all steps, and runs that have ended."""

    done: int = 0
    steps: int = 1
    ended: int = 0


class Growing:
    """What a running search has shown so far: its sweep, then the runs of its race.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> growing = Growing()
        >>> finding = find(Quadratic(), num_steps=30, max_lr=1e-3, on_step=growing.add)
        >>> "  ".join(growing.parts)  # doctest: +ELLIPSIS
        'step 30/30  lr 0.001  smoothed loss ...  best ...  ... s'
    """

    def __init__(self) -> None:
        self.step: Step | None = None
        self.told: str | None = None
        """What is done while there are no steps."""
        self._losses: dict[int | None, array[float]] = {}  # by run; read as they are, however many there are
        self._latest: dict[int | None, Step] = {}
        self._start = time.monotonic()
        self._raced = 0  # steps of the race that were seen; one of several runs in one pass is one

    def add(self, step: Step) -> None:
        """Take the next step."""
        before = self.step
        if before is None or (before.run != step.run and (step.together == 1 or step.together != before.together)):
            self._losses, self._latest = {}, {}  # the curve is that of the sweep, or of the present runs
        if step.run is not None:
            if not self._raced and step.together == 1:
                self._start = time.monotonic()
            self._raced += step.run == 1 or step.together == 1
        self.step, self.told = step, None
        self._latest[step.run] = step
        self._losses.setdefault(step.run, array("d")).append(step.smoothed)

    def tell(self, text: str) -> None:
        """Take what is done until the next step."""
        self.told = text
        if not self._raced:  # the steps of runs in one pass come some at a time, the first ones too
            self._start = time.monotonic()

    @property
    def parts(self) -> list[str]:
        """Where the sweep or the race is, and the time left, for a line or, where that is too long, several."""
        step = self.step
        if self.told is not None:
            return [self.told]
        if step is None:
            return ["the first step"]
        return self._of_sweep(step) if step.run is None else self._of_race(step)

    def _of_sweep(self, step: Step, *, is_over: bool = False) -> list[str]:
        spent, done = time.monotonic() - self._start, step.index + 1
        left = spent / done * (step.num_steps - done)
        return [
            f"step {done}/{step.num_steps}",
            f"lr {rate_text(step.lr)}",
            f"smoothed loss {step.smoothed:.4g}",
            f"best {step.best:.4g}",
            duration(spent) if is_over or done == step.num_steps else f"{duration(left)} left",
        ]

    def _of_race(self, step: Step, *, is_over: bool = False) -> list[str]:
        assert step.run is not None
        assert step.runs is not None
        assert step.peak is not None
        ended = len(step.ended) == step.run
        where = [f"run {step.run}/{step.runs}", f"lr {rate_text(step.peak)}"]
        if step.together > 1 and not step.ended:
            where = [f"runs 1-{step.together}/{step.runs} in one pass", f"step {step.index + 1}/{step.num_steps}"]
        elif ended:
            where.append(_end(step.ended[-1]))
        else:
            where += [f"step {step.index + 1}/{step.num_steps}", f"smoothed loss {step.smoothed:.4g}"]
        coming = 0 if ended else step.num_steps - step.index - 1
        left = coming + (step.runs - (step.run if step.together == 1 else step.together)) * step.num_steps
        spent = time.monotonic() - self._start
        if left and self._raced > 1 and not is_over:
            where.append(f"{duration(spent / (self._raced - 1) * left)} left")
        elif is_over or not left:
            where.append(f"{duration(spent)} in all")
        return where

    @property
    def ended(self) -> list[str]:
        """What the runs before the present one ended at, or where those in one pass are; in parts, perhaps none."""
        step = self.step
        if step is None or self.told is not None:
            return []
        if step.together > 1 and not step.ended:
            runs = [Run(now.peak or 0.0, now.num_steps, now.smoothed) for _, now in sorted(self._latest.items())]
            return ["so far", *map(outcome, runs)]
        ends = list(map(outcome, step.ended[: len(step.ended) - (len(step.ended) == step.run)]))
        return ["so far", *ends] if ends else []

    @property
    def final(self) -> list[str]:
        """The parts of the line that stays, with the time spent; of a race, what all its runs ended at."""
        step = self.step
        if step is None:
            return []
        if step.run is None:
            told = self._of_sweep(step, is_over=True)
            return [told[0], told[-1]] if step.index + 1 == step.num_steps else told  # the rest is in the Finding
        if len(step.ended) < step.run:
            return self._of_race(step, is_over=True)
        spent = duration(time.monotonic() - self._start)
        return [f"race of {len(step.ended)} runs of {step.num_steps} steps", spent, *map(outcome, step.ended)]

    @property
    def place(self) -> Place:
        """How far the sweep is or, once it has begun, the race."""
        step = self.step
        if step is None:
            return Place()
        done = ((step.run or 1) - 1) * step.num_steps + step.index + 1
        if step.together > 1:
            assert step.run is not None
            done = step.index * step.together + step.run
        return Place(done, (step.runs or 1) * step.num_steps, len(step.ended))

    def curve(self, width: int) -> tuple[Array, Array, tuple[float, float]] | None:
        """The smoothed losses so far, for a picture ``width`` dots wide.

        Returns:
            Where each stands, as a share of the sweep or run; the losses; the lowest and the highest to show, as an
            explosion is cut. Of runs in one pass it is the lowest one now. None before there is a line to draw.
        """
        if self.step is None or self.told is not None:
            return None
        best = min(self._latest.values(), key=lambda step: step.smoothed if math.isfinite(step.smoothed) else math.inf)
        losses = np.array(self._losses[best.run], dtype=np.float64)
        losses = losses[np.isfinite(losses)]
        if len(losses) < 2:
            return None
        shares = np.arange(len(losses)) / max(self.step.num_steps - 1, 1)
        kept = extremes(losses, max(width // 2, 1))
        shares, losses = shares[kept], losses[kept]
        low, top = float(losses.min()), float(losses.max())
        fall = float(losses[: int(losses.argmin()) + 1].max()) - low
        return shares, losses, (low, min(low + 2 * fall, top) if fall else top)


def _end(run: Run) -> str:
    return f"ended at loss {run.loss:.4g}" if math.isfinite(run.loss) else "diverged"
