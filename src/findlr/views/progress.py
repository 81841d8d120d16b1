"""A sweep that runs, as each live view tells it: a line, and a curve that grows."""

from __future__ import annotations

import time
from array import array

import numpy as np

from findlr.analysis.curve import Step
from findlr.analysis.smoothing import Array
from findlr.analysis.text import duration
from findlr.views.thinning import extremes


class Growing:
    """What a running sweep has shown so far.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> growing = Growing()
        >>> finding = find(Quadratic(), num_steps=30, max_lr=1e-3, on_step=growing.add)
        >>> growing.line  # doctest: +ELLIPSIS
        'step 30/30  lr 1.0e-03  smoothed loss ...  best ...  ... s'
    """

    def __init__(self) -> None:
        self.step: Step | None = None
        self._losses = array("d")  # read as it is, however many there are
        self._start = time.monotonic()

    def add(self, step: Step) -> None:
        """Take the next point."""
        self.step = step
        self._losses.append(step.smoothed)

    @property
    def line(self) -> str:
        """Step, rate, smoothed loss, best loss, and the time left, or spent at the end."""
        step = self.step
        if step is None:
            return "the first step"
        spent, done = time.monotonic() - self._start, step.index + 1
        left = spent / done * (step.num_steps - done)
        told = (
            f"step {done}/{step.num_steps}",
            f"lr {step.lr:.1e}",
            f"smoothed loss {step.smoothed:.4g}",
            f"best {step.best:.4g}",
            f"{duration(left)} left" if done < step.num_steps else duration(spent),
        )
        return "  ".join(told)

    def curve(self, width: int) -> tuple[Array, Array, tuple[float, float]] | None:
        """The smoothed losses so far, for a picture ``width`` dots wide.

        Returns:
            Where each stands, as a share of the sweep; the losses; the lowest and the highest to show, for an explosion
            is cut. None before there is a line to draw.
        """
        losses = np.array(self._losses, dtype=np.float64)
        if self.step is None or len(losses) < 2:
            return None
        shares = np.arange(len(losses)) / max(self.step.num_steps - 1, 1)
        kept = extremes(losses, max(width // 2, 1))
        shares, losses = shares[kept], losses[kept]
        low, top = float(losses.min()), float(losses.max())
        fall = float(losses[: int(losses.argmin()) + 1].max()) - low
        return shares, losses, (low, min(low + 2 * fall, top) if fall else top)
